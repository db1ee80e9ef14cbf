"""A config with a baseline in place of its own model: the recipe needs the shape of the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ups.config.baselines import Domain, Model, baseline
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.data.store import TrajectoryStore
from ups.training.session import TaskData, open_task


def load_baseline(
    model: Model, config: str | Path | None = None, overrides: Sequence[str] = ()
) -> Experiment:
    """A config as `load_experiment` reads it, with the recipe of another model.

    Args:
        overrides: `a.b=value` each; they have the last word, over the recipe too.
    Raises:
        ConfigError: The model does not fit the data.
        DataError: There is no such dataset or version.
    """
    of_data = [one for one in overrides if one.partition("=")[0].split(".")[0] == "data"]
    experiment = load_experiment(config, of_data)
    domains = [domain_of(open_task(task)) for task in experiment.data.tasks]
    return baseline(experiment, model, domains, overrides)


def domain_of(task: TaskData) -> Domain:
    """What a recipe must know of a task's data."""
    store = task.store
    if isinstance(store, TrajectoryStore):
        return Domain(task.name, store.space, store.metadata.periodic, task.is_steady)
    return Domain(task.name, None, (), task.is_steady)
