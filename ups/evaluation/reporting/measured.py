"""The parts of a page that show a report's sections: physics, spectra, energies, and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ups.evaluation.report import Report
from ups.evaluation.reporting import charts
from ups.evaluation.reporting.markup import (
    Cells,
    Picture,
    folded,
    gallery,
    number,
    pairs,
    paragraph,
    part,
    table,
)
from ups.evaluation.reporting.results import CLOCK
from ups.evaluation.section_tables import (
    TTC_COLUMNS,
    UNCERTAINTY_COLUMNS,
    ttc_rows,
    uncertainty_rows,
)
from ups.evaluation.super_resolution import HEADS as SUPER_COLUMNS
from ups.evaluation.super_resolution import super_resolution_rows

_ELSEWHERE = {"one_step", "cost", "data"}
"""Sections that other parts of the page show."""
_MOST_FIELDS = 6


def measured_parts(report: Report, folder: Path, prefix: str, clock: str = CLOCK) -> list[str]:
    """One part for each section of the report; of sections without a form of their own a table."""
    parts = []
    for name, make in _MAKERS.items():
        content = report.sections.get(name)
        if content:
            parts.append(make(content, folder, prefix, clock))
    others = [name for name in report.sections if name not in _MAKERS and name not in _ELSEWHERE]
    for name in others:
        if isinstance(content := report.sections[name], Mapping) and content:
            heading = name.replace("_", " ").capitalize()
            parts.append(part(prefix + name, heading, pairs(_brief(content)), level=3))
    return parts


def _long_rollout(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    steps = content["steps"]
    share, mean = content["stable_share"], content["stable_steps"]
    said = (
        f"Rollouts of {steps} steps, three times as long as the data. "
        f"{100 * share:.0f} % of {content['num_trajectories']} stay bounded to the end; they last "
        f"{mean:.4g} steps in the mean."
    )
    lines = {name: (content["times"], values) for name, values in content["rms"].items()}
    picture = Picture(
        charts.line_chart(
            folder / "long_rollout.png", dict(list(lines.items())[:_MOST_FIELDS]),
            across=clock, up="RMS of the field, median",
            ends={"end of the data": content["times"][-1] / 3},
        ),
        "Beyond the data", "There is no truth there: only sizes are judged.",
    )  # fmt: skip
    return part(f"{prefix}long", "Long rollout", paragraph(said), gallery([picture]), level=3)


def _physics(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    judged = {name: one for name, one in content.items() if "prediction" in one}
    rows: list[tuple[str, Cells]] = [
        (
            "passed" if within(one) else "failed",
            [
                name.replace("_", " "), "within" if within(one) else "above",
                number(one["prediction"]), number(one["reference"]), number(one["tolerance"]),
            ],
        )
        for name, one in judged.items()
    ]  # fmt: skip
    heads = ["requirement", "", "predicted", "true", "tolerated"]
    pictures = [
        Picture(
            charts.line_chart(
                folder / f"physics_{name}.png",
                {kind: (one["times"], one["per_step"][key])
                 for kind, key in (("predicted", "prediction"), ("true", "reference"))},
                across=clock, up=name.replace("_", " "),
                levels={"tolerated": one["tolerance"]} if one["tolerance"] > 0 else None,
            ),
            name.replace("_", " "), one["what"],
        )
        for name, one in judged.items() if len(one.get("times", [])) > 1
    ]  # fmt: skip
    absent = {name: one["absent"] for name, one in content.items() if "absent" in one}
    return part(
        f"{prefix}physics", "Physics",
        paragraph("What the equation demands, of predictions and of the data themselves. What is "
                  "tolerated comes from the data, so that the truth always passes.", "note"),
        table(heads, rows) if rows else "",
        gallery(pictures),
        folded("Not judged, and why", pairs(absent)) if absent else "",
        level=3,
    )  # fmt: skip


def within(one: Mapping[str, Any]) -> bool:
    """Whether a requirement is met."""
    value = one["prediction"]
    return value is not None and value <= one["tolerance"]


def _spectra(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    waves = content["wavenumbers"][1 : content["complete_to"] + 1]
    when = [f"{time:.3g}" for time in content["times"]]
    pictures = []
    for name, kinds in list(content["fields"].items())[:_MOST_FIELDS]:
        last = len(content["times"]) - 1
        lines = {
            label: (waves, kinds[kind][last][1 : len(waves) + 1])
            for label, kind in (("predicted", "prediction"), ("true", "reference"),
                                ("error", "error"))
        }  # fmt: skip
        pictures.append(Picture(
            charts.line_chart(folder / f"spectrum_{name}.png", lines, across="wave number",
                              up=f"energy of {name}", log=(True, True)),
            f"Spectrum of {name}", f"At t = {when[-1]}, the last predicted frame. Where the error "
            "meets the truth, nothing of that scale is predicted.",
        ))  # fmt: skip
    rows: list[tuple[str, Cells]] = [
        ("", [f"{name}, {band} {_limits(content, band)}",
              *map(number, values["error"]), *map(number, values["energy"])])
        for name, bands in content.get("bands", {}).items() for band, values in bands.items()
    ]  # fmt: skip
    heads = ["band", *(f"error, t = {t}" for t in when), *(f"energy ratio, t = {t}" for t in when)]
    return part(
        f"{prefix}spectra", "Spectra", gallery(pictures),
        folded("By band of wave numbers", table(heads, rows)) if rows else "", level=3,
    )  # fmt: skip


def _limits(content: Mapping[str, Any], band: str) -> str:
    low, high = (content.get("limits", {}).get(band) or [None, None])[:2]
    return f"({low} to {'the last' if high is None else high})"


def _energy(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    times, pictures = content["times"], []
    for name, one in list(content["quantities"].items())[:_MOST_FIELDS]:
        lines = {
            label: (times, one[kind]["median"])
            for label, kind in (("predicted", "prediction"), ("true", "reference"))
        }
        bands = {
            label: (one[kind]["p10"], one[kind]["p90"])
            for label, kind in (("predicted", "prediction"), ("true", "reference"))
        }
        pictures.append(Picture(
            charts.line_chart(folder / f"energy_{name}.png", lines, bands=bands,
                              across=clock, up="energy",
                              log=(False, False)),
            f"Energy: {name}", f"{one['what']}. Median over trajectories; the band holds 10 to "
            "90 % of them.",
        ))  # fmt: skip
    return part(f"{prefix}energy", "Energies over time", gallery(pictures), level=3)


def _uncertainty(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    before, after = (content[key]["all"] for key in ("before", "after"))
    pictures = [
        Picture(
            charts.reliability_chart(
                folder / "reliability.png", before["reliability"]["nominal"],
                {"calibrated": after["reliability"]["observed"],
                 "as it is": before["reliability"]["observed"]},
            ),
            "Reliability", "Below the diagonal the ensemble is too sure of itself.",
        ),
        Picture(
            charts.bar_chart(
                folder / "ranks.png", after["rank_histogram"], up="share of points",
                across="members below the truth", level=1 / len(after["rank_histogram"]),
                level_name="as it should be",
            ),
            "Rank histogram, calibrated", "A hollow says too little spread, a hill too much.",
        ),
        Picture(
            charts.line_chart(
                folder / "crps.png",
                {"CRPS": (content["times"], after["per_step"]["crps"]),
                 "MAE of the point forecast":
                     (content["times"], after["per_step"]["mae_deterministic"])},
                across=clock, up="error / standard deviation",
            ),
            "CRPS over time", "Below the point forecast's error, the ensemble adds something.",
        ),
        Picture(
            charts.line_chart(
                folder / "spread_skill.png",
                {"calibrated": (content["times"], after["per_step"]["spread_skill"]),
                 "as it is": (content["times"], before["per_step"]["spread_skill"])},
                across=clock, up="spread / error of the mean",
                levels={"as it should be": 1.0}, log=(False, False),
            ),
            "Spread over skill",
        ),
    ]  # fmt: skip
    said = (
        f"{content['members']} members ({content['source']}) on {content['num_trajectories']} "
        f"trajectories. The spread is fitted on {content['calibration']['num_trajectories']} "
        "validation trajectories and on nothing else."
    )
    return part(
        f"{prefix}uncertainty", "Uncertainty", paragraph(said),
        _section_table(UNCERTAINTY_COLUMNS, uncertainty_rows(content)), gallery(pictures), level=3,
    )  # fmt: skip


def _ttc(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    lines = {
        label: (range(1, len(values) + 1), values)
        for label, kind in (("searched", "chosen"), ("plain", "plain"))
        if (values := content["per_step"].get(kind))
    }
    said = (
        "Candidates of the residual model are scored by physics alone, without the truth, and the "
        f"best are kept; {content['evaluations']['multiple']:.3g} times the compute."
    )
    pictures = []
    if lines:
        chart = charts.line_chart(
            folder / "ttc.png",
            {name: (list(places), values) for name, (places, values) in lines.items()},
            across="predicted frame", up="nRMSE",
        )  # fmt: skip
        pictures.append(Picture(chart, "Searched and plain"))
    return part(
        f"{prefix}ttc", "Test-time compute", paragraph(said),
        _section_table(TTC_COLUMNS, ttc_rows(content)), gallery(pictures), level=3,
    )  # fmt: skip


def _super_resolution(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    pictures = []
    for one in content["factors"]:
        lines = {
            name: (list(range(1, len(values) + 1)), values)
            for name, values in one["per_step"].items()
        }
        path = folder / f"super_resolution_{one['factor']}.png"
        pictures.append(Picture(
            charts.line_chart(path, lines, across="predicted frame", up="nRMSE"),
            f"{one['factor']}x finer",
        ))  # fmt: skip
    said = (
        "Asked for between the points it was trained on, against the stored finer truth. "
        "Interpolated: the same rollout on its own grid, carried there by an interpolant. Floor: "
        "the true coarse frames through the codec."
    )
    return part(
        f"{prefix}super-resolution", "Super-resolution", paragraph(said, "note"),
        _section_table(SUPER_COLUMNS, super_resolution_rows(content)), gallery(pictures), level=3,
    )  # fmt: skip


def _pdebench(content: Mapping[str, Any], folder: Path, prefix: str, clock: str) -> str:
    shown = content.get("metrics") or {}
    mean = content.get("mean") or {}
    names = list(mean or shown)
    rows: list[tuple[str, Cells]] = [
        ("", [name, number(shown.get(name)), number(mean.get(name))]) for name in names
    ]
    divided = (
        f"divided by {content['divisor']} in place of {content['num_batches']}"
        if content["divisor"] else "one only, so that PDEBench would divide by zero"
    )  # fmt: skip
    said = (
        "The same predictions reduced as PDEBench reduces them, to stand beside its published "
        f"tables: batches of {content['batch_size']}, {divided}."
    )
    heads = ["", "as PDEBench prints", "divided by all batches"]
    return part(
        f"{prefix}pdebench", "As PDEBench counts", paragraph(said, "note"), table(heads, rows),
        level=3,
    )  # fmt: skip


def _section_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table([name.lstrip(">") for name in columns], [("", list(row)) for row in rows])


def _brief(content: Mapping[str, Any]) -> dict[str, Any]:
    """What can be read as a table: numbers rounded, long lists cut."""
    return {key: _brief_value(value) for key, value in content.items()}


def _brief_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _brief(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        shown = [str(_brief_value(one)) for one in value[:8]]
        return [*shown, "…"] if len(value) > 8 else shown
    return value


_MAKERS = {
    "long_rollout": _long_rollout,
    "physics": _physics,
    "spectra": _spectra,
    "energy": _energy,
    "uncertainty": _uncertainty,
    "ttc": _ttc,
    "super_resolution": _super_resolution,
    "pdebench_compat": _pdebench,
}
