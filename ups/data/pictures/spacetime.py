"""Fields in 1D: space across and time upwards, with profiles at a few times; or a moving line."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ups.data.pictures.scene import Quantity, Scene, pixels, thinned
from ups.data.pictures.sheet import Bar, Drawing, Sheet, Update, draw_bar, few_ticks, roomy, start
from ups.data.pictures.style import GREY, Array, Scale, scale_of

_ROWS = 512
_LINE = "#0072B2"
_LEFT, _BETWEEN, _RIGHT = 0.8, 1.55, 1.2


def space_time(scene: Scene, quantities: Sequence[Quantity], frames: Sequence[int]) -> Drawing:
    """One column for each quantity: the whole trajectory as an image, below it some profiles."""
    columns = len(quantities)
    before = [_LEFT, *[_BETWEEN] * (columns - 1), _RIGHT]
    top = roomy(Sheet((3.4, 2.5), before, [0.6, 2.3]), scene)
    low = Sheet((3.4, 1.5), top.before, [top.size[1] - 2.0, 0.5])
    drawing = start(top, scene)
    for column, quantity in enumerate(quantities):
        image = top.panel_at(drawing.figure, 0, column)
        scale = _image(image, scene, quantity)
        draw_bar(drawing.figure, top, Bar(quantity, column, (0, 0), quantity.label), scale)
        few_ticks(image, 5, 5)
        image.tick_params(labelbottom=False)
        panel = low.panel_at(drawing.figure, 0, column)
        _profiles(panel, scene, quantity, frames, scale)
        if column == 0:
            image.set_ylabel(_time_label(scene))
    return drawing


def profile(
    scene: Scene, quantities: Sequence[Quantity], frame: int, frames: Sequence[int] = ()
) -> Drawing:
    """One frame as a line for each quantity, in a range that holds all of `frames`."""
    columns = min(len(quantities), 3)
    rows = -(-len(quantities) // columns)
    before = [_LEFT, *[0.75] * (columns - 1), 0.3]
    sheet = roomy(Sheet((3.4, 2.1), before, [0.85, *[0.65] * (rows - 1), 0.5]), scene)
    drawing = start(sheet, scene, scene.time_text(frame))
    for index, quantity in enumerate(quantities):
        axes = sheet.panel_at(drawing.figure, *divmod(index, columns))
        place, coords = _points(scene)
        spread = (thinned(scene.values(quantity, i, place)) for i in frames or [frame])
        _frame_lines(axes, scene, quantity, scale_of(spread, signed=False))
        if frames:
            first = _finite(scene.values(quantity, frames[0], place))
            axes.plot(coords, first, color="0.75", linewidth=1.0)
        line = axes.plot(coords, _finite(scene.values(quantity, frame, place)), color=_LINE)[0]
        drawing.updates.append(_mover(line, scene, quantity, place))
    return drawing


def _mover(line: Line2D, scene: Scene, quantity: Quantity, place: Array) -> Update:
    def update(frame: int) -> None:
        line.set_ydata(_finite(scene.values(quantity, frame, place)))

    return update


def _image(axes: Axes, scene: Scene, quantity: Quantity) -> Scale:
    place, across = pixels(scene.grid[0])
    frames, up = pixels(scene.store.time, _ROWS)
    values = _finite(scene.history(quantity, frames.tolist(), place))
    scale = scale_of([values], signed=quantity.signed, colours=quantity.colours)
    axes.imshow(values, origin="lower", extent=(*across, *up), aspect="auto", cmap=scale.map,
                norm=scale.norm)  # fmt: skip
    return scale


def _profiles(
    axes: Axes, scene: Scene, quantity: Quantity, frames: Sequence[int], scale: Scale
) -> None:
    """Lines that darken with time."""
    place, coords = _points(scene)
    _frame_lines(axes, scene, quantity, scale)
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, len(frames)))
    for frame, shade in zip(frames, shades, strict=True):
        axes.plot(coords, _finite(scene.values(quantity, frame, place)), color=tuple(shade),
                  linewidth=1.1, label=scene.time_text(frame))  # fmt: skip
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=7.5,
                handlelength=1.0, labelspacing=0.3, handletextpad=0.5)  # fmt: skip


def _frame_lines(axes: Axes, scene: Scene, quantity: Quantity, scale: Scale) -> None:
    edges = pixels(scene.grid[0])[1]
    margin = 0.05 * (scale.high - scale.low)
    axes.set_xlim(edges)
    axes.set_ylim(scale.low - margin, scale.high + margin)
    few_ticks(axes, 5, 4)
    axes.set_xlabel(scene.axes[0], labelpad=2)
    axes.set_ylabel(quantity.label, labelpad=2)
    axes.grid(True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if scale.low < 0 < scale.high:
        axes.axhline(0, color=GREY, linewidth=0.5)


def _points(scene: Scene) -> tuple[Array, Array]:
    coords = scene.grid[0]
    place = pixels(coords)[0]
    return place, coords[place]


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)


def _time_label(scene: Scene) -> str:
    unit = scene.card.time.unit
    return "time t" if unit == "1" else f"time t ({unit})"
