"""`report.json`: what an evaluation found, under which protocol, of which run, on which machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ups import files
from ups.errors import CheckpointError, translated_os_errors
from ups.evaluation.gates import Gate
from ups.evaluation.intervals import bootstrap
from ups.evaluation.protocol import Protocol

FORMAT = 2
REPORT = "report.json"
EVALUATE = "ups eval"
OWN = "own"
"""The protocol that the run's config describes."""

LIMIT = "limit"
"""Section of a report on the first trajectories of a split only; the leaderboard takes none."""

Number = float | None
"""None where the number is NaN or infinite: a rollout that blew up has no nRMSE."""

Kind = Literal["model", "baseline", "trivial"]
KEPT = ("nrmse", "relative_l2", "vrmse", "rmse", "max_error")
"""Metrics whose values of every trajectory a report keeps."""
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The numbers of one predictor.

    Attributes:
        kind: 'trivial' rows (persistence, spatial mean) learned nothing.
        metrics: Metric -> reduction -> value, e.g. `metrics["nrmse"]["mean"]`.
        per_step: Curve -> one value per predicted frame.
        per_channel: Metric -> field -> value.
        intervals: Metric -> reduction -> (low, high), 95 % bootstrap over trajectories.
        per_trajectory: Metric -> one value per trajectory, in the order of the report's
            `trajectories`; what paired comparisons need.
        seconds_per_step: Wall time per predicted frame of one trajectory.
    """

    __pydantic_config__ = _STRICT

    name: str
    kind: Kind
    metrics: dict[str, dict[str, Number]]
    per_step: dict[str, list[Number]] = field(default_factory=dict)
    per_channel: dict[str, dict[str, Number]] = field(default_factory=dict)
    intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    per_trajectory: dict[str, list[Number]] = field(default_factory=dict)
    seconds_per_step: Number = None

    def __post_init__(self) -> None:
        for name in ("metrics", "per_step", "per_channel", "per_trajectory", "seconds_per_step"):
            object.__setattr__(self, name, _finite(getattr(self, name)))

    @classmethod
    def of(
        cls,
        name: str,
        kind: Kind,
        metrics: Mapping[str, Any],
        *,
        seconds_per_step: float | None = None,
    ) -> Row:
        """A row from `Metrics.to_dict()`, with intervals."""
        kept = {name: metrics["per_trajectory"][name] for name in KEPT}
        return cls(
            name=name,
            kind=kind,
            metrics=metrics["metrics"],
            per_step=metrics["per_step"],
            per_channel=metrics["per_channel"],
            intervals={
                name: bootstrap(np.array(values, dtype=np.float64))  # None becomes NaN
                for name, values in metrics["per_trajectory"].items()
            },
            per_trajectory=kept,
            seconds_per_step=seconds_per_step,
        )

    def value(self, metric: str, reduction: str = "mean") -> Number:
        """One number, None where there is none."""
        return self.metrics.get(metric, {}).get(reduction)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report beyond the table of errors.

    Attributes:
        name: Its key in `Report.sections`: 'physics', 'spectra', 'one_step', 'cost', ...
        content: Plain JSON values, as the maker of the section documents them.
        rows: Further predictors that it judged, an ensemble mean for example.
    """

    name: str
    content: dict[str, Any]
    gates: tuple[Gate, ...] = ()
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """One evaluation of one run under one protocol.

    Attributes:
        run: Who was judged: 'name', 'id', 'seed', 'commit', 'version' (of ups),
            'checkpoint_sha256', 'config_sha256', 'config' (resolved), 'num_parameters',
            'codec_fingerprint', 'model' (kind of operator), ...
        rows: The model first, then baselines and trivial predictors.
        protocol_name: What the protocol is called: 'own', 'ic', 'pdebench', 'well' or a file's.
        trajectories: Their numbers in the store, in the order of `Row.per_trajectory`.
        sections: What else was measured, by name.
        gates: What the result had to meet.
        created: UTC, ISO 8601.
        environment: What speed depends on: packages, platform, device.
    """

    __pydantic_config__ = _STRICT

    run: dict[str, Any]
    protocol: Protocol
    rows: tuple[Row, ...]
    protocol_name: str = OWN
    trajectories: tuple[int, ...] = ()
    sections: dict[str, Any] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    format: int = FORMAT

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)
        if not self.rows:
            raise ValueError("a report needs at least one row")
        object.__setattr__(self, "run", _finite(self.run))
        object.__setattr__(self, "environment", _finite(self.environment))
        object.__setattr__(self, "sections", _finite(self.sections))

    @property
    def headline(self) -> Number:
        """nRMSE mean of the first row."""
        return self.rows[0].value("nrmse")

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def extended(self, sections: Iterable[Section]) -> Report:
        """The report with further sections, their rows and gates; one of the same name replaces."""
        found = tuple(sections)
        names = {row.name for one in found for row in one.rows}
        kept = tuple(row for row in self.rows if row.name not in names)
        report = replace(
            self,
            sections={**self.sections, **{one.name: one.content for one in found}},
            rows=(*kept, *(row for one in found for row in one.rows)),
        )
        return report.with_gates(gate for one in found for gate in one.gates)

    def with_gates(self, gates: Iterable[Gate]) -> Report:
        """The report with further gates; one of the same name replaces."""
        found = {gate.name: gate for gate in (*self.gates, *gates)}
        return replace(self, gates=tuple(found.values()))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the protocol carries its id."""
        content = asdict(self)
        for key in ("rows", "gates"):
            content[key] = [asdict(part) for part in getattr(self, key)]
        content["trajectories"] = list(self.trajectories)
        content["protocol"] = {"id": self.protocol.id, **self.protocol.to_dict()}
        order = (
            "format", "created", "run", "protocol_name", "protocol", "rows", "gates", "sections",
            "trajectories", "environment",
        )  # fmt: skip
        return {key: _plain(content[key]) for key in order}


def report_path(run_dir: Path, task: str | None = None, protocol: str = OWN) -> Path:
    """Where a report of a run is: `report[-<task>][.<protocol>].json`.

    Args:
        task: Of one of several tasks.
        protocol: `own`, that of the run's config, has no name in the file's.
    """
    of_task = "" if task is None else f"-{task}"
    return run_dir / f"report{of_task}{'' if protocol == OWN else f'.{protocol}'}.json"


def report_files(run_dir: Path) -> list[Path]:
    """Every report of a run: those of its config's own protocol first."""
    found = run_dir.glob("report*.json")
    return sorted(found, key=lambda path: (path.name.count("."), path.name))


