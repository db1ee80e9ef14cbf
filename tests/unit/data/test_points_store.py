"""The point store: ragged trajectories, mapped shards, and damage that is never read as zeros."""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
from contextlib import suppress

import numpy as np
import pytest
import zarr
from point_samples import FRAMES, make_card, sample, write

from ups.data.conversion.neighbours import mesh_edges, radius_neighbours
from ups.data.conversion.plan import Recipe
from ups.data.conversion.points import convert_points
from ups.data.points import PointStore, point_store_path
from ups.data.sharded import ShardedRows, create_rows, fill_rows
from ups.data.versions import list_versions
from ups.errors import ConfigError, DataError


@pytest.fixture(scope="module", params=["mesh", "particles"])
def original(request, tmp_path_factory):
    """(trajectories, store), made once."""
    folder, card = tmp_path_factory.mktemp("home"), make_card(request.param)
    trajectories = [sample(seed, request.param) for seed in range(8)]
    raw = write(folder / "a.h5", trajectories, card)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(folder))
        return trajectories, convert_points(card, [raw], recipe=Recipe()).store


@pytest.fixture
def made(original):
    """(trajectories, store), a copy that may be damaged."""
    trajectories, store = original
    path = point_store_path(store.metadata.dataset, "full")
    shutil.copytree(store.path, path)
    return trajectories, PointStore(path)


def test_every_value_comes_back(made):
    given, store = made
    assert store.num_trajectories == 8
    assert store.num_frames == FRAMES
    np.testing.assert_array_equal(store.time, 0.5 * np.arange(FRAMES))
    np.testing.assert_allclose(store.parameters[:, 0], 0.01 * np.arange(1, 9))
    for index, each in enumerate(given):
        assert store.num_nodes(index) == each.fields.shape[1]
        np.testing.assert_array_equal(store.fields(index), each.fields)
        np.testing.assert_array_equal(store.coords(index), each.coords)
        np.testing.assert_array_equal(store.inputs(index), each.inputs)
        for name in ("cells", "tags"):
            if getattr(each, name) is None:
                assert getattr(store, name)(index) is None
            else:
                np.testing.assert_array_equal(getattr(store, name)(index), getattr(each, name))


def test_a_window_is_a_view_of_the_map(made):
    given, store = made
    assert store.mapped
    window = store.fields(3, slice(1, 5))
    assert window.base is not None
    assert not window.flags.writeable
    np.testing.assert_array_equal(window, given[3].fields[1:5])
    np.testing.assert_array_equal(store.fields(3, slice(None, None, 2)), given[3].fields[::2])
    np.testing.assert_array_equal(store.fields(-1, slice(-2, None)), given[-1].fields[-2:])
    assert store.fields(0, slice(4, 2)).shape == (0, store.num_nodes(0), 2)
    if store.moves(3):
        np.testing.assert_array_equal(store.coords(3, slice(1, 5)), given[3].coords[1:5])
    with pytest.raises(ValueError, match="forward"):
        store.fields(0, slice(None, None, -1))
    with pytest.raises(IndexError):
        store.fields(8)


def test_edges_are_those_of_the_cells_or_of_the_frames_neighbours(made):
    given, store = made
    for index, each in enumerate(given):
        if each.cells is not None:
            expected = mesh_edges(each.cells, len(each.coords))
            np.testing.assert_array_equal(store.edges(index), expected)
            np.testing.assert_array_equal(store.edges(index, 3), expected)
            continue
        for frame in range(FRAMES):
            expected = radius_neighbours(each.coords[frame], 0.3, (1.0, 1.0))
            np.testing.assert_array_equal(store.edges(index, frame), expected)
        with pytest.raises(ValueError, match="edges differ between frames"):
            store.edges(index)
        with pytest.raises(IndexError):
            store.edges(index, FRAMES)


def test_statistics_are_of_the_training_split(made):
    given, store = made
    training = np.concatenate([given[i].fields.reshape(-1, 2) for i in store.split("train")])
    np.testing.assert_allclose(store.statistics["mean"], training.mean(0, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(store.statistics["std"], training.std(0, dtype=float), rtol=1e-6)
    np.testing.assert_array_equal(store.statistics["max"], training.max(0))
    inputs = np.concatenate([given[i].inputs for i in store.split("train")])
    np.testing.assert_allclose(store.input_statistics["mean"], inputs.mean(0), rtol=1e-5)


def _sum_of(store, index, results):
    results.put((index, float(store.fields(index).sum(dtype=float))))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_the_same_values(made, method):
    given, store = made
    store.fields(0)  # the map is open when the process forks
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=_sum_of, args=(store, 2, results))
    process.start()
    assert results.get(timeout=60) == (2, pytest.approx(given[2].fields.sum(dtype=float)))
    process.join(60)
    assert process.exitcode == 0


def test_a_pickled_store_is_its_path(made):
    _, store = made
    blob = pickle.dumps(store)
    assert len(blob) < 500
    np.testing.assert_array_equal(pickle.loads(blob).fields(1), store.fields(1))


def test_zarr_reads_the_store_and_names_its_arrays(made):
    given, store = made
    group = zarr.open_group(str(store.path), mode="r")
    rows = np.concatenate([each.fields.reshape(-1, 2) for each in given])
    np.testing.assert_array_equal(group["fields"][:], rows)
    assert group["fields"].shards is not None
    assert group.metadata.zarr_format == 3


def test_a_compressed_copy_is_read_through_zarr(made):
    given, store = made
    path = store.path.with_name("copy.zarr")
    shutil.copytree(store.path, path)
    group = zarr.open_group(str(path), mode="r+")
    values = group["fields"][:]
    group.create_array("fields", data=values, chunks=(7, 2), shards=(70, 2), overwrite=True)
    copy = PointStore(path)
    assert not copy.mapped
    np.testing.assert_array_equal(copy.fields(5), given[5].fields)
    assert copy.digest(5) == copy.digests[5].tobytes()


def _shard(store, name="fields"):
    return next(path for path in sorted((store.path / name / "c").rglob("*")) if path.is_file())


def test_a_missing_shard_is_an_error_not_zeros(made):
    _, store = made
    _shard(store).unlink()
    with pytest.raises(DataError, match="the file is missing"):
        PointStore(store.path).fields(0)


def test_a_truncated_shard_is_an_error(made):
    _, store = made
    shard = _shard(store)
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match="damaged") as caught:
        PointStore(store.path).fields(0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["time", "split", "offsets/nodes", "statistics/rms"])
