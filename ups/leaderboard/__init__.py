"""Immutable entries and the tables made of them; needs no torch."""
