"""Fields beside the truth: columns for true, predicted and error, as wide as a phone.

Truth and prediction share one scale, that of the truth; the error has its own, about zero. Colours
are perceptually uniform: viridis, RdBu for fields that take both signs, PuOr for errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.tri import Triangulation

from ups.data.pictures.sheet import few_ticks
from ups.data.pictures.style import Scale, house, number, scale_of
from ups.evaluation.reporting.charts import COLOURS, WIDTH, save
from ups.evaluation.reporting.examples import Examples, Setting, Shown
from ups.evaluation.reporting.raster import raster_of

Array = npt.NDArray[Any]
ERROR_COLOURS = "PuOr_r"
BEHIND = "#e2e5e8"
"""Behind particles: what is pale stays visible."""
TRUE, PREDICTED, ERROR = "true", "predicted", "error"
_LEFT, _RIGHT, _GAP = 0.7, 0.1, 0.1
_TOP, _BETWEEN, _BELOW, _BAR = 0.24, 0.1, 0.98, 0.1
_MOST_ROWS, _MOST_CELLS_WITH_LINES, _PROFILES = 4, 1500, 3
_STEPS = [1, 2, 2.5, 5, 10]


@dataclass(frozen=True, eq=False)
class Panel:
    """One field of one view of a trajectory: (time, *space) each, or (time, node)."""

    setting: Setting
    shown: Shown
    view: int
    channel: int

    @property
    def reference(self) -> Array:
        return self.shown.reference[self.view][..., self.channel]

    @property
    def prediction(self) -> Array:
        return self.shown.prediction[self.view][..., self.channel]

    @property
    def error(self) -> Array:
        return self.prediction - self.reference

    @property
    def label(self) -> str:
        return self.setting.labels[self.channel]

    @property
    def axes(self) -> tuple[int, ...]:
        return self.setting.views[self.view].axes

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Of the plane: left, right, bottom, top."""
        (left, right), (bottom, top) = (self.bounds[axis] for axis in self.axes[:2])
        return left, right, bottom, top

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        """Of the domain; of a mesh as far as it reaches."""
        coords = self.shown.coords
        if self.setting.kind != "mesh" or coords is None or any(self.setting.periodic):
            return self.setting.bounds
        nodes = coords.reshape(-1, coords.shape[-1])
        low, high = nodes.min(0), nodes.max(0)
        margin = 0.02 * float((high - low).max()) or 0.5
        return tuple(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))

    @property
    def ratio(self) -> float:
        """Height over width, within reason."""
        left, right, bottom, top = self.extent
        return min(max((top - bottom) / (right - left), 0.3), 2.0)

    def scale(self) -> Scale:
        """Of truth and prediction: the range of the truth, whatever was predicted."""
        found = scale_of(list(self.reference), signed=self.setting.signed[self.channel])
        finite = self.prediction[np.isfinite(self.prediction)]
        low = found.beyond in ("min", "both") or bool((finite < found.low).any())
        high = found.beyond in ("max", "both") or bool((finite > found.high).any())
        return Scale(found.low, found.high, found.colours, _BEYOND[low, high])

    def error_scale(self) -> Scale:
        """The 99.8th percentile of the error, at most the range of the truth: a rollout that
        blew up, or one point, does not make the rest pale.
        """
        finite = np.abs(self.error[np.isfinite(self.error)])
        truth = self.scale()
        most = truth.high - truth.low
        limit = min(float(np.quantile(finite, 0.998)), most) if finite.size else most
        limit = limit or 1e-12
        beyond = bool((finite > limit).any())
        return Scale(-limit, limit, ERROR_COLOURS, "both" if beyond else "neither")


