"""The latent cache: equal to encoding directly, resumable, and honest about damage."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ups.cache import build as module
from ups.cache.build import build_cache
from ups.cache.format import (
    MANIFEST,
    PROGRESS,
    LatentCache,
    Manifest,
    identity_of,
    list_caches,
    open_cache,
    verify,
)
from ups.crew import Crew
from ups.errors import CacheError

TOKENS, DIM = 4, 8
TRAJECTORY_BYTES = 11 * TOKENS * DIM * 4


class Encoder:
    """Twice the field, cut into tokens; fails at the call number `fail_at`."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, frames):
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        return 2 * frames.reshape(len(frames), TOKENS, DIM)


def identity_for(store, fingerprint="a" * 64, dtype="float32"):
    return identity_of(
        store, codec="fake", fingerprint=fingerprint, dtype=dtype, tokens=TOKENS, dim=DIM
    )


def expected(store, split):
    return 2 * store.fields[store.split(split)].reshape(-1, 11, TOKENS, DIM)


def build(store, encode=None, per_shard=3, **options):
    one_frame = encode or Encoder()

    def encode_rows(rows):
        frames = store.fields[rows].reshape(-1, *store.fields.shape[2:])
        return one_frame(frames).reshape(len(rows), -1, TOKENS, DIM)

    return build_cache(
        store, encode_rows, options.pop("identity", None) or identity_for(store),
        shard_bytes=per_shard * TRAJECTORY_BYTES, **options,
    )  # fmt: skip


