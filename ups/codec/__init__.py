"""Fields <-> tokens: encoders and the any-point decoder."""
