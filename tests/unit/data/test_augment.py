"""Augmented solutions are solutions, vectors turn with space, and what is not valid is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from window_samples import burgers, points

from ups.data.conversion.neighbours import radius_neighbours
from ups.data.conversion.plan import Recipe
from ups.data.convert import convert
from ups.data.generate import generate
from ups.data.generate.advection1d import solve_advection1d
from ups.data.generate.allen_cahn2d import solve_allen_cahn2d
from ups.data.generate.burgers1d import solve_burgers1d
from ups.data.generate.reaction_diffusion2d import solve_reaction_diffusion2d
from ups.data.reading.augment import (
    Orientation,
    components_of,
    moved_points,
    noisy,
    oriented,
    shift,
    with_components,
)
from ups.data.reading.symmetries import Augmentation, Geometry, Permitted, permit
from ups.data.reading.windows import Windows
from ups.errors import ConfigError
from ups.registry import FieldSpec, load_card

ALL = Augmentation(shift=True, reflection=True, rotation=True)
VECTOR = (
    FieldSpec(name="p", description=""),
    FieldSpec(name="vx", description="", component="x"),
    FieldSpec(name="vy", description="", component="y"),
)


def orientations(num_dims):
    """All signed permutations: 8 in the plane, 48 in space."""
    return [
        Orientation(order, signs)
        for order in itertools.permutations(range(num_dims))
        for signs in itertools.product((1, -1), repeat=num_dims)
    ]


# ---- solutions stay solutions: the solver takes the augmented start to the augmented end


def solved(card_key, tmp_path, *, parameters, asked, **options):
    """(windows of whole trajectories, store) of generated data."""
    card = load_card(card_key)
    raw = generate(card, parameters=parameters, seed=3, out_dir=tmp_path, **options)
    store = convert(card, [raw]).store
    horizon = store.num_frames - 1
    return Windows(store, card, horizon=horizon, augment=asked, seed=1), store


def relative(one, other):
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def times_of(store):
    return tuple(float(time) for time in store.time)


def test_shifted_advection_is_advection(tmp_path):
    windows, store = solved(
        "advection1d", tmp_path, parameters={"beta": 1.0}, asked=Augmentation(shift=True),
        num_trajectories=20, points=128, frames=6,
    )  # fmt: skip
    batch = windows.batch(0, 8)
    assert not np.array_equal(batch.fields[:, 0], store.fields[batch.trajectories, 0])
    again = solve_advection1d(
        torch.from_numpy(batch.fields[:, 0, :, 0]).double(), beta=1.0, times=times_of(store)
    )
    # Sampled kinks are not band-limited: what the unaugmented trajectories differ by is allowed.
    plain = Windows(store, load_card("advection1d"), horizon=5, seed=1).batch(0, 8)
    floor = solve_advection1d(
        torch.from_numpy(plain.fields[:, 0, :, 0]).double(), beta=1.0, times=times_of(store)
    )
    error = relative(again.numpy(), batch.fields[..., 0])
    assert error == pytest.approx(relative(floor.numpy(), plain.fields[..., 0]), rel=1e-3)
    assert error < 0.05


def test_reflected_advection_would_run_backwards_and_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"advection1d: augment: 'reflection'.*\(shift\)"):
        solved("advection1d", tmp_path, parameters={"beta": 1.0}, num_trajectories=20,
               points=32, frames=4, asked=Augmentation(reflection=True))  # fmt: skip


def test_shifted_and_reflected_burgers_is_burgers(tmp_path):
    windows, store = solved(
        "burgers1d", tmp_path, parameters={"nu": 0.1}, asked=Augmentation(shift=True,
        reflection=True), num_trajectories=20, points=256, frames=11,
    )  # fmt: skip
    batch = windows.batch(0, 8)
    plain = store.fields[batch.trajectories]
    means = batch.fields[:, 0].mean((1, 2)) / plain[:, 0].mean((1, 2))
    assert set(np.sign(means)) == {-1.0, 1.0}, "both reflected and unreflected windows"
    initial = torch.from_numpy(batch.fields[:, 0, :, 0]).double()
    again = solve_burgers1d(initial, nu=0.1, times=times_of(store))
    assert relative(again.numpy(), batch.fields[..., 0]) < 2e-5
    wrong = solve_burgers1d(-initial, nu=0.1, times=times_of(store))
    assert relative(-wrong.numpy(), batch.fields[..., 0]) > 0.1, "the sign matters"


def test_allen_cahn_may_be_shifted_reflected_and_turned(tmp_path):
    windows, store = solved(
        "allen_cahn2d", tmp_path, parameters={"epsilon": 0.2}, asked=ALL,
        num_trajectories=10, points=32, frames=5,
    )  # fmt: skip
    batch = windows.batch(0, 6)
    assert not np.array_equal(batch.fields, store.fields[batch.trajectories])
    # Cells of 0.2 on a period of 2 pi: stepped on the solver's own, finer grid.
    lengths = tuple(high - low for low, high in store.metadata.bounds)
    initial = torch.from_numpy(batch.fields[:, 0, ..., 0]).double()
    again = solve_allen_cahn2d(initial, epsilon=0.2, lengths=lengths, times=times_of(store))
    plain = torch.from_numpy(np.array(store.fields[batch.trajectories, 0, ..., 0])).double()
    floor = solve_allen_cahn2d(plain, epsilon=0.2, lengths=lengths, times=times_of(store))
    error = relative(again.numpy(), batch.fields[..., 0])
    assert error < 1e-2
    allowed = relative(floor.numpy(), store.fields[batch.trajectories][..., 0])
    assert error == pytest.approx(allowed, rel=1e-2)


def test_reaction_diffusion_between_walls_may_be_reflected_and_turned_but_not_shifted(tmp_path):
    windows, store = solved(
        "reaction_diffusion2d", tmp_path, parameters={}, num_trajectories=10, points=16, frames=4,
        asked=Augmentation(reflection=True, rotation=True),
    )  # fmt: skip
    batch = windows.batch(0, 12)
    changed = (batch.fields != store.fields[batch.trajectories]).any((1, 2, 3, 4))
    assert changed.any()
    again = solve_reaction_diffusion2d(
        torch.from_numpy(batch.fields[:, 0]).double(), times=times_of(store), spacing=(0.125, 0.125)
    )
    assert relative(again.numpy(), batch.fields) < 1e-5
    with pytest.raises(ConfigError, match="'shift' is not among"):
        Windows(store, load_card("reaction_diffusion2d"), augment=Augmentation(shift=True))


# ---- vectors turn with space


def wave_field(points=32):
    """Smooth periodic p, vx, vy on cell centres, with div v and curl v known by construction."""
    axis = (np.arange(points) + 0.5) / points * 2 * np.pi
    x, y = np.meshgrid(axis, axis, indexing="ij")
    p = np.sin(x) + np.cos(2 * y)
    vx = np.sin(x + 2 * y) + np.cos(x)
    vy = np.cos(2 * x - y) + np.sin(3 * x)
    return np.stack([p, vx, vy], axis=-1)


def derivatives(values):
    """(divergence, curl) by the grid's own Fourier derivatives."""
    size = values.shape[0]
    k = 1j * np.fft.fftfreq(size, 1 / size)

    def along(field, axis):
        shape = (-1, 1) if axis == 0 else (1, -1)
        return np.fft.ifft(np.fft.fft(field, axis=axis) * k.reshape(shape), axis=axis).real

    vx, vy = values[..., 1], values[..., 2]
    return along(vx, 0) + along(vy, 1), along(vy, 0) - along(vx, 1)


