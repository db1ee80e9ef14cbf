"""Engines that a remote job can run on, one module each; import the one that is needed."""
