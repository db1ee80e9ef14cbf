"""A sweep whose trials are jobs: drawn, launched, read back, tabulated, continued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from local_engine import LocalEngine
from tiny_commands import ups

from ups.errors import RemoteError
from ups.remote import drivers, launch, records, sweeps
from ups.remote.records import Job
from ups.remote.spec import JobSpec

SPACE = "parameters: {operator.width: {choice: [16, 32, 48]}}\nsampler: {kind: grid}\n"


def width_of(spec: JobSpec) -> int:
    return int(yaml.safe_load(spec.task.config)["operator"]["width"])


def result_of(job: Job) -> sweeps.Result:
    """Of a job that trained nothing: a width of 32 is the best."""
    width = width_of(job.spec)
    return sweeps.Result(job.spec.task.run_name, abs(width - 32) + 0.5, 60.0, None)


@pytest.fixture
def engine(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEngine]:
    made = LocalEngine(tmp_path / "engine")

    def build(spec: JobSpec, folder: Path) -> None:
        code = 3 if width_of(spec) == 48 else 0
        (folder / "run.sh").write_text(f"sleep 0.1; exit {code}\n")

    monkeypatch.setattr(drivers, "driver_of", lambda name, options: made)
    monkeypatch.setattr(launch, "build_bundle", build)
    monkeypatch.setattr(sweeps, "_POLL_S", 0.05)
    monkeypatch.setattr(sweeps, "result_of", result_of)
    home.mkdir()
    (home / "remote.yaml").write_text("engine: ssh\n")
    (tmp_path / "remote").mkdir()
    (tmp_path / "space.yaml").write_text(SPACE)
    yield made
    made.end_all()


def sweep(folder: Path, *options: str, code: int = 0) -> str:
    return ups("remote", "launch", "--sweep", str(folder / "space.yaml"), "--parallel", "2",
               "--remote", str(folder / "remote"), *options, code=code).output  # fmt: skip


def test_trials_are_jobs_and_the_best_is_tabulated(engine: LocalEngine, tmp_path: Path) -> None:
    text = sweep(tmp_path)
    assert "3 trials, 2 at a time" in text
    assert "failed: exit 3: data are missing or damaged; width=48" in " ".join(text.split())
    best = text[text.index("Best") :].splitlines()
    assert best[2].split()[1:] == ["0.5", "–", "60", "free", "width=32"]
    assert best[3].split()[1:] == ["16.5", "–", "60", "free", "width=16"]
    assert len(records.ids()) == 3
    assert {job.spec.task.run_name for job in records.load_all()} == {
        f"burgers1d-space-{number}" for number in range(3)
    }
    shown = ups("sweep", "show", "burgers1d-space").output
    assert "2 complete" in shown
    assert "1 fail" in shown
    assert "no trial has a result" in sweep(tmp_path, code=6)  # the grid is exhausted
    assert len(records.ids()) == 3


def test_a_sweep_goes_on_where_its_client_was_killed(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def look(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "_look", look)
        with pytest.raises(Killed):
            sweep(tmp_path)
    assert len(records.ids()) == 2
    text = sweep(tmp_path)
    assert "width=32" in text[text.index("Best") :]
    assert len(records.ids()) == 3


def test_a_dry_run_and_objectives_that_no_job_tells(engine: LocalEngine, tmp_path: Path) -> None:
    text = sweep(tmp_path, "--dry-run")
    assert "3 trials, 2 at a time" in text
    assert records.ids() == []
    (tmp_path / "space.yaml").write_text(SPACE + "objectives: [num_parameters]\n"
                                         "pruner: {kind: none}\n")  # fmt: skip
    assert "num_parameters: not told by a pushed run" in sweep(tmp_path, code=2)


def test_a_run_that_was_not_pushed_has_no_result(
    engine: LocalEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(job: Job) -> sweeps.Result:
        raise RemoteError("no run there")

    monkeypatch.setattr(sweeps, "result_of", missing)
    assert "failed: no run there" in sweep(tmp_path, code=6)
