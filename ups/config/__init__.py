"""What a YAML file may say, and the one way it becomes a typed object."""