@pytest.mark.parametrize("per_shard", [1, 3, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_tokens_are_those_of_encoding_directly(store, per_shard, dtype, tolerance):
    identity = identity_for(store, dtype=dtype)
    build(store, per_shard=per_shard, identity=identity)
    cache = open_cache(identity)
    for split in ("train", "valid"):
        tokens = cache.tokens(split)
        assert tokens.arrays[0].dtype == dtype
        np.testing.assert_allclose(
            tokens.whole(), expected(store, split), rtol=tolerance, atol=tolerance
        )
    assert [problem for _, problem in verify(cache.folder)] == [None] * len(cache.manifest.shards)


def test_shards_are_no_larger_than_asked_for(store):
    cache = build(store, per_shard=3).cache
    sizes = [shard.trajectories for shard in cache.manifest.shards]
    assert sizes == [3, 3, 3, 3, 3, 1, 2]
    assert cache.manifest.size_bytes == sum(p.stat().st_size for p in cache.folder.glob("*.npy"))
    assert cache.manifest.splits == ("train", "valid")


def test_an_unfinished_build_is_no_cache_and_is_continued(store):
    identity = identity_for(store)
    with pytest.raises(KeyboardInterrupt):
        build(store, Encoder(fail_at=4))
    assert not (identity.folder / MANIFEST).exists()
    assert (identity.folder / PROGRESS).exists()
    assert list_caches("advection1d") == [identity.folder]
    with pytest.raises(CacheError, match=r"is unfinished") as caught:
        open_cache(identity)
    assert caught.value.hint == "ups cache build advection1d --version tiny"

    before = {path: path.stat().st_mtime_ns for path in identity.folder.glob("*.npy")}
    encoder = Encoder()
    result = build(store, encoder)
    assert (result.reused_shards, result.written_shards, encoder.calls) == (3, 4, 4)
    assert len(before) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    np.testing.assert_array_equal(result.cache.tokens("train").whole(), expected(store, "train"))
    assert not (identity.folder / PROGRESS).exists()
    assert list(identity.folder.glob(".*partial")) == []


def test_a_continued_build_is_the_uninterrupted_one_byte_for_byte(store):
    folder = identity_for(store).folder
    with pytest.raises(KeyboardInterrupt):
        build(store, Encoder(fail_at=3))
    build(store)
    continued = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    build(store)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == continued


def test_building_again_encodes_nothing(store):
    build(store)
    encoder = Encoder()
    result = build(store, encoder)
    assert (encoder.calls, result.written_shards, result.reused_shards) == (0, 0, 7)


@pytest.mark.parametrize("finished", [True, False])
def test_another_shard_size_never_mixes_trajectories(store, finished):
    """Of shards of 7, the third holds 2 trajectories, and so does the third of shards of 2."""
    if finished:
        build(store, per_shard=7)
    else:
        with pytest.raises(KeyboardInterrupt):
            build(store, Encoder(fail_at=4), per_shard=7)
    cache = build(store, per_shard=2).cache
    np.testing.assert_array_equal(cache.tokens("train").whole(), expected(store, "train"))
    assert {path.name for path in cache.folder.glob("*.npy")} == {
        shard.file for shard in cache.manifest.shards
    }


def test_a_split_can_be_added_later(store):
    build(store)
    cache = build(store, splits=("test",)).cache
    for split in ("train", "valid", "test"):
        np.testing.assert_array_equal(cache.tokens(split).whole(), expected(store, split))


def test_a_split_that_was_not_encoded_is_named(store):
    with pytest.raises(CacheError, match="holds no 'test' split, only train, valid") as caught:
        build(store).cache.tokens("test")
    assert caught.value.hint == "ups cache build advection1d --split test"


@pytest.mark.parametrize("change", [-1, 1])
def test_a_shard_of_the_wrong_length_is_found_by_reading_and_by_verifying(store, change):
    cache = build(store).cache
    path = cache.folder / cache.manifest.shards[2].file
    content = path.read_bytes()
    path.write_bytes(content[:-1] if change < 0 else content + b"x")
    problem = "truncated" if change < 0 else "too long"
    with pytest.raises(CacheError, match=f"^{path}: {problem}"):
        LatentCache(cache.folder).tokens("train")
    found = [found for _, found in verify(cache.folder)]
    assert found[2].startswith(problem)
    assert found[:2] + found[3:] == [None] * 6
    assert build(store).written_shards == 1
    assert {found for _, found in verify(cache.folder)} == {None}


def test_a_flipped_byte_is_found_by_verifying(store):
    cache = build(store).cache
    path = cache.folder / cache.manifest.shards[5].file
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    found = [found for _, found in verify(cache.folder)]
    assert found[5] == "its bytes have changed: sha256 does not match the manifest"
    assert found[:5] + found[6:] == [None] * 6


def test_a_missing_shard_is_found(store):
    cache = build(store).cache
    (cache.folder / cache.manifest.shards[0].file).unlink()
    with pytest.raises(CacheError, match="missing"):
        cache.tokens("train")


def test_the_cache_of_another_codec_is_not_taken(store):
    build(store)
    with pytest.raises(
        CacheError, match="only by other codecs: fake-aaaaaaaaaaaa-float32"
    ) as caught:
        open_cache(identity_for(store, fingerprint="b" * 64))
    assert caught.value.hint == "ups cache build advection1d --version tiny"


def test_no_cache_at_all_says_so(store):
    with pytest.raises(CacheError, match=r"^no cache of advection1d/tiny$") as caught:
        open_cache(identity_for(store))
    assert "ups cache build" in caught.value.hint


@pytest.mark.parametrize("key", ["data_sha256", "split_hash", "fingerprint"])
def test_a_manifest_that_disagrees_in_anything_is_refused(store, key):
    folder = build(store).cache.folder
    other = {**vars(identity_for(store)), key: "a" * 12 + "0" * 52}
    with pytest.raises(CacheError, match=f"fingerprint does not match: {key} is"):
        LatentCache(folder, type(identity_for(store))(**other))


def test_a_cache_of_data_that_has_changed_is_built_anew(store):
    build(store)
    store.metadata = store.metadata.__class__(**{**vars(store.metadata), "data_sha256": "0" * 64})
    result = build(store)
    assert (result.reused_shards, result.written_shards) == (0, 7)
    assert open_cache(identity_for(store)).manifest.identity.data_sha256 == "0" * 64


@pytest.mark.parametrize("text", ["{", "{}", '{"format": "other"}', "[]"])
def test_a_damaged_manifest_is_refused(store, text):
    folder = build(store).cache.folder
    (folder / MANIFEST).write_text(text)
    with pytest.raises(CacheError, match=f"^{folder / MANIFEST}: "):
        Manifest.read(folder / MANIFEST)


def test_a_second_builder_is_told_the_process_of_the_first(store):
    told = []

    def encode(frames):
        with pytest.raises(CacheError, match=rf"\(pid {os.getpid()}\) is building this cache"):
            build(store)
        told.append(True)
        return Encoder()(frames)

    build(store, encode)
    assert told


def test_too_small_a_disk_is_refused_before_anything_is_encoded(store, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    encoder = Encoder()
    with pytest.raises(CacheError, match=r"the cache needs .* GB, the disk has 0.00 GB"):
        build(store, encoder)
    assert encoder.calls == 0


def test_adding_a_split_continues_where_it_stopped_and_keeps_the_cache_in_use(store):
    build(store)
    with pytest.raises(KeyboardInterrupt):
        build(store, Encoder(fail_at=2), per_shard=1, splits=("test",))
    open_cache(identity_for(store)).tokens("train")
    result = build(store, per_shard=1, splits=("test",))
    assert (result.reused_shards, result.written_shards) == (1, 1)


def test_progress_counts_every_frame_once(store):
    seen = []
    build(store, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [33, 66, 99, 132, 165, 176, 198]
    assert {total for _, total in seen} == {198}


def test_what_is_given_with_each_problem_is_kept_beside_the_tokens(store):
    identity = dataclasses.replace(identity_for(store), context_dim=3)

    def context(rows):
        return np.broadcast_to(rows[:, None, None, None], (len(rows), 1, TOKENS, 3))

    cache = build(store, identity=identity, context=context).cache
    assert cache.manifest.splits == ("train", "valid")
    found = cache.contexts("valid").whole()
    assert found.shape == (len(store.split("valid")), 1, TOKENS, 3)
    assert (found[:, 0, 0, 0] == store.split("valid")).all()
    assert build(store, identity=identity, context=context).written_shards == 0


def test_several_processes_write_one_cache(store):
    """Two crews in two threads, which meet at every `gather`, as processes would."""
    meeting, heard = threading.Barrier(2), [[], []]

    def member(rank):
        def gather(mine):
            heard[rank] = list(mine)
            meeting.wait(20)
            both = [*heard[0], *heard[1]]
            meeting.wait(20)
            return both

        return build(store, per_shard=1, crew=Crew(rank, 2, gather))

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(member, [0, 1])
    assert first.written_shards == second.written_shards == 18
    for split in ("train", "valid"):
        np.testing.assert_array_equal(first.cache.tokens(split).whole(), expected(store, split))
    assert not list(first.cache.folder.glob("progress*"))
