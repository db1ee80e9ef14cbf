"""What jobs have cost, and what a plan of several would cost: GPU hours and money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups import paths
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.errors import ConfigError
from ups.registry import dataset_keys
from ups.remote.estimates import Estimate, estimate
from ups.remote.records import Job
from ups.remote.spec import GpuRequest
from ups.runs.speed import Speed

_SUFFIX = ".yaml"


@dataclass(frozen=True)
class Spent:
    """What a project's jobs have cost so far.

    Attributes:
        gpu_hours: Hours of machines times their GPUs.
        dollars: As last seen.
    """

    project: str
    jobs: int
    running: int
    gpu_hours: float
    dollars: float


def hours_of(job: Job) -> float:
    """Hours for which the job had machines, as last seen."""
    return 0.0 if job.status is None else job.status.running_s / 3600


def gpu_hours_of(job: Job) -> float:
    gpus = 0 if job.spec.gpu.is_any else job.spec.gpu.count
    return hours_of(job) * gpus * job.spec.nodes


def totals(jobs: Sequence[Job]) -> list[Spent]:
    """Per project, in the order of the alphabet."""
    found = []
    for project in sorted({job.spec.project for job in jobs}):
        own = [job for job in jobs if job.spec.project == project]
        found.append(Spent(
            project, len(own), sum(not job.has_ended for job in own),
            sum(map(gpu_hours_of, own)), sum(job.cost for job in own),
        ))  # fmt: skip
    return found


@dataclass(frozen=True)
class Planned:
    """One job of a plan.

    Attributes:
        count: How many alike.
    """

    name: str
    estimate: Estimate
    count: int = 1

    @property
    def hours(self) -> float | None:
        """Of all of them."""
        return None if self.estimate.hours is None else self.estimate.hours * self.count


@dataclass(frozen=True)
class Budget:
    """A plan with its price.

    Attributes:
        price: US dollars an hour of one machine; None where it is not known.
    """

    jobs: Sequence[Planned]
    gpu: GpuRequest
    price: float | None

    @property
    def hours(self) -> float:
        """Machine hours of all jobs whose hours are known."""
        return sum(job.hours or 0.0 for job in self.jobs)

    @property
    def gpu_hours(self) -> float:
        return self.hours * (0 if self.gpu.is_any else self.gpu.count)

    @property
    def dollars(self) -> float | None:
        return None if self.price is None else self.hours * self.price

    @property
    def unknown(self) -> list[str]:
        """Jobs that are in no sum."""
        return [job.name for job in self.jobs if job.hours is None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for --json."""
        jobs: list[Mapping[str, Any]] = [
            {"name": job.name, "count": job.count, "hours": job.hours,
             "quality": job.estimate.quality, "sources": job.estimate.sources}
            for job in self.jobs
        ]  # fmt: skip
        return {"jobs": jobs, "gpu": str(self.gpu), "price": self.price, "hours": self.hours,
                "gpu_hours": self.gpu_hours, "dollars": self.dollars,
                "unknown": self.unknown}  # fmt: skip


def budget(
    experiments: Mapping[str, Experiment],
    gpu: GpuRequest,
    price: float | None,
    known: Sequence[Speed],
    counts: Mapping[str, int] | None = None,
) -> Budget:
    """Estimate several experiments.

    Args:
        known: Measured speeds: `ups.remote.estimates.known_speeds`.
        counts: How many of each; one by default.
    """
    jobs = [
        Planned(name, estimate(experiment, (), gpu, known), (counts or {}).get(name, 1))
        for name, experiment in experiments.items()
    ]
    return Budget(jobs, gpu, price)


def experiments_of_all_datasets() -> dict[str, Experiment]:
    """The config of each dataset: the one that has its name.

    A dataset without one is left to the reader: its key is missing from the answer.
    """
    found = {}
    for key in dataset_keys():
        path = next((folder / f"{key}{_SUFFIX}" for folder in paths.config_dirs()
                     if (folder / f"{key}{_SUFFIX}").is_file()), None)  # fmt: skip
        if path is not None:
            found[key] = load_experiment(path)
    return found


def experiments_of_plan(
    plan: Path, config: str | None, overrides: Sequence[str], trials: int
) -> tuple[dict[str, Experiment], dict[str, int]]:
    """The experiments of a sweep's space file, and how many trials each stands for.

    Trials that are drawn are all taken for the config as it is; those of a grid are counted by its
    points.

    Raises:
        ConfigError: The file is no space.
    """
    from ups.pipeline.space import check_keys, experiment_at, load_space
    from ups.remote.sweeps import grid_points

    space = load_space(plan)
    chosen = config or "burgers1d"
    check_keys(space, chosen, overrides, str(plan))
    points = grid_points(space)
    if points is None:
        return {f"trial of {plan.name}": load_experiment(chosen, overrides)}, {
            f"trial of {plan.name}": trials
        }
    found = {}
    for number, point in enumerate(points):
        try:
            found[f"point {number}"] = experiment_at(chosen, overrides, point)
        except ConfigError:
            continue  # values that do not go together: the sweep has no job for them
    return found, {}
