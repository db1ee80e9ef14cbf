"""Radial dam break: the shallow-water equations on a square, second-order finite volumes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ups.data.generate.base import Array, Grid, Solution, Task
from ups.data.generate.checks import parameter_of, require_finite

GRAVITY = 1.0
INNER_DEPTH, OUTER_DEPTH = 2.0, 1.0
DRAWN_RADIUS = (0.3, 0.7)
RADIUS_RANGE = (0.05, 2.4)

COURANT = 0.5
"""Share of a cell that the fastest waves of both directions together may cross in a step."""

_STREAM = 0x5A77
_MAX_STEPS_PER_FRAME = 100_000


def solve(task: Task) -> Solution:
    """Solve h_t + div(h u) = 0, (h u)_t + div(h u u) + grad(h^2 / 2) = 0 from a column of water.

    Depth 2 in cells whose centre lies within `dam_radius` of the origin, 1 elsewhere, at rest;
    what reaches the boundary leaves. A `dam_radius` in the task's parameters holds for all
    trajectories; otherwise each draws its own. Only the depth is kept.

    Raises:
        UsageError: `dam_radius` cannot be used.
        DataError: A solution did not stay finite.
    """
    given = "dam_radius" in task.parameters
    radius = draw_radii(task.seed, task.trajectories)
    if given:
        radius[:] = parameter_of(task, "dam_radius", RADIUS_RANGE)
    initial = column(radius, task.grid).to(task.device, task.dtype)
    depth = solve_shallow_water2d(
        initial,
        spacing=(task.grid.axes[0].spacing, task.grid.axes[1].spacing),
        times=task.grid.times,
        quadrant=_centred(task.grid),
    )
    require_finite(depth, task.trajectories, "shallow water")
    return Solution(depth[..., None], drawn={} if given else {"dam_radius": radius})


def draw_radii(seed: int, trajectories: range) -> Array:
    """Radii of the dams, (batch,) float64."""
    generators = (np.random.default_rng([seed, index, _STREAM]) for index in trajectories)
    return np.array([generator.uniform(*DRAWN_RADIUS) for generator in generators])


def column(radius: Array, grid: Grid) -> Float[Tensor, "batch x y"]:
    """Depth at t = 0, float64: INNER_DEPTH where a cell's centre is within the radius."""
    x, y = (axis.low + axis.centres() for axis in grid.axes)
    distance = torch.hypot(x[:, None], y)
    inside = distance <= torch.from_numpy(radius)[:, None, None]
    return torch.where(inside, INNER_DEPTH, OUTER_DEPTH).double()


