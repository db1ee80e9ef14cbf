"""W&B as a remote: queued offline for real; sent to and read from a project made of folders."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from fake_wandb import FakeProject

from ups import files, paths
from ups.errors import RemoteError
from ups.transfer import wandb_artifacts
from ups.transfer.artefacts import find, list_artefacts
from ups.transfer.manifest import Manifest
from ups.transfer.packing import LocalPiece
from ups.transfer.pull import pull
from ups.transfer.push import Source, push
from ups.transfer.remotes import find_remote
from ups.transfer.verify import verify_remote
from ups.transfer.wandb_artifacts import address_of, alias_of, collection_of

NAME = "burgers1d/nu0.01"


@pytest.fixture
def source(tmp_path):
    return source_in(tmp_path / "here", b"second")


def source_in(folder, content, **options):
    """Two files, in objects of their own."""
    folder.mkdir(exist_ok=True)
    (folder / "a.bin").write_bytes(b"first" * 100)
    (folder / "b.bin").write_bytes(content)
    pieces = [
        LocalPiece(path, path.name, path.stat().st_size, split=path.stem)
        for path in sorted(folder.iterdir())
    ]
    uses = {"uses": {"cache": ["burgers1d/nu0.01/grid"]}}
    return Source("data", NAME, {"data": "1"}, pieces, uses, **options)


@pytest.fixture
def project(tmp_path, monkeypatch) -> FakeProject:
    """W&B, reachable."""
    made = FakeProject(tmp_path / "project")
    monkeypatch.setattr(wandb_artifacts, "Wandb", lambda entity, project: made)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.delenv("WANDB_MODE")
    return made


def wandb():
    return find_remote("wandb:team/fields")


def records(path: Path) -> list[bytes]:
    """The records of a W&B run file: blocks of 32 kB of (crc, length, type, part of a record)."""
    content, at, parts, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            found.append(parts)
            parts = b""
    return found


def artifacts_in(run: Path):
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run.glob("*.wandb")
    found = [Record.FromString(one) for one in records(path)]
    return [one.request.log_artifact.artifact if one.HasField("request") else one.artifact
            for one in found
            if one.HasField("artifact") or one.request.HasField("log_artifact")]  # fmt: skip


def test_offline_the_artifact_with_all_its_files_waits_in_a_run_of_its_own(source, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "topsecret" * 5)
    with pytest.raises(RemoteError, match=r"not sent to W&B, WANDB_MODE is offline") as caught:
        push(source, wandb())
    assert caught.value.hint.startswith("with a network and a key: wandb sync '")
    run = Path(caught.value.hint.split("'")[1])
    assert run.is_relative_to(paths.home() / "wandb")
    (artifact,) = artifacts_in(run)
    assert (artifact.name, artifact.type) == ("data-burgers1d", "dataset")
    assert set(artifact.aliases) == {"latest", "nu0.01", Path(source.folder).name}
    local = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    (name,) = [name for name in local if name.startswith("manifest-")]
    manifest = Manifest.from_bytes(local[name].read_bytes(), f"{source.folder}/{name}")
    assert set(local) == {name, *(f"objects/{item.sha256}" for item in manifest.objects)}
    assert {files.sha256_file(local[f"objects/{o.sha256}"]) for o in manifest.objects} == {
        item.sha256 for item in manifest.objects
    }
    assert set(manifest.files) == {"a.bin", "b.bin"}
    for path in paths.home().rglob("*"):
        assert path.is_dir() or b"topsecret" not in path.read_bytes()


def test_without_a_key_nothing_is_said_to_be_pushed_or_there(source, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(RemoteError, match="there is no key: set WANDB_API_KEY"):
        find("data", NAME, wandb())
    with pytest.raises(RemoteError, match="not sent to W&B, there is no key"):
        push(source, wandb())


def test_what_was_pushed_comes_back_byte_for_byte(source, project, tmp_path):
    pushed = push(source, wandb())
    assert pushed.sent_bytes > 0
    assert not list((paths.home() / "wandb").glob("*")), "nothing waits once it was sent"
    (parcel,) = project.parcels
    assert parcel.uses == (("cache-burgers1d-nu0.01:grid", "cache"),)
    found = find("data", NAME, wandb())
    assert found.manifest.sha256 == pushed.manifest_sha256
    pulled = pull(found, tmp_path / "there", wandb())
    assert pulled.complete
    for piece in source.pieces:
        assert (tmp_path / "there" / piece.path).read_bytes() == piece.source.read_bytes()
    assert verify_remote(found, wandb()) == found.manifest.size
    before = len(project.fetched)
    assert pull(found, tmp_path / "there", wandb()).fetched_bytes == 0
    assert len(project.fetched) == before


def test_a_second_push_sends_nothing_and_snapshots_are_versions(project, tmp_path):
    folder = tmp_path / "here"
    push(source_in(folder, b"one", snapshot=True), wandb())
    assert push(source_in(folder, b"one", snapshot=True), wandb()).sent_bytes == 0
    assert len(project.parcels) == 1
    push(source_in(folder, b"two", snapshot=True), wandb())
    assert len(project.parcels) == 2
    (listing,) = list_artefacts("data", wandb())
    assert (listing.name, len(listing.manifests)) == (NAME, 2)
    pull(find("data", NAME, wandb()), tmp_path / "there", wandb())
    assert (tmp_path / "there" / "b.bin").read_bytes() == b"two"


def test_a_wrong_byte_is_found_and_named(source, project, tmp_path):
    push(source, wandb())
    found = find("data", NAME, wandb())
    bad = next(item for item in found.manifest.objects if item.pieces[0].path == "b.bin")
    path = project.path("data-burgers1d:v0", f"objects/{bad.sha256}")
    path.write_bytes(path.read_bytes().replace(b"second", b"sec0nd"))
    with pytest.raises(RemoteError, match=rf"{bad.sha256}: its bytes .* it holds b.bin"):
        pull(found, tmp_path / "there", wandb())
    assert not (tmp_path / "there" / "b.bin").exists()
    with pytest.raises(RemoteError, match=bad.sha256):
        verify_remote(found, wandb())
    assert push(source, wandb(), repair=True).sent_bytes > 0
    assert pull(find("data", NAME, wandb()), tmp_path / "there", wandb()).complete


def test_another_manifest_in_its_place_is_refused(source, project, tmp_path):
    push(source, wandb())
    (name,) = [name for name in project.parcels[0].files if name.startswith("manifest-")]
    path = project.path("data-burgers1d:v0", name)
    path.write_bytes(path.read_bytes().replace(b"a.bin", b"c.bin"))
    with pytest.raises(RemoteError, match="may not be used: its sha256 is wrong"):
        find("data", NAME, wandb())


def test_what_is_not_there_and_what_is_not_ours_is_no_artefact(source, project):
    with pytest.raises(RemoteError, match=f"no data '{NAME}'"):
        find("data", NAME, wandb())
    push(source, wandb())
    project.parcels[0].metadata.pop("folder")
    assert list_artefacts("data", wandb()) == []


def test_a_version_cannot_be_changed_in_part(source, project):
    push(source, wandb())
    for change in (
        lambda rclone, path: rclone.write(path, b""), lambda rclone, path: rclone.purge(path),
        lambda rclone, path: rclone.delete(path, ["x"]),
        lambda rclone, path: rclone.upload({"x": source.pieces[0].source}, path),
    ):  # fmt: skip
        with pytest.raises(RemoteError, match="W&B keeps whole versions"):
            change(wandb().rclone(), wandb().path(source.folder))


def test_when_it_could_not_be_sent_the_parcel_stays_and_says_why(source, project):
    project.queues = "W&B does not answer: connection refused"
    with pytest.raises(RemoteError, match="connection refused; it waits in") as caught:
        push(source, wandb())
    assert "offline-run-1" in caught.value.hint
    (kept,) = (paths.home() / "wandb").iterdir()
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize(
    ("kind", "name", "address"),
    [
        ("data", NAME, "data-burgers1d:nu0.01"),
        ("run", "pilot/20260101T000000Z-ab", "run-pilot:20260101T000000Z-ab"),
        ("cache", "d/v/grid-ab-float16", "cache-d-v:grid-ab-float16"),
        ("data", "d/v2", "data-d:version-v2"),
    ],
)
def test_names_on_wandb(kind, name, address):
    assert address_of(kind, name) == address


def test_names_that_wandb_refuses_are_changed_and_stay_apart():
    odd = [collection_of("data", f"{name}/v") for name in ("a b", "a:b", "a" * 200, "a" * 201)]
    assert len(set(odd)) == 4
    assert all(len(name) <= 128 and not set(name) & set(" :/") for name in odd)
    assert alias_of("d/a:b") != alias_of("d/a;b")


def test_a_project_has_at_most_an_entity_before_it():
    with pytest.raises(RemoteError, match="is no W&B project"):
        find("data", NAME, find_remote("wandb:a/b/c"))
