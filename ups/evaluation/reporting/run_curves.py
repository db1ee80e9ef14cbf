"""The metrics of one or several runs over their steps, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ups import files
from ups.errors import CheckpointError
from ups.runs.history import Curve

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", ":", "-.")
_DPI = 130
_MARKED = 30


def plot_runs(
    path: Path,
    curves: Mapping[str, Sequence[Curve]],
    *,
    over: Literal["step", "time"] = "step",
    log_x: bool = False,
) -> Path:
    """One panel for each metric, one line for each run; logarithmic where all values are positive.

    A ring marks the smallest value of a line. A pale line is what was recorded, the full one its
    running mean, where there are many records.

    Args:
        curves: Run -> its metrics. A metric that a run lacks leaves it out of that panel.
        over: Steps, or minutes since the first record of the stage.
    Raises:
        ValueError: There is nothing to plot.
    """
    metrics = list(dict.fromkeys(curve.metric for own in curves.values() for curve in own))
    if not metrics:
        raise ValueError("no curves to plot")
    columns = len(metrics) if len(metrics) in (1, 3) else 2  # pairs: loss and validation
    lines = math.ceil(len(metrics) / columns)
    legend_rows = math.ceil(len(curves) / columns)
    figure = Figure(
        figsize=(max(6.4, 4.0 * columns), 3.0 * lines + 0.22 * legend_rows + 0.2),
        layout="constrained",
    )
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, metric in zip(panels, metrics, strict=False):
        for index, own in enumerate(curves.values()):
            for curve in own:
                if curve.metric == metric:
                    _line(panel, curve, index, over)
        _dress(panel, metric, over, log_x)
    for panel in panels[len(metrics) :]:
        panel.set_visible(False)
    handles = [panels[0].plot([], [], **_look(index))[0] for index in range(len(curves))]
    figure.legend(
        handles, list(curves), loc="outside upper left", ncols=columns, frameon=False, fontsize=8
    )
    with files.atomic_path(path, CheckpointError) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def _look(index: int) -> dict[str, str]:
    """Colours first, then other dashes: 28 lines can be told apart."""
    style = _STYLES[index // len(_COLOURS) % len(_STYLES)]
    return {"color": _COLOURS[index % len(_COLOURS)], "linestyle": style}


def _line(panel: Axes, curve: Curve, index: int, over: Literal["step", "time"]) -> None:
    values = np.asarray(curve.values)
    times = np.asarray(curve.times)
    places = np.asarray(curve.steps) if over == "step" else (times - np.nanmin(times)) / 60
    width = len(values) // _MARKED
    smooth = width > 1
    marker = "o" if len(values) <= _MARKED else None
    panel.plot(places, values, alpha=0.3 if smooth else 1.0, linewidth=0.8 if smooth else 1.5,
               marker=marker, markersize=3, **_look(index))  # type: ignore[arg-type]  # fmt: skip
    if smooth:
        panel.plot(places, _running_mean(values, width), linewidth=1.7, **_look(index))  # type: ignore[arg-type]
    if np.isfinite(values).any():
        best = int(np.nanargmin(values))
        panel.plot(
            places[best], values[best], "o", markersize=8, fillstyle="none",
            color=_look(index)["color"],
        )  # fmt: skip


def _running_mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Mean over the `width` last finite values, geometric where all are positive."""
    finite = np.isfinite(values)
    positive = bool((values[finite] > 0).all())
    heights = np.where(finite, values, 1.0)
    heights = np.where(finite, np.log(heights) if positive else heights, 0.0)
    totals, counts = np.cumsum(heights), np.cumsum(finite)
    totals[width:] -= totals[:-width].copy()
    counts[width:] -= counts[:-width].copy()
    mean = np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)
    return np.asarray(np.exp(mean) if positive else mean)


def _dress(panel: Axes, metric: str, over: Literal["step", "time"], log_x: bool) -> None:
    panel.set_title(metric, loc="left", fontsize=10)
    panel.set_xlabel("step" if over == "step" else "minutes")
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in panel.lines]
    values = np.concatenate([part[np.isfinite(part)] for part in drawn])
    if values.size and (values > 0).all():
        panel.set_yscale("log")
        panel.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        within_a_decade = values.max() < 10 * values.min()
        panel.yaxis.set_minor_formatter("{x:g}" if within_a_decade else NullFormatter())
    if log_x:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=over == "step"))
    panel.grid(True, which="major", color="0.88")
    panel.set_axisbelow(True)
