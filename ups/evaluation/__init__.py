"""Honest judging: rollouts decoded to physical fields, metrics, reports."""
