"""What physics says of fields: invariants, boundary values, signs, equations. Pure functions."""
