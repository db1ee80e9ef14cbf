"""Is a leaderboard entry true? Its checkpoint is judged again and every number compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import ups
from ups import files, paths, runs
from ups.config.stages import STAGES
from ups.errors import CheckpointError, DataError, UsageError
from ups.evaluation.context import Context, open_context
from ups.evaluation.cost import training_seconds
from ups.evaluation.evaluate import accuracy_gates, describe_run, measure
from ups.evaluation.report import OWN, Report, Row
from ups.leaderboard.entries import Entry

TOLERANCE = 1e-3
State = Literal["confirmed", "refuted", "unchecked"]
Progress = Callable[[int, int], None]

_FACTS = ("stage", "seed", "commit", "step", "model", "num_parameters", "codec_fingerprint")
_FACTS_OF_THE_CODE = ("config", "config_sha256")
"""Spelled out with the defaults of the version of ups that wrote them."""
_TINY = 1e-12


@dataclass(frozen=True)
class Check:
    """One number, or one list of numbers, of an entry beside the same measured again.

    Attributes:
        what: 'mean', 'mean interval', 'field u', 'each step', 'each trajectory', ...
        stored, found: Of a list the pair that differs most; None where it is not finite.
        deviation: |stored - found| / the larger one; infinite where only one is a number.
    """

    row: str
    metric: str
    what: str
    stored: int | float | None
    found: int | float | None
    deviation: int | float
    agrees: bool


@dataclass(frozen=True)
class Verification:
    """What judging again says of an entry.

    Attributes:
        checks: Every number that was measured again.
        wrong: What else the entry says that is not so, in words.
        unchecked: What it says that was not measured again, in words.
        missing: Why nothing could be checked; empty where it could.
    """

    entry: Entry
    checks: tuple[Check, ...] = ()
    wrong: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    missing: str = ""

    @property
    def state(self) -> State:
        if self.missing:
            return "unchecked"
        return "refuted" if self.wrong or self.refuted else "confirmed"

    @property
    def refuted(self) -> list[Check]:
        """The numbers that do not agree, the worst first."""
        found = [check for check in self.checks if not check.agrees]
        return sorted(found, key=lambda check: -check.deviation)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; an infinite deviation is None."""
        checks = [
            asdict(one) | {"deviation": one.deviation if math.isfinite(one.deviation) else None}
            for one in self.checks
        ]
        return {
            "entry": self.entry.id, "state": self.state, "checks": checks,
            "wrong": list(self.wrong), "unchecked": list(self.unchecked), "missing": self.missing,
        }  # fmt: skip


