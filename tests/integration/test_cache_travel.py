"""Encode on one machine, train on another: two homes, one S3 server on loopback between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from servers import S3Server
from tiny_commands import ups
from tiny_runs import SMALL, losses_of

from ups import checkpoint as checkpoints
from ups import paths, runs
from ups.data.versions import open_store

TRAIN = ("train", "--stage", "operator", "--config")


@dataclass(frozen=True)
class Machine:
    """The first machine: it has trained codec and operator, and pushed its cache to a folder."""

    home: Path
    config: str
    remote: Path
    codec_run: Path
    trained: Path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    folder = tmp_path_factory.mktemp("first")
    (folder / "remote").mkdir()
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(SMALL | {"name": "tiny", "data": {"dataset": "advection1d"}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(folder / "home"))
        patch.setenv("WANDB_MODE", "disabled")
        ups("data", "generate", "advection1d", "--num-trajectories", "20", "--points", "32",
            "--frames", "9", "--param", "beta=0.4")  # fmt: skip
        ups("data", "convert", "advection1d")
        ups("train", "--stage", "codec", "--config", str(config))
        codec_run = runs.find_run(None, with_stage="codec")
        assert "built now, none is here" in ups(*TRAIN, str(config)).stdout
        ups("cache", "push", "advection1d", "--to", str(folder / "remote"))
        trained = runs.find_run(None)
    return Machine(folder / "home", str(config), folder / "remote", codec_run, trained)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(runs.checkpoint_path(run, "operator")).modules["operator"].state_dict()


def files_in(folder: Path) -> dict[str, int]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def test_training_from_a_pulled_cache_is_that_from_the_cache_built_here_bit_for_bit(
    first: Machine, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as there:
        there.setenv("UPS_HOME", str(first.home))
        assert "pushed    advection1d/beta0.4/" in ups("cache", "push", "advection1d").stdout
        assert "nothing sent" in ups("cache", "push", "advection1d").stdout
    plan = ups(*TRAIN, first.config, "--cache-from", "b2", "--dry-run").stdout
    assert "would pull advection1d/beta0.4 from" in plan
    assert not list(paths.home().rglob("*.pt"))

    told = ups(*TRAIN, first.config, "--cache-from", "b2").stdout
    assert "cache     pulled from" in told
    here = runs.find_run(None)
    assert weights(here).keys() == weights(first.trained).keys()
    for name, tensor in weights(here).items():
        assert torch.equal(tensor, weights(first.trained)[name]), name
    for key in ("loss", "valid_nrmse"):
        assert losses_of(here, "operator", key) == losses_of(first.trained, "operator", key)


def test_what_needs_training_fields_says_so_and_the_rest_works_without(first: Machine) -> None:
    told = ups(*TRAIN, first.config, "--cache-from", str(first.remote)).stdout
    assert "codec" in told
    store = open_store("advection1d")
    assert store.presence is not None
    assert len(store.presence.missing(store.split("train"))) == 16
    assert not len(store.presence.missing(store.split("test")))

    assert "2 test trajectories" in ups("eval").stdout
    for options, what in (
        (("--stage", "codec"), "stage codec"),
        (("--stage", "operator", "--set", "data.augment=[shift]"), "data.augment"),
        (("--stage", "operator", "--set", "stages.operator.losses.nrmse=1"),
         "stages.operator.losses.nrmse"),
    ):  # fmt: skip
        error = ups("train", "--config", first.config, *options, code=3).stderr
        assert f"16 of 16 train trajectories are not here, and {what} reads" in error
        assert "ups data pull advection1d --version beta0.4 --splits train" in error

    before = files_in(paths.home())
    again = ups("cache", "pull", "advection1d", "--from", str(first.remote)).stdout
    assert again.count("here already") == 3
    assert files_in(paths.home()) == before
    assert "found here" in ups(*TRAIN, first.config, "--dry-run").stdout
    error = ups("cache", "push", "advection1d", "--to", str(first.remote), code=3).stderr
    assert "only some trajectories" in error


def test_a_cache_that_is_nowhere_is_built_where_the_data_are_and_asked_for_where_not(
    first: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = ("--cache-from", str(first.remote), "--set", "cache.dtype=float32")
    error = ups(*TRAIN, first.config, *remote, code=6).stderr
    assert "no cache of advection1d that fits this config, only 1 of other data" in error
    ups("cache", "pull", "advection1d", "--from", str(first.remote))
    error = ups(*TRAIN, first.config, *remote, code=3).stderr
    assert "its cache has to be built (neither here nor on " in error
    assert "--splits train; or pull the cache: --cache-from REMOTE" in error
    monkeypatch.setenv("UPS_HOME", str(first.home))
    plan = ups(*TRAIN, first.config, *remote, "--dry-run").stdout
    assert "to be built, neither here nor on" in plan


def test_a_wrong_object_is_named_and_nothing_of_it_is_used(first: Machine, tmp_path: Path) -> None:
    remote = tmp_path / "damaged"
    shutil.copytree(first.remote, remote)
    largest = max(remote.rglob("objects/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    error = ups(*TRAIN, first.config, "--cache-from", str(remote), code=6).stderr
    assert largest.name in error
    assert "ups cache push advection1d" in error
    assert runs.list_runs() == []
    assert [path for path in paths.home().rglob("*") if path.name == largest.name] == []


def test_the_codec_of_another_run_is_never_overwritten(first: Machine) -> None:
    taken = paths.runs_dir() / "tiny" / first.codec_run.name
    taken.mkdir(parents=True)
    (taken / "config.yaml").write_text("name: mine\n")
    pull = ("cache", "pull", "advection1d", "--from", str(first.remote), "--parts", "codec")
    assert f"{taken.name}.2" in ups(*pull).stdout
    assert (taken / "config.yaml").read_text() == "name: mine\n"
    pulled = taken.with_name(f"{taken.name}.2")
    assert runs.planned(pulled).stages == ("codec",)
    assert {record["stage"] for record in runs.read_metrics(pulled / "metrics.jsonl")} == {"codec"}
    for name in ("codec.pt", "codec-last.pt"):
        theirs = first.codec_run / "checkpoints" / name
        assert (pulled / "checkpoints" / name).read_bytes() == theirs.read_bytes()


def test_options_that_cannot_work_are_refused_at_once(first: Machine, tmp_path: Path) -> None:
    for stages in ((), ("--stage", "all"), ("--stage", "codec")):
        error = ups("train", "--config", first.config, *stages, "--cache-from", "b2", code=2).stderr
        assert "no cache is by a codec that is still to be trained" in error
    assert "--cache-from" in ups("train", "--resume", "x", "--cache-from", "b2", code=2).stderr
    assert "--parts token" in ups("cache", "pull", "advection1d", "--parts", "token", code=2).stderr
    empty = ("cache", "pull", "advection1d", "--from", str(tmp_path))
    assert "no cache of advection1d" in ups(*empty, code=6).stderr
    missing = ("cache", "pull", "advection1d", "--from", str(first.remote), "--codec", "abcdef")
    assert "no cache of advection1d by codec 'abcdef', only" in ups(*missing, code=6).stderr


@pytest.mark.slow
def test_of_two_processes_one_pulls_and_both_train(first: Machine) -> None:
    command = [sys.executable, "-m", "ups", *TRAIN, first.config, "--cache-from",
               str(first.remote), "--nproc", "2"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pulled from") == 1
    ours, theirs = weights(runs.find_run(None)), weights(first.trained)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)
