"""Errors and time of the particle generators; `--help` lists the options."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from ups.data.conversion.neighbours import radius_neighbours
from ups.data.generate import granular_contacts as grains
from ups.data.generate import particles_advect as carried
from ups.data.generate.base import PointSolver, PointTask
from ups.registry import DatasetCard, load_card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=3, help="To time, of each dataset.")
    parser.add_argument("--flows", type=int, default=4, help="To measure the errors in.")
    options = parser.parse_args()
    advection_errors(options.flows)
    restitution_errors()
    for key, solve in (("particles_advect", carried.solve), ("granular_contacts", grains.solve)):
        timing(load_card(key), solve, options.trajectories)


def advection_errors(num_flows: int) -> None:
    """Largest error of any of 600 particles after t = 2, against an eighth of the step."""
    steps = [factor * carried.MAX_STEP for factor in (4, 2, 1)]
    print("particles_advect: largest error of position | velocity, for each step")
    print("stokes   " + "".join(f"{step:>22g}" for step in steps))
    for stokes in (0.0, 1e-4, 1e-3, 0.01, 0.05, 0.2):
        errors = np.zeros((len(steps), 2))
        for seed in range(num_flows):
            random = np.random.default_rng(seed)
            flow = carried.random_flow(random, 2.0)
            start = random.uniform(size=(600, 2))
            fine, *coarse = (
                np.stack(carried.advect(flow, start, flow(start, 0.0), stokes=stokes,
                                        times=[2.0], max_step=step)[:2])
                for step in (carried.MAX_STEP / 8, *steps)
            )  # fmt: skip
            found = [np.abs(values - fine).max((1, 2, 3)) for values in coarse]
            errors = np.maximum(errors, found)
        print(f"{stokes:<9g}" + "".join(f"{x:>12.1e} | {v:.1e}" for x, v in errors))


def restitution_errors() -> None:
    """Relative error of the speed of separation of a small and a large sphere, 16 collisions."""
    print("granular_contacts: mean (largest) relative error of the restitution, steps per contact")
    factors = (1, 2, 4, 8)
    print("e      " + "".join(f"{grains.STEPS_PER_CONTACT * f:>20d}" for f in factors))
    for restitution in (0.3, 0.6, 0.9, 1.0):
        row = ""
        for factor in factors:
            errors = np.abs(_separation(restitution, factor) / restitution - 1)
            row += f"{errors.mean():>10.1e} ({errors.max():.1e})"
        print(f"{restitution:<7g}{row}")


def _separation(restitution: float, factor: int) -> np.ndarray:
    gaps = 0.001 + 0.0002 * np.random.default_rng(0).uniform(size=16)
    spheres = grains.Spheres(np.repeat(grains.RADII, 16), restitution, (0.0, 0.0, 0.0))
    start = np.zeros((32, 3))
    start[:, 1] = np.tile(np.arange(16), 2)
    start[16:, 0] = sum(grains.RADII) + gaps
    velocity = np.zeros((32, 3))
    velocity[16:, 0] = -1.0
    step = spheres.longest_step() / factor
    _, v, _ = grains.simulate(spheres, start, velocity, times=[0.01], max_step=step)
    return v[0, 16:, 0] - v[0, :16, 0]


def timing(card: DatasetCard, solve: PointSolver, trajectories: int) -> None:
    """Seconds of a trajectory as the card has it, and its neighbours, first to last frame."""
    nodes, step = card.discretisation.nodes, card.time.step
    assert nodes is not None
    assert step is not None
    times = tuple(step * frame for frame in range(card.time.frames))
    values = dict(card.generator.parameters) if card.generator else {}
    task = PointTask(range(trajectories), 0, times, nodes, values, torch.device("cpu"))
    for size in nodes:
        started = time.perf_counter()
        for solved in solve(replace(task, nodes=(size, size))):
            seconds = time.perf_counter() - started
            counts = list(neighbours(card, solved.trajectory.coords[::20]))
            shown = " ".join(f"{count:.1f}" for count in counts)
            drawn = " ".join(f"{name}={value:.3g}" for name, value in solved.drawn.items())
            print(f"{card.key}: {size} particles, {drawn}: {seconds:.2f} s, neighbours {shown}")
            started = time.perf_counter()


def neighbours(card: DatasetCard, frames: np.ndarray) -> Iterator[float]:
    radius = card.discretisation.neighbour_radius or math.inf
    periods = [
        axis.bounds[1] - axis.bounds[0] if axis.boundary == "periodic" else None
        for axis in card.discretisation.axes
    ]
    for positions in frames:
        yield len(radius_neighbours(positions, radius, periods)) / len(positions)


if __name__ == "__main__":
    main()
