"""Physics of predictions: the truth passes every gate, what breaks a law fails its own."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from ups import paths
from ups.data.convert import convert
from ups.data.generate import generate
from ups.data.points import PointStore
from ups.data.versions import open_store
from ups.evaluation.physics_check import MARGIN, PhysicsObserver, measures_of
from ups.evaluation.physics_energy import EnergyObserver, energies_of
from ups.evaluation.physics_grid import Boundary, EquationResidual, few_of
from ups.evaluation.physics_measures import Conservation, conserved_by
from ups.evaluation.physics_points import CellDivergence, CellWeights, node_boundary
from ups.evaluation.rollout import STEADY, Batch, Horizon
from ups.registry import load_card

SIZES = {
    "advection1d": (6, 64, 9), "burgers1d": (6, 64, 9), "reaction_diffusion1d": (4, 32, 65),
    "diffusion_sorption1d": (4, 32, 9), "reaction_diffusion2d": (4, 16, 7),
    "shallow_water2d": (4, 32, 7), "darcy2d": (4, 16, None), "allen_cahn2d": (3, 16, 4),
    "cahn_hilliard2d": (3, 16, 4), "darcy2d_mesh": (3, 150, None), "particles_advect": (3, 40, 7),
}  # fmt: skip
"""Trajectories, points per axis (or nodes) and frames."""

EXPECTED = {
    "advection1d": {"conservation_u", "conservation_energy", "boundary"},
    "burgers1d": {"conservation_u", "boundary"},
    "reaction_diffusion1d": {"boundary", "pde_residual"},
    "diffusion_sorption1d": {"boundary"},
    "reaction_diffusion2d": set(),
    "shallow_water2d": {"conservation_h", "positivity"},
    "darcy2d": {"boundary", "pde_residual"},
    "allen_cahn2d": {"pde_residual"},
    "cahn_hilliard2d": {"conservation_u"},
    "darcy2d_mesh": {"boundary"},
    "particles_advect": set(),
}
"""What each must be judged by at least."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, stores = tmp_path_factory.mktemp("physics"), {}

    def give(key):
        if key not in stores:
            with pytest.MonkeyPatch.context() as env:
                env.setenv("UPS_HOME", str(folder))
                card, (count, points, frames) = load_card(key), SIZES[key]
                raw = generate(
                    card, parameters=card.generator.parameters, num_trajectories=count, seed=0,
                    out_dir=paths.raw_dir(key), points=points, frames=frames, workers=1,
                )  # fmt: skip
                convert(card, [raw])
                stores[key] = open_store(key)
        return stores[key]

    return give


def horizon_of(store, history=1):
    if store.metadata.dt is None:
        return STEADY
    return Horizon(history, store.num_frames - history, 1)


def times_of(store):
    return store.time[horizon_of(store).frames].tolist()


def batches(store, change=lambda fields: fields, rows=None):
    """The truth of some trajectories beside what a change makes of it."""
    rows = range(len(store.parameters)) if rows is None else rows
    horizon = horizon_of(store)
    pieces = [[row] for row in rows] if isinstance(store, PointStore) else [list(rows)]
    for members in pieces:
        values = [store.fields(r) if isinstance(store, PointStore) else store.fields[r]
                  for r in members]  # fmt: skip
        fields = torch.from_numpy(np.stack(values))
        truth = fields[:, horizon.frames]
        given = fields[:, horizon.first] if horizon.history else None
        yield Batch(np.array(members), given, change(truth.clone()), truth, 0.1)


def observer(store, card=None, members=None):
    card = card or load_card(store.metadata.dataset)
    members = np.arange(len(store.parameters)) if members is None else members
    measures, absent = measures_of(card, store, horizon_of(store), members)
    return PhysicsObserver(measures, absent, times_of(store))


def judged(store, change=lambda fields: fields, card=None):
    found = observer(store, card)
    for batch in batches(store, change):
        found.update(batch)
    return found.result()


def gates(section):
    return {gate.name: gate for gate in section.gates}


