"""`report.html`: all that is known of a run, for people. One file that asks for nothing else.

It is made from the run's files alone: reports, kept examples, metrics, codec card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ups import files
from ups.errors import CheckpointError
from ups.evaluation.report import EVALUATE, Report, Row, load_report, report_files
from ups.evaluation.reporting import about, results
from ups.evaluation.reporting.examples import FOLDER, Examples, examples_path, load_examples
from ups.evaluation.reporting.fields import fields_part
from ups.evaluation.reporting.markup import folded, number, paragraph, part, table
from ups.evaluation.reporting.measured import measured_parts

PAGE = "report.html"
_HERE = Path(__file__).parent
_PARTS = {
    "result": "Result", "gates": "Gates", "fields": "Fields", "long": "Long rollout",
    "physics": "Physics", "spectra": "Spectra", "energy": "Energies",
    "uncertainty": "Uncertainty", "ttc": "Test-time compute", "training": "Training",
    "codec": "Codec", "cost": "Cost", "provenance": "Provenance and rerun",
}  # fmt: skip
"""Parts that the page links to, where it has them."""


def load_reports(run: Path) -> list[Report]:
    """Every report of a run, those under its config's own protocol first.

    Raises:
        CheckpointError: There is none, or one is damaged.
    """
    found = [load_report(path) for path in report_files(run)]
    if not found:
        raise CheckpointError(f"{run}: has not been judged yet", hint=f"{EVALUATE} {run}")
    return found


def write_page(
    run: Path,
    *,
    others: Mapping[str, Sequence[Row]] | None = None,
    out: Path | None = None,
) -> Path:
    """Draw a run's evaluations and write the page that shows them, whole or not at all.

    Pictures go into `report/<task>/<protocol>/` in the run's folder as well.

    Args:
        others: Protocol id -> rows of other runs under it, named as they should be shown.
        out: The page; by default `report.html` in the run's folder.

    Raises:
        CheckpointError: There is no report, a file is damaged, or the page cannot be written.
    """
    path = out or run / PAGE
    files.write_text(path, page_of(run, load_reports(run), others or {}), CheckpointError)
    return path


def pictures_of(run: Path) -> dict[tuple[str, str], list[Path]]:
    """(task, protocol) -> the pictures that `write_page` drew of its report."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted((run / FOLDER).glob("*/*/*.png")):
        found.setdefault((path.parent.parent.name, path.parent.name), []).append(path)
    return found


def page_of(run: Path, reports: Sequence[Report], others: Mapping[str, Sequence[Row]]) -> str:
    """The page as HTML."""
    tasks: dict[str, list[Report]] = {}
    for report in reports:
        tasks.setdefault(task_of(report), []).append(report)
    several = len(tasks) > 1
    bodies = [
        _task(run, task, own, others, several=several) for task, own in tasks.items()
    ]  # fmt: skip
    folder = run / FOLDER
    bodies += [
        about.training_part(run, folder), about.codec_part(run),
        about.cost_part([own[0] for own in tasks.values()]),
        about.provenance_part(run, reports),
    ]  # fmt: skip
    first = reports[0]
    datasets = ", ".join(dict.fromkeys(report.protocol.dataset for report in reports))
    title = f"{first.run.get('name', 'run')} on {datasets}"
    return _document(title, [
        f"<header><h1>{escape(title)}</h1>",
        *(paragraph(results.summary(own[0]), "summary") for own in tasks.values()),
        _average([own[0] for own in tasks.values()]) if several else "",
        paragraph(f"{_what(first)} Evaluated {first.created.replace('T', ' ').rstrip('Z')} UTC.",
                  "note"),
        _navigation("".join(bodies), list(tasks)), "</header><main>", *bodies, "</main>",
        "<footer>Written by ups; this file holds everything that it shows.</footer>",
    ])  # fmt: skip


def task_of(report: Report) -> str:
    """The name under which a report's examples and pictures are kept."""
    return str(report.run.get("task") or report.protocol.dataset)


def _task(
    run: Path, task: str, reports: Sequence[Report], others: Mapping[str, Sequence[Row]], *,
    several: bool,
) -> str:  # fmt: skip
    first, prefix = reports[0], f"{task}-" if several else ""
    examples = _examples(run, task, first)
    folder, clock = _folder(run, task, first), _clock(examples)
    beside = others.get(first.protocol.id, ())
    parts = [
        results.result_part(first, beside, folder, prefix, clock),
        results.protocols_part(reports, prefix),
        results.gates_part(reports, prefix),
        fields_part(examples, folder, prefix, films=True) if examples else "",
        *measured_parts(first, folder, prefix, clock),
        *(_other_protocol(run, task, report, others, prefix) for report in reports[1:]),
    ]
    if several:
        return part(f"task-{task}", f"{task}: {first.protocol.dataset}", *parts)
    return "\n".join(one for one in parts if one)


def _other_protocol(
    run: Path, task: str, report: Report, others: Mapping[str, Sequence[Row]], prefix: str
) -> str:
    """The same for a protocol beside the config's own, folded."""
    name, examples = report.protocol_name, _examples(run, task, report)
    folder, clock = _folder(run, task, report), _clock(examples)
    inner, beside = f"{prefix}{name}-", others.get(report.protocol.id, ())
    return part(
        f"{prefix}{name}", f"Under the protocol {name}",
        paragraph(results.summary(report)),
        folded(
            "Tables and pictures",
            results.result_part(report, beside, folder, inner, clock),
            fields_part(examples, folder, inner, films=False) if examples else "",
            *measured_parts(report, folder, inner, clock),
        ),
        level=3,
    )  # fmt: skip


def _examples(run: Path, task: str, report: Report) -> Examples | None:
    path = examples_path(run, task, report.protocol_name)
    return load_examples(path) if path.is_file() else None


def _folder(run: Path, task: str, report: Report) -> Path:
    """Where the pictures of a report are."""
    return run / FOLDER / task / report.protocol_name


def _clock(examples: Examples | None) -> str:
    """What the time axis is, with its unit where it is known."""
    unit = examples.setting.time.partition(" (")[2] if examples else ""
    return f"{results.CLOCK} ({unit}" if unit else results.CLOCK


def _average(reports: Sequence[Report]) -> str:
    """Of several tasks: one row each, then the means over them."""
    rows = []
    ratios, errors = [], []
    for report in reports:
        value, trivial = report.headline, results.trivial_row(report.rows)
        floor = trivial.value("nrmse") if trivial else None
        ratio = value / floor if value is not None and floor else None
        ratios.append(ratio)
        errors.append(value)
        rows.append(("", [task_of(report), report.protocol.dataset, number(value), number(ratio)]))
    if all(errors) and all(ratios):
        mean = sum(value for value in errors if value) / len(errors)
        share = sum(ratio for ratio in ratios if ratio) / len(ratios)
        rows.append(("ours", ["mean over tasks", "", number(mean), number(share)]))
    return table(["task", "dataset", "nRMSE", "× trivial"], rows)


def _what(report: Report) -> str:
    count = report.run.get("num_parameters")
    kind, stage = report.run.get("model"), report.run.get("stage")
    size = f", {about.count(count)} parameters" if count else ""
    return f"Model {kind}, stage {stage}{size}." if kind else ""


def _navigation(body: str, tasks: Sequence[str]) -> str:
    """Links to the parts that the page has."""
    known = {f"task-{task}": task for task in tasks} | _PARTS
    links = [
        f'<a href="#{escape(name)}">{escape(title)}</a>'
        for name, title in known.items() if f'<section id="{escape(name)}">' in body
    ]  # fmt: skip
    return f"<nav>{''.join(links)}</nav>"


def _document(title: str, bodies: Sequence[str]) -> str:
    body = "\n".join(one for one in bodies if one)
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head>\n'
        f"<body>\n{body}\n<script>{script}</script>\n</body>\n</html>\n"
    )
