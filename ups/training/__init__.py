"""Training: one loop, one class for each stage."""
