"""Checks that only some stores need; `ups.data.audit` is the way in."""