_BEYOND = {
    (False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both",
}  # fmt: skip


def draw_plate(path: Path, examples: Examples, which: int, channel: int, view: int = 0) -> Path:
    """One field of one trajectory.

    1D: space across and time upwards, and below it profiles at three times. 2D: at most four
    frames, downwards. Steady problems: one row, with what is given above it.
    """
    panel = Panel(examples.setting, examples.shown[which], view, channel)
    with house():
        is_line = len(examples.setting.bounds) == 1
        return save(_space_time(panel) if is_line else _rows(panel), path)


def draw_inputs(path: Path, examples: Examples, which: int, channel: int) -> Path:
    """What is given with a steady problem: one input, over the plane or the line."""
    setting, shown = examples.setting, examples.shown[which]
    values = shown.inputs[0][..., channel][None]
    panel = Panel(setting, shown, 0, 0)
    with house():
        scale = scale_of(list(values), signed=False, colours="cividis")
        if len(setting.bounds) == 1:
            figure, axes = _paper(1.6)
            ((left, right),) = setting.bounds
            places = left + (np.arange(values.shape[1]) + 0.5) * (right - left) / values.shape[1]
            axes[0][0].plot(places, values[0], color=COLOURS[0])
            axes[0][0].set_ylabel(setting.inputs[channel])
            return save(figure, path)
        width = (WIDTH - _LEFT - _RIGHT - 2 * _GAP) / 3
        figure, axes = _paper(width * panel.ratio, columns=1, width=width)
        _paint(axes[0][0], panel, values, 0, scale)
        _name_axes(axes, panel)
        _bar(figure, axes[-1], scale, setting.inputs[channel])
        return save(figure, path)


def shown_rows(num_frames: int) -> Array:
    """The frames of a plate."""
    return np.unique(np.linspace(0, num_frames - 1, _MOST_ROWS).round().astype(int))


def _rows(panel: Panel) -> Figure:
    width = (WIDTH - _LEFT - _RIGHT - 2 * _GAP) / 3
    chosen = shown_rows(len(panel.reference))
    figure, axes = _paper(width * panel.ratio, rows=len(chosen))
    scale, error_scale = panel.scale(), panel.error_scale()
    for row, frame in zip(axes, chosen, strict=True):
        for place, values, colours in zip(
            row, (panel.reference, panel.prediction, panel.error), (scale, scale, error_scale),
            strict=True,
        ):  # fmt: skip
            _paint(place, panel, values, int(frame), colours)
    _name_axes(axes, panel)
    for place, name in zip(axes[0], (TRUE, PREDICTED, ERROR), strict=True):
        place.set_title(name, pad=3)
    if not panel.setting.is_steady:
        unit = panel.setting.time.partition(" (")[2].rstrip(")")
        for row, frame in zip(axes, chosen, strict=True):
            text = f"t = {number(float(f'{panel.shown.times[frame]:.3g}'))} {unit}".rstrip()
            row[0].annotate(text, (0.01, 0.5), xycoords=("figure fraction", "axes fraction"),
                            rotation=90, ha="left", va="center")  # fmt: skip
    _bars(figure, axes, scale, error_scale, panel.label)
    return figure


def _space_time(panel: Panel) -> Figure:
    steady = panel.setting.is_steady
    figure, axes = _paper(0.01 if steady else 1.9, below=0.98 + 1.75)
    scale, error_scale = panel.scale(), panel.error_scale()
    ((left, right),) = panel.setting.bounds
    times = panel.shown.times
    half = (times[1] - times[0]) / 2 if len(times) > 1 else 0.5
    extent = (left, right, float(times[0] - half), float(times[-1] + half))
    for place, values, colours, name in zip(
        axes[0], (panel.reference, panel.prediction, panel.error), (scale, scale, error_scale),
        (TRUE, PREDICTED, ERROR), strict=True,
    ):  # fmt: skip
        place.imshow(_finite(values), origin="lower", extent=extent, aspect="auto",
                     cmap=colours.map, norm=colours.norm, interpolation="nearest")  # fmt: skip
        place.set_title(name, pad=3)
        few_ticks(place, 2, 4, crowded=True)
        place.set_xlabel(panel.setting.axes[0], labelpad=1)
        place.tick_params(labelleft=place is axes[0][0])
    axes[0][0].set_ylabel(panel.setting.time)
    _bars(figure, axes, scale, error_scale, panel.label)
    _profiles(figure, panel)
    return figure


def _profiles(figure: Figure, panel: Panel) -> None:
    """True and predicted lines at a few times, below the images."""
    height = figure.get_figheight()
    low = figure.add_axes((_LEFT / WIDTH, 0.42 / height,
                           (WIDTH - _LEFT - _RIGHT) / WIDTH, 1.05 / height))  # fmt: skip
    ((left, right),) = panel.setting.bounds
    count = panel.reference.shape[1]
    places = left + (np.arange(count) + 0.5) * (right - left) / count
    frames = np.unique(np.linspace(0, len(panel.shown.times) - 1, _PROFILES).round().astype(int))
    for index, frame in enumerate(frames):
        colour = ("#56B4E9", "#0072B2", "#000000")[index % 3]
        when = number(float(f"{panel.shown.times[frame]:.3g}"))
        low.plot(places, _finite(panel.reference[frame]), color=colour, linewidth=2.6, alpha=0.35)
        low.plot(places, _finite(panel.prediction[frame]), color=colour, linewidth=1.0,
                 label="predicted" if panel.setting.is_steady else f"t = {when}")  # fmt: skip
    scale = panel.scale()
    margin = 0.08 * (scale.high - scale.low)
    low.set_ylim(scale.low - margin, scale.high + margin)
    low.set_xlim(left, right)
    low.set_xlabel(panel.setting.axes[0], labelpad=1)
    low.set_ylabel(panel.label)
    few_ticks(low, 5, 4)
    low.spines[["top", "right"]].set_visible(False)
    low.legend(loc="lower right", bbox_to_anchor=(1.01, 0.97), ncols=3, frameon=False, fontsize=7.5,
               borderaxespad=0, handlelength=1.6)  # fmt: skip
    low.set_title("broad: true, thin: predicted", loc="left", fontsize=7.5, color="0.35", pad=3)


def _paint(axes: Axes, panel: Panel, values: Array, frame: int, scale: Scale) -> None:
    """One frame of a plane, a mesh or particles."""
    left, right, bottom, top = panel.extent
    if panel.setting.kind == "grid":
        axes.imshow(_finite(values[frame]).T, origin="lower", extent=panel.extent, aspect="auto",
                    cmap=scale.map, norm=scale.norm, interpolation="nearest")  # fmt: skip
    else:
        places = panel.shown.places(frame)
        if panel.shown.triangles is not None:
            _paint_mesh(axes, places, panel.shown.triangles, values[frame], scale)
        elif panel.setting.kind == "mesh":
            _paint_nearest(axes, panel, places, values[frame], scale)
        else:
            _paint_particles(axes, places, values[frame], scale)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)


