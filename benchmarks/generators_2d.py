"""The 2D generators: agreement with PDEBench's files, seconds per trajectory. Run by hand.

python benchmarks/generators_2d.py --pdebench /work/shared/pdebench
"""

from __future__ import annotations

import argparse
import math
import re
import time
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from ups.data.generate import allen_cahn2d, cahn_hilliard2d, darcy2d, shallow_water2d
from ups.data.generate.base import Grid, GridAxis, Solver, Task

SHALLOW_WATER = Grid((GridAxis(-2.5, 5.0, 128),) * 2, tuple(0.01 * i for i in range(101)))
DARCY = Grid((GridAxis(0.0, 1.0, 128),) * 2, (0.0,))
PERIODIC = (GridAxis(0.0, 2 * math.pi, 128),) * 2
RUNS: dict[str, tuple[Solver, Grid, dict[str, float]]] = {
    "shallow_water2d": (shallow_water2d.solve, SHALLOW_WATER, {}),
    "darcy2d": (darcy2d.solve, DARCY, {"beta": 1.0}),
    "allen_cahn2d": (
        allen_cahn2d.solve,
        Grid(PERIODIC, tuple(0.5 * i for i in range(101))),
        {"epsilon": 0.1},
    ),
    "cahn_hilliard2d": (
        cahn_hilliard2d.solve,
        Grid(PERIODIC, tuple(0.02 * i for i in range(101))),
        {"epsilon": 0.1, "mobility": 1.0},
    ),
}


def relative_l2(values: Tensor, reference: Tensor) -> Tensor:
    """Over all axes but the first."""
    return (values - reference).flatten(1).norm(dim=1) / reference.flatten(1).norm(dim=1)


def compare_shallow_water(path: Path) -> None:
    with h5py.File(path) as file:
        texts = [str(group.attrs["config"]) for group in file.values()]
        theirs = np.stack([group["data"][..., 0] for group in file.values()])
    radius = np.array([float(re.findall(r"dam_radius: (\S+)", text)[0]) for text in texts])
    reference = torch.from_numpy(theirs).double()
    initial = shallow_water2d.column(radius, SHALLOW_WATER)
    cell = SHALLOW_WATER.axes[0].spacing
    ours = shallow_water2d.solve_shallow_water2d(
        initial, spacing=(cell, cell), times=SHALLOW_WATER.times, quadrant=True
    )
    fine = shallow_water2d.solve_shallow_water2d(
        initial.repeat_interleave(4, 1).repeat_interleave(4, 2),
        spacing=(cell / 4, cell / 4),
        times=SHALLOW_WATER.times[-1:],
        quadrant=True,
    )
    truth = torch.nn.functional.avg_pool2d(fine[:, 0], 4)
    print("shallow water: frame 0 equal:", torch.equal(initial, reference[:, 0]))
    print("  relative L2, ours - PDEBench, all frames:", relative_l2(ours, reference).tolist())
    for name, values in (("ours", ours), ("PDEBench", reference)):
        steepest = values[:, -1].diff(dim=1).abs().amax((1, 2))
        asymmetry = (values - values.transpose(2, 3)).abs().amax((1, 2, 3))
        print(f"  {name} - 4 times finer grid, last frame:", relative_l2(values[:, -1], truth))
        print(f"  {name}: largest jump between cells {steepest}, x/y asymmetry {asymmetry}")
    print(f"  finer grid: largest jump between cells {truth.diff(dim=1).abs().amax((1, 2))}")


def compare_darcy(path: Path) -> None:
    with h5py.File(path) as file:
        nu = torch.from_numpy(np.where(file["nu"][()] > 0.5, darcy2d.HIGH, darcy2d.LOW))
        theirs = torch.from_numpy(file["tensor"][:, 0]).double() / float(file.attrs["beta"])
    ours, residual = darcy2d.solve_darcy2d(nu, lengths=(1.0, 1.0))
    left = 1 - darcy2d._Flow(nu, (1.0, 1.0)).apply(theirs)
    print("Darcy: relative L2, PDEBench - ours:", relative_l2(theirs, ours).tolist())
    print("  relative residual, PDEBench:", (left.flatten(1).norm(dim=1) / 128).tolist())
    print("  relative residual, ours:", residual.tolist())


def measure(name: str, trajectories: int, device: str, dtype: torch.dtype) -> None:
    solver, grid, parameters = RUNS[name]
    task = Task(range(trajectories), 0, grid, parameters, torch.device(device), dtype)
    solver(task)  # warm-up
    cpu, wall = time.process_time(), time.perf_counter()
    fields = solver(task).fields.cpu()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(
        f"{name}: {tuple(fields.shape)}, {dtype} on {device}: {cpu / trajectories:.3f} CPU s, "
        f"{wall / trajectories:.3f} s of wall clock per trajectory"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pdebench", type=Path, help="Folder of PDEBench-made files to compare.")
    parser.add_argument("--trajectories", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.pdebench:
        compare_shallow_water(options.pdebench / "2D_rdb_NA_NA.h5")
        compare_darcy(options.pdebench / "2D_DarcyFlow_beta1.0_Train.hdf5")
    for name in RUNS:
        for dtype in (torch.float32, torch.float64):
            measure(name, options.trajectories, options.device, dtype)


if __name__ == "__main__":
    main()
