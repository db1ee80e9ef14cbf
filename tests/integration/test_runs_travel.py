"""A run that was cut off here goes on elsewhere, and is judged there, through a real bucket."""

from __future__ import annotations

import json
import shutil

import pytest
from tiny_commands import ups
from tiny_runs import losses_of

from ups import paths, runs
from ups.config.loading import load_experiment
from ups.training.run import train


class StopsAfter:
    """A watcher that ends the run as Ctrl-C would."""

    def __init__(self, step):
        self.step = step

    def log(self, record):
        if record["stage"] == "operator" and record["step"] >= self.step:
            raise KeyboardInterrupt

    def close(self):
        pass


@pytest.fixture
def elsewhere(config, s3, tmp_path, monkeypatch):
    """A run that was cut off and pushed; now the other machine, with data and caches but no run."""
    s3.environment(monkeypatch)
    ups("train", "--config", config, "--stage", "codec")
    ups("cache", "build", "advection1d")
    with pytest.raises(KeyboardInterrupt):
        train(load_experiment(config), ["operator"], watchers=[StopsAfter(5)])
    here = runs.list_runs()[0]
    assert 0 < len(losses_of(here, "operator")) < 6
    assert ups("runs", "push", "tiny").stdout.startswith(f"pushed    {runs.run_id(here)}: ")
    first, other = paths.home(), tmp_path / "elsewhere"
    for folder in ("data", "caches"):
        shutil.copytree(first / folder, other / folder)
    shutil.move(first / "runs", tmp_path / "runs")  # no path of the first machine leads there
    monkeypatch.setenv("UPS_HOME", str(other))
    return tmp_path / "runs" / runs.run_id(here)


def test_a_run_that_was_cut_off_goes_on_elsewhere(elsewhere, tmp_path, monkeypatch):
    (known,) = json.loads(ups("runs", "list", "--on", "b2", "--json").stdout)
    assert (known["id"], known["state"]) == (f"tiny/{elsewhere.name}", "stopped")
    assert known["uses"]["data"] == ["advection1d/beta0.4"]
    assert known["uses"]["cache"][0].startswith("advection1d/beta0.4/grid")
    listed = ups("runs", "list", "--on", "b2").stdout
    assert all(len(line) <= 80 for line in listed.splitlines())
    assert "stopped | advection1d" in listed
    ups("runs", "pull", "tiny")
    ups("train", "--resume", "tiny")
    (there,) = runs.list_runs()
    assert "operator ✓ 6" in ups("runs", "list").stdout
    assert "none of the snapshots there" in ups("runs", "pull", "tiny", code=4).stderr

    first = tmp_path / "home"
    shutil.move(tmp_path / "runs", first / "runs")
    monkeypatch.setenv("UPS_HOME", str(first))
    here = first / "runs" / "tiny" / elsewhere.name
    ups("train", "--resume", str(here))
    assert losses_of(here, "operator") == losses_of(there, "operator")


@pytest.mark.slow
def test_a_pulled_run_is_judged_and_a_differing_one_replaced_by_force(elsewhere):
    assert "(new)" in ups("runs", "pull", "tiny", "--dry-run").stdout
    assert runs.list_runs() == []
    ups("runs", "pull", "tiny")
    assert "already here, nothing transferred" in ups("runs", "pull", "tiny").stdout
    ups("eval", "tiny")
    (there,) = runs.list_runs()
    assert (there / "report.json").is_file()
    refused = ups("runs", "pull", "tiny", code=4)
    assert "(health.json, report.html" in refused.stderr
    assert "--force" in refused.stderr
    forced = ups("runs", "pull", "tiny", "--force").stdout
    assert "replaced" in forced
    assert "kept" in forced
    assert not (there / "report.json").exists()
    (kept,) = (paths.runs_dir() / ".replaced" / "tiny").iterdir()
    assert (kept / "report.json").is_file()


def test_without_a_remote_or_offline_nothing_is_said_to_be_pushed(home, tmp_path):
    run = home / "runs" / "mine" / "20260101T000000Z-ab"
    run.mkdir(parents=True)
    (run / runs.CONFIG).write_text("name: mine\n")
    assert "no remote is configured" in ups("runs", "push", "mine", code=6).stderr
    error = ups("runs", "push", "mine", "--to", "wandb", code=6).stderr
    assert "not sent to W&B, WANDB_MODE is offline" in " ".join(error.split())
    assert "wandb sync" in error
    (tmp_path / "empty").mkdir()
    for folder, words in (("empty", "no run 'mine' there"), ("none", "there is no such folder")):
        place = str(tmp_path / folder)
        assert words in ups("runs", "pull", "mine", "--from", place, code=6).stderr
