"""Agreement of three generators with PDEBench-made files, and their time on one thread.

`python benchmarks/generators_reaction.py [--trajectories 16] [--shared FOLDER] [--tight]`
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ups.data.generate import diffusion_sorption1d, reaction_diffusion1d, reaction_diffusion2d
from ups.data.generate.base import Grid, GridAxis, Solution, Task
from ups.data.generate.diffusion_sorption1d import Medium, solve_diffusion_sorption1d
from ups.data.generate.reaction_diffusion1d import logistic, solve_reaction_diffusion1d
from ups.data.generate.reaction_diffusion2d import solve_reaction_diffusion2d

SHARED = Path(__file__).resolve().parents[2] / "shared" / "pdebench"
PDEBENCH_SECONDS = {"reaction_diffusion1d": 8.4, "diffusion_sorption1d": 14.6,
                    "reaction_diffusion2d": 2.5}  # fmt: skip


def frame_times(step: float) -> tuple[float, ...]:
    return tuple(step * index for index in range(101))


def relative_l2(values: Tensor, reference: Tensor) -> Tensor:
    difference = (values.double() - reference.double()).flatten(1).norm(dim=1)
    return difference / reference.double().flatten(1).norm(dim=1)


def mean_and_worst(error: Tensor) -> str:
    return f"mean {error.mean().item():.2e}, worst {error.max().item():.2e}"


def compare_reaction_diffusion1d(folder: Path) -> None:
    with h5py.File(folder / "ReacDiff_Nu0.5_Rho1.0.hdf5") as file:
        theirs = torch.from_numpy(file["tensor"][()]).double()
    ours = solve_reaction_diffusion1d(theirs[:, 0], nu=0.5, rho=1.0, times=frame_times(0.01))
    print(f"reaction_diffusion1d, trajectories: {mean_and_worst(relative_l2(ours, theirs))}")
    for index in (1, 5, 10, 20, 30, 50, 100):
        error = relative_l2(ours[:, index], theirs[:, index])
        print(f"  t = {index / 100:.2f}: {mean_and_worst(error)}")
    for name, frames in (("ours", ours), ("theirs", theirs)):
        law = logistic(frames[:, 50].mean(1), 0.5)
        off = (frames[:, 100].mean(1) - law).abs().max().item()
        print(f"  mean at t = 1 off the logistic law from t = 0.5, {name}: {off:.1e}")


def compare_diffusion_sorption1d(folder: Path, *, tight: bool) -> None:
    with h5py.File(folder / "1D_diff-sorp_NA_NA.h5") as file:
        theirs = torch.from_numpy(np.stack([file[name]["data"][..., 0] for name in file]))
    times = frame_times(5.0)
    ours = solve_diffusion_sorption1d(theirs[:, 0].double(), times=times)
    print(f"diffusion_sorption1d, trajectories: {mean_and_worst(relative_l2(ours, theirs))}")
    if tight:
        for relative, absolute in ((1e-3, 1e-6), (1e-5, 1e-8)):
            again = ghost_cells(theirs[0, 0].double().numpy(), times, relative, absolute)
            print(
                f"  trajectory 0 by Runge-Kutta 4(5) on ghost cells, tolerances {relative:g} and "
                f"{absolute:g}: from their file {relative_l2(again, theirs[:1]).item():.1e}, "
                f"from ours {relative_l2(again, ours[:1]).item():.1e}"
            )


def ghost_cells(
    initial: np.ndarray, times: tuple[float, ...], relative: float, absolute: float
) -> Tensor:
    """The semi-discrete equation with boundary values in ghost cells, by SciPy."""
    medium, spacing = Medium(), 1 / len(initial)

    def rates(_: float, u: np.ndarray) -> np.ndarray:
        outside = medium.diffusion * (u[-2] - u[-1]) / spacing
        second = np.diff(np.concatenate([[medium.inflow], u, [outside]]), n=2) / spacing**2
        size = np.maximum(u + medium.regularisation, 1e-12)
        held = 1 + medium.sorption * medium.exponent * size ** (medium.exponent - 1)
        return medium.diffusion / held * second

    solved = solve_ivp(rates, (0, times[-1]), initial, t_eval=times, rtol=relative, atol=absolute)
    return torch.from_numpy(solved.y.T.copy())[None]


def compare_reaction_diffusion2d(folder: Path) -> None:
    with h5py.File(folder / "2D_diff-react_NA_NA.h5") as file:
        stacked = np.stack([file[name]["data"][()] for name in file])
    theirs = torch.from_numpy(stacked).transpose(2, 3)  # (time, y, x, channel) in the file
    for dtype in (torch.float64, torch.float32):
        ours = solve_reaction_diffusion2d(theirs[:, 0].to(dtype), times=frame_times(0.05),
                                          spacing=(2 / 128, 2 / 128))  # fmt: skip
        error = mean_and_worst(relative_l2(ours, theirs))
        print(f"reaction_diffusion2d, trajectories, {dtype}: {error}")


def seconds(device: torch.device) -> float:
    """CPU time of this process, which others on the machine do not stretch; else the clock."""
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def time_each(num_trajectories: int, device: torch.device) -> None:
    unit, square = GridAxis(0.0, 1.0, 1024), GridAxis(-1.0, 2.0, 128)
    solvers: list[tuple[str, Callable[[Task], Solution], Grid, dict[str, float]]] = [
        ("reaction_diffusion1d", reaction_diffusion1d.solve, Grid((unit,), frame_times(0.01)),
         {"nu": 0.5, "rho": 1.0}),
        ("diffusion_sorption1d", diffusion_sorption1d.solve, Grid((unit,), frame_times(5.0)), {}),
        ("reaction_diffusion2d", reaction_diffusion2d.solve,
         Grid((square, square), frame_times(0.05)), {}),
    ]  # fmt: skip
    for name, solve, grid, parameters in solvers:
        for dtype in (torch.float32, torch.float64):
            task = Task(range(num_trajectories), 0, grid, parameters, device, dtype)
            start = seconds(device)
            solve(task).fields.sum().item()
            each = (seconds(device) - start) / num_trajectories
            print(
                f"{name}, {dtype} on {device.type}, {num_trajectories} at once: {each:.4f} s a "
                f"trajectory (PDEBench {PDEBENCH_SECONDS[name]} s on a CPU core)"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shared", type=Path, default=SHARED, help="PDEBench-made files.")
    parser.add_argument("--tight", action="store_true", help="Also integrate by SciPy (a minute).")
    options = parser.parse_args()
    torch.set_num_threads(1)
    time_each(options.trajectories, torch.device(options.device))
    if not options.shared.is_dir():
        print(f"no comparison: {options.shared} is not here")
        return
    compare_reaction_diffusion1d(options.shared)
    compare_diffusion_sorption1d(options.shared, tight=options.tight)
    compare_reaction_diffusion2d(options.shared)


if __name__ == "__main__":
    main()
