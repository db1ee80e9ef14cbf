"""A leaderboard entry made again: data, training, evaluation, and whether the numbers agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

import ups
from ups.config.base import validated
from ups.config.schema import EvaluationConfig, Experiment, TrackingConfig
from ups.config.stages import StageName
from ups.errors import CheckpointError
from ups.evaluation.gates import Gate, failed
from ups.evaluation.protocol import Protocol
from ups.evaluation.provenance import DATA, DataRecord
from ups.evaluation.report import OWN, Report, Row
from ups.leaderboard.entries import Entry
from ups.pipeline.chain import with_tasks
from ups.pipeline.judge import Request, judge
from ups.pipeline.parts import Progress, Step, Teller, trained
from ups.pipeline.remake import Remade, how_to_remake, remake
from ups.training.distributed import local_device
from ups.training.run import stage_name
from ups.training.stages.build import needed_by

TOLERANCE = 0.05
_TRIVIAL = {True: 1e-6, False: 1e-2}
"""Relative difference allowed to a predictor that learns nothing: of the same data, or of data
that differ in their last bits."""
_OF_THE_DATA = ("version", "data_sha256")


@dataclass
class Reproduction:
    """What came of it.

    Attributes:
        gates: Data, trivial predictors and the model's error, in the order they were checked.
        is_equal: Every number of the model, for each trajectory, is the stored one to its last
            digit; None where nothing was trained.
        median_change: Of a trajectory's nRMSE, relative; nan where nothing was trained.
    """

    entry: Entry
    gates: list[Gate] = field(default_factory=list)
    run: Path | None = None
    report: Report | None = None
    is_equal: bool | None = None
    median_change: float = math.nan
    steps: list[Step] = field(default_factory=list)

    @property
    def failed(self) -> list[Gate]:
        return failed(self.gates)


def reproduce(
    entry: Entry,
    *,
    raw: Sequence[Path] = (),
    data_only: bool = False,
    tolerance: float = TOLERANCE,
    device: str | None = None,
    progress: Progress | None = None,
    told: Callable[[Step], None] | None = None,
) -> Reproduction:
    """Make data, model and numbers of an entry again, from nothing but the entry.

    The new nRMSE mean must lie in the entry's bootstrap interval, widened by `tolerance` at both
    ends: the same seed on other hardware gives slightly other sums, and training enlarges them.
    Killed and called again, it goes on where it was.

    Args:
        raw: Raw files that can be neither generated nor downloaded.
        data_only: Stop when the data have been checked.
        device: Instead of the config's.
    Raises:
        CheckpointError: The entry does not hold what is needed.
        DataError: Raw files cannot be had.
    """
    record, teller = data_record(entry), Teller(progress, told)
    result = Reproduction(entry, steps=teller.steps)
    remade = {name: remake(name, one, raw, teller) for name, one in record.trained.items()}
    result.gates += [one.gate for one in remade.values()]
    judged = remade.get(_task(entry, record))
    if record.judged is not None:
        judged = remake("judged on", record.judged, raw, teller)
        result.gates.append(judged.gate)
    if data_only or result.failed or judged is None:
        return result
    experiment = experiment_of(entry, remade, device)
    result.run = trained(experiment, teller, stages=stages_of(entry))
    result.report = _judged(entry, result.run, record, judged, local_device(experiment.device),
                            teller)  # fmt: skip
    exact = all(one.is_exact for one in (*remade.values(), judged))
    result.gates += compare(entry, result.report, tolerance, exact=exact)
    result.is_equal = _digits(entry.rows[0]) == _digits(result.report.rows[0])
    result.median_change = _median_change(entry.rows[0], result.report.rows[0])
    return result


def data_record(entry: Entry) -> DataRecord:
    """What the entry says of its data.

    Raises:
        CheckpointError: It says nothing, or not enough.
    """
    content = entry.sections.get(DATA)
    if not isinstance(content, dict) or not isinstance(entry.run.get("config"), str):
        raise CheckpointError(
            f"entry {entry.id}: holds no record of its data and config; entries made before "
            "ups kept one cannot be made again",
            hint="on the machine with its run: ups eval RUN, ups leaderboard add RUN",
        )
    record = validated(DataRecord, content, f"entry {entry.id}: sections.data")
    if record.missing:
        raise CheckpointError(
            f"entry {entry.id}: the data of {', '.join(record.missing)}, which the run was trained "
            "on as well, were not there when it was judged",
            hint="judge the run where all of its data are: ups eval RUN, ups leaderboard add RUN",
        )
    return record


def stages_of(entry: Entry) -> tuple[StageName, ...]:
    """What has to be trained for the judged stage."""
    stage = stage_name(str(entry.run.get("stage", "operator")))
    return (*needed_by(stage), stage)


def experiment_of(entry: Entry, remade: dict[str, Remade], device: str | None = None) -> Experiment:
    """The entry's config, on the data made again, without the tracking of its author."""
    found = _config(entry)
    tasks = [
        task.model_copy(update={"version": remade[task.key].store.metadata.version})
        for task in found.data.tasks
    ]
    changes: dict[str, Any] = {
        "name": f"reproduce-{entry.id[:8]}",
        "tracking": TrackingConfig(wandb="disabled"),
        "device": device or found.device,
    }
    return with_tasks(found, tasks).model_copy(update=changes)


def _config(entry: Entry) -> Experiment:
    return validated(Experiment, yaml.safe_load(entry.run["config"]), f"entry {entry.id}: config")


