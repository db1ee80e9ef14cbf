"""A version of which only some trajectories are here is never read where there is nothing."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from ups import paths
from ups.data.audit import audit
from ups.data.auditing.same_start import nearest_pairs
from ups.data.partial import (
    PartialArray,
    Present,
    mark_present,
    read_present,
    runs_of,
    write_present,
)
from ups.data.reading.windows import Windows
from ups.data.versions import find_version, list_versions, open_path, open_store
from ups.data.windows import gather
from ups.errors import DataError
from ups.registry import load_card


def partial_of(store, here):
    """The same version as a folder of parts: the bytes of all other trajectories are zeros."""
    folder = store.path.with_name(f"{store.metadata.version}.parts")
    folder.mkdir()
    target = folder / "store.h5"
    shutil.copy(store.path, target)
    with h5py.File(target, "r+") as file:
        for row in set(range(store.num_trajectories)) - set(here):
            file["fields"][row] = 0
            if "inputs" in file:
                file["inputs"][row] = 0
    write_present(folder, present_of(store, here))
    return target


def present_of(store, here):
    known = store.metadata
    return Present(
        known.dataset, known.version, known.data_sha256, store.num_trajectories, runs_of(here)
    )


class CopyRows:
    """Brings trajectories from a whole store, and counts them."""

    def __init__(self, whole: Path, target: Path) -> None:
        self.whole, self.target, self.asked = whole, target, []

    def __call__(self, trajectories: list[int]) -> None:
        self.asked += trajectories
        source = open_path(self.whole).fields
        with h5py.File(self.target) as file:
            offset = file["fields"].id.get_offset()
        with self.target.open("r+b") as file:
            for row in trajectories:
                file.seek(offset + row * source[0].nbytes)
                file.write(np.ascontiguousarray(source[row]).tobytes())
        mark_present(self.target.parent, trajectories)


@pytest.fixture
def partial(store):
    """Trajectories 0 to 3, the test split (0, 1) among them, and 19 of 20 are here."""
    return open_path(partial_of(store, [0, 1, 2, 3, 19]))


INDICES = [2, (2, 3), np.int64(2), [0, 2], np.array([3, 1]), slice(0, 4), slice(1, 4, 2),
           (slice(0, 3), 0), (np.array([1, 2]), np.array([4, 5])), (2, slice(0, 8, 2)),
           ([0, 3], [[1], [2]]), np.arange(20) < 3, (2, ..., 0), (1, [0, 4]), -1]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_every_index_gives_what_the_whole_store_gives(store, partial, index):
    found = partial.fields[index]
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, store.fields[index])


@pytest.mark.parametrize(
    "index", [7, -12, (7, 0), [0, 7], np.array([7, 0]), (np.array([0, 7]), 3), np.arange(20) == 7,
              (..., 0), None, np.ones((20, 11), bool)], ids=repr,
)  # fmt: skip
def test_what_is_not_here_is_refused_whatever_the_index(partial, index):
    with pytest.raises(DataError, match=r"trajectory \d+ .*not here"):
        partial.fields[index]


def test_the_refusal_names_trajectory_split_and_command(store, partial):
    row = int(store.split("train")[-2])
    with pytest.raises(DataError) as caught:
        partial.fields[row]
    assert str(caught.value) == f"advection1d/tiny: trajectory {row} (train) of 20 is not here"
    assert caught.value.hint == "ups data pull advection1d --version tiny --splits train"


def test_shape_and_size_are_those_of_the_whole(store, partial):
    one, other = store.fields, partial.fields
    for name in ("shape", "dtype", "ndim", "size", "nbytes"):
        assert getattr(one, name) == getattr(other, name)
    assert len(other) == 20
    assert partial.metadata == store.metadata
    np.testing.assert_array_equal(partial.split("train"), store.split("train"))
    assert partial.num_frames == 11


def test_a_slice_stays_a_view_until_rows_are_chosen(store, partial):
    starts = partial.fields[:, 0]
    assert isinstance(starts, PartialArray)
    assert starts.shape == (20, 32, 1)
    np.testing.assert_array_equal(starts[2], store.fields[2, 0])
    tail = partial.fields[4:]
    np.testing.assert_array_equal(tail[-1], store.fields[-1])
    with pytest.raises(DataError, match="trajectory 4 "):
        tail[0]
    with pytest.raises(DataError, match="14 more"):
        np.asarray(starts)
    assert list(nearest_pairs(starts, np.arange(4), partial.split("test"))) == list(
        nearest_pairs(store.fields[:, 0], np.arange(4), store.split("test"))
    )


def test_windows_of_a_split_that_is_here_are_those_of_the_whole(store, partial):
    card = load_card("advection1d")
    one, other = (Windows(s, card, split="test", horizon=3) for s in (store, partial))
    for step in range(3):
        np.testing.assert_array_equal(one.batch(step, 4).fields, other.batch(step, 4).fields)
    with pytest.raises(DataError, match=r"\(train\) and \d+ more of 20 are not here"):
        Windows(partial, card, split="train", horizon=3)
    with pytest.raises(DataError, match="trajectory 9 "):
        other.read(np.array([9]), np.array([0]))
    with pytest.raises(DataError, match="trajectory 9 "):
        gather(partial.fields, np.array([1, 9]), np.array([0, 0]), 2)


def test_an_audit_of_a_part_says_what_is_missing(partial):
    with pytest.raises(DataError, match="not here"):
        audit(partial, load_card("advection1d"))


def test_nothing_missing_is_an_ordinary_store(store):
    path = partial_of(store, range(20))
    whole = open_path(path)
    np.testing.assert_array_equal(np.asarray(whole.fields), store.fields)
    card = load_card("advection1d")
    verdicts = [(f.check, f.verdict, f.detail) for f in audit(whole, card)]
    assert verdicts == [(f.check, f.verdict, f.detail) for f in audit(store, card)]


def test_what_is_missing_is_fetched_once(store):
    path = partial_of(store, [0])
    fetch = CopyRows(store.path, path)
    opened = open_path(path, fetch)
    np.testing.assert_array_equal(opened.fields[[3, 5, 0]], store.fields[[3, 5, 0]])
    np.testing.assert_array_equal(opened.fields[3], store.fields[3])
    assert fetch.asked == [3, 5]
    assert read_present(path.parent).runs == ((0, 1), (3, 4), (5, 6))
    windows = Windows(opened, load_card("advection1d"), split="test", horizon=2)
    assert fetch.asked == [3, 5]
    windows.batch(0, 8)
    assert set(fetch.asked) > {3, 5}


def test_a_fetch_that_brings_nothing_is_an_error(store):
    opened = open_path(partial_of(store, [0]), lambda rows: None)
    with pytest.raises(DataError, match="trajectory 6 "):
        opened.fields[6]


def test_a_store_that_is_open_sees_what_is_added(store, partial):
    CopyRows(store.path, partial.path)([8])
    np.testing.assert_array_equal(partial.fields[8], store.fields[8])


def test_a_pickled_store_knows_what_is_here_and_how_to_get_the_rest(store, partial):
    again = pickle.loads(pickle.dumps(partial))
    np.testing.assert_array_equal(again.fields[3], store.fields[3])
    with pytest.raises(DataError, match="not here"):
        again.fields[10]
    fetching = open_path(partial.path, CopyRows(store.path, partial.path))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fetching)).fields[10], store.fields[10])


def _mark(folder: Path, rows: list[int]) -> None:
    for row in rows:
        mark_present(folder, [row])


def test_processes_add_trajectories_at_once(store):
    folder = partial_of(store, []).parent
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_mark, args=(folder, list(range(n, 20, 3)))) for n in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(np.flatnonzero(read_present(folder).here)) == sorted(
        n for n in range(20) if n % 3 != 2
    )


def test_versions_of_which_some_is_here_are_found_and_a_whole_one_comes_first(store, partial):
    assert list_versions("advection1d") == ["tiny"]
    assert find_version("advection1d") == store.path
    kept = store.path.read_bytes()
    store.path.unlink()
    assert list_versions("advection1d") == ["tiny"]
    assert find_version("advection1d", "tiny") == partial.path
    assert open_store("advection1d").presence is not None
    store.path.write_bytes(kept)
    assert open_store("advection1d").presence is None


def test_a_pull_that_has_not_recorded_anything_is_no_version(home):
    folder = paths.data_dir("advection1d") / "v.parts"
    folder.mkdir(parents=True)
    (folder / "store.h5").write_bytes(b"half")
    assert list_versions("advection1d") == []


@pytest.mark.parametrize(
    "damage",
    [{"runs": [[0, 30]]}, {"runs": [[3, 1]]}, {"runs": [[-1, 2]]}, {"format": "other"},
     {"num_trajectories": 19}, {"more": 1}],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_refused(partial, damage):
    path = partial.path.parent / "present.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(DataError, match=r"present\.json"):
        open_path(partial.path)


@pytest.mark.parametrize("numbers", [[], [0], [0, 1, 2], [0, 2], [3, 4, 7, 8, 9]])
def test_runs_hold_the_numbers_they_are_made_of(numbers):
    assert [n for first, end in runs_of(numbers) for n in range(first, end)] == numbers


def test_points_that_are_not_here_are_refused(small):
    small("darcy2d_mesh")
    whole = open_store("darcy2d_mesh")
    folder = paths.data_dir("darcy2d_mesh") / "part.parts"
    shutil.copytree(whole.path, folder / "store.zarr")
    write_present(folder, present_of(whole, [1]))
    try:
        part = open_path(folder / "store.zarr")
        np.testing.assert_array_equal(part.fields(1), whole.fields(1))
        np.testing.assert_array_equal(part.edges(-11), whole.edges(1))
        for read in (part.fields, part.coords, part.inputs, part.tags, part.cells, part.edges,
                     part.all_edges, part.digest):  # fmt: skip
            with pytest.raises(DataError, match="trajectory 2 "):
                read(2)
        assert part.num_nodes(2) == whole.num_nodes(2)
        assert not part.mapped
        with pytest.raises(DataError, match="not here"):
            Windows(part, load_card("darcy2d_mesh"), split="train")
    finally:
        shutil.rmtree(folder)  # the folder is shared between tests