def write_report(report: Report, run_dir: Path) -> Path:
    """Write a report into the run's folder, whole or not at all."""
    path = report_path(run_dir, report.run.get("task"), report.protocol_name)
    files.write_json(path, report.to_dict(), CheckpointError)
    return path


def load_report(path: Path) -> Report:
    """Read and check a `report.json`.

    Raises:
        CheckpointError: It is missing, cut off, of another format, not a report, or its protocol
            does not match its id.
    """
    with translated_os_errors(path, "reading", CheckpointError):
        if not path.is_file():
            raise CheckpointError(f"{path}: no such report", hint=EVALUATE)
        raw = path.read_bytes()
    try:
        content = json.loads(raw)
    except ValueError as error:  # not JSON, or not UTF-8
        raise _broken(path, f"not readable as JSON: {error}") from error
    if not isinstance(content, dict) or not {"format", "protocol", "rows"} <= content.keys():
        raise _broken(path, "not a report")
    if content["format"] != FORMAT:
        raise _broken(path, f"report format {content['format']!r}; this version reads {FORMAT}")
    return _parse(path, content)


def _parse(path: Path, content: dict[str, Any]) -> Report:
    protocol = content["protocol"]
    claimed = protocol.pop("id", None) if isinstance(protocol, dict) else None
    try:
        report = TypeAdapter(Report).validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _broken(path, f"{where or 'report'}: {first['msg']}") from error
    if claimed not in (None, report.protocol.id):
        raise _broken(
            path, f"protocol: id '{claimed}' but the fields give '{report.protocol.id}'; edited?"
        )
    return report


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}", hint=f"write it again: {EVALUATE}")


def _plain(value: Any) -> Any:
    """Lists for tuples, as JSON reads them back."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _finite(value: Any) -> Any:
    """Plain JSON values with None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
