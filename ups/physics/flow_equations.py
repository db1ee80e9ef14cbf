"""Viscous flow, compressible and incompressible: terms as the cards state them."""

from __future__ import annotations

import torch
from torch import Tensor

from ups.physics.derivatives import Condition
from ups.physics.equations import Balance, BoundaryTable, Equation, Frames
from ups.physics.grids import UniformGrid

GAMMA = 5 / 3
"""Ratio of specific heats of PDEBench's compressible flows."""

VISCOSITY = 0.01
"""Kinematic, of PDEBench's incompressible flows."""

_WALL_CELLS = 2


def _compressible(f: Frames) -> list[Balance]:
    """Mass, momentum (a vector: one scale for all components) and energy, in conservation form."""
    rho, p = f.fields["density"], f.fields["pressure"]
    velocity = [f.fields[name] for name in f.velocity]
    slopes = [[f.slope(name, axis) for axis in range(f.grid.num_dims)] for name in f.velocity]
    spread = torch.stack([slopes[axis][axis] for axis in range(f.grid.num_dims)]).sum(0)
    mass = Balance(rho, (_divergence(f, [rho * v for v in velocity]),))
    carried = [_divergence(f, [rho * v * other for other in velocity]) for v in velocity]
    thrust = [f.slope("pressure", axis) for axis in range(f.grid.num_dims)]
    friction = [-_friction(f, axis, spread) for axis in range(f.grid.num_dims)]
    terms = tuple(torch.stack(parts, 2) for parts in (carried, thrust, friction))
    momentum = Balance(torch.stack([rho * v for v in velocity], 2), terms)
    speed = torch.stack([v.square() for v in velocity]).sum(0)
    total = p / (GAMMA - 1) + rho * speed / 2
    work = [
        sum((_stress(f, slopes, spread, i, j) * velocity[j] for j in range(len(velocity))),
            torch.zeros_like(p))
        for i in range(len(velocity))
    ]  # fmt: skip
    flux = _divergence(f, [(total + p) * v for v in velocity])
    return [mass, momentum, Balance(total, (flux, -_divergence(f, work)))]


def _friction(f: Frames, axis: int, spread: Tensor) -> Tensor:
    """eta lap v_i + (zeta + eta/3) d_i div v."""
    eta, zeta = f.parameters["eta"], f.parameters["zeta"]
    return eta * f.laplacian(f.velocity[axis]) + (zeta + eta / 3) * f.slope(spread, axis)


def _stress(f: Frames, slopes: list[list[Tensor]], spread: Tensor, i: int, j: int) -> Tensor:
    """eta (d_i v_j + d_j v_i - 2/3 delta_ij div v) + zeta delta_ij div v."""
    eta, zeta = f.parameters["eta"], f.parameters["zeta"]
    shear = eta * (slopes[i][j] + slopes[j][i])
    return shear + (zeta - 2 / 3 * eta) * spread if i == j else shear


def _incompressible(f: Frames) -> list[Balance]:
    """No divergence, the curl of momentum (which has no pressure), and what is carried along.

    The curl is left out where the force is not given. Cells at the walls are left out: third
    derivatives of the velocity are one-sided there.
    """
    u, v = (f.fields[name] for name in f.velocity)
    balances = [Balance(None, (f.slope(f.velocity[0], 0), f.slope(f.velocity[1], 1)))]
    carried = u * f.slope("particles", 0) + v * f.slope("particles", 1)
    balances.append(Balance(f.fields["particles"], (carried,), _WALL_CELLS))
    if {"fx", "fy"} <= set(f.inputs):
        spin = f.slope(f.velocity[1], 0) - f.slope(f.velocity[0], 1)
        drive = f.slope(f.inputs["fy"], 0) - f.slope(f.inputs["fx"], 1)
        moved = u * f.slope(spin, 0) + v * f.slope(spin, 1)
        terms = (moved, -VISCOSITY * f.laplacian(spin), -drive)
        balances.append(Balance(spin, terms, _WALL_CELLS))
    return balances


def _no_slip(grid: UniformGrid) -> BoundaryTable:
    at_rest = {"dirichlet": Condition()}
    return {"vx": at_rest, "vy": at_rest, "particles": {"dirichlet": Condition(0.0, 1.0)}}


def _divergence(f: Frames, flux: list[Tensor]) -> Tensor:
    return torch.stack([f.slope(part, axis) for axis, part in enumerate(flux)]).sum(0)


FLOW_EQUATIONS = (
    Equation(
        "rho_t + div(rho v) = 0, rho (v_t + v.grad v) = -grad p + eta lap v + (zeta + eta/3) "
        "grad div v, E_t + div((E + p) v - v.sigma) = 0, E = p / (gamma - 1) + rho v^2 / 2",
        _compressible, ("density", "pressure"), ("eta", "zeta"), scheme=4,
    ),
    Equation(
        "v_t + v.grad v = -grad p + nu lap v + f(x), div v = 0, s_t + v.grad s = 0",
        _incompressible, ("vx", "vy", "particles"), scheme=4, ends=_no_slip,
    ),
)  # fmt: skip