@pytest.mark.parametrize("orientation", orientations(2), ids=str)
def test_divergence_is_a_scalar_and_curl_changes_sign_with_handedness(orientation):
    values = wave_field()
    components = components_of(VECTOR, ("x", "y"), "here")
    turned = with_components(oriented(values, orientation), components, orientation)
    before, after = derivatives(values), derivatives(turned)
    sign = -1 if orientation.mirrors else 1
    for scale, one, other in ((1, before[0], after[0]), (sign, before[1], after[1])):
        moved = scale * oriented(one[..., None], orientation)[..., 0]
        np.testing.assert_allclose(other, moved, atol=1e-10)


@pytest.mark.parametrize("one", orientations(3)[::5], ids=str)
def test_one_after_the_other_is_the_composition(one):
    values = np.random.default_rng(0).normal(size=(2, 4, 4, 4, 3))
    specs = [FieldSpec(name=f"v{a}", description="", component=a) for a in "xyz"]
    components = components_of(specs, ("x", "y", "z"), "here")

    def apply(fields, orientation):
        return with_components(oriented(fields, orientation), components, orientation)

    for other in orientations(3):
        both = one.then(other)
        np.testing.assert_array_equal(apply(apply(values, one), other), apply(values, both))
        assert both.mirrors == (one.mirrors != other.mirrors)


