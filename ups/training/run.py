"""Train an experiment: make the run, find what each stage stands on, run the stages in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ups import checkpoint as checkpoints
from ups import files, runs
from ups.codec.report_card import ReportCard
from ups.config.stages import STAGES, StageName
from ups.errors import CheckpointError, UsageError
from ups.training.cache_source import (
    CacheUse,
    check_fields,
    open_with_data,
    provide_caches,
)
from ups.training.distributed import device_name, is_main, on_main
from ups.training.latents import CacheOutcome, Progress, build_caches, matching
from ups.training.loop import Fit, FitResult, Stage
from ups.training.residence import Residence
from ups.training.session import Session, open_session
from ups.training.stages.build import Foundation, build_stage, foundation_of, needed_by
from ups.training.stages.codec import CodecStage, is_trainable
from ups.training.tracking import Table, Tracker, Tracking, forget_after, open_tracking

Done = Callable[["StageOutcome | CacheOutcome | CacheUse | Residence"], None]


@dataclass(frozen=True)
class StageOutcome:
    """What one finished stage has to say.

    Attributes:
        cards: Report cards of the codecs on grids, by task.
    """

    stage: str
    run: Path
    checkpoint: Path
    fit: FitResult
    cards: dict[str, ReportCard] = field(default_factory=dict)


def train(
    experiment: Any,
    stages: Sequence[StageName] | None = None,
    *,
    progress: Progress | None = None,
    done: Done | None = None,
    watchers: Sequence[Tracker] = (),
    run_id: str | None = None,
) -> Path:
    """Train the given stages in a new run; what an earlier stage makes is looked for otherwise.

    Args:
        experiment: An `Experiment`, or a `Session` of it.
        stages: In order; None is `stages.order` of the config.
        progress: Called with (what, steps done, steps in all, note).
        done: Called with the outcome of each finished part, and with where the tokens are.
        watchers: Told every record, after the run's own trackers; what they raise ends the run.
        run_id: Name of the run's folder; None makes one of the time and the config.
    Returns:
        The run's folder.
    Raises:
        CheckpointError: A stage needs an earlier one that was not trained on this data, or a loss
            is not finite.
        CacheError: The cache here is of other data or another codec.
        DataError: A stage reads training data that are not here.
        RemoteError: Tokens were to be pulled, and could not be.
        GateError: A codec reconstructs worse than its gate allows.
    """
    if isinstance(experiment, Session):
        session = experiment
    else:
        session, _ = open_with_data(experiment, stages, progress=progress)
    chosen = tuple(stages or session.stages)
    check_order(session, chosen)
    check_fields(session, chosen)
    stands_on = foundation_of(session, chosen, progress=progress)
    for use in stands_on.caches:
        _tell(done, use)
    run = on_main(
        lambda: runs.create_run(
            session.experiment,
            stages=chosen,
            stands_on=stands_on.files,
            device=device_name(session.device),
            run_id=run_id,
        )
    )
    _run_stages(session, run, chosen, stands_on, progress, done, watchers)
    return run


def resume(run: Path, *, progress: Progress | None = None, done: Done | None = None) -> Path:
    """Continue a run where it stopped, to the losses that an uninterrupted run would have had."""
    session = open_session(runs.run_experiment_of(run))
    plan = runs.planned(run)
    stages = tuple(stage_name(name) for name in plan.stages)
    check_fields(session, stages)
    stands_on = Foundation.of(plan.stands_on)
    if "codec" in stands_on.files:
        for use in provide_caches(session, stands_on.files["codec"], progress=progress):
            _tell(done, use)
    _run_stages(session, run, stages, stands_on, progress, done)
    return run


def find_same_run(
    session: Session, stages: Sequence[StageName] | None = None
) -> tuple[Path | None, str]:
    """The newest run of exactly this config, data and stages, and whether it is 'finished'.

    Returns:
        (run, 'finished' or 'unfinished'), or (None, 'absent').
    """
    chosen = tuple(stages or session.stages)
    for run in runs.list_runs(session.experiment.name):
        if runs.readable_experiment_of(run) != session.experiment:
            continue
        if runs.planned(run).stages != chosen:
            continue
        saved = [run / "checkpoints" / f"{name}-last.pt" for name in reversed(chosen)]
        found = next((path for path in saved if path.is_file()), None)
        if found is None:
            continue
        last = checkpoints.load(found)
        if any(matching(last, task) != task.name for task in session.tasks):
            continue
        is_done = last.stage == chosen[-1] and bool(last.training and last.training["finished"])
        return run, "finished" if is_done else "unfinished"
    return None, "absent"


def stage_name(name: str) -> StageName:
    """A stage's name, checked."""
    for known in STAGES:
        if name == known:
            return known
    raise UsageError(f"{name}: unknown stage, expected {', '.join(STAGES)}")


