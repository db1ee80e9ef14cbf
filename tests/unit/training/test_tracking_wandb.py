"""Weights & Biases: chosen by config and key, offline for real, never trusted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from ups import runs
from ups.config.schema import Experiment, TrackingConfig
from ups.errors import RemoteError, UsageError
from ups.runs.history import read_metrics
from ups.training.tracking import Table, open_tracking
from ups.training.tracking import fetch as fetching
from ups.training.tracking.weights_and_biases import mode_of, name_in_record, name_on_board
from ups.transfer.wandb_access import has_key


@pytest.fixture(autouse=True)
def _no_key(monkeypatch, tmp_path):
    """As on a machine without any credentials."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))


def experiment(**tracking):
    content = {"name": "mine", "data": {"dataset": "burgers1d"}, "tracking": tracking}
    return Experiment.model_validate(content)


def test_without_a_key_nothing_is_tracked_unless_asked_for():
    assert mode_of(TrackingConfig()) == "disabled"
    assert mode_of(TrackingConfig(project="p")) == "offline"
    assert mode_of(TrackingConfig(wandb="offline")) == "offline"
    assert mode_of(TrackingConfig(wandb="online")) == "offline"
    assert mode_of(TrackingConfig(wandb="disabled", project="p")) == "disabled"


def test_with_a_key_auto_is_online_and_the_environment_may_lower_it(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert mode_of(TrackingConfig()) == mode_of(TrackingConfig(wandb="online")) == "online"
    assert mode_of(TrackingConfig(wandb="offline")) == "offline"
    assert mode_of(TrackingConfig(wandb="disabled")) == "disabled"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mode_of(TrackingConfig()) == "offline"
    assert mode_of(TrackingConfig(wandb="online")) == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert mode_of(TrackingConfig(project="p")) == "disabled"


def test_a_login_is_found_in_the_file_that_wandb_writes(monkeypatch, tmp_path):
    path = tmp_path / "netrc"
    path.write_text("machine example.org login user password x\n")
    path.chmod(0o600)
    assert not has_key()
    path.write_text("machine api.wandb.ai login user password x\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.lab.example:8080")
    assert not has_key()
    path.write_text("machine wandb.lab.example login user password x\n")
    assert has_key()
    path.write_text("machine")
    assert not has_key()


def test_asking_for_no_board_does_not_import_wandb():
    code = (
        "import sys, ups.training.tracking as t, ups.config.schema as s; "
        "print(t.mode_of(s.TrackingConfig()), 'wandb' in sys.modules, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "disabled False False", result.stderr


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("loss", "operator/train/loss"),
        ("valid_nrmse", "operator/valid/nrmse"),
        ("burgers1d/nrmse", "operator/burgers1d/nrmse"),
        ("burgers1d/nrmse/t16", "operator/burgers1d/nrmse/t16"),
    ],
)
def test_names_on_the_board_lead_back_to_stage_and_key(key, name):
    assert name_on_board("operator", key) == name
    assert name_in_record(name) == ("operator", key)