@pytest.mark.parametrize("plane", [(0, 1), (1, 2), (2, 0)])
def test_four_quarter_turns_are_none(plane):
    turn = Orientation.rotation(3, plane)
    assert not turn.is_identity
    assert not turn.mirrors
    assert turn.then(turn).then(turn).then(turn).is_identity
    assert Orientation.rotation(3, plane, 4).is_identity
    assert Orientation.rotation(3, plane, 3).then(turn).is_identity


def test_a_quarter_turn_goes_from_x_to_y():
    values = np.zeros((4, 4, 3))
    values[3, 1] = 5.0, 1.0, 0.0  # at x = 1.5, y = -0.5 about the centre, pointing along x
    turn = Orientation.rotation(2, (0, 1))
    components = components_of(VECTOR, ("x", "y"), "here")
    turned = with_components(oriented(values, turn), components, turn)
    np.testing.assert_array_equal(turned[2, 3], [5.0, 0.0, 1.0])  # at x = 0.5, y = 1.5, along y
    moved = moved_points(
        np.array([[1.5, -0.5]], np.float32), turn, (0.0, 0.0), ((-2.0, 2.0), (-2.0, 2.0))
    )
    np.testing.assert_allclose(moved, [[0.5, 1.5]])


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=2))
def test_shifting_is_rolling(cells):
    values = np.random.default_rng(0).normal(size=(3, 5, 7, 2))
    np.testing.assert_array_equal(shift(values, cells), np.roll(values, cells, (1, 2)))


def test_components_are_paired_by_name():
    names = ["velocity_x", "flow_y", "flow_x", "velocity_y", "p"]
    specs = [FieldSpec(name=n, description="", component=n[-1] if "_" in n else None)
             for n in names]  # fmt: skip
    found = components_of(specs, ("x", "y"), "here")
    assert found.partner[0] == (0, 3)
    assert found.partner[1] == (2, 1)
    assert found.sources(Orientation.rotation(2, (0, 1))) == (
        (3, -1), (2, 1), (1, -1), (0, 1), (4, 1),
    )  # fmt: skip
    winds = [FieldSpec(name="u10", description="", component="x"),
             FieldSpec(name="v10", description="", component="y")]  # fmt: skip
    assert components_of(winds, ("x", "y"), "here").partner[0] == (0, 1)
    with pytest.raises(ConfigError, match="'r' is none of the axes"):
        components_of([FieldSpec(name="u", description="", component="r")], ("x",), "here")


# ---- noise


def test_noise_has_the_asked_size_on_history_only_and_keeps_positive_values_positive():
    rng = np.random.default_rng(0)
    frames = np.abs(rng.normal(size=(4, 20000, 2))).astype(np.float32) + 1e-3
    out = noisy(frames, 0.1, np.array([1.0, 5.0]), (False, True), np.random.default_rng(1))
    difference = (out - frames).std((0, 1))
    assert difference[0] == pytest.approx(0.1, rel=0.02)
    assert 0.2 < difference[1] < 0.5, "less: where it would not stay positive there is none"
    assert (out[..., 1] > 0).all()


def test_windows_put_noise_on_history_alone(tmp_path, write_raw):
    store, card = burgers(tmp_path, write_raw, points=256)
    options = {"history": 2, "horizon": 3, "seed": 1}
    plain = Windows(store, card, **options).batch(0, 8)
    batch = Windows(store, card, augment=Augmentation(noise=0.1), **options).batch(0, 8)
    np.testing.assert_array_equal(batch.fields[:, 2:], plain.fields[:, 2:])
    added = (batch.fields - plain.fields)[:, :2]
    assert added.std() == pytest.approx(0.1 * store.statistics["rms"][0], rel=0.03)


