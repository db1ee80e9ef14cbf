"""How raw files become stores; `ups.data.convert` is the way in."""
