"""A run whose folder is named beforehand: begun once, gone on with afterwards."""

from __future__ import annotations

import json

import pytest
import yaml
from tiny_commands import ups
from tiny_runs import SMALL, losses_of

from ups import paths, runs
from ups.cli import _output
from ups.transfer import remotes


@pytest.fixture
def config(small, tmp_path):
    small("advection1d")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"name": "tiny", "data": {"dataset": "advection1d"}}))
    return str(path)


def test_a_run_gets_the_id_that_it_is_given_and_the_same_command_goes_on_with_it(config):
    command = ("train", "--config", config, "--stage", "codec", "--run-id", "job-1")
    ups(*command)
    folder = paths.runs_dir() / "tiny" / "job-1"
    losses = losses_of(folder, "codec")
    assert len(losses) == 2
    (folder / "checkpoints" / "codec-last.pt").unlink()  # as if it had been killed early
    ups(*command)
    ups(*command)
    assert runs.list_runs() == [folder]
    assert losses_of(folder, "codec") == losses


def test_an_id_that_is_a_path_is_refused(config):
    result = ups("train", "--config", config, "--stage", "codec", "--run-id", "../x", code=2)
    assert "--run-id ../x" in result.stderr


def test_progress_is_told_to_a_file_at_most_once_a_second(tmp_path, monkeypatch):
    told = tmp_path / "heartbeat.json"
    monkeypatch.setenv("UPS_HEARTBEAT", str(told))
    with _output.Bars() as bars:
        bars("operator", 3, 9, "loss 0.1")
        bars("operator", 4, 9, "loss 0.1")
    assert json.loads(told.read_text()) == {
        "what": "operator", "done": 3, "total": 9, "note": "loss 0.1"
    }  # fmt: skip


def test_a_job_has_remotes_of_its_own(tmp_path, monkeypatch):
    remotes.add(remotes.make("mine", kind="local", folder=str(tmp_path)))
    monkeypatch.setenv("UPS_REMOTES_FILE", str(tmp_path / "remotes.yaml"))
    assert remotes.load().remotes == {}