# ---- what is allowed where


def geometry(points=8, boundary="periodic", bounds=(0.0, 1.0), kind="grid", coords=None, dims=2):
    low, high = bounds
    centres = low + (np.arange(points) + 0.5) / points * (high - low)
    own = None if kind != "grid" else (coords or (centres,) * dims)
    return Geometry("here", kind, (bounds,) * dims, (boundary,) * dims, own)


CARD = load_card("allen_cahn2d")


def test_every_axis_of_a_periodic_square_has_every_symmetry():
    assert permit(ALL, CARD, geometry()) == Permitted(2, (0, 1), (0, 1), ((0, 1),))
    assert permit(Augmentation(), CARD, geometry()) == Permitted(2)


def test_a_grid_with_both_ends_of_a_period_cannot_be_shifted():
    ends = (np.linspace(0, 1, 8),) * 2
    with pytest.raises(ConfigError, match="one whole period"):
        permit(Augmentation(shift=True), CARD, geometry(coords=ends))


def test_walls_cannot_be_shifted_whatever_the_card_says():
    with pytest.raises(ConfigError, match=r"here: augment: 'shift'.*neumann"):
        permit(Augmentation(shift=True), CARD, geometry(boundary="neumann"))


def test_points_off_centre_cannot_be_reflected_between_walls():
    """Every fourth point of cell centres begins nearer to one wall than it ends at the other."""
    every = (((np.arange(32) + 0.5) / 32)[::4],) * 2
    asked = Augmentation(reflection=True)
    with pytest.raises(ConfigError, match="symmetric about the domain's centre"):
        permit(asked, CARD, geometry(boundary="wall", coords=every))
    assert permit(asked, CARD, geometry(coords=every)).flipped == (0, 1), "any centre will do"


def test_an_axis_with_different_ends_is_not_reflected(tmp_path):
    card = load_card("diffusion_sorption1d")
    pde = card.pde.model_copy(update={"symmetries": ("reflection",)})
    card = card.model_copy(update={"pde": pde})
    raw = generate(card, parameters={}, num_trajectories=10, seed=0, out_dir=tmp_path,
                   points=16, frames=2)  # fmt: skip
    store = convert(card, [raw]).store
    assert store.metadata.boundaries == ("dirichlet/robin",)
    with pytest.raises(ConfigError, match="no axis has like ends"):
        Windows(store, card, split="train", augment=Augmentation(reflection=True))


def test_strided_stores_between_walls_are_refused(tmp_path):
    card = load_card("reaction_diffusion2d")
    raw = generate(card, parameters={}, seed=0, out_dir=tmp_path, num_trajectories=10, points=16,
                   frames=2)  # fmt: skip
    store = convert(card, [raw], recipe=Recipe(stride_x=2)).store
    with pytest.raises(ConfigError, match="symmetric"):
        Windows(store, card, augment=Augmentation(reflection=True))
    whole = convert(card, [raw]).store
    with pytest.raises(ConfigError, match="symmetric"):
        Windows(whole, card, stride_x=2, augment=Augmentation(reflection=True))
    Windows(whole, card, stride_x=2, reduce="mean", augment=Augmentation(reflection=True))


def test_unequal_axes_are_not_exchanged():
    one, other = (np.arange(8) + 0.5) / 8, (np.arange(16) + 0.5) / 16
    asked = Augmentation(rotation=True)
    with pytest.raises(ConfigError, match="no two axes"):
        permit(asked, CARD, geometry(coords=(one, other)))
    mixed = Geometry("here", "grid", ((0.0, 1.0),) * 2, ("periodic", "wall"), (one, one))
    with pytest.raises(ConfigError, match="no two axes"):
        permit(asked, CARD, mixed)
    long = Geometry("here", "grid", ((0.0, 1.0), (0.0, 2.0)), ("wall",) * 2, (one, 2 * one))
    with pytest.raises(ConfigError, match="no two axes"):
        permit(asked, CARD, long)


