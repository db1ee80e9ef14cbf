"""Networks that act on tokens."""
