"""Whole paths, from nothing to a leaderboard entry, made of the rooms below."""