def test_half_a_vector_cannot_be_turned():
    lone = CARD.model_copy(update={"fields": (VECTOR[1],)})
    with pytest.raises(ConfigError, match="'vx' is a component of a vector without the others"):
        permit(Augmentation(rotation=True), lone, geometry())
    permit(Augmentation(reflection=True), lone, geometry())


def test_all_moves_of_a_cube_are_drawn_equally_often():
    random = np.random.default_rng(0)
    only = Permitted(3, turned=((0, 1, 2),))
    drawn = [only.draw(random).orientation for _ in range(4800)]
    counts = {each: drawn.count(each) for each in set(drawn)}
    assert len(counts) == 24
    assert not any(each.mirrors for each in counts)
    assert 120 < min(counts.values()) <= max(counts.values()) < 280
    both = Permitted(2, flipped=(0, 1), turned=((0, 1),))
    assert len({both.draw(random).orientation for _ in range(400)}) == 8
    still = Permitted(3, turned=((0, 1),)).draw(random).orientation
    assert (still.axes[2], still.signs[2]) == (2, 1), "a layer keeps its up"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Augmentation()),
        ("shift, reflection", Augmentation(shift=True, reflection=True)),
        ("rotation,noise=0.01", Augmentation(rotation=True, noise=0.01)),
    ],
)
def test_augmentations_are_parsed(text, expected):
    assert Augmentation.parse(text) == expected


@pytest.mark.parametrize("text", ["shfit", "noise", "shift=1", "noise=x", "noise=-1", "noise=nan"])
def test_misspelt_augmentations_are_refused(text):
    with pytest.raises(ConfigError, match="augment"):
        Augmentation.parse(text)


# ---- meshes and particles

SYMMETRIC = {"family": "none", "equation": "", "symmetries": ("shift", "reflection", "rotation")}


def test_moved_particles_keep_distances_neighbours_and_speeds(tmp_path):
    _, store, card = points(tmp_path, "particles", pde=SYMMETRIC)
    plain = Windows(store, card, seed=3).batch(0, 6)
    batch = Windows(store, card, augment=ALL, seed=3).batch(0, 6)
    np.testing.assert_array_equal(batch.edges, plain.edges)
    assert not np.array_equal(batch.coords, plain.coords)
    assert batch.coords.min() >= 0
    assert batch.coords.max() < 1
    for row in range(6):
        own = slice(*batch.node_offsets[row : row + 2])
        found = radius_neighbours(batch.coords[1, own], 0.3, (1.0, 1.0)) + own.start
        edges = batch.edges_of(1)
        mine = edges[(edges[:, 0] >= own.start) & (edges[:, 0] < own.stop)]
        np.testing.assert_array_equal(np.unique(mine, axis=0), found)
    speed = np.linalg.norm(batch.fields, axis=-1)
    np.testing.assert_allclose(speed, np.linalg.norm(plain.fields, axis=-1), rtol=1e-6)
    # Velocities turn as the displacements between neighbours do.
    first, second = plain.edges_of(0).T

    def products(data):
        apart = data.coords[0, second] - data.coords[0, first]
        apart = apart - np.round(apart)
        return (apart * data.fields[0, first]).sum(-1)

    np.testing.assert_allclose(products(batch), products(plain), atol=1e-5)


def test_mirrored_meshes_keep_their_cells_turning_the_same_way(tmp_path):
    _, store, card = points(tmp_path, "mesh", pde=SYMMETRIC)
    asked = Augmentation(reflection=True, rotation=True)
    batch = Windows(store, card, augment=asked, seed=0).batch(0, 8)
    plain = Windows(store, card, seed=0).batch(0, 8)

    def areas(data):
        a, b, c = (data.coords[data.cells[:, corner]].astype(float) for corner in range(3))
        one, other = b - a, c - a
        return one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]

    assert not np.array_equal(batch.cells, plain.cells), "some windows are mirrored"
    assert (areas(plain) > 0).all()
    np.testing.assert_allclose(areas(batch), areas(plain), rtol=1e-3, atol=1e-6)
    with pytest.raises(ConfigError, match="'shift': no axis"):
        Windows(store, card, augment=Augmentation(shift=True))
