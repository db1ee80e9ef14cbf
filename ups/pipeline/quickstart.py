"""The whole path in one call: from nothing to a leaderboard entry."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ups import checkpoint as checkpoints
from ups import files, paths, registry, runs
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.data.audit import audit, worst
from ups.data.convert import convert
from ups.data.generate import generate, is_generated, raw_file_name
from ups.errors import DataError
from ups.evaluation.gates import Gate, failed
from ups.evaluation.report import Report, load_report
from ups.leaderboard.entries import add
from ups.pipeline.judge import judge
from ups.training import run as training
from ups.training.distributed import local_device
from ups.training.session import open_session

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class DataRecipe:
    """What the quickstart generates: enough for a good rollout, little enough for a laptop."""

    num_trajectories: int = 1280
    points: int = 256
    frames: int = 41
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One finished part of the path.

    Attributes:
        outcome: What the part returned.
        reused: Whether it was there already, unchanged.
    """

    name: str
    outcome: Any
    reused: bool
    seconds: float


@dataclass
class Quickstart:
    """What the path leads to."""

    run: Path
    report: Report
    page: Path
    failed_gates: list[Gate]
    steps: list[Step] = field(default_factory=list)


def quickstart(
    config: str = "quickstart",
    recipe: DataRecipe | None = None,
    *,
    progress: Progress | None = None,
    told: Callable[[Step], None] | None = None,
) -> Quickstart:
    """Generate, convert, audit, train, cache, evaluate and enter; reuse what is unchanged.

    Args:
        config: An experiment whose `data.version` names the version to be made.
        told: Called after each part.

    Raises:
        UpsError: The first thing that went wrong; what was finished is reused by the next call.
    """
    experiment = load_experiment(config)
    path = _Path(experiment, recipe or DataRecipe(), progress, told)
    path.data()
    run = path.train()
    report, page = path.judge(run)
    path.enter(run)
    return Quickstart(run, report, page, failed(report.gates), path.steps)


class _Path:
    """The parts in order; each looks first whether its result is there."""

    def __init__(
        self,
        experiment: Experiment,
        recipe: DataRecipe,
        progress: Progress | None,
        told: Callable[[Step], None] | None,
    ) -> None:
        self.experiment, self.recipe = experiment, recipe
        (task,) = experiment.data.tasks
        self.task, self.card = task, registry.load_card(task.dataset)
        self.steps: list[Step] = []
        self._progress, self._told, self._since = progress, told, time.perf_counter()

    def data(self) -> None:
        """Generate, convert and audit."""
        raw, made = self._generate()
        self._tell("generate", raw, reused=not made)
        conversion = convert(
            self.card,
            [raw],
            version=self.task.version,
            force=made,
            progress=self._bar("convert"),
        )
        self._tell("convert", conversion, reused=conversion.reused)
        findings = audit(conversion.store, self.card, self._bar("audit"))
        self._tell("audit", findings, reused=False)
        if worst(findings) == "fail":
            failed = next(finding for finding in findings if finding.verdict == "fail")
            raise DataError(f"{conversion.store.path}: {failed.check}: {failed.detail}")

    def _generate(self) -> tuple[Path, bool]:
        """The raw file, and whether it had to be made."""
        generator = self.card.generator
        if generator is None:
            raise DataError(f"{self.card.key}: has no built-in generator")
        folder = paths.data_dir(self.card.key) / "quickstart"
        path = folder / raw_file_name(self.card, generator.parameters)
        recipe = asdict(self.recipe)
        with files.exclusive(path, "running the quickstart"):
            if is_generated(path, self.card, parameters=generator.parameters, **recipe):
                return path, False
            generate(
                self.card,
                parameters=generator.parameters,
                out_dir=folder,
                batch_size=256,
                force=True,
                progress=self._bar("generate"),
                **recipe,
            )
        return path, True

    def train(self) -> Path:
        """Train a new run, continue an unfinished one, or take a finished one."""
        session = open_session(self.experiment)
        run, state = training.find_same_run(session)
        if run is None:
            return training.train(session, progress=self._progress, done=self._stage_done)
        if state == "finished":
            self._tell("train", run, reused=True)
            return run
        return training.resume(run, progress=self._progress, done=self._stage_done)

    def _stage_done(self, outcome: Any) -> None:
        name = getattr(outcome, "stage", "cache")
        if name == "cache":
            reused = outcome.build.written_shards == 0
        else:
            reused = outcome.fit.first == outcome.fit.steps
        self._tell(name, outcome, reused=reused)

    def judge(self, run: Path) -> tuple[Report, Path]:
        """Evaluate on the test split, unless this checkpoint has been."""
        existing = report_of(run, self.experiment)
        page = run / "report.html"
        if existing is not None and page.is_file():
            self._tell("eval", existing, reused=True)
            return existing, page
        device = local_device(self.experiment.device)
        found = judge(run, device=device, progress=self._progress)
        own = found[0]
        assert own.page is not None
        self._tell("eval", own.report, reused=False)
        return own.report, own.page

    def enter(self, run: Path) -> None:
        """Put the report on the leaderboard; the same report is entered once."""
        folder = paths.leaderboard_dir()
        entry, is_new = add(run / runs.REPORT, folder)
        self._tell("entry", entry.path(folder), reused=not is_new)

    def _bar(self, name: str) -> Callable[[int, int], None] | None:
        progress = self._progress
        return (lambda done, total: progress(name, done, total, "")) if progress else None

    def _tell(self, name: str, outcome: Any, *, reused: bool) -> None:
        now = time.perf_counter()
        step = Step(name, outcome, reused, now - self._since)
        self._since = now
        self.steps.append(step)
        if self._told:
            self._told(step)


def report_of(run: Path, experiment: Experiment) -> Report | None:
    """The run's report, if it judges the present checkpoint by the config's own protocol."""
    path = run / runs.REPORT
    if not path.is_file():
        return None
    report = load_report(path)
    settings, protocol = experiment.evaluation, report.protocol
    checkpoint = files.sha256_file(runs.checkpoint_path(run, checkpoints.last_stage(run)))
    (task,) = experiment.data.tasks
    same_data = (protocol.version, protocol.stride) == (task.version, task.stride)
    same_checkpoint = report.run.get("checkpoint_sha256") == checkpoint
    same_split = (protocol.split, protocol.history) == (settings.split, settings.history)
    same_horizon = settings.horizon in (None, protocol.horizon)
    return report if same_checkpoint and same_data and same_split and same_horizon else None
