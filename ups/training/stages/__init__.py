"""The stages: which weights move, and what the loss is. One file for each."""
