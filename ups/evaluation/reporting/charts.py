"""Curves of a report as PNG files, each as wide as a phone.

Colours are told apart with any colour vision (Okabe and Ito), and lines by their dashes too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ups import files
from ups.data.pictures.style import house
from ups.errors import CheckpointError

Array = npt.NDArray[Any]
Numbers = Sequence[int | float | None] | Array

COLOURS = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")
WIDTH, HEIGHT, DPI = 4.6, 3.0, 170
_MARKED = 40


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG whole or not at all; the same picture gives the same bytes."""
    with files.atomic_path(path, CheckpointError) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    return path


def numbers(values: Numbers) -> Array:
    """Float64 with NaN for None."""
    return np.asarray(values, dtype=np.float64)


def line_chart(
    path: Path,
    lines: Mapping[str, tuple[Numbers, Numbers]],
    *,
    across: str,
    up: str,
    bands: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    levels: Mapping[str, int | float] | None = None,
    ends: Mapping[str, int | float] | None = None,
    log: tuple[bool, bool] = (False, True),
    note: str = "",
) -> Path:
    """Lines with a legend above them.

    Args:
        lines: Name -> (places, values). The first one is drawn strongest.
        across, up: What the axes are, with units.
        bands: Name of a line -> (low, high).
        levels: Name -> height of a horizontal line.
        ends: What begins -> place of a vertical line.
        log: Whether each axis is logarithmic, where all its values are positive.
        note: Said at the top right of the panel.
    """
    with house():
        figure, axes = new()
        for index, (name, (places, values)) in enumerate(lines.items()):
            colour = COLOURS[index % len(COLOURS)]
            heights = _drawable(numbers(values), log[1])
            if bands and name in bands:
                low, high = (_drawable(numbers(part), log[1]) for part in bands[name])
                axes.fill_between(numbers(places), low, high, color=colour,
                                  alpha=0.13 if index else 0.22, linewidth=0)  # fmt: skip
            marker = "o" if len(heights) <= _MARKED else ""
            axes.plot(numbers(places), heights, STYLES[index % len(STYLES)], color=colour,
                      label=name, marker=marker, markersize=2.5,
                      linewidth=2.0 if index == 0 else 1.4)  # fmt: skip
        for index, (name, level) in enumerate((levels or {}).items()):
            axes.axhline(level, color=COLOURS[(3 + index) % len(COLOURS)], label=name,
                         linewidth=1.2, linestyle=(0, (5, 2, 1, 2)))  # fmt: skip
        for name, place in (ends or {}).items():
            axes.axvline(place, color="0.5", linewidth=0.8, linestyle="--")
            axes.annotate(name, (place, 1), xycoords=("data", "axes fraction"), xytext=(3, -3),
                          textcoords="offset points", va="top", fontsize=7.5,
                          color="0.35")  # fmt: skip
        dress(axes, across, up, log)
        if note:
            axes.set_title(note, loc="right", fontsize=7.5, color="0.35")
        legend(figure, axes)
        return save(figure, path)


def interval_chart(
    path: Path,
    rows: Sequence[tuple[str, int | float, Sequence[float] | None]],
    *,
    across: str,
    strong: int | None = 0,
) -> Path:
    """One dot with its interval for each row, from above; logarithmic where all are positive.

    Args:
        rows: Label, value and (low, high).
        strong: The row that the page is about, if it is among them.
    """
    with house():
        figure, axes = new(0.75 + 0.3 * len(rows))
        heights = np.arange(len(rows))
        for height, (_, value, interval) in zip(heights, rows, strict=True):
            colour = COLOURS[0] if height == strong else "0.35"
            if interval:
                axes.plot(interval, [height] * 2, color=colour, linewidth=2.4, alpha=0.45,
                          solid_capstyle="round")  # fmt: skip
            axes.plot([value], [height], "o", color=colour, markersize=5)
            axes.annotate(f"{value:.3g}", (value, height), xytext=(0, 5),
                          textcoords="offset points", ha="center", fontsize=7.5,
                          color=colour)  # fmt: skip
        axes.set_yticks(heights, [label[:26] for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.8)
        if all(value > 0 for _, value, _ in rows):
            axes.set_xscale("log")
            _plain_log(axes.xaxis, numbers([value for _, value, _ in rows]))
        axes.margins(x=0.12)
        axes.set_xlabel(across)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(True, axis="x", color="0.9")
        axes.set_axisbelow(True)
        return save(figure, path)


def share_chart(path: Path, errors: Mapping[str, Numbers], *, across: str = "nRMSE") -> Path:
    """Share of trajectories with an error of at most a value, of each predictor."""
    with house():
        figure, axes = new()
        for index, (name, values) in enumerate(errors.items()):
            every = numbers(values)
            ordered = np.sort(every[np.isfinite(every) & (every > 0)])
            shares = np.arange(1, len(ordered) + 1) / max(len(every), 1)
            axes.step(np.concatenate([ordered[:1], ordered]), np.concatenate([[0], shares]) if
                      len(ordered) else shares, STYLES[index % len(STYLES)], where="post",
                      color=COLOURS[index % len(COLOURS)], label=name,
                      linewidth=2.0 if index == 0 else 1.4)  # fmt: skip
        dress(axes, across, "share of trajectories at most there", (True, False))
        axes.set_ylim(0, 1.02)
        legend(figure, axes)
        return save(figure, path)


def bar_chart(
    path: Path, heights: Numbers, *, across: str, up: str, level: int | float | None = None,
    level_name: str = "",
) -> Path:  # fmt: skip
    """Bars of equal width, and the level that all of them should have."""
    with house():
        figure, axes = new()
        values = numbers(heights)
        axes.bar(np.arange(len(values)), values, width=0.9, color=COLOURS[6])
        if level is not None:
            axes.axhline(level, color="black", linewidth=1.2, linestyle="--", label=level_name)
            legend(figure, axes)
        dress(axes, across, up, (False, False))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        return save(figure, path)


def reliability_chart(path: Path, nominal: Numbers, lines: Mapping[str, Numbers]) -> Path:
    """How much of the truth central intervals hold, against how much they promise to."""
    with house():
        figure, axes = new()
        axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, label="perfect")
        for index, (name, values) in enumerate(lines.items()):
            axes.plot(numbers(nominal), numbers(values), STYLES[index % len(STYLES)], marker="o",
                      markersize=3, color=COLOURS[index % len(COLOURS)], label=name)  # fmt: skip
        dress(axes, "share that an interval promises", "share that it holds", (False, False))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        legend(figure, axes)
        return save(figure, path)


