"""Real work on a real Slurm: a training that goes back to the queue, and a conversion in shares."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from agent_jobs import job, prepared_environment
from slurm_cluster import Cluster, slurm_cluster
from tiny_commands import ups
from tiny_runs import SMALL, STAGE, losses_of
from typer import Typer
from typer.testing import CliRunner

from ups import runs
from ups.cli._app import UpsGroup
from ups.cli.remote_convert import convert
from ups.config.loading import load_experiment
from ups.data.versions import open_store
from ups.remote.bundle import build_bundle
from ups.remote.drivers import slurm_convert
from ups.remote.drivers.slurm import SlurmDriver
from ups.remote.spec import JobSpec
from ups.training.run import train


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with slurm_cluster() as found:
        yield found


def until(is_true: Callable[[], bool], limit_s: float = 180.0) -> None:
    end = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_a_training_goes_back_to_the_queue_and_on_to_the_same_loss_and_its_entry(
    config: str, cluster: Cluster, tmp_path: Path
) -> None:
    stages = {"codec": STAGE | {"steps": 2}, "operator": SMALL["stages"]["operator"] | {
        "steps": 300, "validate_every": 150, "checkpoint_every": 20}}  # fmt: skip
    content = SMALL | {"name": "tiny", "stages": stages, "data": {"dataset": "advection1d"}}
    remote, home = cluster.shared / "remote", cluster.shared / "home"
    ups("data", "push", "advection1d", "--to", str(remote))
    options = {"folder": str(cluster.shared / "jobs"), "mem": "2G"}
    path = job(
        tmp_path / "spec", engine="slurm", remote=str(remote), max_hours=1, options=options,
        environment={"UPS_HOME": str(home), "OMP_NUM_THREADS": "1"},
        task={"config": yaml.safe_dump(content), "stages": ("codec", "operator")},
    )  # fmt: skip
    spec = JobSpec.model_validate_json(path.read_text())
    lock = (build_bundle(spec, tmp_path / "first").folder / "requirements.lock").read_text()
    found = prepared_environment(cluster.shared / "environments", lock)
    spec = spec.model_copy(update={"environment": spec.environment | found})
    driver = SlurmDriver(options, poll_s=0.5)
    handle = driver.launch(spec, build_bundle(spec, tmp_path / "bundle").folder, {})

    folder = home / "runs/tiny/run-1"
    metrics = folder / runs.METRICS
    until(lambda: metrics.is_file() and '"step": 30' in metrics.read_text())
    subprocess.run(
        ["scancel", "--batch", "--signal=USR1", str(handle["number"])], check=True
    )  # what Slurm itself sends before the end of an allocation
    ended = driver.wait(handle, timeout_s=300.0)
    lines = list(driver.logs(handle))
    assert (ended.state, ended.exit_code, ended.attempts) == ("done", 0, 2), lines
    events = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("UPS-EVENT")]
    assert [e["exit_code"] for e in events if e["event"] == "ended"] == [8, 0]
    assert [e["event"] for e in events].count("resumed") == 1

    whole = train(load_experiment(str(path.parent / "config.yaml")), ["codec", "operator"])
    assert losses_of(folder, "operator") == losses_of(whole, "operator")
    ups("leaderboard", "pull", "--from", str(remote))
    assert "tiny" in ups("leaderboard", "show", "--json").stdout


@pytest.mark.slow
def test_a_conversion_in_shares_is_that_of_one_machine(home: Path, cluster: Cluster) -> None:
    app = Typer(cls=UpsGroup)
    app.command()(convert)
    app.command("other")(lambda: None)

    ups("data", "generate", "advection1d", "--num-trajectories", "20", "--points", "32",
        "--frames", "9", "--param", "beta=0.4")  # fmt: skip

    def converted(shards: str):
        words = ["convert", "advection1d", "--shards", shards, "--workers", "1", "--memory", "1G",
                 "--wait", "--", "--stride-t", "2", "--version", "slurm"]  # fmt: skip
        return CliRunner().invoke(app, words)

    failed = converted("2")  # more than there are parts
    assert failed.exit_code == 3, failed.output
    assert "not converted: share-1: error: " in failed.output
    done = converted("1")
    assert done.exit_code == 0, done.output
    ups("data", "convert", "advection1d", "--stride-t", "2", "--version", "here")
    made, here = open_store("advection1d", "slurm"), open_store("advection1d", "here")
    assert made.num_trajectories == 20
    assert made.metadata.data_sha256 == here.metadata.data_sha256


def test_a_conversion_that_is_half_submitted_is_taken_back(
    home: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = slurm_convert.render_conversion

    def refused(conversion, logs, after="SHARES"):
        shares, merge = render(conversion, logs, after)
        return shares, merge.replace("#SBATCH --mem=", "#SBATCH --mem=nonsense")

    monkeypatch.setattr(slurm_convert, "render_conversion", refused)
    wanted = slurm_convert.Conversion("advection1d", shards=2, workers=4)
    with pytest.raises(slurm_convert.RemoteError, match="not taken"):
        slurm_convert.submit_conversion(wanted)
    until(lambda: not _queue(), 20.0)


def _queue() -> str:
    asked = ["squeue", "-h", "-t", "PD,R", "-o", "%A"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
