"""Pictures of an evaluation, as PNG files: fields beside the truth, errors over time, losses.

Colours are told apart with any colour vision (Okabe-Ito lines, viridis, a blue-red pair for
signs). No display is needed and no global state is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ups import files
from ups.errors import CheckpointError

Array = npt.NDArray[Any]
Times = Sequence[float] | Array

_LINES = ("#0072B2", "#D55E00", "#000000", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", ":", "-.")
_DPI = 130
_MAX_FRAMES = 5
_NAMES = ("true", "predicted", "error (predicted − true)")


@dataclass(frozen=True, eq=False)
class Example:
    """One field of one trajectory, physical.

    Attributes:
        label: Which one, e.g. 'median: trajectory 17, nRMSE 0.012'.
        prediction, reference: (time, *space), predicted frames only.
        inside: Where there is something to show, (time, *space); None is everywhere.
    """

    label: str
    prediction: Array
    reference: Array
    inside: Array | None = None

    @property
    def error(self) -> Array:
        return self.prediction - self.reference

    @property
    def limits(self) -> tuple[float, float]:
        """The colour scale of truth and prediction: the range of the truth."""
        low, high = float(np.nanmin(self.reference)), float(np.nanmax(self.reference))
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    @property
    def error_limit(self) -> float:
        """The 99.8th percentile of the error, so that one point does not make the rest pale.

        At most the range of the truth, for a prediction that has blown up.
        """
        finite = np.abs(self.error[np.isfinite(self.error)])
        largest = float(np.quantile(finite, 0.998)) if finite.size else np.inf
        return min(largest, self.limits[1] - self.limits[0]) or 1e-12


@dataclass(frozen=True)
class Grid:
    """What the axes of an `Example` mean.

    Attributes:
        times: Of the predicted frames, counted from the last given one.
        bounds: (low, high) of each space axis.
        axes: Their names.
        field: Name of the quantity, with its unit if it has one: 'density (kg/m³)'.
        time_label, space_unit: As shown on the axes.
        is_steady: There is one frame, and it has no time.
    """

    times: Times
    bounds: Sequence[tuple[float, float]]
    axes: Sequence[str] = ("x", "y", "z")
    field: str = "u"
    time_label: str = "time t"
    space_unit: str = ""
    is_steady: bool = False

    def label(self, axis: int) -> str:
        return f"{self.axes[axis]} ({self.space_unit})" if self.space_unit else self.axes[axis]


def plot_examples(path: Path, examples: Sequence[Example], grid: Grid) -> Path:
    """True, predicted and error of a few trajectories: what `path` then shows.

    1D: one row per trajectory, space across, time upwards. 2D: at most five frames from the first
    to the last. 3D: the same of the central slice of the last axis. Of steady problems in 2D and
    3D: one row each. Truth and prediction share a
    colour scale, the range of the truth; grey is NaN or infinity; a colour bar that ends in a
    point has values beyond it.
    """
    if not examples:
        raise ValueError("no trajectory to show")
    steady = _steady if grid.is_steady else _frames
    draw = _space_time if examples[0].reference.ndim == 2 else steady
    return _save(draw(examples, grid), path)


def shown_frames(num_frames: int) -> Array:
    """The frames that pictures in 2D and 3D show: from the first to the last."""
    return np.unique(np.linspace(0, num_frames - 1, _MAX_FRAMES).round().astype(int))


def _space_time(examples: Sequence[Example], grid: Grid) -> Figure:
    figure = _figure(10.0, 0.6 + 2.7 * len(examples))
    panels = figure.subplots(len(examples), 3, squeeze=False, sharex=True, sharey=True)
    extent = (*grid.bounds[0], *_edges(grid.times))
    for row, example in zip(panels, examples, strict=True):
        images = _three(list(row), example, lambda field: field, extent, aspect="auto")
        _colour_bars(figure, list(row[:2]), [row[2]], images, example, grid)
        row[0].set_ylabel(grid.time_label)
        for axes, name in zip(row, _NAMES, strict=True):
            axes.set_title(name, loc="left", fontsize=10)
        row[0].set_title(f"{example.label}\n{_NAMES[0]}", loc="left", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel(grid.label(0))
    return figure


def _frames(examples: Sequence[Example], grid: Grid) -> Figure:
    num_frames, *space = examples[0].reference.shape
    chosen, slice_note = shown_frames(num_frames), _slice_note(space, grid)
    height = _shape(grid) * 1.75 + 0.15
    columns = max(len(chosen), 2)
    figure = _figure(1.6 + 2.1 * columns, (3 * height + 1.2) * len(examples))
    parts = figure.subfigures(len(examples), 1, squeeze=False)
    for part, example in zip(parts[:, 0], examples, strict=True):
        part.suptitle(f"{example.label}{slice_note}", x=0.01, ha="left", fontsize=11)
        _frame_rows(part, _central_slice(example), grid, chosen)
    return figure


def _steady(examples: Sequence[Example], grid: Grid) -> Figure:
    """True, predicted and error side by side, one row for each problem."""
    figure = _figure(11.0, (3.0 * _shape(grid) + 0.9) * len(examples))
    panels = figure.subplots(len(examples), 3, squeeze=False, sharex=True, sharey=True)
    extent = (*grid.bounds[0], *grid.bounds[1])
    note = _slice_note(examples[0].reference.shape[1:], grid)
    for row, whole in zip(panels, examples, strict=True):
        example = _central_slice(whole)
        images = _three(list(row), example, partial(_frame, index=0), extent)
        _colour_bars(figure, list(row[:2]), [row[2]], images, example, grid)
        row[0].set_ylabel(grid.label(1))
        for axes, name in zip(row, _NAMES, strict=True):
            axes.set_title(name, loc="left", fontsize=10)
        row[0].set_title(f"{example.label}{note}\n{_NAMES[0]}", loc="left", fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel(grid.label(0))
    return figure


def _shape(grid: Grid) -> float:
    """Height of a panel over its width, within reason."""
    (left, right), (bottom, top) = grid.bounds[:2]
    return min(max((top - bottom) / (right - left), 0.3), 2.0)


def _slice_note(space: Sequence[int], grid: Grid) -> str:
    """Where the shown slice of three dimensions lies."""
    if len(space) < 3:
        return ""
    low, high = grid.bounds[2]
    middle = low + (space[2] // 2 + 0.5) * (high - low) / space[2]
    return f", slice at {grid.axes[2]} = {middle:.3g}"


def _frame_rows(figure: Any, example: Example, grid: Grid, chosen: Array) -> None:
    panels = figure.subplots(3, len(chosen), squeeze=False, sharex=True, sharey=True)
    extent = (*grid.bounds[0], *grid.bounds[1])
    for column, frame in zip(panels.T, chosen, strict=True):
        images = _three(list(column), example, partial(_frame, index=int(frame)), extent)
        column[0].set_title(f"t = {grid.times[frame]:.3g}", fontsize=10)
        column[-1].set_xlabel(grid.label(0))
    for axes, name in zip(panels[:, 0], ("true", "predicted", "error"), strict=True):
        axes.set_ylabel(f"{name}\n{grid.label(1)}")
    _colour_bars(figure, list(panels[:2].flat), list(panels[2]), images, example, grid)


def _three(
    panels: Sequence[Axes],
    example: Example,
    view: Callable[[Array], Array],
    extent: tuple[float, float, float, float],
    aspect: Literal["equal", "auto"] = "equal",
) -> list[Any]:
    """Draw truth, prediction and error into three panels; returns the images."""
    low, high = example.limits
    bound = example.error_limit
    images = []
    alpha = None if example.inside is None else view(example.inside.astype(float))
    for axes, field, colours, limits in zip(
        panels,
        (example.reference, example.prediction, example.error),
        ("viridis", "viridis", "RdBu_r"),
        ((low, high), (low, high), (-bound, bound)),
        strict=True,
    ):
        values = view(np.where(np.isfinite(field), field, np.nan))
        images.append(
            axes.imshow(
                values, origin="lower", extent=extent, aspect=aspect, cmap=_colours(colours),
                vmin=limits[0], vmax=limits[1], interpolation="nearest", alpha=alpha,
            )
        )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2.5, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(4))
    return images


def _frame(field: Array, index: int) -> Array:
    """One frame with the first space axis across and the second upwards."""
    return field[index].T


def _colour_bars(
    figure: Any, shared: list[Axes], error: list[Axes], images: list[Any], example: Example,
    grid: Grid,
) -> None:  # fmt: skip
    low, high = example.limits
    finite = example.prediction[np.isfinite(example.prediction)]
    below, above = bool((finite < low).any()), bool((finite > high).any())
    clipped = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    figure.colorbar(images[1], ax=shared, label=grid.field, extend=clipped[below, above], pad=0.01)
    beyond = bool((np.abs(example.error) > example.error_limit).any())
    figure.colorbar(
        images[2], ax=error, label=f"error in {grid.field}", extend="both" if beyond else "neither",
        pad=0.02,
    )  # fmt: skip


def _central_slice(example: Example) -> Example:
    """The middle of the third space axis, if there is one."""
    if example.reference.ndim < 4:
        return example
    middle = example.reference.shape[3] // 2
    inside = None if example.inside is None else example.inside[:, :, :, middle]
    return Example(
        example.label,
        example.prediction[:, :, :, middle],
        example.reference[:, :, :, middle],
        inside,
    )


def plot_error_over_time(
    path: Path,
    times: Times,
    curves: Mapping[str, Array],
    *,
    time_label: str = "time after the last given frame",
    metric: str = "nRMSE",
) -> Path:
    """Error of each predictor over time, on a logarithmic scale.

    Args:
        curves: Name -> (time,), or (trajectory, time), which is drawn as its median and a band
            from the 10th to the 90th percentile. The first one is drawn strongest.
    """
    figure = _figure(8.0, 4.4)
    axes = figure.subplots()
    for index, (name, values) in enumerate(curves.items()):
        colour, style = _LINES[index % len(_LINES)], _STYLES[index % len(_STYLES)]
        values = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        if values.ndim == 2:
            low, values, high = _quantiles(values)
            axes.fill_between(
                times, low, high, color=colour, alpha=0.1 if index else 0.22, linewidth=0
            )
        dots = "o" if len(times) <= 60 else ""
        axes.plot(
            times, values, style, color=colour, label=name, marker=dots, markersize=3,
            linewidth=2.2 if index == 0 else 1.5,
        )  # fmt: skip
    axes.set_xlabel(time_label)
    axes.set_ylabel(metric)
    _logarithmic(axes, np.concatenate([line.get_ydata() for line in axes.lines]))
    if any(values.ndim == 2 for values in curves.values()):
        note = "median and 10–90 % band over trajectories"
        axes.set_title(note, loc="right", fontsize=9, color="0.35")
    figure.legend(loc="outside upper left", ncols=len(curves), frameon=False)
    return _save(figure, path)


def plot_error_shares(path: Path, errors: Mapping[str, Array], *, metric: str = "nRMSE") -> Path:
    """Share of problems with an error below a value, of each predictor.

    Args:
        errors: Name -> (trajectory,). The first one is drawn strongest.
    """
    figure = _figure(8.0, 4.4)
    axes = figure.subplots()
    for index, (name, values) in enumerate(errors.items()):
        ordered = np.sort(values[np.isfinite(values) & (values > 0)])
        shares = np.arange(1, len(ordered) + 1) / max(len(values), 1)
        axes.step(
            ordered, shares, _STYLES[index % len(_STYLES)], where="post", label=name,
            color=_LINES[index % len(_LINES)], linewidth=2.2 if index == 0 else 1.5,
        )  # fmt: skip
    axes.set_xlabel(metric)
    axes.set_ylabel("share of problems with at most this error")
    if any(len(line.get_xdata()) for line in axes.lines):  # type: ignore[arg-type]
        axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.grid(True, color="0.88")
    figure.legend(loc="outside upper left", ncols=len(errors), frameon=False)
    return _save(figure, path)


def plot_losses(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Training loss and validation error of each stage, from the records of `metrics.jsonl`.

    Args:
        records: With 'stage' and 'step', and 'loss', or what chooses the checkpoint: 'valid_crps'
            where there is one, else 'valid_nrmse'.
    """
    stages = list(dict.fromkeys(str(record["stage"]) for record in records))
    if not stages:
        raise ValueError("no records to plot")
    figure = _figure(1.2 + 3.9 * len(stages), 5.6)
    panels = figure.subplots(2, len(stages), squeeze=False, sharex="col")
    for column, stage in zip(panels.T, stages, strict=True):
        own = [record for record in records if record["stage"] == stage]
        _training_curve(column[0], *_series(own, "loss"))
        scores = "CRPS" if any("valid_crps" in record for record in own) else "nRMSE"
        _validation_curve(column[1], *_series(own, f"valid_{scores.lower()}"))
        column[1].set_ylabel(f"validation {scores}")
        column[0].set_title(stage, loc="left")
        column[1].set_xlabel("step")
        column[1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0, 0].set_ylabel("training loss")
    return _save(figure, path)