@pytest.mark.parametrize("key", SIZES)
def test_the_truth_passes_every_gate_of_its_own_dataset(made, key):
    section = judged(made(key))
    found = gates(section)
    assert set(found) >= EXPECTED[key]
    assert all(gate.passed and gate.kind == "physics" for gate in section.gates)
    json.dumps(section.content, allow_nan=False)
    for name, gate in found.items():
        entry = section.content[name]
        assert entry["prediction"] == entry["reference"] == gate.value
        worst = entry["spread"]["reference"]["max"]
        assert gate.limit == entry["tolerance"] == MARGIN * worst + entry["allowance"]
        assert entry["per_step"]["prediction"] == entry["per_step"]["reference"]
        assert len(entry["times"]) == len(entry["per_step"]["reference"])


@pytest.mark.parametrize("key", SIZES)
def test_what_cannot_be_judged_says_why(made, key):
    content = judged(made(key)).content
    requirements = {"boundary", "divergence", "positivity", "pde_residual"}
    assert requirements <= set(content)
    assert any(name.startswith("conservation") for name in content)
    for entry in content.values():
        assert set(entry) == {"absent"} or "prediction" in entry


def with_drift(fields):
    """The mean moves by a tenth of the RMS, more and more."""
    steps = torch.linspace(0, 1, fields.shape[1])
    return fields + 0.2 * fields.square().mean().sqrt() * steps.reshape(
        1, -1, *(1,) * (fields.ndim - 2)
    )


def with_ramp(fields):
    ramp = torch.linspace(-0.5, 0.5, fields.shape[2])
    return fields + fields.square().mean().sqrt() * ramp[None, None, :, None]


def with_a_negative_cell(fields):
    fields[0, -1, 3, 3, 0] = -0.01
    return fields


def blown_up(fields):
    fields[0, -1] = torch.inf
    return fields


@pytest.mark.parametrize(
    ("key", "change", "broken", "what"),
    [
        ("burgers1d", with_drift, "conservation_u", "drift of the mean of u / RMS of u is 0.1"),
        ("cahn_hilliard2d", with_drift, "conservation_u", "drift of the mean of u / RMS of u is"),
        ("advection1d", lambda f: 0.9 * f, "conservation_energy", "drift of the mean square"),
        ("burgers1d", with_ramp, "boundary", "violation of the boundary conditions"),
        ("shallow_water2d", with_a_negative_cell, "positivity", "negative values"),
        ("darcy2d", lambda f: 2 * f, "pde_residual", "RMS residual of the equation"),
        ("reaction_diffusion1d", lambda f: f.flip(1), "pde_residual", "RMS residual"),
        ("darcy2d_mesh", lambda f: f + 0.1 * f.abs().amax(), "boundary", "where fields are zero"),
        ("burgers1d", blown_up, "conservation_u", "not finite"),
    ],
)  # fmt: skip
def test_a_broken_law_fails_its_gate_with_the_numbers(made, key, change, broken, what):
    section = judged(made(key), change)
    gate = gates(section)[broken]
    assert not gate.passed
    assert what in gate.detail
    assert f"above the tolerance of {gate.limit:.3g} (the truth's own is " in gate.detail
    if gate.value is not None:
        assert gate.value > gate.limit
        assert f"{gate.value:.3g}" in gate.detail


def test_only_what_is_broken_fails(made):
    found = gates(judged(made("shallow_water2d"), with_a_negative_cell))
    assert [name for name, gate in found.items() if not gate.passed] == ["positivity"]


def test_advection_at_a_wrong_speed_leaves_a_residual(made):
    store = made("advection1d")
    x, t = store.coords[0], store.time
    beta = store.parameters[0, 0]
    wave = np.sin(2 * np.pi * (x[None] - beta * 0.1 * t[:, None]))
    slower = np.sin(2 * np.pi * (x[None] - 0.9 * beta * 0.1 * t[:, None]))
    card, grid_store = load_card("advection1d"), store
    measures, _ = measures_of(card, grid_store, horizon_of(store), np.array([0]))
    residual = dataclasses.replace(
        next(one for one in measures if isinstance(one, EquationResidual)),
        dt=0.1 * store.metadata.dt,
    )
    true, wrong = (torch.from_numpy(one).float()[None, ..., None] for one in (wave, slower))
    ours, own = residual(Batch(np.array([0]), true[:, 0], wrong[:, 1:], true[:, 1:], 0.0))
    assert ours.shape == own.shape == (1, store.num_frames - 2)
    assert own.max() < 0.01
    torch.testing.assert_close(ours[:, 1:], torch.full_like(ours[:, 1:], 0.1), rtol=0.1, atol=0)


