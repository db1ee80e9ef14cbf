"""`report.json`: what an evaluation found, under which protocol, of which run, on which machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ups import files
from ups.errors import CheckpointError, translated_os_errors
from ups.evaluation.protocol import Protocol

FORMAT = 1
REPORT = "report.json"
EVALUATE = "ups eval"

Number = float | None
"""None where the number is NaN or infinite: a rollout that blew up has no nRMSE."""

Kind = Literal["model", "baseline", "trivial"]
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The numbers of one predictor.

    Attributes:
        kind: 'trivial' rows (persistence, spatial mean) learned nothing.
        metrics: Metric -> reduction -> value, e.g. `metrics["nrmse"]["mean"]`.
        per_step: Curve -> one value per predicted frame.
        per_channel: Metric -> field -> value.
        seconds_per_step: Wall time per predicted frame of one trajectory.
    """

    __pydantic_config__ = _STRICT

    name: str
    kind: Kind
    metrics: dict[str, dict[str, Number]]
    per_step: dict[str, list[Number]] = field(default_factory=dict)
    per_channel: dict[str, dict[str, Number]] = field(default_factory=dict)
    seconds_per_step: Number = None

    def __post_init__(self) -> None:
        for name in ("metrics", "per_step", "per_channel", "seconds_per_step"):
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
        """A row from `Metrics.to_dict()`; the values of single trajectories are left out."""
        return cls(
            name=name,
            kind=kind,
            metrics=metrics["metrics"],
            per_step=metrics["per_step"],
            per_channel=metrics["per_channel"],
            seconds_per_step=seconds_per_step,
        )

    def value(self, metric: str, reduction: str = "mean") -> Number:
        """One number, None where there is none."""
        return self.metrics.get(metric, {}).get(reduction)


@dataclass(frozen=True, kw_only=True)
class Report:
    """One evaluation of one run under one protocol.

    Attributes:
        run: Who was judged: 'name', 'id', 'seed', 'commit', 'checkpoint_sha256',
            'num_parameters', 'codec_fingerprint', ...
        rows: The model first, then baselines and trivial predictors.
        created: UTC, ISO 8601.
        environment: What speed depends on: packages, platform, device.
    """

    __pydantic_config__ = _STRICT

    run: dict[str, Any]
    protocol: Protocol
    rows: tuple[Row, ...]
    environment: dict[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    format: int = FORMAT

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)
        if not self.rows:
            raise ValueError("a report needs at least one row")
        object.__setattr__(self, "run", _finite(self.run))
        object.__setattr__(self, "environment", _finite(self.environment))

    @property
    def headline(self) -> Number:
        """nRMSE mean of the first row."""
        return self.rows[0].value("nrmse")

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the protocol carries its id."""
        content = asdict(self)
        content["rows"] = [asdict(row) for row in self.rows]
        content["protocol"] = {"id": self.protocol.id, **self.protocol.to_dict()}
        order = ("format", "created", "run", "protocol", "rows", "environment")
        return {key: content[key] for key in order}


def report_path(run_dir: Path, task: str | None = None) -> Path:
    """Where the report of a run is, or that of one of its several tasks."""
    return run_dir / (REPORT if task is None else f"report-{task}.json")


def write_report(report: Report, run_dir: Path, task: str | None = None) -> Path:
    """Write `report.json`, or `report-<task>.json`, into the run's folder, whole or not at all."""
    path = report_path(run_dir, task)
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


def _finite(value: Any) -> Any:
    """Plain JSON values with None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
