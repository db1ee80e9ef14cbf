"""Encode on one machine, train on another: two homes, one S3 server on loopback between them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from servers import S3Server, object_names
from tiny_commands import ups
from tiny_runs import losses_of

from ups import checkpoint as checkpoints
from ups import paths, runs
from ups.data.versions import open_store

TRAIN = ("train", "--stage", "operator", "--config")


@pytest.fixture
def pushed(config: str, s3: S3Server) -> str:
    """The config of tiny runs; this home has pushed a cache to `b2` and trained on its own."""
    ups("train", "--stage", "codec", "--config", config)
    assert "built now, none is here" in ups(*TRAIN, config).stdout
    ups("cache", "push", "advection1d")
    return config


@pytest.fixture
def elsewhere(
    pushed: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Path]:
    """The config on a machine with an empty home, and the run of the first machine."""
    trained = runs.find_run(None)
    monkeypatch.setenv("UPS_HOME", str(tmp_path / "elsewhere"))
    return pushed, trained


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(runs.checkpoint_path(run, "operator")).modules["operator"].state_dict()


def files_in(folder: Path) -> dict[str, int]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def test_training_from_a_pulled_cache_is_that_from_the_cache_built_here_bit_for_bit(
    elsewhere: tuple[str, Path],
) -> None:
    config, there = elsewhere
    plan = ups(*TRAIN, config, "--cache-from", "b2", "--dry-run").stdout
    assert "would pull advection1d/beta0.4 from" in plan
    assert not paths.home().exists()

    told = ups(*TRAIN, config, "--cache-from", "b2").stdout
    assert "cache     pulled from" in told
    here = runs.find_run(None)
    assert weights(here).keys() == weights(there).keys()
    for name, tensor in weights(here).items():
        assert torch.equal(tensor, weights(there)[name]), name
    for key in ("loss", "valid_nrmse"):
        assert losses_of(here, "operator", key) == losses_of(there, "operator", key)


def test_what_needs_training_fields_says_so_and_the_rest_works_without(
    elsewhere: tuple[str, Path], s3: S3Server
) -> None:
    config, _ = elsewhere
    ups(*TRAIN, config, "--cache-from", "b2")
    store = open_store("advection1d")
    assert store.presence is not None
    assert len(store.presence.missing(store.split("train"))) == 16
    assert not len(store.presence.missing(store.split("test")))

    report = ups("eval").stdout
    assert "2 test trajectories" in report
    for options, what in (
        (("--stage", "codec"), "stage codec"),
        (("--stage", "operator", "--set", "data.augment=[shift]"), "data.augment"),
        (("--stage", "operator", "--set", "stages.operator.losses.nrmse=1"),
         "stages.operator.losses.nrmse"),
    ):  # fmt: skip
        error = ups("train", "--config", config, *options, code=3).stderr
        assert f"16 of 16 train trajectories are not here, and {what} reads" in error
        assert "ups data pull advection1d --version beta0.4 --splits train" in error

    before, asked = files_in(paths.home()), len(object_names(s3))
    again = ups("cache", "pull", "advection1d").stdout
    assert again.count("here already") == 3
    assert files_in(paths.home()) == before
    assert "found here" in ups(*TRAIN, config, "--dry-run").stdout
    error = ups("cache", "push", "advection1d", code=3).stderr
    assert "only some trajectories" in error
    assert len(object_names(s3)) == asked


def test_a_cache_that_is_nowhere_is_built_where_the_data_are_and_asked_for_where_not(
    elsewhere: tuple[str, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = elsewhere
    other = ("--set", "cache.dtype=float32")
    error = ups(*TRAIN, config, "--cache-from", "b2", *other, code=6).stderr
    assert "no cache of advection1d that fits this config, only 1 of other data" in error
    ups("cache", "pull", "advection1d")
    error = ups(*TRAIN, config, "--cache-from", "b2", *other, code=3).stderr
    assert "its cache has to be built (neither here nor on " in error
    assert "--splits train; or pull the cache: --cache-from REMOTE" in error
    monkeypatch.setenv("UPS_HOME", str(home))
    assert (
        "built now, neither here nor on" in ups(*TRAIN, config, "--cache-from", "b2", *other).stdout
    )


def test_a_wrong_object_is_named_and_nothing_of_it_is_used(
    elsewhere: tuple[str, Path], s3: S3Server, tmp_path: Path
) -> None:
    config, _ = elsewhere
    largest = max((tmp_path / "s3").rglob("objects/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    error = ups(*TRAIN, config, "--cache-from", "b2", code=6).stderr
    assert largest.name in error
    assert "ups cache push advection1d" in error
    assert not runs.list_runs(with_stage="codec") or not list(paths.caches_dir().rglob("*.npy"))
    damaged = [path for path in paths.home().rglob("*") if path.name == largest.name]
    assert damaged == []


def test_the_codec_of_another_run_is_never_overwritten(
    elsewhere: tuple[str, Path], home: Path
) -> None:
    (codec_run,) = [p for p in (home / "runs/tiny").glob("2*") if (p / "codec_card.json").is_file()]
    taken = paths.runs_dir() / "tiny" / codec_run.name
    taken.mkdir(parents=True)
    (taken / "config.yaml").write_text("name: mine\n")
    told = ups("cache", "pull", "advection1d", "--parts", "codec").stdout
    assert f"{codec_run.name}.2" in told
    assert (taken / "config.yaml").read_text() == "name: mine\n"
    pulled = taken.with_name(f"{codec_run.name}.2")
    assert runs.planned(pulled).stages == ("codec",)
    assert {record["stage"] for record in runs.read_metrics(pulled / "metrics.jsonl")} == {"codec"}
    for name in ("codec.pt", "codec-last.pt"):
        theirs = codec_run / "checkpoints" / name
        assert (pulled / "checkpoints" / name).read_bytes() == theirs.read_bytes()


def test_options_that_cannot_work_are_refused_at_once(config: str, s3: S3Server) -> None:
    for stages in ((), ("--stage", "all"), ("--stage", "codec")):
        error = ups("train", "--config", config, *stages, "--cache-from", "b2", code=2).stderr
        assert "no cache is by a codec that is still to be trained" in error
    assert "--cache-from" in ups("train", "--resume", "x", "--cache-from", "b2", code=2).stderr
    assert "--parts token" in ups("cache", "pull", "advection1d", "--parts", "token", code=2).stderr
    assert "no cache of advection1d" in ups("cache", "pull", "advection1d", code=6).stderr
    assert "no complete cache of advection1d/beta0.4" in ups(
        "cache", "push", "advection1d", code=4).stderr  # fmt: skip


@pytest.mark.slow
def test_of_two_processes_one_pulls_and_both_train(elsewhere: tuple[str, Path]) -> None:
    config, there = elsewhere
    command = [sys.executable, "-m", "ups", *TRAIN, config, "--cache-from", "b2", "--nproc", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pulled from") == 1
    ours, theirs = weights(runs.find_run(None)), weights(there)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)