def test_offline_the_whole_run_is_one_and_is_continued(tmp_path, monkeypatch):
    """With the real wandb: what it is given, and that key, id and folders are right."""
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "hush" * 10)
    chosen = experiment(wandb="offline", project="p", entity="me")
    run = runs.create_run(chosen)
    sent, axes = [], []
    log, define = wandb.Run.log, wandb.Run.define_metric

    def noting_log(self, values):
        sent.append(values)
        log(self, values)

    def noting_define(self, name, **options):
        axes.append((name, options.get("step_metric")))
        return define(self, name, **options)

    monkeypatch.setattr(wandb.Run, "log", noting_log)
    monkeypatch.setattr(wandb.Run, "define_metric", noting_define)
    picture = tmp_path / "fields.png"
    Figure().savefig(picture)
    with open_tracking(run, chosen) as tracking:
        tracking.log({"stage": "codec", "step": 20, "loss": 0.5, "valid_nrmse": float("inf")})
        tracking.log({"stage": "operator", "step": 20, "loss": 0.5})
        tracking.log({"stage": "operator", "step": 40, "burgers1d/nrmse": 0.1})
        tracking.media("operator", 40, "fields", picture)
        tracking.media("codec", 20, "card", Table(("where", "nrmse"), (("native", 1e-7),)))
        tracking.finished("operator", 40, {"valid_nrmse": 0.1})
    context = runs.read_tracking(run)
    assert (context["project"], context["entity"], context["url"]) == ("p", "me", None)
    context["sent"] = {"operator": 40}
    (run / runs.TRACKING).write_text(json.dumps(context))
    with open_tracking(run, chosen, resume=True) as tracking:
        tracking.log({"stage": "operator", "step": 40, "loss": 0.3})
        tracking.log({"stage": "operator", "step": 60, "loss": 0.3})
        tracking.summary({"test/nrmse_mean": 0.1})
    again = runs.read_tracking(run)
    assert again["id"] == context["id"]
    assert len(again["unsynced"]) == 2
    assert all(
        list((run / folder).glob(f"run-{again['id']}.wandb")) for folder in again["unsynced"]
    )
    assert [list(values) for values in sent] == [
        ["codec/train/loss", "codec/valid/nrmse", "codec/step"],
        ["operator/train/loss", "operator/step"],
        ["operator/burgers1d/nrmse", "operator/step"],
        ["operator/fields", "operator/step"],
        ["codec/card", "codec/step"],
        ["operator/train/loss", "operator/step"],
    ]
    assert sent[-1] == {"operator/train/loss": 0.3, "operator/step": 60}
    assert axes.count(("operator/*", "operator/step")) == 2
    everything = b"".join(path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert b"hushhush" not in everything
    assert len(read_metrics(run / runs.METRICS)) == 6


def test_an_evaluation_starts_no_board_of_its_own(monkeypatch):
    chosen = experiment(wandb="offline")
    run = runs.create_run(chosen)
    with open_tracking(run, chosen, resume=True) as tracking:
        assert len(tracking.trackers) == 1
    assert not (run / runs.TRACKING).exists()


def test_a_board_that_cannot_be_reached_costs_one_warning(monkeypatch, caplog):
    import wandb

    def fail(**options):
        raise wandb.errors.CommError("connection refused")

    monkeypatch.setattr(wandb, "init", fail)
    chosen = experiment(wandb="offline")
    run = runs.create_run(chosen)
    tracking = open_tracking(run, chosen)
    tracking.log({"stage": "operator", "step": 20, "loss": 0.5})
    tracking.close()
    (warning,) = caplog.records
    assert "connection refused" in warning.getMessage()
    assert len(read_metrics(run / runs.METRICS)) == 1


class Source:
    """What wandb.Api().run() returns, as far as it is used."""

    id, project, entity, name = "ab12", "proj", "me", "mine/1"
    url = "https://wandb.example/me/proj/runs/ab12"
    created_at, lastHistoryStep = "2026-01-02T03:04:05Z", 3  # noqa: N815
    config = {"lr": 1e-3, "data": {"dataset": "burgers1d"}}  # noqa: RUF012

    def scan_history(self):
        return iter([
            {"_step": 0, "_timestamp": 9.5, "operator/step": 20, "operator/train/loss": 0.5},
            {"_step": 1, "_timestamp": 9.9, "operator/step": 40, "operator/valid/nrmse": "NaN",
             "operator/burgers1d/nrmse": 0.2, "operator/fields": {"_type": "image-file"}},
            {"_step": 2, "_runtime": 3, "accuracy": 0.7, "flag": True, "note": "text"},
            {"_step": 3, "_timestamp": 11.0, "train/loss": 0.1, "lr": 2},
        ])  # fmt: skip


@pytest.fixture
def board(monkeypatch):
    """W&B's API with one run in it."""
    import wandb

    class Api:
        def run(self, path):
            if path != "me/proj/ab12":
                raise wandb.errors.CommError(f"Could not find run <Run {path} (not found)>")
            return Source()

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr(wandb, "Api", Api)


def test_a_fetched_run_has_the_form_of_our_own(board):
    seen = []
    run = fetching.fetch("me/proj/ab12", lambda done, total: seen.append((done, total)))
    assert runs.run_id(run) == "wandb-proj/20260102T030405Z-ab12"
    assert read_metrics(run / runs.METRICS, timed=True) == [
        {"stage": "operator", "step": 20, "loss": 0.5, "time": 9.5},
        {"stage": "operator", "step": 40, "valid_nrmse": None, "burgers1d/nrmse": 0.2, "time": 9.9},
        {"stage": "wandb", "step": 2, "accuracy": 0.7},
        {"stage": "train", "step": 3, "loss": 0.1, "time": 11.0},
        {"stage": "wandb", "step": 3, "lr": 2, "time": 11.0},
    ]
    assert seen[-1] == (4, 4)
    assert runs.read_tracking(run)["url"] == Source.url
    assert runs.find_run("wandb-proj", with_stage=None) == run
    assert fetching.fetch("me/proj/ab12") == run
    assert len(read_metrics(run / runs.METRICS)) == 5


def test_a_run_that_is_not_there_is_a_remote_error(board):
    with pytest.raises(RemoteError, match="me/proj/none: not fetched from W&B: Could not find run"):
        fetching.fetch("me/proj/none")


def test_without_a_key_the_command_that_logs_in_is_named():
    with pytest.raises(RemoteError, match="no W&B key") as caught:
        fetching.fetch("me/proj/ab12")
    assert "wandb login" in caught.value.hint


@pytest.mark.parametrize("path", ["", "a", "a/b", "a/b/c/d", "https://wandb.ai/a/b/runs/c", "a//c"])
def test_what_is_no_path_of_a_run_is_refused(path):
    with pytest.raises(UsageError, match="ENTITY/PROJECT/RUNID"):
        fetching.fetch(path)