def verify(
    entry: Entry,
    *,
    tolerance: int | float = TOLERANCE,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Verification:
    """Find the checkpoint of an entry by its hash, judge it on data of the same hash, and compare.

    The same machine and packages give the same numbers to rounding; another device or version of
    torch gives others where a rollout is chaotic: `tolerance` says how much may differ.

    Args:
        tolerance: Relative, of every number.
    """
    try:
        context = _opened(entry, device)
        rows = measure(context, progress=progress)
    except (CheckpointError, DataError, UsageError) as error:
        hint = f" ({error.hint})" if error.hint else ""
        return Verification(entry, missing=f"{error}{hint}")
    wrong, unchecked = [*_wrong_facts(entry, context, tolerance)], [*_left_out(entry, rows)]
    checks = [
        check for row in rows if (stored := entry.row(row.name)) is not None
        for check in _checks(stored, row, tolerance)
    ]  # fmt: skip
    wrong += [f"it has no row '{row.name}'" for row in rows if entry.row(row.name) is None]
    wrong += _wrong_gates(entry, context, rows)
    return Verification(entry, tuple(checks), tuple(wrong), tuple(unchecked))


def find_checkpoint(entry: Entry) -> tuple[Path, Any]:
    """The run among those here that holds an entry's checkpoint, and the stage that wrote it.

    Raises:
        CheckpointError: None does.
    """
    wanted, stage = entry.run.get("checkpoint_sha256"), entry.run.get("stage")
    known = paths.runs_dir() / str(entry.run.get("id") or entry.name)
    for run in dict.fromkeys([known, *runs.list_runs()]):
        for name in [stage] if stage in STAGES else STAGES:
            path = runs.checkpoint_path(run, name)
            if path.is_file() and files.sha256_file(path) == wanted:
                return run, name
    raise CheckpointError(
        f"no run in {paths.display(paths.runs_dir())} has a checkpoint with the hash "
        f"{str(wanted)[:12]}…",
        hint=f"ups reproduce {entry.id}",
    )


def _opened(entry: Entry, device: torch.device | str) -> Context:
    """The entry's checkpoint on the entry's data, by the entry's protocol."""
    run, stage = find_checkpoint(entry)
    about = entry.protocol
    given: dict[str, Any] = {"split": about.split}
    if about.history:  # not of steady problems
        given |= {"history": about.history, "horizon": about.horizon}
    settings = runs.run_experiment_of(run).evaluation.model_copy(update=given)
    context = open_context(
        run, task=entry.run.get("task"), stage=stage, settings=settings,
        protocol_name=entry.protocol_name, version=about.version, device=device,
    )  # fmt: skip
    found = context.protocol()
    if (found.data_sha256, found.split_hash) != (about.data_sha256, about.split_hash):
        raise DataError(
            f"{about.dataset}/{about.version}: the data here are not those that were judged on",
            hint=f"ups reproduce {entry.id}",
        )
    return context


def _wrong_facts(entry: Entry, context: Context, tolerance: int | float) -> Iterator[str]:
    """What the entry says of run, protocol, trajectories and training that is not so."""
    said, true = entry.run, describe_run(context)
    keys = _FACTS + (_FACTS_OF_THE_CODE if said.get("version") == ups.__version__ else ())
    for key in keys:
        if key in said and said[key] != true[key]:
            yield f"run.{key} is {_short(said[key])}, the checkpoint says {_short(true[key])}"
    told, found = entry.protocol.to_dict(), context.protocol().to_dict()
    for key, value in told.items():
        if value != found[key]:
            yield f"protocol.{key} is {_short(value)}, not {_short(found[key])}"
    if entry.trajectories and list(entry.trajectories) != context.members.tolist():
        yield "the trajectories are not those of the split"
    hours = (entry.sections.get("cost") or {}).get("train_hours")
    measured = sum(training_seconds(context.run).values()) / 3600
    if hours is not None and measured and not _close(hours, measured, tolerance):
        yield f"training took {measured:.4g} h by the run's record, not {hours:.4g} h"


def _wrong_gates(entry: Entry, context: Context, rows: tuple[Row, ...]) -> Iterator[str]:
    """Gates on errors whose outcome is another one now."""
    if entry.protocol_name != OWN:
        return
    report = Report(run={}, protocol=context.protocol(), rows=rows)
    said = {gate.name: gate for gate in entry.gates}
    for gate in accuracy_gates(report, context.settings.gates):
        stored = said.get(gate.name)
        if stored is not None and (stored.passed, stored.limit) != (gate.passed, gate.limit):
            yield f"gate {gate.name}: {gate.detail}"


def _left_out(entry: Entry, rows: tuple[Row, ...]) -> Iterator[str]:
    """What is believed without having been measured again."""
    again = {row.name: row for row in rows}
    for row in entry.rows:
        known = dict(_numbers(again.get(row.name, row)))
        for metric, what in (key for key, _ in _numbers(row) if key not in known):
            yield f"{row.name} {metric} {what}"
    others = [row.name for row in entry.rows if row.name not in again]
    if others:
        yield f"rows {', '.join(others)}"
    gates = [gate.name for gate in entry.gates if gate.kind != "accuracy"]
    if gates:
        yield f"gates {', '.join(gates)}"
    if entry.sections:
        yield f"sections {', '.join(entry.sections)}"
    if entry.run.get("version") != ups.__version__:
        yield f"config, written by ups {entry.run.get('version')}"


def _checks(stored: Row, found: Row, tolerance: int | float) -> Iterator[Check]:
    again = dict(_numbers(found))
    for key, values in _numbers(stored):
        if key in again and len(again[key]) == len(values):
            yield _check(found.name, key, values, again[key], tolerance)
        elif key in again:
            yield Check(found.name, *key, len(values), len(again[key]), math.inf, False)


def _check(
    row: str,
    key: tuple[str, str],
    stored: list[int | float | None],
    found: list[int | float | None],
    tolerance: int | float,
) -> Check:
    """The pair that differs most."""
    pairs = list(zip(stored, found, strict=True))
    deviations = [_deviation(*pair) for pair in pairs]
    worst = max(range(len(pairs)), key=deviations.__getitem__)
    return Check(row, *key, *pairs[worst], deviations[worst], deviations[worst] <= tolerance)


def _numbers(row: Row) -> Iterator[tuple[tuple[str, str], list[int | float | None]]]:
    """(metric, what) -> the numbers of it."""
    for metric, reduced in row.metrics.items():
        for name, value in reduced.items():
            yield (metric, name), [value]
    for metric, ends in row.intervals.items():
        for name, pair in ends.items():
            yield (metric, f"{name} interval"), list(pair)
    for metric, fields in row.per_channel.items():
        for name, value in fields.items():
            yield (metric, f"field {name}"), [value]
    listed: Mapping[str, Mapping[str, list[int | float | None]]] = {
        "each step": row.per_step, "each trajectory": row.per_trajectory,
    }  # fmt: skip
    for what, curves in listed.items():
        for metric, values in curves.items():
            if values:
                yield (metric, what), values


def _deviation(stored: int | float | None, found: int | float | None) -> float:
    if stored is None or found is None:
        return 0.0 if stored is found else math.inf
    difference = abs(stored - found)
    return 0.0 if difference <= _TINY else difference / max(abs(stored), abs(found))


def _close(stored: int | float, found: int | float, tolerance: int | float) -> bool:
    return _deviation(stored, found) <= tolerance


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return f"'{text[:24]}…'" if len(text) > 40 else f"'{text}'"