def solve_shallow_water2d(
    depth: Float[Tensor, "batch x y"],
    *,
    spacing: tuple[float, float],
    times: Sequence[float],
    quadrant: bool = False,
    courant: float = COURANT,
) -> Float[Tensor, "batch time x y"]:
    """Depth at `times` from any positive depth at rest, outflow through all boundaries.

    Unsplit MUSCL in primitive variables with monotonised central slopes, HLLC fluxes, Heun's
    method in time: second order where the solution is smooth, oscillation-free at bores, mass
    exact. Each trajectory takes steps of its own, from its own fastest wave.

    Args:
        depth: Positive, in the precision and on the device to solve in.
        times: Not negative, rising. A frame at 0 is `depth` itself.
        quadrant: The depth is mirror-symmetric about both middles: solve a quarter, four times
            as fast, and unfold it. The result is the same but exactly symmetric.
    Source:
        HLLC: Toro 2001, Shock-Capturing Methods for Free-Surface Shallow Flows, chapter 10;
        limiter: van Leer 1977, J. Comput. Phys. 23, 263.
    """
    points_x, points_y = depth.shape[1:]
    start = depth[:, points_x // 2 :, points_y // 2 :] if quadrant else depth
    waves = _Waves(spacing, wall=quadrant, courant=courant)
    state = torch.stack([start, torch.zeros_like(start), torch.zeros_like(start)], dim=1)
    frames, now = [], 0.0
    for time in times:
        if time > now:
            state = waves.advance(state, time - now)
        frames.append(_unfolded(state[:, 0]) if quadrant else state[:, 0])
        now = time
    return torch.stack(frames, dim=1)


class _Waves:
    """Fluxes and steps on one grid.

    Shape:
        state: (batch, 3, x, y): depth and the two components of discharge
    """

    def __init__(self, spacing: tuple[float, float], *, wall: bool, courant: float) -> None:
        self.spacing, self.wall, self.courant = spacing, wall, courant

    def advance(self, state: Tensor, interval: float) -> Tensor:
        """March every trajectory by `interval`, in equal steps between changes of its speed."""
        left = state.new_full((len(state),), interval, dtype=torch.float64)
        for _ in range(_MAX_STEPS_PER_FRAME):
            steps = torch.ceil(left / self._longest_step(state) - 1e-9).clamp(min=1)
            step = (left / steps).to(state.dtype)[:, None, None, None]
            first = state + step * self._change(state)
            state = 0.5 * (state + (first + step * self._change(first)))
            left = torch.where(steps > 1, left - left / steps, 0.0)
            if not (left > 0).any():
                return state
        return torch.full_like(state, torch.nan)

    def _longest_step(self, state: Tensor) -> Tensor:
        """The Courant limit of each trajectory, (batch,) float64."""
        depth = state[:, 0]
        wave = (GRAVITY * depth).sqrt()
        rates = sum(
            ((state[:, 1 + axis] / depth).abs() + wave).flatten(1).amax(1).double() / cell
            for axis, cell in enumerate(self.spacing)
        )
        return self.courant / torch.as_tensor(rates)

    def _change(self, state: Tensor) -> Tensor:
        depth = state[:, :1]
        primitive = torch.cat([depth, state[:, 1:] / depth], dim=1)
        flux_x = _hllc(*_faces(self._padded(primitive, 1)), normal=1)
        turned = self._padded(primitive.transpose(2, 3), 2)
        flux_y = _hllc(*_faces(turned), normal=2).transpose(2, 3)
        outflow_x = (flux_x[:, :, 1:] - flux_x[:, :, :-1]) / self.spacing[0]
        outflow_y = (flux_y[:, :, :, 1:] - flux_y[:, :, :, :-1]) / self.spacing[1]
        return -outflow_x - outflow_y

    def _padded(self, primitive: Tensor, normal: int) -> Tensor:
        """Two cells more at both ends of axis 2: copies of the last one, or a mirror at the left.

        Args:
            normal: Index of the velocity component along axis 2, which the mirror turns.
        """
        padded = functional.pad(primitive, (0, 0, 2, 2), mode="replicate")
        if self.wall:
            padded[:, :, :2] = primitive[:, :, :2].flip(2)
            padded[:, normal, :2] *= -1
        return padded


def _faces(padded: Tensor) -> tuple[Tensor, Tensor]:
    """Values on both sides of every face along axis 2, by monotonised central slopes.

    They lie between those of the neighbouring cells, so depth stays positive.
    """
    jump = padded[:, :, 1:] - padded[:, :, :-1]
    before, after = jump[:, :, :-1], jump[:, :, 1:]
    central = 0.5 * (before + after)
    bound = 2 * torch.minimum(before.abs(), after.abs())
    slope = torch.where(before * after > 0, central.clamp(-bound, bound), 0.0)
    inner = padded[:, :, 1:-1]
    return (inner + 0.5 * slope)[:, :, :-1], (inner - 0.5 * slope)[:, :, 1:]


def _hllc(left: Tensor, right: Tensor, *, normal: int) -> Tensor:
    """Flux of depth and discharge along axis 2 from primitive values; Einfeldt's wave speeds.

    What moves along the face is carried by the flow of water: that is the middle wave.
    """
    depth_l, depth_r = left[:, 0], right[:, 0]
    speed_l, speed_r = left[:, normal], right[:, normal]
    root_l, root_r = depth_l.sqrt(), depth_r.sqrt()
    roe = (root_l * speed_l + root_r * speed_r) / (root_l + root_r)
    wave = (GRAVITY * 0.5 * (depth_l + depth_r)).sqrt()
    low = torch.minimum(speed_l - GRAVITY**0.5 * root_l, roe - wave).clamp(max=0.0)
    high = torch.maximum(speed_r + GRAVITY**0.5 * root_r, roe + wave).clamp(min=0.0)
    flow_l, flow_r = depth_l * speed_l, depth_r * speed_r
    thrust_l = flow_l * speed_l + 0.5 * GRAVITY * depth_l**2
    thrust_r = flow_r * speed_r + 0.5 * GRAVITY * depth_r**2
    width, product = high - low, high * low
    water = (high * flow_l - low * flow_r + product * (depth_r - depth_l)) / width
    thrust = (high * thrust_l - low * thrust_r + product * (flow_r - flow_l)) / width
    carried = water * torch.where(water > 0, left[:, 3 - normal], right[:, 3 - normal])
    return torch.stack([water, *((thrust, carried) if normal == 1 else (carried, thrust))], dim=1)


def _unfolded(quarter: Tensor) -> Tensor:
    """(batch, x, y) over the whole square from the quarter of large x and y."""
    half = torch.cat([quarter.flip(1), quarter], dim=1)
    return torch.cat([half.flip(2), half], dim=2)


def _centred(grid: Grid) -> bool:
    """Whether the origin is a corner of four cells in the middle of the grid."""
    return all(
        axis.points % 2 == 0 and abs(2 * axis.low + axis.length) < 1e-9 * axis.length
        for axis in grid.axes
    )