def test_a_mean_drift_is_measured_in_units_of_the_given_frames_rms():
    law = Conservation("mean", "drift", lambda fields: fields)
    given = 3 * torch.tensor([[1.0], [-1.0]])[None]
    frames = torch.stack([given, given + 0.6], 1)
    ours, own = law(Batch(np.array([0]), given, frames, frames[:, :1].expand(-1, 2, -1, -1), 0.0))
    torch.testing.assert_close(ours, torch.tensor([[0.0, 0.2]], dtype=torch.float64))
    assert own.max() < 1e-9


def gas(seed=0):
    """Frames of a gas whose cells move on unchanged: everything is conserved."""
    first = torch.rand(2, 1, 32, 3, generator=torch.Generator().manual_seed(seed)) + 0.5
    return torch.cat([first.roll(shift, 2) for shift in range(4)], 1)


@pytest.mark.parametrize("broken", ["density", "momentum", "energy"])
def test_compressible_flow_keeps_mass_momentum_and_energy(broken):
    laws = conserved_by(load_card("compressible_ns1d"), (True,))
    names = ["conservation_density", "conservation_momentum", "conservation_energy"]
    assert [law.name for law in laws] == names
    fields, wrong = gas(), gas()
    density, pressure, velocity = wrong[:, 1:].unbind(-1)
    if broken == "density":  # momentum and energy stay
        density *= 1.2
        velocity /= 1.2
        pressure += fields[:, 1:, :, 0] * fields[:, 1:, :, 2] ** 2 * (1 - 1 / 1.2) / 3
    elif broken == "momentum":
        velocity *= -1
    else:
        pressure *= 1.2
    batch = Batch(np.arange(2), fields[:, 0], wrong[:, 1:], fields[:, 1:], 0.0)
    for law in laws:
        ours, own = law(batch)
        assert own.max() < 1e-6
        if law.name == f"conservation_{broken}":
            assert ours.min() > 0.05
        else:
            assert ours.max() < 1e-6


def test_nothing_is_conserved_where_gas_can_leave():
    assert conserved_by(load_card("compressible_ns1d"), (False,)) == []
    laws = conserved_by(load_card("compressible_ns2d"), (False, False))
    assert [law.name for law in laws] == ["conservation_density"]  # as the card says


def test_flow_on_a_mesh_is_judged_by_its_walls_and_its_divergence(made):
    store, card = made("darcy2d_mesh"), load_card("navier_stokes_mesh")
    walls = node_boundary(card, store)
    assert walls is not None
    assert walls.channels == (0, 1)
    coords = torch.from_numpy(np.array(store.coords(0)))
    x, y = coords.unbind(-1)
    turning, spreading = torch.stack([-y, x], -1), torch.stack([x, y], -1)
    both = [f[None, None] for f in (turning, spreading)]
    measure = CellDivergence(store, ((0, 1),))
    ours, own = measure(Batch(np.array([0]), None, both[1], both[0], 0.0))
    assert own.max() < 1e-5
    torch.testing.assert_close(ours, torch.full_like(ours, 2**0.5))


def test_nodes_weigh_what_the_area_around_them_is(made):
    store = made("darcy2d_mesh")
    weights = CellWeights(store)(0)
    corners = np.array(store.coords(0), dtype=np.float64)[store.cells(0)]
    ahead, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = np.abs(ahead[:, 0] * other[:, 1] - ahead[:, 1] * other[:, 0]) / 2
    node = 7
    expected = areas[(store.cells(0) == node).any(1)].sum() / 3 / areas.sum()
    assert weights.sum().item() == pytest.approx(1)
    assert weights[node].item() == pytest.approx(expected)


def test_what_the_truth_itself_does_not_obey_is_not_asked_for(made):
    """Noise in place of the truth: no equation, no boundary values, no gate for either."""
    found = observer(made("diffusion_sorption1d"))
    for batch in batches(made("diffusion_sorption1d")):
        noise = torch.randn(batch.reference.shape, generator=torch.Generator().manual_seed(0))
        found.update(dataclasses.replace(batch, reference=noise, prediction=noise))
    section = found.result()
    assert "the truth itself misses it by" in section.content["pde_residual"]["absent"]
    assert "pde_residual" not in gates(section)