def _paint_mesh(axes: Axes, places: Array, triangles: Array, values: Array, scale: Scale) -> None:
    x, y = places.T[:2]
    mesh = Triangulation(x, y, triangles)
    axes.tripcolor(mesh, np.ma.masked_invalid(values), shading="gouraud", cmap=scale.map,
                   norm=scale.norm, rasterized=True)  # fmt: skip
    if len(triangles) <= _MOST_CELLS_WITH_LINES:
        axes.triplot(mesh, color="black", alpha=0.25, linewidth=0.15)


def _paint_nearest(axes: Axes, panel: Panel, places: Array, values: Array, scale: Scale) -> None:
    setting = panel.setting
    raster = raster_of([places], panel.bounds, setting.periodic, is_mesh=True)
    image, inside = raster.image(values[None])[0], raster.mask(values[None])[0]
    if image.ndim == 3:
        image, inside = image[..., 0], inside[..., 0]
    axes.imshow(np.ma.masked_invalid(np.where(inside, image, np.nan)).T, origin="lower",
                extent=panel.extent, aspect="auto", norm=scale.norm,
                cmap=scale.map.with_extremes(bad="white"), interpolation="nearest")  # fmt: skip


def _paint_particles(axes: Axes, places: Array, values: Array, scale: Scale) -> None:
    order = np.argsort(places[:, 2]) if places.shape[1] == 3 else np.arange(len(places))
    size = float(np.clip(2000 / max(len(places), 1), 0.4, 40))
    x, y = places[order].T[:2]
    axes.scatter(x, y, c=_finite(values[order]), s=size, linewidths=0.1, edgecolors="0.45",
                 cmap=scale.map, norm=scale.norm, plotnonfinite=True)  # fmt: skip
    axes.set_facecolor(BEHIND)


def _paper(
    height: float, *, rows: int = 1, columns: int = 3, width: float | None = None,
    below: float = _BELOW,
) -> tuple[Figure, list[list[Axes]]]:  # fmt: skip
    """Panels of one height, placed in inches."""
    width = width or (WIDTH - _LEFT - _RIGHT - (columns - 1) * _GAP) / columns
    total = _TOP + rows * height + (rows - 1) * _BETWEEN + below
    figure = Figure(figsize=(WIDTH, total))
    axes = []
    for row in range(rows):
        bottom = total - _TOP - (row + 1) * height - row * _BETWEEN
        axes.append([
            figure.add_axes(((_LEFT + column * (width + _GAP)) / WIDTH, bottom / total,
                             width / WIDTH, height / total))
            for column in range(columns)
        ])  # fmt: skip
    return figure, axes


def _name_axes(axes: Sequence[Sequence[Axes]], panel: Panel) -> None:
    across, up = (panel.setting.axes[axis] for axis in panel.axes[:2])
    for row in axes:
        for place in row:
            few_ticks(place, 2, 2, crowded=True)
            place.tick_params(labelleft=place is row[0], labelbottom=row is axes[-1])
            if row is axes[-1]:
                place.set_xlabel(across, labelpad=1)
        width = row[0].get_position().width * WIDTH
        row[0].set_ylabel(up)
        row[0].yaxis.set_label_coords(-0.4 / width, 0.5)


def _bars(
    figure: Figure, axes: Sequence[Sequence[Axes]], scale: Scale, error: Scale, label: str
) -> None:
    _bar(figure, axes[-1][:2], scale, label)
    _bar(figure, axes[-1][2:], error, "error")


def _bar(figure: Figure, above: Sequence[Axes], scale: Scale, label: str) -> None:
    """A colour scale below some panels."""
    height = figure.get_figheight()
    first, last = above[0].get_position(), above[-1].get_position()
    bottom = first.y0 - 0.56 / height
    place = figure.add_axes((first.x0, bottom, last.x1 - first.x0, _BAR / height))
    ticks = MaxNLocator(2 if len(above) < 2 else 5, steps=_STEPS)
    drawn = figure.colorbar(scale.mappable, cax=place, orientation="horizontal",
                            extend=scale.beyond, extendfrac=0.05, ticks=ticks)  # fmt: skip
    drawn.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(float(value))))
    drawn.set_label(label, labelpad=1)
    drawn.outline.set_linewidth(0.5)


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)