def outlook(entry: Entry) -> list[tuple[str, str]]:
    """What `reproduce` would do, as labelled lines."""
    record, experiment = data_record(entry), _config(entry)
    lines = [("entry", f"{entry.id}: {entry.run.get('id')}, {entry.protocol.describe()}")]
    for version in (*record.trained.values(), *([record.judged] if record.judged else [])):
        lines += [("data", text) for text in how_to_remake(version)]
        lines.append(("check", f"values sha256 {version.data_sha256[:12]}, splits "
                               f"{version.split_hash[:12]}"))  # fmt: skip
    lines.append(("train", f"{', '.join(stages_of(entry))}, seed {experiment.seed}"))
    low, high = interval(entry, TOLERANCE)
    lines.append(("compare", f"nRMSE mean {entry.rows[0].value('nrmse'):.4g}: {low:.4g} to "
                             f"{high:.4g} with the usual tolerance"))  # fmt: skip
    made = str(entry.run.get("version", ""))
    if made != ups.__version__:
        lines.append(("note", f"made with ups {made}, this is {ups.__version__}"))
    return lines


def _task(entry: Entry, record: DataRecord) -> str:
    """The task of the run that was judged."""
    return str(entry.run.get("task") or next(iter(record.trained)))


def _judged(
    entry: Entry, run: Path, record: DataRecord, judged: Remade, device: torch.device,
    teller: Teller,
) -> Report:  # fmt: skip
    """The new run under the stored protocol."""
    protocol, settings = entry.protocol, _config(entry).evaluation
    if protocol.history:  # a steady problem gives no frames
        settings = settings.model_copy(
            update={"history": protocol.history, "horizon": protocol.horizon}
        )
    settings = EvaluationConfig(**{**settings.model_dump(), "split": protocol.split})
    request = Request(
        tasks=(_task(entry, record),),
        stage=stages_of(entry)[-1],
        settings=settings,
        protocols=(OWN,),
        version=judged.store.metadata.version if record.judged else None,
        brief=True,
    )
    (found,) = judge(run, request, device=device, progress=teller.progress)
    teller.tell("eval", found.report, reused=False)
    return found.report


def compare(entry: Entry, report: Report, tolerance: float, *, exact: bool) -> list[Gate]:
    """Whether a new report says what the entry says.

    Args:
        exact: Whether the data are the recorded ones to the last bit.
    """
    gates = [_same_protocol(entry.protocol, report.protocol)]
    for row in entry.rows:
        again = report.row(row.name)
        if row.kind == "trivial" and again is not None:
            gates.append(_same_trivial(row, again, _TRIVIAL[exact]))
    low, high = interval(entry, tolerance)
    stored, found = entry.rows[0].value("nrmse"), report.rows[0].value("nrmse")
    shown = "not finite" if found is None else f"{found:.6g}"
    gates.append(Gate(
        name="nrmse_mean", kind="accuracy", passed=found is not None and low <= found <= high,
        detail=f"nRMSE {shown}, stored {stored:.6g}, allowed {low:.6g} to {high:.6g}",
        value=found, limit=high,
    ))  # fmt: skip
    return gates


def interval(entry: Entry, tolerance: float) -> tuple[float, float]:
    """Where a reproduced nRMSE mean may lie.

    Raises:
        CheckpointError: The entry's rollout was not finite: there is nothing to come back to.
    """
    row = entry.rows[0]
    stored = row.value("nrmse")
    if stored is None:
        raise CheckpointError(f"entry {entry.id}: its nRMSE is not finite")
    low, high = row.intervals.get("nrmse", {}).get("mean", (stored, stored))
    return low * (1 - tolerance), high * (1 + tolerance)


def _same_protocol(stored: Protocol, found: Protocol) -> Gate:
    """The same frames of as many trajectories; which bits the data have is another question."""
    ours, theirs = found.to_dict(), stored.to_dict()
    other = [key for key in theirs if key not in _OF_THE_DATA and ours[key] != theirs[key]]
    detail = ", ".join(f"{key} {ours[key]}, stored {theirs[key]}" for key in other)
    return Gate(name="protocol", kind="data", passed=not other,
                detail=detail or f"as stored: {stored.describe()}")  # fmt: skip


def _same_trivial(stored: Row, found: Row, allowed: float) -> Gate:
    """A predictor that learns nothing depends on data and metric alone."""
    ours, theirs = found.value("nrmse"), stored.value("nrmse")
    gap = abs(ours / theirs - 1) if ours is not None and theirs else float(ours != theirs)
    return Gate(name=stored.name, kind="data", passed=gap <= allowed, value=gap, limit=allowed,
                detail=f"nRMSE differs by {gap:.1e} of itself, at most {allowed:g}")  # fmt: skip


def _digits(row: Row) -> list[str]:
    """nRMSE of every trajectory with the digits that an entry keeps."""
    values = row.per_trajectory.get("nrmse", [])
    return ["" if value is None else f"{value:.9g}" for value in values]


def _median_change(stored: Row, found: Row) -> float:
    """Median over trajectories of |new nRMSE / stored nRMSE - 1|."""
    pairs = zip(stored.per_trajectory["nrmse"], found.per_trajectory["nrmse"], strict=False)
    changes = [abs(new / old - 1) for old, new in pairs if old and new is not None]
    return statistics.median(changes) if changes else math.nan