@pytest.mark.parametrize("key", ["burgers1d", "darcy2d_mesh"])
def test_shares_of_several_processes_make_the_same_section(made, key):
    store, card = made(key), load_card(key)
    whole = judged(store, lambda f: 1.1 * f)
    horizon, members = horizon_of(store), np.arange(len(store.parameters))
    parts = []
    for rows in (members[:2].tolist(), members[2:].tolist()):
        measures, absent = measures_of(card, store, horizon, members)
        part = PhysicsObserver(measures, absent, times_of(store))
        for batch in batches(store, lambda f: 1.1 * f, rows):
            part.update(batch)
        parts.append(pickle.loads(pickle.dumps(part)))
    parts[0].absorb(parts[1])
    assert parts[0].result() == whole


def test_expensive_measures_look_at_some_trajectories_only(made):
    store = made("burgers1d")
    assert few_of(np.arange(6), 8, store) == tuple(range(6))
    many = np.arange(1000) * 3
    chosen = few_of(many, 8, store)
    assert len(chosen) == 256
    assert (chosen[0], chosen[-1]) == (0, 2997)
    assert set(chosen) <= set(many.tolist())
    content = judged_with(store, members=np.array([1, 4]))
    assert content["boundary"]["num_trajectories"] == 6
    residual = content["pde_residual"]
    assert "absent" in residual or residual["num_trajectories"] == 2


def judged_with(store, members):
    found = observer(store, members=members)
    for batch in batches(store):
        found.update(batch)
    return found.result().content


def test_boundary_values_of_one_frame_do_not_depend_on_the_others(made):
    store = made("burgers1d")
    measure = next(one for one in observer(store).measures if isinstance(one, Boundary))
    batch = next(batches(store))
    _, every = measure(batch)
    single = dataclasses.replace(
        batch, prediction=batch.prediction[:, 2:3], reference=batch.reference[:, 2:3]
    )
    torch.testing.assert_close(measure(single)[1], every[:, 2:3])


def test_energies_of_a_flow_and_their_loss(made):
    """2D gas at rest but for a shear: kinetic, total, enstrophy; a prediction that loses half."""
    card, store = load_card("compressible_ns2d"), made("allen_cahn2d")
    points = store.space[0]
    x = torch.from_numpy(store.coords[0]).float()
    fields = torch.ones(2, 3, points, points, 4)
    fields[..., 2] = 0
    fields[..., 3] = torch.sin(x)[:, None]
    wrong = fields.clone()
    wrong[..., 3] *= 0.5**0.5
    energies = energies_of(card, store)
    assert energies.gas == (0, 1)
    found = EnergyObserver(energies, [1.0, 2.0, 3.0])
    found.update(Batch(np.arange(2), fields[:, 0], wrong, fields, 0.0))
    quantities = found.result().content["quantities"]
    assert set(quantities) == {"density", "pressure", "vx", "vy", "kinetic", "total", "enstrophy"}
    assert quantities["kinetic"]["reference"]["mean"] == pytest.approx([0.25] * 3)
    assert quantities["kinetic"]["prediction"]["p90"] == pytest.approx([0.125] * 3)
    assert quantities["kinetic"]["relative_error"] == pytest.approx([0.5] * 3)
    assert quantities["kinetic"]["initial"] == pytest.approx(0.25)
    assert quantities["total"]["reference"]["median"] == pytest.approx([1.5 + 0.25] * 3)
    assert quantities["enstrophy"]["reference"]["mean"] == pytest.approx([0.25] * 3, rel=0.1)


def test_energies_of_all_shares_are_those_of_the_split(made):
    store = made("particles_advect")
    energies = energies_of(load_card("particles_advect"), store)
    whole, one, other = (EnergyObserver(energies, times_of(store)) for _ in range(3))
    for number, batch in enumerate(batches(store)):
        whole.update(batch)
        (one if number < 2 else other).update(batch)
    one.absorb(pickle.loads(pickle.dumps(other)))
    assert one.result() == whole.result()
    assert whole.result().content["num_trajectories"] == 3
    assert "kinetic" in whole.result().content["quantities"]