def check_order(session: Session, stages: Sequence[StageName]) -> None:
    """Refuse stages that these tasks cannot be trained in, or in an order that cannot work.

    Raises:
        UsageError: Say which, and why.
    """
    steady = [task.name for task in session.tasks if task.is_steady]
    moving = [task.name for task in session.tasks if not task.is_steady]
    for stage in stages:
        if stage in ("diff_residual", "consistency_distill") and not moving:
            raise UsageError(
                f"stage {stage}: {', '.join(steady)} has no time to step through",
                hint="ups train --stage steady_prior",
            )
        if stage == "steady_prior" and not steady:
            raise UsageError(
                f"stage steady_prior: {', '.join(moving)} depends on time",
                hint="ups train --stage operator",
            )
    for index, stage in enumerate(stages):
        late = [one for one in needed_by(stage) if one in stages[index:]]
        if late or stage in stages[:index]:
            raise UsageError(f"stages: {', '.join(stages)}: {stage} must come once, and after "
                             f"{', '.join(needed_by(stage)) or 'nothing'}")  # fmt: skip


def _run_stages(
    session: Session,
    run: Path,
    stages: Sequence[StageName],
    stands_on: Foundation,
    progress: Progress | None,
    done: Done | None,
    watchers: Sequence[Tracker] = (),
) -> None:
    lock = files.exclusive(run, "training this run", CheckpointError) if is_main() else None
    with lock or nullcontext():
        if is_main():
            _forget_unsaved(run)
        tracked = open_tracking(run, session.experiment) if is_main() else nullcontext()
        with tracked as tracking:
            residence: Residence | None = None
            for name in stages:
                if name != "codec" and "codec" in stages and not stands_on.has_caches:
                    for outcome in build_caches(session, stands_on.files["codec"],
                                                progress=progress):  # fmt: skip
                        _tell(done, outcome)
                    stands_on.has_caches = True
                stage = build_stage(session, name, stands_on)
                found_at = _residence_of(stage)
                if found_at is not None and found_at != residence:
                    residence = found_at
                    _tell(done, found_at)
                trackers = [] if tracking is None else [tracking, *watchers]
                found = _fit(session, run, stage, tracking, trackers, progress)
                _tell(done, found)
                stands_on.files[name] = runs.checkpoint_path(run, name)


def _forget_unsaved(run: Path) -> None:
    """Drop the metrics of steps that a resumed run will take again."""
    for name in STAGES:
        last = run / "checkpoints" / f"{name}-last.pt"
        step = checkpoints.load(last).step if last.is_file() else 0
        forget_after(run / runs.METRICS, name, step)


def _residence_of(stage: Stage) -> Residence | None:
    """Where a stage's tokens are; None for the codec's, which has none."""
    mixture = getattr(stage, "mixture", None)
    return None if mixture is None else mixture.tasks[0].residence


def _tell(done: Done | None, outcome: StageOutcome | CacheOutcome | CacheUse | Residence) -> None:
    if done:
        done(outcome)


def _fit(
    session: Session,
    run: Path,
    stage: Stage,
    tracking: Tracking | None,
    trackers: Sequence[Tracker],
    progress: Progress | None,
) -> StageOutcome:
    """Run one stage to its end, from where it stopped if it did."""
    path = runs.checkpoint_path(run, stage.name)
    if is_trainable(stage.trainable):
        fit = Fit(stage, run / "checkpoints", trackers, session.device)
        if fit.last_path.is_file():
            fit.restore()
        result = fit.run(partial(progress, stage.name) if progress else None)
    else:
        result = _measured(stage, run, trackers)
    if tracking is not None:
        tracking.finished(stage.name, result.steps, result.best)
    cards: dict[str, ReportCard] = {}
    if isinstance(stage, CodecStage):
        best = checkpoints.load(path, session.device)
        for task in stage.tasks:
            task.codec.load_state_dict(best.codecs[task.name].state_dict())
        cards = stage.cards()
        if is_main():
            content = {name: card.to_dict() for name, card in cards.items()}
            files.write_json(run / "codec_card.json", content, CheckpointError)
        if tracking is not None and cards:
            tracking.media(stage.name, result.steps, "card", _table_of(cards))
    return StageOutcome(stage.name, run, path, result, cards)


def _table_of(cards: Mapping[str, ReportCard]) -> Table:
    """Reconstruction errors of the codecs, one row for each task and grid."""
    rows: list[tuple[str | int | float | None, ...]] = []
    for name, card in cards.items():
        for where in ("native", "floor", "double", "double_linear", "quadruple"):
            errors = getattr(card, where)
            if errors is not None:
                rows.append((name, where, errors.nrmse, errors.low, errors.mid, errors.high))
    return Table(("task", "grid", "nrmse", "low", "mid", "high"), tuple(rows))


def _measured(stage: Stage, run: Path, trackers: Sequence[Tracker]) -> FitResult:
    """Validate and save a stage that has nothing to learn."""
    began = time.perf_counter()
    metrics = stage.validate()

    def write() -> None:
        state = stage.checkpoint(0, metrics)
        checkpoints.save(runs.checkpoint_path(run, stage.name), state)
        state.training = {"finished": True}
        checkpoints.save(run / "checkpoints" / f"{stage.name}-last.pt", state)

    on_main(write)
    for tracker in trackers:
        tracker.log({"stage": stage.name, "step": 0, **metrics})
    return FitResult(0, 0, time.perf_counter() - began, metrics, 0)