def test_a_missing_small_array_is_an_error_not_zeros(made, name):
    _, store = made
    _shard(store, name).unlink()
    with pytest.raises(DataError, match="the file is missing"):
        PointStore(store.path)


@pytest.mark.parametrize("name", ["fields", "edges", "group", "offsets/edges"])
def test_a_missing_array_is_named(made, name):
    _, store = made
    shutil.rmtree(store.path / name)
    with pytest.raises(DataError, match=name):
        PointStore(store.path)


def test_offsets_that_do_not_fit_are_refused(made):
    _, store = made
    group = zarr.open_group(str(store.path), mode="r+")
    group["offsets/nodes"][-1] = group["offsets/nodes"][-1] + 1
    with pytest.raises(DataError, match="entries, expected"):
        PointStore(store.path)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"zarr_format": 3, "node_type": "group"}'])
def test_a_folder_that_is_no_store_is_refused(made, damage):
    _, store = made
    (store.path / "zarr.json").write_bytes(damage)
    with pytest.raises(DataError):
        PointStore(store.path)


def test_versions_are_found_and_misspelt_ones_named(made):
    _, store = made
    dataset = store.metadata.dataset
    assert list_versions(dataset) == ["full"]
    assert PointStore.open(dataset).name == f"{dataset}/full"
    with pytest.raises(DataError, match="did you mean 'full'"):
        PointStore.open(dataset, "ful")
    with pytest.raises(DataError, match="no converted version"):
        PointStore.open("darcy2d_mesh")
    with pytest.raises(ConfigError, match="unknown dataset"):
        PointStore.open("other")


@pytest.mark.parametrize("rows", [0, 1, 999, 1000, 1001, 4000, 4096, 9999])
@pytest.mark.parametrize("width", [None, 3])
def test_rows_come_back_whatever_the_shards(tmp_path, monkeypatch, rows, width):
    monkeypatch.setattr("ups.data.sharded._CHUNK_BYTES", 1200)
    monkeypatch.setattr("ups.data.sharded._SHARD_BYTES", 12000)
    monkeypatch.setattr("ups.data.sharded._MOST_MAPS", 2)
    shape = (rows,) if width is None else (rows, width)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[: rows // 2] = 0  # chunks of zeros are stored too
    group = zarr.create_group(str(tmp_path / "x.zarr"), zarr_format=3)
    array = create_rows(group, "a", shape, np.float32)
    fill_rows(array, iter(np.array_split(values, 7)))
    found = ShardedRows(group["a"], tmp_path / "x.zarr" / "a")
    assert found.mapped
    rng = np.random.default_rng(1)
    for _ in range(40):
        start, stop = sorted(rng.integers(0, rows + 1, 2).tolist())
        np.testing.assert_array_equal(found.read(start, stop), values[start:stop])
    with pytest.raises(ValueError, match="rows"):
        fill_rows(array, iter([values[:-1]] if rows else [np.zeros((1, *shape[1:]))]))


def test_a_mutated_store_is_refused_or_its_damage_is_seen(original):
    _, store = original
    path = point_store_path(store.metadata.dataset, "full")
    members = sorted(p.relative_to(store.path) for p in store.path.rglob("*") if p.is_file())
    harmless = {"statistics/zarr.json", "input_statistics/zarr.json", "offsets/zarr.json"}
    members = [member for member in members if str(member) not in harmless]
    rng, unseen = np.random.default_rng(0), []
    for _ in range(40):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(store.path, path)
        member = members[rng.integers(len(members))]
        content = bytearray((path / member).read_bytes())
        for place in rng.integers(0, len(content), 12):
            content[place] ^= rng.integers(1, 256)
        (path / member).write_bytes(content)
        with suppress(DataError):
            copy = PointStore(path)
            same = [copy.digest(i) == store.digests[i].tobytes() for i in range(8)]
            if all(same) and copy.record_is_true():
                unseen.append(str(member))
    assert unseen == []
