"""Manifests: what they say, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups import files
from ups.errors import RemoteError
from ups.transfer.manifest import (
    Manifest,
    Object,
    Piece,
    check_name,
    check_path,
    push_command,
    stamp_of,
)

A, B = "a" * 64, "b" * 64
STAMP = "20260101T000000.000000Z"


def manifest(**changes) -> Manifest:
    objects = (
        Object(A, 100, (Piece("store.h5", 60, at=20, split="train", trajectories=(0, 8)),)),
        Object(B, 90, (Piece("store.h5", 40, at=0, offset=60), Piece("empty", 0, at=50))),
    )
    plain = Manifest(
        kind="data", name="burgers1d/nu0.01", identity={"version": "nu0.01"}, objects=objects,
        files={"store.h5": 100, "empty": 0}, created=STAMP, ups="0.1.0", labels={"shown": 1},
    )  # fmt: skip
    return replace(plain, **changes)


def test_a_manifest_reads_back_as_it_was():
    assert Manifest.from_bytes(manifest().to_bytes(), manifest().place) == manifest()
    assert Manifest.from_bytes(manifest().to_bytes(), f"ups:b/{manifest().place}") == manifest()


def test_the_place_of_a_manifest_follows_from_its_content():
    short = files.sha256_json({"version": "nu0.01"})[:16]
    assert manifest().folder == f"data/burgers1d/nu0.01/{short}"
    name = manifest().place.rpartition("/")[2]
    assert name == f"manifest-{STAMP}-{manifest().sha256[:8]}.json"
    assert stamp_of(name) == STAMP
    assert stamp_of("manifest-now-12345678.json") is None


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(position, bit):
    content = bytearray(manifest().to_bytes()[:-1])
    content[position % len(content)] ^= 1 << bit
    with pytest.raises(RemoteError, match="may not be used"):
        Manifest.from_bytes(bytes(content), manifest().place)


@given(length=st.integers(0, len(manifest().to_bytes()) - 2))
def test_any_truncation_is_found(length):
    with pytest.raises(RemoteError, match="not JSON: damaged or cut off"):
        Manifest.from_bytes(manifest().to_bytes()[:length], manifest().place)


@pytest.mark.parametrize(
    "other",
    [
        manifest(kind="cache"),
        manifest(name="burgers1d/nu0.1"),
        manifest(identity={"version": "other"}),
        manifest(created="20270101T000000.000000Z"),
        manifest(labels={}),
    ],
    ids=["kind", "name", "identity", "newer", "content"],
)
def test_a_manifest_copied_from_elsewhere_is_found(other):
    with pytest.raises(RemoteError, match=f"belongs to {other.place}"):
        Manifest.from_bytes(other.to_bytes(), manifest().place)


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../x", "a/../../x", "a//b", "", ".", "./a", "a/", "a\nb", "a\x00b", "a\x7f",
     "a\\b", "parts.json", ".incoming/x", "x" * 300, "\udc80"],
)  # fmt: skip
def test_hostile_paths_are_refused(path):
    with pytest.raises(ValueError, match=r"path|surrogates"):
        check_path(path)
    hostile = signed(lambda body: _rename(body, path))
    with pytest.raises(RemoteError, match="may not be used"):
        Manifest.from_bytes(hostile, manifest().place)


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/a", "a/", "a\tb"])
def test_hostile_names_are_refused(name):
    with pytest.raises(ValueError, match="unsafe name"):
        check_name(name)


@pytest.mark.parametrize("path", ["store.zarr/c/0/0", "a b", "--help", "$(x)", "ü", ".zgroup"])
def test_odd_but_harmless_paths_are_fine(path):
    check_path(path)


def signed(change) -> bytes:
    """A manifest that was changed by somebody who knows how its hash is made."""
    body = json.loads(manifest().to_bytes())["manifest"]
    change(body)
    return json.dumps({"sha256": files.sha256_json(body), "manifest": body}).encode()


def _rename(body, path):
    body["files"][path] = body["files"].pop("store.h5")
    for item in body["objects"]:
        item["pieces"] = [
            piece | {"path": path} if piece["path"] == "store.h5" else piece
            for piece in item["pieces"]
        ]


def _piece(body, **values):
    body["objects"][0]["pieces"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: _piece(body, size=59), "gaps or overlap"),
        (lambda body: _piece(body, size=61), "gaps or overlap"),
        (lambda body: _piece(body, offset=1), "gaps or overlap"),
        (lambda body: _piece(body, at=41), "is not in it"),
        (lambda body: _piece(body, size=-1), "-1 is not a count"),
        (lambda body: _piece(body, size=True), "True is not a count"),
        (lambda body: _piece(body, size="60"), "'60' is not a count"),
        (lambda body: _piece(body, path="unlisted"), "not a listed file"),
        (lambda body: _piece(body, path=7), "7 is not a text"),
        (lambda body: _piece(body, trajectories=[1]), "not enough values"),
        (lambda body: body["files"].update({"store.h5/x": 0}), "is a file, and the folder of"),
        (lambda body: body["files"].update(lost=5), "pieces of 'lost'"),
        (lambda body: body["files"].update({"store.h5": 101}), "gaps or overlap"),
        (lambda body: body["objects"].append(body["objects"][0]), "listed twice"),
        (lambda body: body["objects"][0].update(sha256="../../x"), "not named by a sha256"),
        (lambda body: body.update(kind="shell"), "unknown kind 'shell'"),
        (lambda body: body.update(format=2), "format 2, this version of ups reads 1"),
        (lambda body: body.pop("labels"), "'labels' is missing"),
        (lambda body: body.update(objects=3), "not iterable"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(RemoteError, match=message) as error:
        Manifest.from_bytes(signed(change), manifest().place)
    assert error.value.exit_code == 6
    assert manifest().place in str(error.value)


def test_a_partial_file_may_have_gaps_and_no_overlaps():
    one = Object(A, 10, (Piece("store.h5", 10, offset=50),))
    assert manifest(objects=(one,), files={"store.h5": 100}, partial=("store.h5",)).size == 10
    two = (one, Object(B, 10, (Piece("store.h5", 10, offset=55),)))
    with pytest.raises(ValueError, match="overlap"):
        manifest(objects=two, files={"store.h5": 100}, partial=("store.h5",))


def test_messages_name_the_local_files_of_an_object():
    first, second = manifest().objects
    assert first.describe() == "store.h5 (train, trajectories 0-7)"
    assert second.describe() == "store.h5, empty"
    many = Object(A, 3, tuple(Piece(f"f{i}", 1, at=i) for i in range(3)))
    assert many.describe() == "f0, f1 and 1 more"


def test_the_command_that_pushes_again():
    assert push_command("data", "burgers1d/nu0.01") == "ups data push burgers1d --version nu0.01"
    assert push_command("run", "burgers/2026-x").startswith("ups runs push ")
