"""A benchmark as a page of plots: what accuracy costs to train, to store and to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from ups import files
from ups.errors import CheckpointError

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX*"
_DPI = 130
_NARROWEST = 5.0
_PARAMETERS = "parameters"


def plot_comparison(path: Path, comparison: Any) -> Path:
    """Error against training time, parameters and inference time; total time against solves.

    A small mark is one seed, a large one the mean with its interval.

    Args:
        comparison: A `ups.pipeline.comparison.Comparison` with at least one number.
    """
    lines = [line for line in comparison.lines if line.nrmse is not None]
    legend_rows = -(-len(lines) // 2)
    figure = Figure(figsize=(9.6, 7.2 + 0.22 * legend_rows), layout="constrained")
    panels = figure.subplots(2, 2).ravel()
    costs: tuple[tuple[str, Callable[[Any], float | None]], ...] = (
        ("training, s (codec, cache, validation included)", lambda row: row.train_seconds),
        (_PARAMETERS, lambda row: row.num_parameters),
        ("inference, s for one trajectory", lambda row: row.infer_seconds),
    )
    for panel, (label, cost) in zip(panels, costs, strict=False):
        for index, line in enumerate(lines):
            _point(panel, line, cost, index)
        _trivial(panel, comparison.trivial, comparison.trivial_nrmse)
        _dress(panel, label, "nRMSE")
    _total_times(panels[3], lines, comparison.solver_seconds)
    handles = [panels[0].plot([], [], **_look(index))[0] for index in range(len(lines))]
    figure.suptitle(comparison.title, fontsize=10, x=0.01, ha="left")
    figure.legend(
        handles, [line.label for line in lines], loc="outside lower left", ncols=2, frameon=False,
        fontsize=9,
    )  # fmt: skip
    with files.atomic_path(path, CheckpointError) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return path


def _look(index: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[index % len(_COLOURS)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "linestyle": "none",
    }


def _point(panel: Axes, line: Any, cost: Callable[[Any], float | None], index: int) -> None:
    places = [cost(row) for row in line.rows]
    if any(place is None for place in places):
        return
    look = _look(index)
    values = np.array([row.nrmse for row in line.rows], dtype=float)
    panel.plot(np.array(places, dtype=float), values, markersize=3, alpha=0.5, **look)
    middle, mean = float(np.mean(np.array(places, dtype=float))), line.nrmse.mean
    if line.nrmse.low is not None and line.nrmse.low > 0:
        panel.plot([middle, middle], [line.nrmse.low, line.nrmse.high], color=look["color"])
    panel.plot([middle], [mean], markersize=9, **look)


def _trivial(panel: Axes, name: str, value: float | None) -> None:
    if value:
        panel.axhline(value, color="0.5", linestyle=":", linewidth=1)
        panel.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), fontsize=8, ha="right",
            va="top", color="0.4", xytext=(-2, -2), textcoords="offset points",
        )  # fmt: skip


def _total_times(panel: Axes, lines: list[Any], solver: float | None) -> None:
    """Training and n solves of each model, beside n solves of the generator."""
    evens = [line.even_at for line in lines if line.even_at]
    solves = np.geomspace(1, 10 * max(evens, default=1000), 60)
    for index, line in enumerate(lines):
        if line.train_seconds is None or line.infer_seconds is None:
            continue
        look = _look(index)
        panel.plot(
            solves, line.train_seconds.mean + solves * line.infer_seconds.mean,
            color=look["color"],
        )  # fmt: skip
        if line.even_at and solver:
            panel.plot([line.even_at], [line.even_at * solver], markersize=7, **look)
    if solver:
        panel.plot(solves, solves * solver, "--", color="0.3", linewidth=1.2)
        panel.annotate(
            "generator", (solves[-1], solves[-1] * solver), fontsize=8, color="0.3", ha="right",
            va="bottom", xytext=(-6, 0), textcoords="offset points",
        )  # fmt: skip
    _dress(panel, "solves", "training and solves, s")


def _dress(panel: Axes, x: str, y: str) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.set_xlim(_widened(*panel.get_xlim()))
    panel.set_ylim(_widened(*panel.get_ylim()))
    short = EngFormatter(sep="") if x == _PARAMETERS else StrMethodFormatter("{x:g}")
    for axis, limits, form in (
        (panel.xaxis, panel.get_xlim(), short),
        (panel.yaxis, panel.get_ylim(), StrMethodFormatter("{x:g}")),
    ):
        axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axis.set_major_formatter(form)
        narrow = limits[1] < 20 * limits[0]
        axis.set_minor_formatter(form if narrow else NullFormatter())
    panel.grid(True, which="major", color="0.88")
    panel.set_axisbelow(True)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Limits at least a factor of five apart, so that small differences look small."""
    factor = max(1.0, (_NARROWEST * low / high) ** 0.5)
    return low / factor, high * factor
