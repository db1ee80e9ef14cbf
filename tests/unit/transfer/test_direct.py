"""Versions on a remote, opened in place: the right values, few bytes, nothing wrong kept."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from servers import client

from ups.data.partial import read_present
from ups.data.points import PointStore
from ups.data.versions import open_store
from ups.errors import DataError, RemoteError, UsageError
from ups.transfer.blocks import BlockFolder, block_folders, disk_bytes
from ups.transfer.dataset_pieces import source_of
from ups.transfer.direct import open_in_place, reading_in_place
from ups.transfer.manifest import Manifest, Object, Piece
from ups.transfer.pieces import Pieces, Run
from ups.transfer.push import push
from ups.transfer.ranges import ObstoreReader, RcloneReader, open_reader
from ups.transfer.remotes import find_remote, make

KEYS = ("burgers1d", "darcy2d", "darcy2d_mesh", "particles_advect")


@pytest.fixture
def folder(tmp_path: Path):
    """A remote that is a folder."""
    (tmp_path / "remote").mkdir()
    return make("shelf", kind="local", folder=str(tmp_path / "remote"))


@pytest.fixture
def pushed(small, folder):
    """pushed(key) -> the local store, after its version was pushed to `folder`."""

    def give(key: str, remote=folder):
        small(key)
        store = open_store(key)
        push(source_of(store.path), remote)
        return store

    return give


def values_of(store, trajectory: int) -> list[np.ndarray]:
    """Everything that a trajectory consists of."""
    if not isinstance(store, PointStore):
        inputs = [] if store.inputs is None else [np.asarray(store.inputs[trajectory])]
        return [np.asarray(store.fields[trajectory]), *inputs]
    found = [store.fields(trajectory), store.coords(trajectory), store.all_edges(trajectory)]
    others = (store.inputs(trajectory), store.tags(trajectory), store.cells(trajectory))
    return [*found, *(values for values in others if values is not None)]


def assert_same(here, there, trajectory: int) -> None:
    for ours, theirs in zip(values_of(here, trajectory), values_of(there, trajectory), strict=True):
        np.testing.assert_array_equal(theirs, ours)


def objects_of(folder, kind: str = "data") -> list[Path]:
    return sorted(Path(folder.root, kind).rglob("objects/*"))


@pytest.mark.parametrize("key", KEYS)
def test_a_version_opened_in_place_has_the_values_of_the_version_that_was_pushed(
    pushed, folder, key
):
    here = pushed(key)
    there = open_in_place(key, here.metadata.version, folder)
    assert there.metadata == here.metadata
    np.testing.assert_array_equal(there.splits, here.splits)
    for trajectory in (3, 0, here.num_trajectories - 1):
        assert_same(here, there, trajectory)
    assert read_present(there.path.parent).num_here == 3


@pytest.mark.parametrize("key", KEYS)
def test_a_second_look_reads_nothing_from_the_remote(pushed, folder, key):
    here = pushed(key)
    version = here.metadata.version
    values_of(open_in_place(key, version, folder), 2)
    shutil.rmtree(folder.root)
    assert_same(here, open_in_place(key, version, folder), 2)


def test_only_the_bytes_of_what_is_looked_at_are_read(pushed, folder):
    here = pushed("burgers1d")
    with reading_in_place(folder) as place:
        store = open_store("burgers1d", here.metadata.version)
        assert (place.requests, place.bytes_read) == (0, 0)
        chosen = store.split("train")[[0, 1, 5]]
        np.testing.assert_array_equal(store.fields[chosen], here.fields[chosen])
    assert place.bytes_read == 3 * here.fields[0].nbytes
    assert place.requests <= 3


def test_neighbours_are_read_together(pushed, folder):
    here = pushed("burgers1d")
    with reading_in_place(folder) as place:
        store = open_store("burgers1d", here.metadata.version)
        rows = here.split("train")
        np.testing.assert_array_equal(store.fields[rows], here.fields[rows])
        runs = 1 + np.count_nonzero(np.diff(rows) != 1)
    assert place.requests == runs


def test_a_mesh_is_read_by_its_trajectories_and_not_by_whole_files(pushed, folder):
    here = pushed("darcy2d_mesh")
    with reading_in_place(folder) as place:
        store = open_store("darcy2d_mesh", here.metadata.version)
        assert_same(here, store, 4)
    whole = sum(path.stat().st_size for path in objects_of(folder))
    assert place.bytes_read < whole / 4


@pytest.mark.parametrize("key", ["burgers1d", "darcy2d_mesh"])
def test_wrong_bytes_are_named_and_not_kept(pushed, folder, key):
    here = pushed(key)
    store = open_in_place(key, here.metadata.version, folder)
    values_of(store, 0)
    fields = values_of(here, 1)[0].tobytes()
    (target,) = [path for path in objects_of(folder) if fields in path.read_bytes()]
    content = bytearray(target.read_bytes())
    place = content.index(fields) + len(fields) // 2
    content[place] ^= 4
    target.write_bytes(content)
    with pytest.raises(RemoteError, match=rf"{target.name}.*trajectory 1 of {key}/") as error:
        values_of(store, 1)
    assert "--repair" in error.value.hint
    assert read_present(store.path.parent).runs == ((0, 1),)
    content[place] ^= 4
    target.write_bytes(content)
    assert_same(here, store, 1)


def test_a_shortened_object_is_an_error(pushed, folder):
    here = pushed("burgers1d")
    store = open_in_place("burgers1d", here.metadata.version, folder)
    for path in objects_of(folder):
        os.truncate(path, 1000)
    with pytest.raises(RemoteError, match=r"truncated|invalid"):
        values_of(store, 1)
    assert read_present(store.path.parent).num_here == 0


def test_a_missing_object_is_an_error(pushed, folder):
    here = pushed("burgers1d")
    store = open_in_place("burgers1d", here.metadata.version, folder)
    for path in objects_of(folder):
        path.unlink()
    with pytest.raises(RemoteError, match="is not there"):
        values_of(store, 1)


def test_a_damaged_head_is_never_opened(pushed, folder):
    here = pushed("burgers1d")
    for path in objects_of(folder):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 1
        path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(RemoteError, match="sha256"):
            open_in_place("burgers1d", here.metadata.version, folder)


def test_a_store_in_place_is_pickled_with_what_fetches(pushed, folder):
    here = pushed("burgers1d")
    store = pickle.loads(pickle.dumps(open_in_place("burgers1d", here.metadata.version, folder)))
    assert_same(here, store, 7)


def test_the_latest_version_is_the_one_pushed_last(pushed, folder):
    here = pushed("burgers1d")
    assert open_in_place("burgers1d", remote=folder).metadata == here.metadata
    with pytest.raises(RemoteError, match="no version of 'advection1d' there"):
        open_in_place("advection1d", remote=folder)


def test_a_version_that_is_not_there_is_the_one_on_this_machine(small, folder):
    small("burgers1d")
    version = open_store("burgers1d").metadata.version
    with reading_in_place(folder) as place:
        assert open_store("burgers1d", version).presence is None
        with pytest.raises(RemoteError, match="nonesuch"):
            open_store("burgers1d", "nonesuch")
    assert not place.fetches


@pytest.mark.parametrize("server", [pytest.param("moto", marks=pytest.mark.slow), "s3"])
def test_s3_servers_serve_ranges(small, request, server):
    """moto answers with 206; `rclone serve s3` with 200, so that rclone reads, not obstore."""
    request.getfixturevalue(server)
    remote = find_remote("b2")
    small("burgers1d")
    here = open_store("burgers1d")
    push(source_of(here.path), remote)
    with reading_in_place(remote) as place:
        store = open_store("burgers1d", here.metadata.version)
        for trajectory in (3, 9):
            assert_same(here, store, trajectory)
    (fetch,) = place.fetches
    assert isinstance(fetch.reader, ObstoreReader)
    assert place.bytes_read == 2 * here.fields[0].nbytes


def test_a_prefix_with_strange_letters_is_read(small, moto):
    remote = make("odd", kind="b2", prefix="$(touch x)/a 'b' \"ü\" `c`")
    small("burgers1d")
    here = open_store("burgers1d")
    push(source_of(here.path), remote)
    assert_same(here, open_in_place("burgers1d", here.metadata.version, remote), 1)
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"B2_S3_ENDPOINT": "http://127.0.0.1:1"}, "nothing listens"),
        ({"B2_S3_ENDPOINT": "http://nonesuch.invalid"}, "cannot be resolved"),
        ({"B2_KEY_ID": "ANOTHERKEY0123456789"}, "does not know the key id"),
        ({"B2_APP_KEY": "another+secret"}, "secret does not belong"),
        ({"B2_BUCKET": "nonesuch"}, "bucket does not exist"),
    ],
)
def test_failures_are_clear_and_fast(s3, monkeypatch, change, message):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    with pytest.raises(RemoteError, match=message) as error:
        open_reader(find_remote("b2"), "data/x").read("y", 0, 10)
    assert time.monotonic() - start < 30
    assert s3.secret not in str(error.value)
    assert s3.secret not in repr(open_reader(find_remote("b2"), "data/x").__dict__)


def test_an_object_that_is_not_there_and_one_that_ends_early(moto):
    client(moto).put_object(Bucket=moto.bucket, Key="data/x/y", Body=b"0123456789")
    reader = open_reader(find_remote("b2"), "data/x")
    assert reader.read("y", 2, 3) == b"234"
    assert reader.read("y", 2, 0) == b""
    with pytest.raises(RemoteError, match="z is not there"):
        reader.read("z", 0, 1)
    with pytest.raises(RemoteError, match="truncated: 5 bytes at 8 expected, 2 read"):
        reader.read("y", 8, 5)


def test_rclone_reads_what_obstore_cannot(tmp_path):
    (tmp_path / "a b" / "data").mkdir(parents=True)
    (tmp_path / "a b" / "data" / "y").write_bytes(b"0123456789")
    remote = make("shelf", kind="local", folder=str(tmp_path / "a b"))
    reader = RcloneReader(remote, "data")
    assert reader.read("y", 2, 3) == b"234"
    assert (reader.requests, reader.bytes_read) == (1, 3)
    with pytest.raises(RemoteError, match="is not there"):
        reader.read("z", 0, 1)


def test_the_oldest_folder_goes_first_and_never_one_in_use(pushed, folder, monkeypatch):
    stores = [pushed(key) for key in ("burgers1d", "advection1d", "darcy2d")]
    opened = {}
    for store in stores:
        name = store.metadata.dataset
        opened[name] = open_in_place(name, store.metadata.version, folder)
        values_of(opened[name], 0)
    assert len(block_folders()) == 3
    taken = sum(disk_bytes(path) for path in block_folders())
    monkeypatch.setenv("UPS_BLOCKS_GB", str((taken + 1000) / 1e9))
    with pytest.raises(DataError, match=r"darcy2d/.* do not fit into .* read in place"):
        values_of(opened["darcy2d"], 1)
    del opened["advection1d"]
    values_of(opened["darcy2d"], 1)
    assert sorted(path.parent.parent.name for path in block_folders()) == ["burgers1d", "darcy2d"]
    assert_same(stores[0], opened["burgers1d"], 0)


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_limit_that_is_no_number_is_refused(pushed, folder, monkeypatch, text):
    here = pushed("burgers1d")
    store = open_in_place("burgers1d", here.metadata.version, folder)
    monkeypatch.setenv("UPS_BLOCKS_GB", text)
    with pytest.raises(UsageError, match=f"UPS_BLOCKS_GB={text}: expected a number"):
        values_of(store, 0)


def test_a_folder_removed_while_it_was_waited_for_is_made_again(pushed, folder, monkeypatch):
    here = pushed("burgers1d")
    store = open_in_place("burgers1d", here.metadata.version, folder)
    path = store.path.parent
    manifest = store._fetch.blocks.manifest
    del store
    shutil.rmtree(path)
    assert BlockFolder.known(folder, "data", manifest.name) is None
    assert BlockFolder.of(folder, manifest).path == path
    assert BlockFolder.known(folder, "data", manifest.name).manifest == manifest


def test_runs_are_found_across_pieces_and_gaps_are_refused():
    first, second = "a" * 64, "b" * 64
    manifest = Manifest(
        "data", "x/v", {"x": 1},
        (Object(first, 30, (Piece("f", 10, 5), Piece("f", 10, 20, 15))),
         Object(second, 5, (Piece("f", 5, 0, 10),))),
        {"f": 30}, "20260101T000000.000000Z", "0", partial=("f",),
    )  # fmt: skip
    spans = [
        (s.name, s.offset, s.size, r.offset) for s, r in Pieces(manifest).spans(Run("f", 8, 9))
    ]
    assert spans == [(first, 13, 2, 8), (second, 0, 5, 10), (first, 20, 2, 15)]
    for run in (Run("f", 20, 10), Run("f", 26, 2), Run("g", 0, 1)):
        with pytest.raises(RemoteError, match="does not hold"):
            list(Pieces(manifest).spans(run))
