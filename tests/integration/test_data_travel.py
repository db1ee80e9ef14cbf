"""Datasets from one machine to another by commands, against a real S3 server."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
from servers import object_names
from tiny_commands import ups

from ups import paths
from ups.data.convert import convert
from ups.data.generate import generate
from ups.data.versions import find_version, open_store
from ups.errors import DataError
from ups.files import sha256_file
from ups.registry import load_card


def generated(key: str, count: int, points: int, frames: int | None = None) -> Path:
    """A small raw file of a dataset."""
    card = load_card(key)
    assert card.generator is not None
    return generate(
        card, parameters=card.generator.parameters, num_trajectories=count, seed=0,
        out_dir=paths.raw_dir(key), points=points, frames=frames, workers=1,
    )  # fmt: skip


def hashes(path: Path) -> dict[str, str]:
    """Of a store's files, however many."""
    inside = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    return {str(p.relative_to(path)): sha256_file(p) for p in inside}


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    """A UPS_HOME with two small versions, made once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as other:
        other.setenv("UPS_HOME", str(folder))
        for key, numbers in {"burgers1d": (40, 32, 5), "darcy2d_mesh": (4, 200)}.items():
            convert(load_card(key), [generated(key, *numbers)])
    return folder


@pytest.fixture
def burgers(home, _made):
    shutil.copytree(_made, home)
    return find_version("burgers1d")


def test_a_dataset_goes_to_a_remote_and_comes_back_in_parts(burgers, s3, home):
    want = sha256_file(burgers)
    assert "would send" in ups("data", "push", "burgers1d", "--dry-run").output
    assert object_names(s3) == []
    pushed = ups("data", "push", "burgers1d", "--verify").output
    assert "every byte is right" in pushed
    assert "already there, nothing sent" in ups("data", "push", "burgers1d").output
    shutil.rmtree(home / "data")

    assert "would fetch" in ups("data", "pull", "burgers1d", "--dry-run").output
    assert not (home / "data").exists()
    some = ups("data", "pull", "burgers1d", "--splits", "test").output
    assert "4 of 40 trajectories" in flat(some)
    assert "4 of 40 trajectories are here" in flat(ups("data", "info", "burgers1d").output)
    store = open_store("burgers1d")
    assert store.fields[store.split("test")].any()
    with pytest.raises(DataError, match=r"\(train\) of 40 is not here"):
        store.fields[int(store.split("train")[0])]
    assert "not here" in ups("data", "audit", "burgers1d", code=3).output
    du = json.loads(ups("data", "du", "--json").output)
    sizes = {Path(item["path"]).name: item["size_bytes"] for item in du}
    assert 0 < sizes["nu0.01.parts"] < store.path.stat().st_size

    assert "40 trajectories" in ups("data", "pull", "burgers1d").output
    assert sha256_file(find_version("burgers1d")) == want
    again = ups("data", "pull", "burgers1d").output
    assert "already here, nothing transferred" in flat(again)
    assert "sha256" in ups("data", "audit", "burgers1d").output
    assert "never" not in ups("data", "du").output


def test_several_datasets_at_once_one_of_them_a_mesh(burgers, s3, home):
    want = {"burgers1d": hashes(burgers), "darcy2d_mesh": hashes(find_version("darcy2d_mesh"))}
    for key in want:
        ups("data", "push", key)
    shutil.rmtree(home / "data")
    result = ups("data", "pull", "burgers1d", "darcy2d_mesh", "advection1d", code=6).output
    assert "advection1d is not there" in flat(result)
    assert "datasets there: burgers1d, darcy2d_mesh" in flat(result)
    assert {key: hashes(find_version(key)) for key in want} == want
    rows = json.loads(ups("data", "pull", *want, "--json").output)
    assert [(row["dataset"], row["received_bytes"]) for row in rows] == [(key, 0) for key in want]


def test_no_remote_and_no_data_say_what_to_do(home):
    result = ups("data", "pull", "burgers1d", code=6).output
    assert "burgers1d: no remote to pull from" in result
    for hint in ("ups remotes add", "ups data download burgers1d", "ups data generate burgers1d"):
        assert hint in flat(result)
    nowhere = ups("data", "pull", "burgers1d", "--from", "/nosuch", code=6).stderr
    assert nowhere.startswith("error: /nosuch: there is no such folder\nhint: ")
    assert "did you mean 'burgers1d'" in ups("data", "pull", "burgers1", code=2).output
    refused = ups("data", "pull", "burgers1d", "--splits", "trian", code=2).output
    assert "did you mean 'train'" in refused


def test_a_full_disk_leaves_nothing_where_a_reader_looks(burgers, s3, home):
    ups("data", "push", "burgers1d")
    want = sha256_file(burgers)
    shutil.rmtree(home / "data")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        began = time.monotonic()
        result = ups("data", "pull", "burgers1d", code=3)
        assert time.monotonic() - began < 30
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "limit" in result.output or "full" in result.output
    assert "no converted version" in ups("data", "audit", "burgers1d", code=3).output
    ups("data", "pull", "burgers1d")
    assert sha256_file(find_version("burgers1d")) == want


def test_deprecated_versions_warn_and_are_pruned(burgers, moto, home):
    # moto: rclone's own S3 server hangs when the last files of a folder are deleted
    ups("data", "push", "burgers1d")
    ups("data", "deprecate", "burgers1d", "--version", "nu0.01", "--reason", "wrong dt")
    shutil.rmtree(home / "data")
    refused = ups("data", "pull", "burgers1d", code=6).output
    assert "every version" in refused
    assert "wrong dt" in refused
    warned = ups("data", "pull", "burgers1d", "--version", "nu0.01").output
    assert "warning: burgers1d/nu0.01 is deprecated: wrong dt" in flat(warned)
    assert "would remove 1" in ups("data", "prune", "--on", "b2", "--dry-run").output
    assert object_names(moto)
    ups("data", "prune", "--on", "b2", "--raw", code=2)
    assert "removed 1 deprecated" in ups("data", "prune", "--on", "b2").output
    assert object_names(moto) == []


@pytest.fixture
def own_card(home):
    """A card of the user's own: burgers1d under another key, with a comment in it."""
    folder = home / "registry"
    folder.mkdir(parents=True)
    shipped = next(f / "burgers1d.yaml" for f in paths.registry_dirs()
                   if (f / "burgers1d.yaml").is_file())  # fmt: skip
    text = shipped.read_text(encoding="utf-8").replace("key: burgers1d", "key: own_burgers", 1)
    path = folder / "own_burgers.yaml"
    path.write_text("# kept by hand\n" + text, encoding="utf-8")
    return path


