"""Paper, panels and colour bars, placed in inches: nothing depends on an automatic layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from ups.data.pictures.scene import Quantity, Scene, thinned
from ups.data.pictures.style import GREY, Array, Scale, number, scale_of

Update = Callable[[int], None]
_STEPS = [1, 2, 2.5, 5, 10]
_BAR, _LONGEST_BAR = 0.11, 4.0
_HEADING_SIZES = (10.5, 9.0)


@runtime_checkable
class Painter(Protocol):
    """Draws one frame of a kind of data into one panel.

    Attributes:
        scene: What is drawn.
        size: Width and height of the domain, in the units of its axes.
        views: How many panels a frame takes: three slices in 3D, else one.
    """

    scene: Scene
    size: tuple[float, float]
    views: int

    def samples(self, quantity: Quantity, frame: int) -> Array:
        """Values that the colour scale must hold."""
        ...

    def labels(self, view: int) -> tuple[str, str]:
        """Names of the axes; empty where the panel shows none."""
        ...

    def heading(self, view: int) -> str:
        """What sets this view apart: `z = 0.5`; empty with one view."""
        ...

    def draw(self, axes: Axes, quantity: Quantity, frame: int, scale: Scale, view: int) -> Update:
        """Draw a frame; returns what changes the panel to another one."""
        ...


@dataclass(frozen=True)
class Sheet:
    """A table of panels of one size.

    Attributes:
        panel: Width and height of each, inches.
        before: Inches left of every column, then right of the last.
        above: Inches above every row, then below the last.
    """

    panel: tuple[float, float]
    before: Sequence[float]
    above: Sequence[float]

    @property
    def size(self) -> tuple[float, float]:
        width = sum(self.before) + self.panel[0] * (len(self.before) - 1)
        return width, sum(self.above) + self.panel[1] * (len(self.above) - 1)

    def left(self, column: int) -> float:
        return sum(self.before[: column + 1]) + column * self.panel[0]

    def bottom(self, row: int) -> float:
        return self.size[1] - sum(self.above[: row + 1]) - (row + 1) * self.panel[1]

    def box(self, figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
        across, up = self.size
        return figure.add_axes((left / across, bottom / up, width / across, height / up))

    def panel_at(self, figure: Figure, row: int, column: int) -> Axes:
        return self.box(figure, self.left(column), self.bottom(row), *self.panel)


@dataclass(frozen=True)
class Cell:
    """One panel: what it shows, its heading, and which of its axes are named."""

    row: int
    column: int
    quantity: Quantity
    frame: int
    view: int = 0
    title: str = ""
    bottom: bool = True
    left: bool = True


@dataclass(frozen=True)
class Bar:
    """The colour scale of a quantity: right of a column's rows, or below the last row."""

    quantity: Quantity
    column: int
    rows: tuple[int, int]
    label: str
    side: Literal["right", "below"] = "right"


@dataclass(eq=False)
class Drawing:
    """A finished picture that can be changed to another frame."""

    figure: Figure
    updates: list[Update] = field(default_factory=list)
    scales: list[Scale] = field(default_factory=list)
    clock: Text | None = None

    def change(self, frame: int, time: str) -> None:
        for update in self.updates:
            update(frame)
        if self.clock is not None:
            self.clock.set_text(time)


def roomy(sheet: Sheet, scene: Scene) -> Sheet:
    """The sheet, wider at the right where its heading would not fit."""
    trial = Figure(dpi=72)
    renderer = FigureCanvasAgg(trial).get_renderer()
    heading = zip(scene.title.split("\n"), _HEADING_SIZES, strict=True)
    lines = [trial.text(0, 0, text, fontsize=size, parse_math=True) for text, size in heading]
    widths = [line.get_window_extent(renderer).width / 72 for line in lines]
    missing = sheet.before[0] + max(widths) + 0.1 - sheet.size[0]
    if missing <= 0:
        return sheet
    return Sheet(sheet.panel, [*sheet.before[:-1], sheet.before[-1] + missing], sheet.above)


