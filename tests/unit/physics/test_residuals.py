"""Residuals vanish on solutions: exact ones, manufactured ones, and those of the generators."""

from __future__ import annotations

import math

import pytest
import torch

from ups.data.generate.base import Grid, GridAxis, Task
from ups.data.generate.solvers import grid_solver
from ups.physics.grids import UniformGrid
from ups.physics.residuals import residual_for
from ups.physics.table import why_no_residual
from ups.registry import dataset_keys, load_card

DOUBLE = torch.float64


def generated(key, points, times, parameters):
    """Fields in float64 by the built-in solver, and what the residual is told of them."""
    card = load_card(key)
    axes = card.discretisation.axes
    space = tuple(GridAxis(a.bounds[0], a.bounds[1] - a.bounds[0], points) for a in axes)
    task = Task(range(3), 3, Grid(space, times), parameters, torch.device("cpu"), DOUBLE)
    solution = grid_solver(card.generator.kind)(task)
    names = [(a.boundary, a.upper_boundary or a.boundary) for a in axes]
    grid = UniformGrid.cells([axis.spacing for axis in space], names)
    columns = [
        torch.as_tensor(solution.drawn.get(p.name, [parameters.get(p.name)] * 3), dtype=DOUBLE)
        for p in card.parameters
    ]
    given = {
        "parameters": torch.stack(columns, -1) if columns else torch.zeros(3, 0, dtype=DOUBLE),
        "dt": torch.full((3,), times[1] - times[0], dtype=DOUBLE) if len(times) > 1 else None,
        "inputs": solution.inputs,
    }
    return residual_for(card), solution.fields, grid, given


def window(start, dt, frames=4):
    return tuple(start + dt * number for number in range(frames))


# dataset, points, first frame and step, parameters, bounds over four frames and over two
SOLVED = [
    ("advection1d", 256, window(0.0, 0.002), {"beta": 0.4}, 0.1, 0.15),  # kinks
    ("burgers1d", 256, window(0.1, 0.002), {"nu": 0.02}, 0.01, 0.01),
    ("reaction_diffusion1d", 64, window(0.1, 0.005), {"nu": 0.5, "rho": 1.0}, 1e-5, 1e-3),
    ("diffusion_sorption1d", 128, window(100.0, 5.0), {}, 5e-4, 1e-3),
    ("reaction_diffusion2d", 16, window(0.5, 0.05), {}, 1e-5, 2e-3),
    ("allen_cahn2d", 64, window(1.0, 0.125), {"epsilon": 0.15}, 1e-5, 2e-3),
    ("cahn_hilliard2d", 32, window(0.1, 0.01), {"epsilon": 0.2, "mobility": 1.0}, 1e-5, 1e-3),
]


@pytest.mark.parametrize(
    ("key", "points", "times", "parameters", "bound", "bound_of_two"),
    SOLVED,
    ids=[row[0] for row in SOLVED],
)
def test_solver_data_satisfy_the_equation_and_data_run_backwards_do_not(
    key, points, times, parameters, bound, bound_of_two
):
    residual, fields, grid, given = generated(key, points, times, parameters)
    assert residual(fields, grid, **given).max() < bound
    assert residual(fields.flip(1), grid, **given).min() > 0.4
    assert residual(fields[:, :2], grid, **given).max() < bound_of_two
    torch.testing.assert_close(
        residual(fields.float(), grid, **given).double(), residual(fields, grid, **given),
        rtol=0.2, atol=1e-3,
    )  # fmt: skip


def test_darcy_solutions_satisfy_the_discrete_equation_and_those_of_others_do_not():
    residual, fields, grid, given = generated("darcy2d", 32, (0.0,), {"beta": 2.0})
    assert residual(fields, grid, **given).max() < 1e-8
    assert residual(fields.roll(1, 0), grid, **given).min() > 0.1
    assert residual(2 * fields, grid, **given).max() == pytest.approx(0.5, rel=0.5)
    with pytest.raises(ValueError, match="inputs"):
        residual(fields, grid, dt=None, parameters=given["parameters"])


def advected(points, dt, frames):
    """A wave that the equation shifts exactly."""
    x = (torch.arange(points, dtype=DOUBLE) + 0.5) / points
    t = dt * torch.arange(frames, dtype=DOUBLE)
    u = torch.sin(2 * torch.pi * (x - 0.5 * t[:, None]))
    grid = UniformGrid.cells([1 / points], [("periodic", "periodic")])
    given = {"dt": torch.tensor([dt], dtype=DOUBLE), "parameters": torch.full((1, 1), 0.5).double()}
    return u[None, :, :, None], grid, given


@pytest.mark.parametrize(("frames", "order"), [(2, 2), (3, 4), (6, 4)])
def test_residual_of_an_exact_solution_falls_with_the_time_step_at_its_order(frames, order):
    residual = residual_for(load_card("advection1d"))
    found = []
    for dt in (0.1, 0.05):
        fields, grid, given = advected(32, dt, frames)
        found.append(residual(fields, grid, **given).item())
    assert math.log2(found[0] / found[1]) == pytest.approx(order, abs=0.1)


