"""bfloat16 in files, moved repeats of a split, and caches of an older format."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from ups.cache.build import build_cache
from ups.cache.dtypes import as_tensor, stored_dtype, to_stored
from ups.cache.format import MANIFEST, PROGRESS, identity_of, open_cache, verify
from ups.errors import CacheError

TOKENS, DIM = 4, 8


def identity_for(store, **changes):
    made = identity_of(
        store, codec="fake", fingerprint="a" * 64, dtype="float32", tokens=TOKENS, dim=DIM
    )
    return dataclasses.replace(made, **changes)


def build(store, identity, *, shard_trajectories=3, encode=None, **options):
    def plain(rows):
        return store.fields[rows].reshape(len(rows), -1, TOKENS, DIM)

    size = 11 * TOKENS * DIM * stored_dtype(identity.dtype).itemsize * shard_trajectories
    return build_cache(store, encode or plain, identity, shard_bytes=size, **options)


@pytest.mark.parametrize(
    ("value", "bits"), [(1.0, 0x3F80), (-2.0, 0xC000), (1e38, 0x7E96), (0.0, 0), (3.14159, 0x4049)]
)
def test_bfloat16_is_kept_as_its_bits(value, bits):
    stored = to_stored(np.array([value], dtype=np.float32), "bfloat16")
    assert (stored.dtype, stored.tolist()) == (np.uint16, [bits])
    assert as_tensor(stored, "bfloat16").dtype == torch.bfloat16
    assert as_tensor(stored, "bfloat16").float().item() == pytest.approx(value, rel=2**-8)
    np.testing.assert_array_equal(to_stored(stored, "bfloat16"), stored)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_tensors_and_arrays_are_rounded_alike(name):
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    stored = to_stored(values, name)
    np.testing.assert_array_equal(stored, to_stored(values.numpy(), name))
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[name]
    assert torch.equal(as_tensor(stored, name), values.to(kind))


def test_a_cache_of_bfloat16_holds_rounded_tokens_in_half_the_space(store):
    identity = identity_for(store, dtype="bfloat16")
    cache = build(store, identity).cache
    wide = build(store, identity_for(store)).cache
    assert identity.folder.name == "fake-aaaaaaaaaaaa-bfloat16"
    header = 128 * len(cache.manifest.shards)
    assert cache.manifest.size_bytes - header == (wide.manifest.size_bytes - header) / 2
    found = as_tensor(open_cache(identity).tokens("train").whole(), "bfloat16")
    expected = torch.from_numpy(wide.tokens("train").whole()).to(torch.bfloat16)
    assert torch.equal(found, expected)
    assert {problem for _, problem in verify(cache.folder)} == {None}


def moved_by_a_sign(store):
    def encoders(repeat):
        def encode(rows):
            return -repeat * store.fields[rows].reshape(len(rows), -1, TOKENS, DIM)

        return encode, None

    return encoders


@pytest.mark.parametrize("shard_trajectories", [3, 100])
def test_repeats_follow_the_training_split_and_nothing_else(store, shard_trajectories):
    identity = identity_for(store, repeats=3, moves="shift")
    cache = build(
        store, identity, shard_trajectories=shard_trajectories, moved=moved_by_a_sign(store)
    ).cache
    plain = store.fields[store.split("train")].reshape(16, 11, TOKENS, DIM)
    np.testing.assert_array_equal(
        cache.tokens("train").whole(), np.concatenate([plain, -plain, -2 * plain])
    )
    assert cache.tokens("valid").shape[0] == 2
    assert cache.manifest.splits == ("train", "valid")
    assert identity.folder.name.endswith("-float32-x3s0")


def test_a_build_with_repeats_is_continued_where_it_stopped(store):
    identity = identity_for(store, repeats=3, moves="shift")

    def stopped(repeat):
        if repeat == 2:
            raise KeyboardInterrupt
        return moved_by_a_sign(store)(repeat)

    with pytest.raises(KeyboardInterrupt):
        build(store, identity, shard_trajectories=8, splits=("train",), moved=stopped)
    result = build(
        store, identity, shard_trajectories=8, splits=("train",), moved=moved_by_a_sign(store)
    )
    assert (result.reused_shards, result.written_shards) == (4, 2)
    plain = store.fields[store.split("train")].reshape(16, 11, TOKENS, DIM)
    np.testing.assert_array_equal(result.cache.tokens("train").whole()[32:], -2 * plain)


def test_another_seed_is_another_cache(store):
    first = identity_for(store, repeats=2, moves="shift")
    other = dataclasses.replace(first, seed=1)
    for identity in (first, other):
        build(store, identity, moved=moved_by_a_sign(store))
    assert first.folder != other.folder
    assert open_cache(first).manifest.identity == first
    with pytest.raises(CacheError, match="only by other codecs"):
        open_cache(dataclasses.replace(first, seed=2))


def as_version_1(path):
    content = json.loads(path.read_text())
    content["format"] = "ups-latents-1"
    for key in ("repeats", "moves", "seed"):
        del content["identity"][key]
    path.write_text(json.dumps(content))


def test_a_cache_of_the_first_format_opens_and_is_continued(store):
    identity = identity_for(store)
    folder = build(store, identity).cache.folder
    as_version_1(folder / MANIFEST)
    assert open_cache(identity).manifest.identity == identity
    assert build(store, identity).reused_shards == 7
    assert json.loads((folder / MANIFEST).read_text())["format"] == "ups-latents-2"
    assert not (folder / PROGRESS).exists()


def test_a_cache_of_a_later_format_is_refused_in_one_line(store):
    path = build(store, identity_for(store)).cache.folder / MANIFEST
    path.write_text(path.read_text().replace("ups-latents-2", "ups-latents-9"))
    with pytest.raises(CacheError, match="format 'ups-latents-9', expected 'ups-latents-2'") as bad:
        open_cache(identity_for(store))
    assert bad.value.hint == "ups cache build, or a newer ups"
    assert bad.value.exit_code == 4
