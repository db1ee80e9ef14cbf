"""Push and pull against a local folder as the remote."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from servers import rclone_binary
from transfer_samples import SHARD, arrived, contents, local_remote, sample

from ups import files
from ups.errors import DataError, RemoteError
from ups.transfer import push as push_module
from ups.transfer.artefacts import find, list_artefacts, scan
from ups.transfer.clean import clean, deprecate, prune
from ups.transfer.manifest import Manifest
from ups.transfer.packing import LocalPiece
from ups.transfer.pull import pull
from ups.transfer.push import Source, push
from ups.transfer.rclone import Rclone
from ups.transfer.remotes import Remote
from ups.transfer.scratch import scratch_folder
from ups.transfer.verify import verify_remote

NAME = "burgers1d/v1"


@pytest.fixture(autouse=True)
def _rclone():
    rclone_binary()


@pytest.fixture
def remote(tmp_path) -> Remote:
    return local_remote(tmp_path / "remote")


@pytest.fixture
def source(tmp_path) -> Source:
    return sample(tmp_path / "source")


@pytest.fixture(scope="module")
def _pushed_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pushed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(folder / "home"))
        push(sample(folder / "source"), local_remote(folder / "remote"), shard_bytes=SHARD)
    return folder / "remote"


@pytest.fixture
def pushed(source, remote, tmp_path, _pushed_once):
    """The sample is on the remote; gives the folder of its objects."""
    shutil.copytree(_pushed_once, tmp_path / "remote")
    return tmp_path / "remote" / source.folder / "objects"


def pulled(remote, into, **options):
    return pull(find("data", NAME, remote), into, remote, **options)


def test_what_was_pushed_is_pulled_byte_for_byte(source, remote, tmp_path, home):
    told: list[tuple[int, int]] = []
    made = push(source, remote, shard_bytes=SHARD, progress=lambda *now: told.append(now))
    assert made.sent_bytes > source.size
    assert made.present_bytes == 0
    assert told[-1] == (source.size, source.size)
    assert not list((home / "tmp").iterdir())
    assert [found.name for found in list_artefacts("data", remote)] == [NAME]

    told.clear()
    found = find("data", NAME, remote)
    assert found.manifest.labels == {"trajectories": 16}
    done = pull(found, tmp_path / "into", remote, progress=lambda *now: told.append(now))
    assert arrived(tmp_path / "into") == contents(source)
    assert (done.files, done.complete, done.fetched_bytes) == (13, True, made.sent_bytes)
    assert told[-1] == (made.sent_bytes, made.sent_bytes)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_second_push_and_a_second_pull_move_nothing(pushed, source, remote, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in pushed.parent.rglob("*")}
    again = push(source, remote, shard_bytes=SHARD)
    assert (again.sent_bytes, again.present_bytes) == (0, find("data", NAME, remote).manifest.size)
    assert {path: path.stat().st_mtime_ns for path in pushed.parent.rglob("*")} == before

    pulled(remote, tmp_path / "into")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "into").rglob("*")}
    second = pulled(remote, tmp_path / "into")
    assert (second.fetched_bytes, second.complete) == (0, True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "into").rglob("*")} == stamps


def test_dry_runs_say_what_would_move_and_write_nothing(source, remote, tmp_path, home):
    would = push(source, remote, shard_bytes=SHARD, dry_run=True)
    assert (would.sent_bytes, would.manifest_sha256) == (source.size, "")
    assert not (tmp_path / "remote").exists()
    made = push(source, remote, shard_bytes=SHARD)
    would_pull = pulled(remote, tmp_path / "into", dry_run=True)
    assert (would_pull.fetched_bytes, would_pull.complete) == (made.sent_bytes, True)
    assert not (tmp_path / "into").exists()


def test_wanted_pieces_come_first_and_the_rest_later(pushed, source, remote, tmp_path):
    into = tmp_path / "into"
    some = pulled(remote, into, wanted=lambda piece: piece.split in ("", "test"))
    assert (some.complete, some.objects, some.files) == (False, 2, 0)
    store = (into / "store.h5").read_bytes()
    whole = contents(source)["store.h5"]
    assert store == whole[:50_000] + bytes(150_000) + whole[200_000:]
    assert not (into / "mesh.zarr").exists()

    rest = pulled(remote, into)
    assert (rest.complete, rest.present_bytes) == (True, some.fetched_bytes)
    assert arrived(into) == contents(source)


def test_what_somebody_changed_here_is_fetched_again(pushed, source, remote, tmp_path):
    into = tmp_path / "into"
    pulled(remote, into)
    changed = into / "mesh.zarr/c/3"
    changed.write_bytes(b"x" * changed.stat().st_size)
    (into / "store.h5").unlink()
    assert 0 < pulled(remote, into).present_bytes < find("data", NAME, remote).manifest.size
    assert arrived(into) == contents(source)


def test_a_kill_while_bytes_are_written_costs_one_object(pushed, source, remote, tmp_path):
    into = tmp_path / "into"
    pulled(remote, into)
    record = json.loads((into / "parts.json").read_text())
    name = next(item.sha256 for item in find("data", NAME, remote).manifest.objects
                if item.pieces[0].split == "test")  # fmt: skip
    del record["objects"][name]
    (into / "parts.json").write_text(json.dumps(record | {"writing": name}))
    with (into / "store.h5").open("r+b") as file:  # killed in the middle of that object
        file.seek(220_000)
        file.write(bytes(30_000))
    again = pulled(remote, into)
    assert again.fetched_bytes == (pushed / name).stat().st_size
    assert arrived(into) == contents(source)


def test_what_a_kill_left_beside_the_files_is_removed(pushed, source, remote, tmp_path):
    into = tmp_path / "into"
    pulled(remote, into)
    (into / ".parts.json.1.partial").write_text("{")
    (into / ".incoming").mkdir()
    (into / ".incoming" / "half.partial").write_bytes(b"half")
    assert pulled(remote, into).fetched_bytes == 0
    assert arrived(into) == contents(source)


def test_a_damaged_record_is_named(pushed, remote, tmp_path):
    into = tmp_path / "into"
    into.mkdir()
    (into / "parts.json").write_text("{")
    with pytest.raises(DataError, match="not a record of a transfer"):
        pulled(remote, into)


def test_a_damaged_object_is_never_placed_and_repair_mends_it(pushed, source, remote, tmp_path):
    victim = next(item for item in find("data", NAME, remote).manifest.objects
                  if item.pieces[0].path.startswith("mesh"))  # fmt: skip
    content = bytearray((pushed / victim.sha256).read_bytes())
    content[5000] ^= 1
    (pushed / victim.sha256).write_bytes(content)
    for check in (
        lambda: pulled(remote, tmp_path / "into"),
        lambda: verify_remote(find("data", NAME, remote), remote),
    ):
        with pytest.raises(RemoteError, match=victim.sha256) as error:
            check()
        assert "its bytes have another sha256; it holds mesh.zarr/c/0 (train)" in str(error.value)
        assert error.value.hint.endswith("ups data push burgers1d --version v1 --repair")
    assert not (tmp_path / "into" / "mesh.zarr" / "c" / "0").exists()

    assert push(source, remote, shard_bytes=SHARD).sent_bytes == 0  # a listing shows nothing
    mended = push(source, remote, shard_bytes=SHARD, repair=True)
    assert mended.sent_bytes == victim.size
    found = find("data", NAME, remote)
    assert verify_remote(found, remote) == found.manifest.size
    assert pulled(remote, tmp_path / "into").fetched_bytes == victim.size
    assert arrived(tmp_path / "into") == contents(source)


def test_a_lost_or_short_object_is_named_before_anything_moves(pushed, remote, tmp_path):
    first, second = find("data", NAME, remote).manifest.objects[:2]
    (pushed / first.sha256).unlink()
    os.truncate(pushed / second.sha256, 10)
    with pytest.raises(RemoteError, match=r"not there, or of another size; it holds store.h5") as e:
        pulled(remote, tmp_path / "into")
    assert "1 more objects are wrong" in str(e.value)
    assert not (tmp_path / "into").exists()


def test_push_mends_lost_and_short_objects_by_itself(pushed, source, remote, tmp_path):
    first, second = find("data", NAME, remote).manifest.objects[:2]
    (pushed / first.sha256).unlink()
    os.truncate(pushed / second.sha256, 10)
    assert push(source, remote, shard_bytes=SHARD).sent_bytes == first.size + second.size
    pulled(remote, tmp_path / "into")
    assert arrived(tmp_path / "into") == contents(source)


@dataclass(frozen=True)
class FlakyRclone(Rclone):
    """The first download ends after one file, or damages one."""

    how: str = "cut"
    calls: list[int] = field(default_factory=list)

    def download(
        self,
        names: Mapping[str, int],
        source: str,
        into: Path,
        progress: Callable[[int, int], None] = lambda done, total: None,
        on_file: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.calls.append(len(names))
        first = dict(list(names.items())[:1])
        if self.how == "damage" and len(self.calls) == 1:
            super().download(names, source, into, progress)
            os.truncate(into / next(iter(first)), 3)
            for name in names:
                on_file(name)
        elif self.how == "cut":
            super().download(first, source, into, progress, on_file)
            if len(names) > 1:
                raise RemoteError("remote here: the network is gone")
        else:
            super().download(names, source, into, progress, on_file)


class FlakyRemote(Remote):
    how: str
    _calls: list[int] = []  # noqa: RUF012

    def rclone(self) -> Rclone:
        return FlakyRclone({}, "here", how=self.how, calls=self._calls)


def test_a_cut_network_goes_on_as_long_as_something_arrives(pushed, source, remote, tmp_path):
    flaky = FlakyRemote.model_construct(**dict(remote), how="cut", _calls=[])
    flaky._calls.clear()
    pulled(flaky, tmp_path / "into")
    count = len(find("data", NAME, remote).manifest.objects)
    assert flaky._calls == list(range(count, 0, -1))
    assert arrived(tmp_path / "into") == contents(source)


def test_what_was_damaged_on_the_way_is_fetched_once_more(pushed, source, remote, tmp_path):
    flaky = FlakyRemote.model_construct(**dict(remote), how="damage", _calls=[])
    flaky._calls.clear()
    pulled(flaky, tmp_path / "into")
    assert flaky._calls[1:] == [1]
    assert arrived(tmp_path / "into") == contents(source)


def test_a_file_that_changes_while_it_is_pushed_publishes_nothing(
    source, remote, tmp_path, monkeypatch
):
    upload = Rclone.upload

    def upload_and_change(self, *args, **kwargs):
        upload(self, *args, **kwargs)
        with source.pieces[0].source.open("r+b") as file:
            file.write(b"changed")

    monkeypatch.setattr(Rclone, "upload", upload_and_change)
    with pytest.raises(DataError, match=r"store.h5: changed while it was pushed"):
        push(source, remote, shard_bytes=SHARD)
    assert not list_artefacts("data", remote)
    assert all(not listing.objects for listing in scan("data", remote))


def test_a_file_that_is_gone_stops_the_push(source, remote, tmp_path, home):
    source.pieces[-1].source.unlink()
    with pytest.raises(DataError, match="chunk11: reading failed"):
        push(source, remote, shard_bytes=SHARD)
    assert not list_artefacts("data", remote)


def test_no_manifest_goes_up_while_an_object_is_missing(source, remote, tmp_path, monkeypatch):
    upload = Rclone.upload

    def upload_and_lose(self, names, to, progress):
        upload(self, names, to, progress)
        (Path(to) / next(iter(names))).unlink()

    monkeypatch.setattr(Rclone, "upload", upload_and_lose)
    with pytest.raises(RemoteError, match="are not there after the upload"):
        push(source, remote, shard_bytes=SHARD)
    assert not list_artefacts("data", remote)


def test_files_with_the_same_content_are_one_object(remote, tmp_path):
    pieces = []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"the same")
        pieces.append(LocalPiece(tmp_path / name, name, 8))
    made = push(Source("run", "r/1", {"run": 1}, pieces), remote, large_bytes=1)
    found = find("run", "r/1", remote)
    assert made.objects == len(found.manifest.objects) == len(found.listing.objects) == 1
    assert made.sent_bytes == 8
    pull(found, tmp_path / "into", remote)
    assert arrived(tmp_path / "into") == {"a": b"the same", "b": b"the same"}


def test_snapshots_share_objects_and_the_newest_counts(source, remote, tmp_path):
    run = replace(source, kind="run", name="r/1", snapshot=True)
    first = push(run, remote, shard_bytes=SHARD)
    assert push(run, remote, shard_bytes=SHARD) == replace(
        first, sent_bytes=0, present_bytes=first.sent_bytes
    )
    run.pieces[-1].source.write_bytes(b"y" * run.pieces[-1].size)
    second = push(run, remote, shard_bytes=SHARD)
    assert 0 < second.sent_bytes < first.sent_bytes
    found = find("run", "r/1", remote)
    assert found.manifest.sha256 == second.manifest_sha256
    assert len(found.listing.manifests) == 2
    pull(found, tmp_path / "into", remote)
    assert arrived(tmp_path / "into") == contents(run)


def test_a_newer_snapshot_replaces_an_older_one_here(source, remote, tmp_path):
    run = replace(source, kind="run", name="r/1", snapshot=True)
    push(run, remote, shard_bytes=SHARD)
    pull(find("run", "r/1", remote), tmp_path / "into", remote)
    run = replace(run, pieces=run.pieces[:-1])
    push(run, remote, shard_bytes=SHARD)
    done = pull(find("run", "r/1", remote), tmp_path / "into", remote)
    assert done.present_bytes > 0
    assert arrived(tmp_path / "into") == contents(run)


def test_a_manifest_of_a_clock_ahead_is_still_superseded(source, remote, monkeypatch):
    run = replace(source, snapshot=True)
    ahead = "20990101T000000.000000Z"
    monkeypatch.setattr(push_module, "_later_than", lambda newest: ahead)
    push(run, remote, shard_bytes=SHARD)
    monkeypatch.undo()
    run = replace(run, labels={"second": True})
    assert "manifest-20990101T000000.000001Z" in push(run, remote, shard_bytes=SHARD).place
    assert find("data", NAME, remote).manifest.labels == {"second": True}


def test_no_space_is_said_before_anything_moves(pushed, remote, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: _Usage(1000))
    with pytest.raises(DataError, match=r"are to come, the disk has 0\.00 GB free"):
        pulled(remote, tmp_path / "into")
    assert not (tmp_path / "into").exists()


@dataclass
class _Usage:
    free: int


def test_two_pulls_into_one_folder_do_not_mix(pushed, remote, tmp_path):
    with (
        files.exclusive(tmp_path / "into", "pulling into it"),
        pytest.raises(DataError, match="another process"),
    ):
        pulled(remote, tmp_path / "into")


def test_what_is_not_there_is_said_with_the_command_that_brings_it(remote):
    with pytest.raises(RemoteError, match="there is no such folder"):
        find("data", NAME, remote)
    Path(remote.root).mkdir()
    with pytest.raises(RemoteError, match=r"no data 'burgers1d/v1' there") as error:
        find("data", NAME, remote)
    assert error.value.hint.endswith("ups data push burgers1d --version v1")


def test_a_deprecated_artefact_is_the_last_choice(source, remote, tmp_path):
    push(source, remote, shard_bytes=SHARD)
    other = sample(tmp_path / "other", seed=1)
    push(other, remote, shard_bytes=SHARD)
    newest = find("data", NAME, remote)
    assert newest.manifest.identity["seed"] == 1
    assert newest.deprecated is None
    deprecate(newest, "wrong viscosity", remote)
    assert find("data", NAME, remote).manifest.identity["seed"] == 0
    deprecate(find("data", NAME, remote), "too coarse", remote)
    assert find("data", NAME, remote).deprecated == "wrong viscosity"
    only = find("data", NAME, remote, newest.manifest.identity16)
    assert only.manifest.identity["seed"] == 1


def test_prune_removes_deprecated_artefacts_only(pushed, source, remote, tmp_path):
    other = sample(tmp_path / "other", seed=1)
    push(other, remote, shard_bytes=SHARD)
    deprecate(find("data", NAME, remote), "wrong", remote)
    assert [item.folder for item in prune("data", remote, dry_run=True)] == [other.folder]
    assert len(list_artefacts("data", remote)) == 2
    prune("data", remote)
    assert [item.folder for item in scan("data", remote)] == [source.folder]


def test_clean_removes_old_objects_that_no_manifest_names(pushed, source, remote, tmp_path):
    orphan = pushed / ("0" * 64)
    orphan.write_bytes(b"left over")
    assert clean(remote).objects == ()  # it is young: its push may still go on
    for path in pushed.iterdir():
        os.utime(path, (0, 0))
    would = clean(remote, dry_run=True)
    assert (would.objects, would.size) == ((f"{source.folder}/objects/{orphan.name}",), 9)
    assert clean(remote).objects == would.objects
    assert not orphan.exists()
    pulled(remote, tmp_path / "into")


def test_clean_touches_nothing_beside_a_damaged_manifest(pushed, source, remote):
    for path in pushed.iterdir():
        os.utime(path, (0, 0))
    (manifest,) = pushed.parent.glob("manifest-*")
    manifest.write_text("{}")
    said: list[str] = []
    assert clean(remote, notice=said.append).objects == ()
    assert source.folder in said[0]
    assert "left as it is" in said[0]


def test_a_damaged_manifest_is_replaced_by_a_push(pushed, source, remote, tmp_path):
    (manifest,) = pushed.parent.glob("manifest-*")
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(RemoteError, match="damaged or cut off"):
        find("data", NAME, remote)
    again = push(source, remote, shard_bytes=SHARD)
    assert again.sent_bytes == 0
    assert isinstance(find("data", NAME, remote).manifest, Manifest)


def test_scratch_folders_of_killed_processes_are_removed(home):
    left = home / "tmp" / "push-0123"
    left.mkdir(parents=True)
    (left / "0.tar").write_bytes(b"x")
    with scratch_folder("push") as mine:
        assert not left.exists()
        with scratch_folder("push") as other:
            assert mine.exists()
        assert not other.exists()
    assert not list((home / "tmp").iterdir())
