"""Published originals on this disk: whole and verified, or only the first trajectories."""