def test_manufactured_residual_is_found():
    """u = a sin(k (x - c t)) with a wrong c: (beta - c) u_x is left over of beta u_x."""
    residual = residual_for(load_card("advection1d"))
    fields, grid, given = advected(64, 1e-3, 3)
    given["parameters"] = torch.full((1, 1), 0.4, dtype=DOUBLE)
    assert residual(fields, grid, **given).item() == pytest.approx(0.1 / 0.5, rel=1e-4)


def compressible(dims, density, pressure, velocity, dt=1e-3, viscosity=(0.0, 0.0)):
    """Frames of given functions of (t, x, ...) on a periodic box, and their residual."""
    points = {1: 64, 2: 24, 3: 12}[dims]
    card = load_card(f"compressible_ns{dims}d")
    x = (torch.arange(points, dtype=DOUBLE) + 0.5) / points
    t = dt * torch.arange(3, dtype=DOUBLE)
    places = torch.meshgrid(t, *[x] * dims, indexing="ij")
    fields = torch.stack([f(*places) for f in (density, pressure, *velocity)], -1)[None]
    grid = UniformGrid.cells([1 / points] * dims, [("periodic", "periodic")] * dims)
    known = dict(zip(("eta", "zeta"), viscosity, strict=True)) | {"mach": 1.0}
    row = [known[name] for name in card.parameter_names]
    return residual_for(card)(
        fields, grid, dt=torch.tensor([dt], dtype=DOUBLE), scheme="spectral",
        parameters=torch.tensor([row], dtype=DOUBLE),
    ).item()  # fmt: skip


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_density_carried_at_equal_pressure_solves_the_compressible_equations(dims):
    speeds = (0.7, -0.4, 0.2)[:dims]

    def density(t, *x):
        phase = sum(place - speed * t for place, speed in zip(x, speeds, strict=True))
        return 1.5 + 0.5 * torch.sin(2 * torch.pi * phase)

    velocity = [lambda t, *x, v=v: torch.full_like(t, v) for v in speeds]
    ones = torch.ones_like
    assert compressible(dims, density, lambda t, *x: ones(t), velocity, viscosity=(0.1, 0.1)) < 1e-3
    wrong = [lambda t, *x, v=v: torch.full_like(t, v + 0.3) for v in speeds]
    assert compressible(dims, density, lambda t, *x: ones(t), wrong, viscosity=(0.1, 0.1)) > 0.1


def test_friction_slows_shear_and_heats_the_gas():
    """v_y = exp(-eta k^2 t) sin(k x), and the pressure that the lost energy makes: exact at t = 0.

    With the wrong viscosity, or without the heat, the balances do not close.
    """
    k, eta = 2 * math.pi, 0.05

    def ones(t, x, y):
        return torch.ones_like(t)

    def still(t, x, y):
        return torch.zeros_like(t)

    def shear(t, x, y):
        return torch.exp(-eta * k**2 * t) * torch.sin(k * x)

    def heated(t, x, y):
        return 1 + 2 / 3 * eta * k**2 * torch.cos(k * x) ** 2 * t

    good = compressible(2, ones, heated, [still, shear], dt=1e-5, viscosity=(eta, 0.3))
    thicker = compressible(2, ones, heated, [still, shear], dt=1e-5, viscosity=(2 * eta, 0.3))
    cold = compressible(2, ones, ones, [still, shear], dt=1e-5, viscosity=(eta, 0.3))
    assert good < 1e-3
    assert thicker > 0.3
    assert cold > 0.3


def test_bulk_viscosity_acts_on_compression_along_the_flow():
    """1D: the friction is (zeta + 4/3 eta) v_xx, read off the terms."""
    card = load_card("compressible_ns1d")
    grid = UniformGrid.cells([1 / 32], [("periodic", "periodic")])
    k = 2 * math.pi
    x = (torch.arange(32, dtype=DOUBLE) + 0.5) / 32
    v = torch.sin(k * x).expand(2, 32)
    fields = torch.stack([torch.ones_like(v), torch.ones_like(v), v], -1)[None]
    residual = residual_for(card)
    frames = residual._frames(
        fields, grid, torch.tensor([[0.1, 0.2]], dtype=DOUBLE), None, "spectral"
    )
    _, momentum, energy = residual.equation.balances(frames)
    expected = (0.2 + 4 / 3 * 0.1) * k**2
    torch.testing.assert_close(momentum.terms[2][0, :, 0], expected * v)
    slope, curve = k * torch.cos(k * x), -(k**2) * torch.sin(k * x)
    work = (0.2 + 4 / 3 * 0.1) * (slope.square() + v * curve)
    torch.testing.assert_close(-energy.terms[1][0], work)