def start(sheet: Sheet, scene: Scene, time: str = "") -> Drawing:
    """An empty sheet with its heading and, with `time`, a clock below that."""
    width, height = sheet.size
    drawing = Drawing(Figure(figsize=sheet.size))

    def line(text: str, below: float, size: float, colour: str) -> Text:
        return drawing.figure.text(sheet.before[0] / width, 1 - below / height, text, va="top",
                                   fontsize=size, color=colour, parse_math=True)  # fmt: skip

    first, _, second = scene.title.partition("\n")
    line(first, 0.1, _HEADING_SIZES[0], "black")
    line(second, 0.3, _HEADING_SIZES[1], GREY)
    if time:
        drawing.clock = line(time, 0.5, 9.5, "black")
    return drawing


def assemble(
    painter: Painter,
    sheet: Sheet,
    cells: Sequence[Cell],
    bars: Sequence[Bar],
    frames: Sequence[int],
    time: str = "",
) -> Drawing:
    """Draw all panels and scales; a scale holds the values of all `frames`."""
    sheet = roomy(sheet, painter.scene)
    drawing = start(sheet, painter.scene, time)
    crowded = min(sheet.before[1:-1], default=1.0) < 0.3
    scales = {bar.quantity.name: scale_over(painter, bar.quantity, frames) for bar in bars}
    drawing.scales += scales.values()
    for cell in cells:
        axes = sheet.panel_at(drawing.figure, cell.row, cell.column)
        scale = scales[cell.quantity.name]
        drawing.updates.append(painter.draw(axes, cell.quantity, cell.frame, scale, cell.view))
        axes.set_title(cell.title, loc="left", pad=3)
        _label(axes, painter.labels(cell.view), cell, crowded)
    for bar in bars:
        draw_bar(drawing.figure, sheet, bar, scales[bar.quantity.name])
    return drawing


def scale_over(painter: Painter, quantity: Quantity, frames: Sequence[int]) -> Scale:
    shown = frames[:1] if quantity.given else frames
    samples = (thinned(painter.samples(quantity, frame)) for frame in shown)
    return scale_of(samples, signed=quantity.signed, colours=quantity.colours)


def few_ticks(axes: Axes, across: int = 3, up: int = 3, *, crowded: bool = False) -> None:
    """Some round numbers; in a crowd those at the sides stand inside, clear of the neighbours."""
    for axis, count in ((axes.xaxis, across), (axes.yaxis, up)):
        low, high = sorted(float(end) for end in axis.get_view_interval())
        slack = 1e-9 * (high - low)
        ticks = [float(t) for t in MaxNLocator(count, steps=_STEPS).tick_values(low, high)]
        ticks = [tick for tick in ticks if low - slack <= tick <= high + slack]
        axis.set_ticks(ticks, labels=[number(tick) for tick in ticks])
        if crowded and axis is axes.xaxis and len(ticks) > 1:
            edge = 0.05 * (high - low)
            first, *_, last = axis.get_ticklabels()
            first.set_horizontalalignment("left" if ticks[0] < low + edge else "center")
            last.set_horizontalalignment("right" if ticks[-1] > high - edge else "center")


def _label(axes: Axes, names: tuple[str, str], cell: Cell, crowded: bool) -> None:
    if not names[0]:
        return
    few_ticks(axes, crowded=crowded)
    axes.tick_params(labelbottom=cell.bottom, labelleft=cell.left)
    if cell.bottom:
        axes.set_xlabel(names[0], labelpad=2)
    if cell.left:
        axes.set_ylabel(names[1], labelpad=2)


def draw_bar(figure: Figure, sheet: Sheet, bar: Bar, scale: Scale) -> None:
    left, bottom = sheet.left(bar.column), sheet.bottom(bar.rows[1])
    width, height = sheet.panel
    if bar.side == "right":
        height += sheet.bottom(bar.rows[0]) - bottom
        length = min(height, _LONGEST_BAR)
        place = (left + width + 0.1, bottom + (height - length) / 2, _BAR, length)
    else:
        length = min(width, 3.0)
        place = (left + (width - length) / 2, bottom - 0.6, length, _BAR)
    orientation: Any = "vertical" if bar.side == "right" else "horizontal"
    count = 4 if length > 1 else 3
    drawn = figure.colorbar(
        scale.mappable, cax=sheet.box(figure, *place), orientation=orientation,
        extend=scale.beyond, extendfrac=0.04, ticks=MaxNLocator(count, steps=_STEPS),
    )  # fmt: skip
    drawn.set_label(bar.label, labelpad=3)
    drawn.outline.set_linewidth(0.5)
