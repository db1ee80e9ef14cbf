"""Training samples: windows of stores, augmented, mixed, loaded by workers."""
