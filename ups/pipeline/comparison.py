"""A benchmark as a table: one line for each experiment, means over seeds with their intervals."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ups import __version__, files, runs
from ups.errors import CheckpointError
from ups.pipeline.benchmark import Benchmark, Result
from ups.pipeline.comparison_plot import plot_comparison
from ups.pipeline.seeds import Estimate, over_seeds
from ups.pipeline.solver_time import break_even
from ups.pipeline.trained import Row

HEADINGS = ("model", ">nRMSE", ">median", ">params", ">train s", ">s/solve", ">even at")
_UNSOUND = "not sound"


@dataclass(frozen=True)
class Line:
    """One experiment, all its seeds together.

    Attributes:
        nrmse, nrmse_median, train_seconds, infer_seconds: None where a seed has no number.
        even_at: Solves from which on the model takes less time than the generator.
        remark: Why a line is not ranked, or which gates it misses.
    """

    label: str
    rows: tuple[Row, ...]
    nrmse: Estimate | None
    nrmse_median: Estimate | None
    train_seconds: Estimate | None
    infer_seconds: Estimate | None
    num_parameters: int | None
    even_at: int | None
    remark: str = ""

    @property
    def is_ranked(self) -> bool:
        return self.nrmse is not None and not self.remark.startswith(_UNSOUND)


@dataclass(frozen=True)
class Comparison:
    """The lines that one protocol makes comparable, best first.

    Attributes:
        trivial, trivial_nrmse: As of `Row`.
        solver_seconds: Of the generator, for one trajectory; None where there is none.
    """

    dataset: str
    protocol: str
    lines: tuple[Line, ...]
    trivial: str
    trivial_nrmse: float | None
    solver_seconds: float | None

    @property
    def title(self) -> str:
        """The protocol in words."""
        rows = [row for line in self.lines for row in line.rows]
        if not rows:
            return self.dataset
        first = rows[0]
        frames = f", {first.history} given, {first.horizon} predicted" if first.horizon else ""
        return f"{self.dataset}{frames}, on {first.device}"


def compare(benchmark: Benchmark) -> list[Comparison]:
    """One comparison for each protocol; experiments whose trainings all failed come last."""
    by_label: dict[str, list[Result]] = {}
    for result in benchmark.results:
        by_label.setdefault(result.label, []).append(result)
    groups: dict[tuple[str, str], list[Line]] = {}
    for label, results in by_label.items():
        rows = [result.row for result in results if result.row]
        group = (rows[0].dataset, rows[0].protocol) if rows else ("", "")
        solver = benchmark.solver_seconds.get(group[0])
        groups.setdefault(group, []).append(_line(label, results, rows, solver))
    return [
        _comparison(dataset, protocol, lines, benchmark.solver_seconds.get(dataset))
        for (dataset, protocol), lines in sorted(groups.items(), key=lambda item: not item[0][0])
    ]


def _line(label: str, results: Sequence[Result], rows: Sequence[Row], solver: float | None) -> Line:
    complete = len(rows) == len(results)
    train = over_seeds([row.train_seconds for row in rows]) if rows else None
    infer = over_seeds([row.infer_seconds for row in rows]) if rows else None
    even = break_even(train.mean, infer.mean if infer else None, solver) if train else None
    return Line(
        label=label,
        rows=tuple(rows),
        nrmse=over_seeds([row.nrmse for row in rows]) if complete else None,
        nrmse_median=over_seeds([row.nrmse_median for row in rows]) if complete else None,
        train_seconds=train,
        infer_seconds=infer,
        num_parameters=rows[0].num_parameters if rows else None,
        even_at=even,
        remark=_remark(results, rows),
    )


def _remark(results: Sequence[Result], rows: Sequence[Row]) -> str:
    errors = [f"seed {result.seed}: {result.error}" for result in results if result.error]
    missed = sorted({name for row in rows for name in row.failed_gates})
    gates = [f"misses {', '.join(missed)}"] if missed else []
    sound = all(row.is_sound for row in rows)
    return "; ".join([*([] if sound else [_UNSOUND]), *errors, *gates])


def _comparison(
    dataset: str, protocol: str, lines: Sequence[Line], solver: float | None
) -> Comparison:
    def order(line: Line) -> tuple[bool, float]:
        return not line.is_ranked, line.nrmse.mean if line.nrmse else 0.0

    first = next((row for line in lines for row in line.rows), None)
    return Comparison(
        dataset=dataset,
        protocol=protocol,
        lines=tuple(sorted(lines, key=order)),
        trivial=first.trivial if first else "",
        trivial_nrmse=first.trivial_nrmse if first else None,
        solver_seconds=solver,
    )


def cells(line: Line) -> list[str]:
    """The line as texts, one for each of `HEADINGS`."""
    return [
        line.label,
        _with_error(line.nrmse),
        _number(line.nrmse_median),
        f"{line.num_parameters:,}" if line.num_parameters is not None else "–",
        _number(line.train_seconds),
        _number(line.infer_seconds),
        f"{line.even_at:,}" if line.even_at is not None else "never" if line.rows else "–",
    ]


def _number(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.mean:.3g}"


def _with_error(estimate: Estimate | None) -> str:
    if estimate is None or estimate.high is None:
        return _number(estimate)
    return f"{estimate.mean:.3g} ±{estimate.high - estimate.mean:.2g}"


def notes(comparison: Comparison, benchmark: Benchmark) -> list[str]:
    """What a reader of the table needs to know, one sentence each."""
    budget = f"Budget {benchmark.budget} for each training" if benchmark.budget else (
        "Each experiment with the steps of its config"
    )  # fmt: skip
    several = len(benchmark.seeds) > 1
    found = [
        f"{budget}; seeds {', '.join(map(str, benchmark.seeds))}"
        + ("; ± is half the 95 % interval over seeds (Student's t)." if several else ".")
    ]
    if comparison.trivial_nrmse is not None:
        found.append(
            f"Learning nothing ({comparison.trivial}): nRMSE {comparison.trivial_nrmse:.3g}."
        )
    if comparison.solver_seconds is None:
        found.append("The dataset has no generator here: no break-even.")
    else:
        found.append(
            f"One trajectory of the generator takes {comparison.solver_seconds:.3g} s (one "
            "process); 'even at' is how many make training and inference cheaper, making the "
            "training data not counted."
        )
    found += [f"{line.label}: {line.remark}." for line in comparison.lines if line.remark]
    return found


def to_markdown(comparisons: Sequence[Comparison], benchmark: Benchmark) -> str:
    """One table for each protocol, with its notes and its plot."""
    parts = ["# Benchmark"]
    for index, one in enumerate(comparisons):
        rows = [cells(line) for line in one.lines]
        heads = [heading.removeprefix(">") for heading in HEADINGS]
        rule = ["---:" if heading.startswith(">") else "---" for heading in HEADINGS]
        table = "\n".join(f"| {' | '.join(texts)} |" for texts in (heads, rule, *rows))
        listed = "\n".join(f"- {note}" for note in notes(one, benchmark))
        parts.append(f"## {one.title}\n\n{table}\n\n{listed}\n\n![]({_plot_name(index)})")
    return "\n\n".join(parts) + "\n"


def to_csv(benchmark: Benchmark) -> str:
    """One line for each training, all of its numbers."""
    records = [
        {"label": one.label, "seed": one.seed, "error": one.error, **_flat(one.row)}
        for one in benchmark.results
    ]
    columns = list(dict.fromkeys(key for record in records for key in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _flat(row: Row | None) -> dict[str, Any]:
    if row is None:
        return {}
    content = asdict(row)
    steps, protocols = content.pop("steps"), content.pop("protocols")
    content["failed_gates"] = " ".join(row.failed_gates)
    return {
        **content,
        **{f"steps_{name}": number for name, number in steps.items()},
        **{f"nrmse_{name}": number for name, number in protocols.items()},
    }


def to_dict(comparisons: Sequence[Comparison], benchmark: Benchmark) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    return {
        "budget": benchmark.budget,
        "seeds": list(benchmark.seeds),
        "ups": __version__,
        "commit": runs.commit(),
        "comparisons": [{"title": one.title, **asdict(one)} for one in comparisons],
        "errors": [
            {"label": one.label, "seed": one.seed, "error": one.error}
            for one in benchmark.results if one.error
        ],
    }  # fmt: skip


def write_comparison(benchmark: Benchmark, out: Path) -> list[Path]:
    """Write `comparison.md`, `.csv`, `.json` and a page of plots for each protocol.

    Returns:
        The files.
    """
    comparisons = compare(benchmark)
    plots = [
        plot_comparison(out / _plot_name(index), one)
        for index, one in enumerate(comparisons)
        if any(line.nrmse for line in one.lines)
    ]
    page, table, data = (out / f"comparison.{suffix}" for suffix in ("md", "csv", "json"))
    files.write_text(page, to_markdown(comparisons, benchmark), CheckpointError)
    files.write_text(table, to_csv(benchmark), CheckpointError)
    files.write_json(data, to_dict(comparisons, benchmark), CheckpointError)
    return [page, table, data, *plots]


def _plot_name(index: int) -> str:
    return "comparison.png" if index == 0 else f"comparison-{index + 1}.png"
