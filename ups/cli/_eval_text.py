"""Reports of an evaluation as text for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ups.cli import _output
from ups.runs.history import sparkline


def print_report(report: Any) -> None:
    """The report's rows as a table, with the protocol above it and what else was found below."""
    trivial = report.row("persistence") or report.row("training mean")
    first = trivial.value("nrmse") if trivial else None
    rows = []
    for row in report.rows:
        values = [row.value("nrmse", part) for part in ("mean", "median", "p90", "max")]
        mean = values[0]
        ratio = f"{mean / first:.3g}" if mean is not None and first else "-"
        speed = f"{1e3 * row.seconds_per_step:.3f}" if row.seconds_per_step else "-"
        relative = row.value("relative_l2")
        rows.append([row.name, *map(_number, values), _number(relative), ratio, speed])
    against = ">× pers." if report.row("persistence") else ">× mean"
    heads = ["", ">nRMSE mean", ">median", ">p90", ">max", ">rel. L2", against, ">ms/step"]
    _output.print_table(_title(report), heads, rows)
    for label, text in _notes(report):
        _output.summary(label, text)
    for title, columns, lines in _tables(report.sections):
        _output.print_table(title, columns, lines)


def _title(report: Any) -> str:
    task = report.run.get("task")
    words = report.protocol.describe()
    named = "" if report.protocol_name == "own" else f"{report.protocol_name}: "
    return f"{named}{task}: {words}" if task else f"{named}{words}"


def _notes(report: Any) -> list[tuple[str, str]]:
    """One line for each further finding."""
    notes = []
    if limit := report.sections.get("limit"):
        notes.append(("limit", f"the first {limit['first']} of {limit['of']} trajectories: a look, "
                               "not for the leaderboard"))  # fmt: skip
    interval = report.rows[0].intervals.get("nrmse", {}).get("mean")
    if interval:
        notes.append(("sure", "nRMSE mean between {:.4f} and {:.4f} (95 %)".format(*interval)))
    sections = report.sections
    curve = report.rows[0].per_step.get("nrmse_median", [])
    if len(curve) > 1:
        ends = f"{_number(curve[0])} to {_number(curve[-1])}"
        line = sparkline([float("nan") if value is None else value for value in curve])
        notes.append(("over time", f"{line}  median {ends}"))
    if step := sections.get("one_step"):
        error = step["metrics"]["nrmse"]["mean"]
        notes.append(("one step", f"nRMSE {_number(error)} from true frames"))
    if far := sections.get("long_rollout"):
        share = far["stable_share"]
        notes.append((
            "beyond", f"{100 * share:.0f} % of {far['num_trajectories']} rollouts stay bounded "
                      f"over {far['steps']} steps",
        ))  # fmt: skip
    if report.gates:
        passed = sum(gate.passed for gate in report.gates)
        notes.append(("gates", f"{passed} of {len(report.gates)} met"))
        notes += [("not met", f"{gate.name}: {gate.detail}")
                  for gate in report.gates if not gate.passed]  # fmt: skip
    return notes


def _tables(sections: Any) -> Iterator[tuple[str, Sequence[str], list[Any]]]:
    """What was asked for on top, each as a short table."""
    from ups.evaluation import section_tables, super_resolution

    if content := sections.get("uncertainty"):
        rows = section_tables.uncertainty_rows(content)
        yield "Uncertainty", section_tables.UNCERTAINTY_COLUMNS, rows
    if content := sections.get("ttc"):
        yield "Test-time compute", section_tables.TTC_COLUMNS, section_tables.ttc_rows(content)
    if content := sections.get("super_resolution"):
        finer = super_resolution.super_resolution_rows(content)
        yield "Zero-shot super-resolution", super_resolution.HEADS, finer


def print_average(reports: list[Any]) -> None:
    """Macro averages over the tasks of a run."""
    from ups.evaluation.evaluate import persistence_ratio

    errors = [report.headline for report in reports]
    ratios = [persistence_ratio(report) for report in reports]
    if all(errors) and all(ratios):
        mean = sum(errors) / len(errors)
        share = sum(1 / ratio for ratio in ratios if ratio) / len(ratios)
        _output.summary("average", f"nRMSE {mean:.4f} over {len(reports)} tasks, "
                                   f"{share:.3g} of the trivial predictor's")  # fmt: skip
    else:
        _output.summary("average", "not finite")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
