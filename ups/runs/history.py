"""The history of a run: `metrics.jsonl` as records, as curves and as a table.

A record is a flat mapping with `stage`, `step` and numbers, e.g.
`{"stage": "operator", "step": 400, "loss": 0.02, "burgers1d/nrmse": 0.03, "time": 1764.2}`. A
metric is named `stage/key`: `operator/loss`, `operator/burgers1d/nrmse`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups.errors import UsageError, did_you_mean

TIME = "time"
FINISHED = "finished"
_NOT_METRICS = frozenset({"stage", "step", TIME, FINISHED})
_OF_THE_MACHINE = frozenset({TIME, "samples_per_s", "peak_memory_bytes", "mfu"})
_HEADLINES = ("valid_nrmse", "nrmse", "valid_crps", "valid_loss")
_BLOCKS = "▁▂▃▄▅▆▇█"

COLUMNS = ("run", "stage", "step", "time", "metric", "value")


def read_metrics(path: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    """All records of a metrics.jsonl; a last line cut off by a kill is left out.

    Args:
        timed: Keep `time`, seconds since 1970 at which a record was written, and what else tells
            of the machine: speed and memory. Without it two runs of the same numbers have the same
            records.
    """
    if not path.is_file():
        return []
    records: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if not timed:
            record = {key: value for key, value in record.items() if key not in _OF_THE_MACHINE}
        records.append(record)
    return records


@dataclass(frozen=True)
class Curve:
    """One metric over the steps of its stage.

    Attributes:
        values: NaN where a value was not finite.
        times: Seconds since 1970; NaN where the record has none.
    """

    metric: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    times: tuple[float, ...]

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the smallest finite value."""
        finite = [
            (value, step)
            for step, value in zip(self.steps, self.values, strict=True)
            if math.isfinite(value)
        ]
        if not finite:
            return None
        value, step = min(finite)
        return step, value

    @property
    def is_timed(self) -> bool:
        """Whether every value has a time."""
        return all(math.isfinite(when) for when in self.times)


def metric_names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every `stage/key` of the records, in order of appearance."""
    return list(dict.fromkeys(
        f"{record['stage']}/{key}"
        for record in records for key, value in record.items() if _is_metric(key, value)
    ))  # fmt: skip


def stages_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The stages that have records, in order of appearance."""
    return list(dict.fromkeys(str(record["stage"]) for record in records))


def curve(records: Sequence[Mapping[str, Any]], metric: str) -> Curve:
    """One metric of one run.

    Raises:
        UsageError: No record has it.
    """
    stage, _, key = metric.partition("/")
    own = [record for record in records if record["stage"] == stage and key in record]
    if not own or key in _NOT_METRICS:
        known = metric_names(records)
        listed = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise UsageError(
            f"--metric {metric}: no such metric{did_you_mean(metric, known)}",
            hint=f"recorded are {listed}" if known else "the run has recorded nothing yet",
        )
    return Curve(
        metric,
        tuple(int(record["step"]) for record in own),
        tuple(_number(record[key]) for record in own),
        tuple(_number(record.get(TIME)) for record in own),
    )


def headline(records: Sequence[Mapping[str, Any]], stage: str) -> str | None:
    """The metric that says best how good a stage is: a validation error, else its loss."""
    keys = [
        name.partition("/")[2] for name in metric_names(records) if name.startswith(f"{stage}/")
    ]
    errors = [key for key in keys if "nrmse" in key]
    for key in (*_HEADLINES, *errors, "loss"):
        if key in keys:
            return f"{stage}/{key}"
    return f"{stage}/{keys[0]}" if keys else None


def default_metrics(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Loss and headline of each stage."""
    known = metric_names(records)
    wanted = [name for stage in stages_of(records)
              for name in (f"{stage}/loss", headline(records, stage))]  # fmt: skip
    return list(dict.fromkeys(name for name in wanted if name in known))


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """The values as blocks of eighths, low to high; logarithmic where all are positive.

    A gap where no value is finite. Longer series are averaged into `width` cells.
    """
    logarithmic = all(value > 0 for value in values if math.isfinite(value))
    heights = [_height(value, logarithmic) for value in values]
    cells = [
        _mean(heights[len(heights) * i // width : len(heights) * (i + 1) // width])
        for i in range(width)
    ] if len(heights) > width else heights  # fmt: skip
    finite = [cell for cell in cells if math.isfinite(cell)]
    if not finite:
        return " " * len(cells)
    low, spread = min(finite), max(finite) - min(finite)
    top = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[round(top * (cell - low) / spread) if spread else 0] if math.isfinite(cell) else " "
        for cell in cells
    )


def rows(run: str, records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """One row for each number, as `COLUMNS` says; None for what was not finite."""
    for record in records:
        for key, value in record.items():
            if _is_metric(key, value):
                yield run, record["stage"], record["step"], record.get(TIME), key, value


def to_csv(table: Sequence[tuple[Any, ...]]) -> str:
    """The rows with a heading; an empty cell for None."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(table)
    return out.getvalue()


def to_json(table: Sequence[tuple[Any, ...]]) -> str:
    """The rows as a list of objects."""
    content = [dict(zip(COLUMNS, row, strict=True)) for row in table]
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _is_metric(key: str, value: Any) -> bool:
    is_number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return key not in _NOT_METRICS and is_number


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _height(value: float, logarithmic: bool) -> float:
    if not math.isfinite(value):
        return math.nan
    return math.log(value) if logarithmic else value


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