def decaying_vortex(points=48, frames=3, dt=1e-3, turn=1.0):
    """Taylor-Green vortex: exact, no force; s carried along: a function of the stream function."""
    nu, k = 0.01, 2 * math.pi
    x = (torch.arange(points, dtype=DOUBLE) + 0.5) / points
    t, x, y = torch.meshgrid(dt * torch.arange(frames, dtype=DOUBLE), x, x, indexing="ij")
    decay = torch.exp(-2 * nu * k**2 * t * turn)
    u = torch.sin(k * x) * torch.cos(k * y) * decay
    v = -torch.cos(k * x) * torch.sin(k * y) * decay
    s = 1 + (torch.sin(k * x) * torch.sin(k * y)) ** 2
    return torch.stack([u, v, s], -1)[None]


@pytest.mark.parametrize("boundary", ["periodic", "outflow"])
def test_taylor_green_vortex_solves_the_incompressible_equations(boundary):
    card = load_card("navier_stokes2d")
    residual = residual_for(card)
    grid = UniformGrid.cells([1 / 48] * 2, [(boundary, boundary)] * 2)
    given = {"dt": torch.tensor([1e-3], dtype=DOUBLE), "parameters": torch.zeros(1, 0).double()}
    force = torch.zeros(1, 48, 48, 2, dtype=DOUBLE)
    vortex = decaying_vortex()
    scalar_and_divergence = residual(vortex, grid, **given).item()
    assert scalar_and_divergence < 1.0
    parts = residual.equation.balances(
        residual._frames(vortex, grid, given["parameters"], force, 6)
    )
    spin = parts[-1]
    rate = (spin.quantity[:, 2:] - spin.quantity[:, :-2]) / 2e-3
    inside = (..., slice(6, -6), slice(6, -6))
    left = (rate + sum(term[:, 1:-1] if term.shape[1] == 3 else term for term in spin.terms))[
        inside
    ]
    assert left.abs().max() < 5e-3 * rate[inside].abs().max()
    drive = force.clone()
    drive[..., 1] = torch.sin(2 * torch.pi * (torch.arange(48, dtype=DOUBLE) + 0.5) / 48)[:, None]
    with_force, without = (residual(vortex, grid, inputs=f, **given).item() for f in (drive, force))
    assert with_force > 1.2 * without


def test_every_card_has_a_residual_or_a_reason():
    with_residual = {key for key in dataset_keys() if residual_for(load_card(key)) is not None}
    assert with_residual == {
        "advection1d", "burgers1d", "reaction_diffusion1d", "reaction_diffusion2d",
        "diffusion_sorption1d", "darcy2d", "allen_cahn2d", "cahn_hilliard2d",
        "compressible_ns1d", "compressible_ns2d", "compressible_ns3d", "navier_stokes2d",
    }  # fmt: skip
    for key in dataset_keys():
        reason = why_no_residual(load_card(key))
        assert (reason is None) == (key in with_residual)
        assert reason is None or "none of the known" not in reason, key


def test_an_equation_in_other_words_is_not_taken_for_a_known_one():
    card = load_card("burgers1d")
    other = card.model_copy(
        update={"pde": card.pde.model_copy(update={"equation": "u_t + u u_x = nu u_xx"})}
    )
    assert residual_for(other) is None
    assert "u_t + u u_x = nu u_xx" in why_no_residual(other)


def test_one_frame_is_too_few():
    residual = residual_for(load_card("advection1d"))
    fields, grid, given = advected(16, 0.1, 1)
    with pytest.raises(ValueError, match="two frames"):
        residual(fields, grid, **given)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("key", ["burgers1d", "reaction_diffusion2d", "diffusion_sorption1d"])
def test_constant_fields_have_a_finite_residual_and_gradient(key, value):
    card = load_card(key)
    axes = card.discretisation.axes
    names = [(a.boundary, a.upper_boundary or a.boundary) for a in axes]
    grid = UniformGrid.cells([0.1] * len(axes), names)
    fields = torch.full((2, 3, *[8] * len(axes), len(card.fields)), value, requires_grad=True)
    found = residual_for(card)(
        fields, grid, dt=torch.ones(2), parameters=torch.ones(2, len(card.parameters))
    )
    found.sum().backward()
    assert found.isfinite().all()
    assert fields.grad.isfinite().all()


def test_residual_has_the_gradient_of_its_value():
    residual = residual_for(load_card("burgers1d"))
    grid = UniformGrid.cells([0.1], [("periodic", "periodic")])
    fields = torch.randn(1, 3, 8, 1, dtype=DOUBLE, requires_grad=True)
    given = {"dt": torch.ones(1, dtype=DOUBLE), "parameters": torch.ones(1, 1, dtype=DOUBLE)}
    assert torch.autograd.gradcheck(lambda f: residual(f, grid, **given), fields)
