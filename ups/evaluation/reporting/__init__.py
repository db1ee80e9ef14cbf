"""Pages and pictures of evaluations, made from a run's files alone: no model is needed."""
