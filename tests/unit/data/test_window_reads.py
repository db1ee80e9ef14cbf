"""Windows of all stores: values are those of plain slicing, batches a function of seed and step."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import pickle
from typing import get_args

import numpy as np
import pytest
from window_samples import burgers, points

from ups.data.conversion.plan import Recipe
from ups.data.convert import convert
from ups.data.reading.batches import BOUNDARIES, unit_conditions
from ups.data.reading.mapped_pages import MappedPages
from ups.data.reading.symmetries import Augmentation
from ups.data.reading.windows import Windows
from ups.errors import ConfigError, DataError
from ups.registry import Boundary, load_card


def arrays(batch):
    return {name: value for name, value in vars(batch).items() if isinstance(value, np.ndarray)}


def assert_same(one, other):
    assert type(one) is type(other)
    assert one.problem.task == other.problem.task
    assert set(arrays(one)) == set(arrays(other))
    for name, value in arrays(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


@pytest.fixture
def grid(tmp_path, write_raw):
    return burgers(tmp_path, write_raw, nus=(0.01, 0.1))


@pytest.mark.parametrize("stride_t", [1, 3])
@pytest.mark.parametrize("stride_x", [1, 4])
def test_a_grid_window_is_a_slice_of_its_trajectory(grid, stride_t, stride_x):
    store, card = grid
    windows = Windows(
        store, card, history=2, horizon=2, stride_t=stride_t, stride_x=stride_x, seed=5
    )
    batch = windows.batch(3, 17)
    assert batch.fields.shape == (17, 4, 32 // stride_x, 1)
    for row, (trajectory, start) in enumerate(zip(batch.trajectories, batch.starts, strict=True)):
        frames = slice(start, start + 3 * stride_t + 1, stride_t)
        np.testing.assert_array_equal(
            batch.fields[row], store.fields[trajectory, frames, ::stride_x]
        )
        np.testing.assert_array_equal(batch.times[row], store.time[frames])
    np.testing.assert_array_equal(batch.coords[0], store.coords[0][::stride_x])
    assert batch.problem.dt == pytest.approx(store.metadata.dt * stride_t)
    assert batch.problem.history == 2
    assert set(batch.trajectories) <= set(store.split("train"))


def test_block_means_keep_the_mean_and_place_points_in_the_middle(grid):
    store, card = grid
    batch = Windows(store, card, stride_x=4, reduce="mean").batch(0, 8)
    whole = Windows(store, card).batch(0, 8)
    expected = whole.fields.reshape(8, 2, 8, 4, 1).mean(3)
    np.testing.assert_allclose(batch.fields, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.coords[0], (np.arange(8) + 0.5) / 8, rtol=1e-6)


def test_a_batch_depends_on_seed_step_and_size_alone(grid):
    store, card = grid
    one = Windows(store, card, augment=Augmentation(shift=True, noise=0.1), seed=1)
    for step in (7, 0, 2):
        one.batch(step, 4)
    again = Windows(store, card, augment=Augmentation(shift=True, noise=0.1), seed=1)
    assert_same(one.batch(7, 4), again.batch(7, 4))
    other = Windows(store, card, seed=2)
    assert not np.array_equal(one.batch(7, 4).starts, other.batch(7, 4).starts)
    assert not np.array_equal(one.batch(7, 4).starts, one.batch(8, 4).starts)


def test_every_window_of_the_split_is_drawn(grid):
    store, card = grid
    windows = Windows(store, card, horizon=9)
    assert windows.num_places == 3
    batch = windows.batch(0, 3000)
    seen = set(zip(batch.trajectories.tolist(), batch.starts.tolist(), strict=True))
    assert len(seen) == len(windows) == 3 * len(store.split("train"))


def test_conditions_are_the_cards_ranges_and_codes(grid):
    store, card = grid
    batch = Windows(store, card).batch(0, 64)
    assert set(batch.parameters[:, 0]) == {0.01, 0.1}
    nu = card.parameters[0]
    for value, condition in zip(batch.parameters[:, 0], batch.conditions[:, 0], strict=True):
        assert condition == pytest.approx(nu.unit_interval(float(value)), abs=1e-6)
    problem = batch.problem
    assert (problem.kind, problem.family) == ("grid", card.pde.family)
    assert problem.boundaries.tolist() == [[0, 0]]
    assert problem.boundary_one_hot.tolist() == [[[1, 0, 0, 0, 0, 0]] * 2]
    assert problem.parameter_names == ("nu",)


def test_boundary_codes_never_change_and_cover_the_cards_words():
    assert set(BOUNDARIES) == set(get_args(Boundary))
    assert BOUNDARIES[:6] == ("periodic", "dirichlet", "neumann", "robin", "outflow", "wall")


def test_a_parameter_that_has_no_logarithm_is_refused(grid):
    _, card = grid
    with pytest.raises(DataError, match="logarithmic"):
        unit_conditions(np.zeros((3, 1)), card, "here")


def test_reading_given_windows(grid):
    store, card = grid
    windows = Windows(store, card, augment=Augmentation(shift=True))
    batch = windows.read(np.array([39, 0]), np.array([10, 4]))
    np.testing.assert_array_equal(batch.fields[0], store.fields[39, 10:12])
    np.testing.assert_array_equal(batch.fields[1], store.fields[0, 4:6])
    for rows, starts in (([40], [0]), ([0], [11]), ([-1], [0])):
        with pytest.raises(IndexError, match="outside"):
            windows.read(np.array(rows), np.array(starts))


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"stride_t": 0}, ConfigError, "stride_t"),
        ({"stride_x": 0}, ConfigError, "stride_x"),
        ({"stride_x": 5}, ConfigError, "does not divide 32 points into a period"),
        ({"stride_x": 5, "reduce": "mean"}, ConfigError, "into blocks"),
        ({"history": 0, "horizon": 0}, ConfigError, "empty"),
        ({"history": -1}, ConfigError, "history"),
        ({"horizon": 12}, DataError, "does not fit into 12 frames"),
        ({"split": "trian"}, DataError, "did you mean 'train'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(grid, options, error, what):
    store, card = grid
    with pytest.raises(error, match=what) as caught:
        Windows(store, card, **options)
    assert "\n" not in str(caught.value)


def test_another_card_is_refused(grid):
    store, card = grid
    with pytest.raises(ConfigError, match="not of the card 'advection1d'"):
        Windows(store, load_card("advection1d"))
    renamed = card.model_copy(update={"fields": (card.fields[0].model_copy(update={"name": "w"}),)})
    with pytest.raises(DataError, match="the card has w"):
        Windows(store, renamed)


def test_a_static_problem_has_windows_of_one_frame_with_inputs(tmp_path, shared_pdebench):
    card = load_card("darcy2d")
    raw = sorted((shared_pdebench).rglob("2D_DarcyFlow*.hdf5"))
    if not raw:
        pytest.skip("no Darcy file")
    store = convert(card, raw[:1]).store
    windows = Windows(store, card, history=3, horizon=5, seed=1)
    batch = windows.batch(0, 6)
    assert (batch.problem.history, batch.problem.dt, windows.num_places) == (0, None, 1)
    for row, trajectory in enumerate(batch.trajectories):
        np.testing.assert_array_equal(batch.fields[row], store.fields[trajectory])
        np.testing.assert_array_equal(batch.inputs[row], store.inputs[trajectory])
    means = Windows(store, card, stride_x=2, reduce="mean").batch(0, 2)
    assert means.inputs.shape[1:3] == means.fields.shape[2:4]
    with pytest.raises(ConfigError, match="static"):
        Windows(store, card, augment=Augmentation(noise=0.1))


@pytest.fixture(params=["mesh", "particles"])
def ragged(request, tmp_path):
    return points(tmp_path, request.param)


def test_a_ragged_batch_holds_each_windows_nodes_edges_and_cells(ragged):
    given, store, card = ragged
    batch = Windows(store, card, history=1, horizon=2, stride_t=2, seed=4).batch(0, 5)
    assert batch.problem.kind == store.kind
    assert batch.fields.shape == (3, batch.node_offsets[-1], 2)
    moving = batch.coords.ndim == 3
    assert moving == (store.kind == "particles")
    for row, (trajectory, start) in enumerate(zip(batch.trajectories, batch.starts, strict=True)):
        own = slice(*batch.node_offsets[row : row + 2])
        frames = slice(start, start + 5, 2)
        each = given[trajectory]
        np.testing.assert_array_equal(batch.fields[:, own], each.fields[frames])
        np.testing.assert_array_equal(batch.inputs[own], each.inputs)
        expected = each.coords[frames] if moving else each.coords
        np.testing.assert_array_equal(batch.coords[..., own, :], expected)
        for time in range(3):
            edges = batch.edges_of(time)
            mine = edges[(edges[:, 0] >= own.start) & (edges[:, 0] < own.stop)] - own.start
            wanted = store.edges(int(trajectory), int(start + 2 * time) if moving else None)
            np.testing.assert_array_equal(mine, wanted)
        if each.cells is not None:
            cells = batch.cells[slice(*batch.cell_offsets[row : row + 2])] - own.start
            np.testing.assert_array_equal(cells, each.cells)
            np.testing.assert_array_equal(batch.tags[own], each.tags)
        assert (batch.window_of_node[own] == row).all()
    assert (batch.cells is None) == (store.kind == "particles")
    counted = len(batch.edge_offsets) - 1
    assert counted == (3 if moving else 1)
    assert batch.edge_offsets[-1] == len(batch.edges)


def test_no_ragged_batch_is_larger_than_said(ragged):
    _, store, card = ragged
    windows = Windows(store, card, horizon=3)
    for step in range(20):
        assert windows.batch(step, 4).nbytes <= windows.batch_bytes(4)


def test_points_have_no_grid_to_thin(ragged):
    _, store, card = ragged
    with pytest.raises(ConfigError, match="stride_x"):
        Windows(store, card, stride_x=2)


def _send(windows, pipe):
    pipe.send(pickle.dumps(windows.batch(9, 4)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["grid", "particles"])
def test_processes_read_the_same_batch(tmp_path, write_raw, kind, method):
    store, card = (
        burgers(tmp_path, write_raw) if kind == "grid" else points(tmp_path, "particles")[1:]
    )
    windows = Windows(store, card, augment=Augmentation(noise=0.05))
    expected = windows.batch(9, 4)  # files are open when the process forks
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(windows, theirs))
    process.start()
    assert ours.poll(60)
    assert_same(pickle.loads(ours.recv()), expected)
    process.join(60)


def test_a_store_that_was_converted_again_is_refused(tmp_path, write_raw, advected):
    store, card = burgers(tmp_path, write_raw)
    blob = pickle.dumps(Windows(store, card))
    burgers(tmp_path, write_raw, recipe=None)
    pickle.loads(blob)  # the same data: fine
    raw = write_raw(tmp_path / "b" / "1D_Burgers_Sols_Nu0.1.hdf5", advected(20, 12, 32, 1.0, 3),
                    {"Nu": 0.1})  # fmt: skip
    convert(card, [raw], recipe=Recipe(), version=store.metadata.version, force=True)
    with pytest.raises(DataError, match="converted again"):
        pickle.loads(blob)


def _resident(kind):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux' /proc")
def test_reading_everything_does_not_fill_memory(tmp_path, write_raw, monkeypatch):
    """52 MB of values; what a process holds, mapped pages included, grows by far less."""
    monkeypatch.setattr("ups.data.reading.mapped_pages.MOST_BYTES", 4 * 2**20)
    store, card = burgers(tmp_path, write_raw, count=64, frames=100, points=2048)
    windows = Windows(store, card, horizon=19)
    windows.batch(0, 8)
    before = _resident("VmRSS")
    for step in range(60):
        windows.batch(step, 8)
    assert _resident("VmRSS") - before < 8


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux' /proc")
def test_pages_of_maps_are_let_go(tmp_path):
    values = np.arange(6 * 2**20, dtype=np.float32)
    values.tofile(tmp_path / "values")
    mapped = np.asarray(np.memmap(tmp_path / "values", np.float32, mode="r"))
    pages = MappedPages(most_bytes=2**20)
    before = _resident("RssFile")
    for start in range(0, len(values), 2**17):
        view = mapped[start : start + 2**17]
        np.testing.assert_array_equal(view, values[start : start + 2**17])
        pages.touched(view)
        pages.release()
    assert _resident("RssFile") - before < 4
    np.testing.assert_array_equal(view, values[-(2**17) :])  # views stay readable


def test_a_batch_is_plain_data(grid):
    store, card = grid
    batch = Windows(store, card).batch(0, 3)
    assert len(batch) == 3
    assert batch.nbytes == batch.fields.nbytes
    assert {field.name for field in dataclasses.fields(batch)} >= {"fields", "times", "conditions"}