def _training_curve(axes: Axes, steps: Array, values: Array) -> None:
    width = len(values) // 40
    smooth = width > 1
    axes.plot(steps, values, color=_LINES[0], linewidth=0.8 if smooth else 1.5,
              alpha=0.35 if smooth else 1.0)  # fmt: skip
    if smooth:
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps[width - 1 :], mean, color=_LINES[0], linewidth=1.8)
    _logarithmic(axes, values)


def _validation_curve(axes: Axes, steps: Array, values: Array) -> None:
    if not len(values):
        axes.text(0.5, 0.5, "not validated", transform=axes.transAxes, ha="center", color="0.4")
        axes.set_yticks([])
        return
    axes.plot(steps, values, color=_LINES[1], marker="o", markersize=3.5)
    _logarithmic(axes, values)
    if np.isfinite(values).any():
        best = int(np.nanargmin(np.where(np.isfinite(values), values, np.nan)))
        axes.plot(steps[best], values[best], "o", color="black", markersize=7, fillstyle="none")
        axes.set_title(
            f"best {values[best]:.3g} at step {int(steps[best])}", loc="right", fontsize=9
        )


def _logarithmic(axes: Axes, values: Array) -> None:
    finite = values[np.isfinite(values)]
    if finite.size and (finite > 0).all():
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        within_a_decade = finite.max() < 10 * finite.min()
        axes.yaxis.set_minor_formatter("{x:g}" if within_a_decade else NullFormatter())
    axes.grid(True, which="major", color="0.88")
    axes.set_axisbelow(True)


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[Array, Array]:
    """Steps and values of the records that have `key`."""
    pairs = [(record["step"], record[key]) for record in records if record.get(key) is not None]
    found = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _quantiles(values: Array) -> tuple[Array, Array, Array]:
    """10th, 50th and 90th percentile over the first axis; a blown-up rollout counts as worst."""
    worst = np.where(np.isnan(values), np.inf, values)
    with np.errstate(invalid="ignore"):
        low, median, high = np.quantile(worst, [0.1, 0.5, 0.9], axis=0, method="nearest")
    return tuple(np.where(np.isinf(curve), np.nan, curve) for curve in (low, median, high))  # type: ignore[return-value]


def _edges(times: Times) -> tuple[float, float]:
    """Where the first frame begins and the last one ends, each half a step from its time."""
    half = (times[1] - times[0]) / 2 if len(times) > 1 else 0.5
    return float(times[0] - half), float(times[-1] + half)


def _colours(name: str) -> Colormap:
    return matplotlib.colormaps[name].with_extremes(bad="0.6")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> Path:
    with files.atomic_path(path, CheckpointError) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return path
