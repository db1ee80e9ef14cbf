"""Several tasks on all kinds of data train elsewhere on pulled tokens; which cache is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_runs import losses_of, small_experiment

from ups import checkpoint as checkpoints
from ups import paths, runs
from ups.cache import pulling
from ups.cache.build import build_cache
from ups.cache.format import LatentCache, Manifest
from ups.cache.travel import name_of, push_cache
from ups.data.versions import open_store
from ups.errors import CacheError, CheckpointError, DataError, RemoteError
from ups.training import run as training
from ups.training.cache_source import CacheUse
from ups.training.codec_runs import cache_on, codec_run_of, parcel_of
from ups.transfer.clean import deprecate
from ups.transfer.remotes import Remote, find_remote

TASKS = ("advection1d", "particles_advect", "darcy2d_mesh")


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    (tmp_path / "remote").mkdir()
    return find_remote(str(tmp_path / "remote"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(runs.checkpoint_path(run, "operator")).modules["operator"].state_dict()


def test_several_tasks_on_grids_meshes_and_of_particles_train_elsewhere_as_here(
    small, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(*TASKS)
    codec_run = training.train(small_experiment(*TASKS), ["codec"])
    here = training.train(small_experiment(*TASKS), ["operator"])
    for key in TASKS:
        push_cache(parcel_of(key), remote)

    monkeypatch.setenv("UPS_HOME", str(tmp_path / "elsewhere"))
    told: list[object] = []
    pulls = small_experiment(*TASKS, cache={"pull": remote.root})
    there = training.train(pulls, ["operator"], done=told.append)
    assert [one.origin for one in told if isinstance(one, CacheUse)] == ["pulled"] * 3
    assert losses_of(there, "operator") == losses_of(here, "operator")
    assert losses_of(there, "operator", "valid_nrmse") == losses_of(here, "operator", "valid_nrmse")
    for name, tensor in weights(there).items():
        assert torch.equal(tensor, weights(here)[name]), name
    assert [run.name for run in runs.list_runs(with_stage="codec")] == [codec_run.name]
    for key in TASKS:
        store = open_store(key)
        assert store.presence is not None
        assert not len(store.presence.missing(store.split("test")))


@pytest.fixture
def parcel(small, remote: Remote):
    """A cache of advection1d on the remote, and what it was made of."""
    small("advection1d")
    experiment = small_experiment("advection1d")
    training.train(experiment, ["codec"])
    training.train(experiment, ["operator"])
    found = parcel_of("advection1d")
    push_cache(found, remote)
    return found


def test_a_codec_is_meant_by_its_fingerprint_its_name_or_its_run(parcel, remote: Remote) -> None:
    identity = parcel.cache.manifest.identity
    run = runs.run_id(parcel.codec_run)
    for codec in (identity.fingerprint[:6], identity.codec, identity.folder.name, run, "small"):
        assert parcel_of("advection1d", codec=codec).cache.folder == identity.folder
        found = cache_on(remote, "advection1d", codec=codec)
        assert pulling.identity_in(found) == identity
        assert found.manifest.name == name_of(identity)
    with pytest.raises(CacheError, match="by codec 'grid9'"):
        parcel_of("advection1d", codec="grid9")
    with pytest.raises(RemoteError, match="no cache of advection1d/other"):
        cache_on(remote, "advection1d", version="other")
    for path in parcel.codec_run.glob("checkpoints/codec.pt"):
        path.unlink()
    with pytest.raises(CheckpointError, match="no run here holds the codec"):
        codec_run_of(identity)


def test_a_deprecated_cache_is_taken_only_by_name(parcel, remote: Remote) -> None:
    found = cache_on(remote, "advection1d")
    deprecate(found, "a bug in its codec", remote)
    with pytest.raises(RemoteError, match="is deprecated: a bug in its codec"):
        cache_on(remote, "advection1d")
    named = cache_on(remote, "advection1d", version=parcel.cache.manifest.identity.version)
    assert named.deprecated == "a bug in its codec"


def test_a_pull_completes_what_is_here_and_keeps_what_only_is_here(parcel, remote: Remote) -> None:
    folder, identity = parcel.cache.folder, parcel.cache.manifest.identity
    held = open_store("advection1d")

    def encode(rows):
        shape = (len(rows), held.num_frames, identity.tokens, identity.dim)
        return torch.zeros(shape).half().numpy()

    found = cache_on(remote, "advection1d")
    before = Manifest.read(folder / "manifest.json")
    for shard in before.shards:
        (folder / shard.file).unlink()
    (folder / "manifest.json").unlink()
    build_cache(held, encode, identity, splits=["test"])
    assert pulling.pull_tokens(found, remote).received_bytes > 0
    cache = LatentCache(folder, identity)
    assert set(cache.manifest.splits) == {"train", "valid", "test"}
    assert set(before.shards) <= set(cache.manifest.shards)
    assert not cache.tokens("test").whole().any()
    assert pulling.pull_tokens(found, remote).received_bytes == 0
    assert not [path for path in folder.parent.iterdir() if "pull" in path.name]


def test_data_of_other_values_are_refused(parcel, remote: Remote, home: Path) -> None:
    found = cache_on(remote, "advection1d")
    other = paths.data_dir("advection1d")
    target = other.resolve()
    other.unlink()
    other.mkdir()
    path = next(target.glob("*.h5"))
    copy = other / path.name
    copy.write_bytes(path.read_bytes().replace(
        parcel.cache.manifest.identity.data_sha256.encode(), b"0" * 64))  # fmt: skip
    with pytest.raises(DataError, match="has other values than what advection1d/"):
        pulling.pull_data(found, remote)
    with pytest.raises(CacheError, match="is of other data than"):
        push_cache(parcel_of("advection1d"), remote)
