"""Moving datasets, caches and runs between machines: packed, verified, whole or not at all."""