def loss_charts(folder: Path, records: Sequence[Mapping[str, Any]]) -> list[tuple[str, Path]]:
    """Training loss and validation error of each stage; returns the stages with their pictures.

    Args:
        records: With 'stage' and 'step', and 'loss', or what chooses the checkpoint: 'valid_crps'
            where there is one, else 'valid_nrmse'.
    """
    found = []
    for stage in dict.fromkeys(str(record["stage"]) for record in records):
        own = [record for record in records if record["stage"] == stage]
        score = "valid_crps" if any("valid_crps" in record for record in own) else "valid_nrmse"
        with house():
            figure = Figure(figsize=(WIDTH, 1.35 * HEIGHT), layout="constrained")
            above, below = figure.subplots(2, 1, sharex=True)
            _training_curve(above, *series(own, "loss"))
            _validation_curve(below, *series(own, score))
            dress(above, "", "training loss", (False, True))
            name = "CRPS" if score == "valid_crps" else "nRMSE"
            dress(below, "step", f"validation {name}", (False, True))
            below.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            found.append((stage, save(figure, folder / f"loss_{stage}.png")))
    return found


def series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[Array, Array]:
    """Steps and values of the records that have `key`."""
    pairs = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    found = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def new(height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty panel on paper of the usual width."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def dress(axes: Axes, across: str, up: str, log: tuple[bool, bool]) -> None:
    """Names, ticks and a pale grid."""
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(True, which="major", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    drawn = [np.asarray(line.get_xydata(), float) for line in axes.lines
             if line.get_transform() == axes.transData]  # fmt: skip
    places = np.concatenate(drawn) if drawn else np.empty((0, 2))
    for number, axis, wanted in ((0, axes.xaxis, log[0]), (1, axes.yaxis, log[1])):
        values = places[np.isfinite(places).all(1), number]
        if wanted and values.size and (values > 0).all() and values.max() > 3 * values.min():
            (axes.set_xscale if number == 0 else axes.set_yscale)("log")
            _plain_log(axis, values)


def legend(figure: Figure, axes: Axes) -> None:
    """Above the panel, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1 or (names and names[0]):
        longest = max(map(len, names))
        columns = max(1, min(len(names), 72 // (longest + 6)))
        figure.legend(handles, names, loc="outside upper left", ncols=columns, frameon=False,
                      fontsize=8, handlelength=2.2, columnspacing=1.2)  # fmt: skip


def _plain_log(axis: Any, values: Array) -> None:
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    within_a_decade = values.max() < 12 * values.min()
    axis.set_minor_formatter("{x:g}" if within_a_decade else NullFormatter())


def _drawable(values: Array, log: bool) -> Array:
    return np.where(np.isfinite(values) & ((values > 0) | (not log)), values, np.nan)


def _training_curve(axes: Axes, steps: Array, values: Array) -> None:
    width = len(values) // 40
    smooth = width > 1
    axes.plot(steps, values, color=COLOURS[0], linewidth=0.7 if smooth else 1.4,
              alpha=0.35 if smooth else 1.0)  # fmt: skip
    if smooth:
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], mean, color=COLOURS[0], linewidth=1.6)


def _validation_curve(axes: Axes, steps: Array, values: Array) -> None:
    if not len(values):
        axes.text(0.5, 0.5, "not validated", transform=axes.transAxes, ha="center", color="0.4")
        axes.set_yticks([])
        return
    axes.plot(steps, values, color=COLOURS[1], marker="o", markersize=3, linewidth=1.2)
    if np.isfinite(values).any():
        best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
        axes.plot(steps[best], values[best], "o", color="black", markersize=6.5, fillstyle="none")
        said = f"best {values[best]:.3g} at step {int(steps[best])}"
        axes.set_title(said, loc="right", fontsize=7.5, color="0.35")