def test_a_published_dataset_is_pulled_by_its_card(own_card, s3, home):
    text = own_card.read_text(encoding="utf-8")
    generated("own_burgers", 30, 32, 5)
    ups("data", "publish", "own_burgers", "--dry-run")
    assert own_card.read_text(encoding="utf-8") == text
    assert object_names(s3) == []
    done = ups("data", "publish", "own_burgers").output
    assert "read back" in done
    edited = own_card.read_text(encoding="utf-8")
    assert edited.startswith(text.rstrip("\n"))
    (entry,) = load_card("own_burgers").artefacts
    assert entry.location.startswith("data/own_burgers/nu0.01/")
    ups("data", "publish", "own_burgers")
    assert own_card.read_text(encoding="utf-8") == edited

    want = sha256_file(find_version("own_burgers"))
    shutil.rmtree(home / "data")
    pulled = ups("data", "pull", "own_burgers").output
    assert "newest" not in pulled
    assert sha256_file(find_version("own_burgers")) == want
    other = entry.manifest_sha256[:-1] + ("0" if entry.manifest_sha256[-1] != "0" else "1")
    own_card.write_text(edited.replace(entry.manifest_sha256, other), encoding="utf-8")
    shutil.rmtree(home / "data")
    refused = ups("data", "pull", "own_burgers", code=6).output
    assert "no manifest with the sha256" in flat(refused)


def test_what_an_audit_fails_is_not_published(own_card, s3, home):
    path = convert(load_card("own_burgers"), [generated("own_burgers", 30, 32, 5)]).store.path
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(64))
    text = own_card.read_text(encoding="utf-8")
    assert "audit failed: bytes" in flat(ups("data", "publish", "own_burgers", code=3).output)
    assert object_names(s3) == []
    assert own_card.read_text(encoding="utf-8") == text
