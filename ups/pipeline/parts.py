"""Parts that whole paths have in common; each says whether its result was there already."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ups import checkpoint as checkpoints
from ups import files, paths, runs
from ups.config.schema import Experiment
from ups.data.audit import audit, worst
from ups.data.convert import Conversion, Recipe, convert
from ups.errors import DataError
from ups.evaluation.report import Report, load_report, report_files
from ups.leaderboard.entries import Entry, add
from ups.registry import DatasetCard
from ups.training import run as training
from ups.training.cache_source import CacheUse
from ups.training.residence import Residence
from ups.training.session import Session, open_session

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Step:
    """One finished part of a path.

    Attributes:
        outcome: What the part returned.
        reused: Whether it was there already, unchanged.
    """

    name: str
    outcome: Any
    reused: bool
    seconds: float


@dataclass
class Teller:
    """Keeps what was done, how long it took, and tells whoever listens.

    Attributes:
        told: Called after each part.
    """

    progress: Progress | None = None
    told: Callable[[Step], None] | None = None
    steps: list[Step] = field(default_factory=list)
    _since: float = field(default_factory=time.perf_counter)

    def bar(self, name: str) -> Callable[[int, int], None] | None:
        """A callback (done, total) for one part."""
        progress = self.progress
        return (lambda done, total: progress(name, done, total, "")) if progress else None

    def tell(self, name: str, outcome: Any, *, reused: bool) -> None:
        """Say that a part is finished."""
        now = time.perf_counter()
        step = Step(name, outcome, reused, now - self._since)
        self._since = now
        self.steps.append(step)
        if self.told:
            self.told(step)


def convert_and_audit(
    card: DatasetCard,
    raw: Sequence[Path],
    teller: Teller,
    *,
    version: str | None,
    recipe: Recipe | None = None,
    force: bool = False,
) -> Conversion:
    """Raw files into a version that passes the audit.

    Raises:
        DataError: It does not.
    """
    bar = teller.bar("convert")
    made = convert(card, raw, recipe=recipe, version=version, force=force, progress=bar)
    teller.tell("convert", made, reused=made.reused)
    findings = audit(made.store, card, teller.bar("audit"))
    teller.tell("audit", findings, reused=False)
    if worst(findings) == "fail":
        failed = next(finding for finding in findings if finding.verdict == "fail")
        raise DataError(f"{made.store.path}: {failed.check}: {failed.detail}")
    return made


def trained(
    experiment: Experiment,
    teller: Teller,
    *,
    stages: Sequence[Any] | None = None,
    without: Sequence[str] = (),
) -> Path:
    """Train a new run, continue an unfinished one, or take a finished one.

    Args:
        stages: In order; None is the config's.
        without: Runs, as `name/id`, that are not to be taken.
    """
    session: Session = open_session(experiment)

    def done(outcome: Any) -> None:
        if isinstance(outcome, Residence | CacheUse):
            return
        name = getattr(outcome, "stage", "cache")
        if name == "cache":
            reused = outcome.build.written_shards == 0
        else:
            reused = outcome.fit.first == outcome.fit.steps
        teller.tell(name, outcome, reused=reused)

    run, state = training.find_same_run(session, stages)
    if run is None or runs.run_id(run) in without:
        return training.train(session, stages, progress=teller.progress, done=done)
    if state == "finished":
        teller.tell("train", run, reused=True)
        return run
    return training.resume(run, progress=teller.progress, done=done)


def checkpoint_of(run: Path) -> str:
    """SHA-256 of the checkpoint that a judgement of the run takes."""
    return files.sha256_file(runs.checkpoint_path(run, checkpoints.last_stage(run)))


def present_reports(run: Path) -> list[tuple[Path, Report]]:
    """The run's reports that judge its present checkpoint."""
    found = [(path, load_report(path)) for path in report_files(run)]
    checkpoint = checkpoint_of(run) if found else ""
    return [(path, one) for path, one in found if one.run.get("checkpoint_sha256") == checkpoint]


def enter(report: Path, teller: Teller) -> Entry:
    """Put a report on the leaderboard; the same report is entered once."""
    folder = paths.leaderboard_dir()
    entry, is_new = add(report, folder)
    teller.tell("entry", entry.path(folder), reused=not is_new)
    return entry
