"""Getting trajectories in: generators, raw layouts, the trajectory store, audit, windows."""
