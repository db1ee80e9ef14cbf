"""Arrangements: several frames on one sheet, or one frame of every quantity."""

from __future__ import annotations

from collections.abc import Sequence

from ups.data.pictures.scene import Quantity
from ups.data.pictures.sheet import Bar, Cell, Drawing, Painter, Sheet, assemble

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.75, 0.85, 0.78, 0.5
_GAP = 0.12
_WIDE = 2.0
_PER_ROW = 6


def gallery(painter: Painter, quantities: Sequence[Quantity], frames: Sequence[int]) -> Drawing:
    """Several frames of each quantity, on one colour scale each.

    Frames run across and quantities down; in wide domains the other way round. One quantity in 3D
    has its frames down and its three slices across.
    """
    if painter.views > 1:
        if len(quantities) == 1:
            return _slices_of_frames(painter, quantities[0], frames)
        return _across(painter, quantities, frames, width=1.25)
    if painter.size[0] > _WIDE * painter.size[1]:
        return _down(painter, quantities, frames)
    if len(quantities) == 1 and len(frames) > _PER_ROW:
        return _wrapped(painter, quantities[0], frames)
    return _across(painter, quantities, frames, width=1.75)


def single(
    painter: Painter, quantities: Sequence[Quantity], frame: int, frames: Sequence[int] = ()
) -> Drawing:
    """One frame of every quantity, on colour scales that hold all of `frames`."""
    if painter.views > 1:
        return _slices_of_quantities(painter, quantities, frame, frames or [frame])
    wide = painter.size[0] > _WIDE * painter.size[1]
    columns = 1 if wide else min(len(quantities), 3)
    rows = -(-len(quantities) // columns)
    time = painter.scene.time_text(frame)
    between = 0.62 if columns > 1 else 0.34
    sheet = Sheet(
        _panel(painter, 5.0 if wide else 2.6 if columns > 1 else 3.4),
        [_LEFT, *[1.1] * (columns - 1), _RIGHT],
        [_TOP + (0.14 if time else -0.08), *[between] * (rows - 1), _BOTTOM],
    )
    cells, bars = [], []
    for index, quantity in enumerate(quantities):
        row, column = divmod(index, columns)
        title = _title(quantity, painter.scene.static)
        last = index + columns >= len(quantities)
        cells.append(Cell(row, column, quantity, frame, title=title, bottom=last, left=column == 0))
        bars.append(Bar(quantity, column, (row, row), ""))
    return assemble(painter, sheet, cells, bars, frames or [frame], time)


def _title(quantity: Quantity, static: bool) -> str:
    if not static:
        return quantity.label
    return f"{'given' if quantity.given else 'solution'}: {quantity.label}"


def _across(
    painter: Painter, quantities: Sequence[Quantity], frames: Sequence[int], width: float
) -> Drawing:
    """Frames across, each with its views; quantities down."""
    views, last = painter.views, len(quantities) - 1
    columns = len(frames) * views
    gaps = [_GAP if views == 1 else 0.55 if i % views == 0 else 0.44 for i in range(1, columns)]
    extra = 0.16 if views > 1 else 0.0
    sheet = Sheet(
        _panel(painter, width),
        [_LEFT, *gaps, _RIGHT],
        [_TOP + extra, *[_GAP] * last, _BOTTOM],
    )
    cells = [
        Cell(row, i * views + view, quantity, frame, view,
             _corner(painter, frame, view, "\n") if row == 0 else "", row == last,
             views > 1 or i == 0)
        for row, quantity in enumerate(quantities)
        for i, frame in enumerate(frames)
        for view in range(views)
    ]  # fmt: skip
    bars = [Bar(q, columns - 1, (row, row), q.label) for row, q in enumerate(quantities)]
    return assemble(painter, sheet, cells, bars, frames)


def _down(painter: Painter, quantities: Sequence[Quantity], frames: Sequence[int]) -> Drawing:
    """Frames down, quantities across, colour bars below."""
    last = len(frames) - 1
    sheet = Sheet(
        _panel(painter, 3.4 if len(quantities) > 1 else 5.0),
        [_LEFT, *[0.2] * (len(quantities) - 1), 0.2],
        [_TOP, *[0.26] * last, 1.0],
    )
    cells = [
        Cell(row, column, quantity, frame,
             title=painter.scene.time_text(frame) if column == 0 else "",
             bottom=row == last, left=column == 0)
        for column, quantity in enumerate(quantities)
        for row, frame in enumerate(frames)
    ]  # fmt: skip
    bars = [Bar(q, i, (last, last), q.label, "below") for i, q in enumerate(quantities)]
    return assemble(painter, sheet, cells, bars, frames)


def _wrapped(painter: Painter, quantity: Quantity, frames: Sequence[int]) -> Drawing:
    """Many frames of one quantity, a few to a row."""
    rows = -(-len(frames) // _PER_ROW)
    sheet = Sheet(
        _panel(painter, 1.75),
        [_LEFT, *[_GAP] * (_PER_ROW - 1), _RIGHT],
        [_TOP, *[0.26] * (rows - 1), _BOTTOM],
    )
    cells = []
    for index, frame in enumerate(frames):
        row, column = divmod(index, _PER_ROW)
        last = index + _PER_ROW >= len(frames)
        time = painter.scene.time_text(frame)
        cells.append(Cell(row, column, quantity, frame, title=time, bottom=last, left=column == 0))
    bars = [Bar(quantity, _PER_ROW - 1, (0, rows - 1), quantity.label)]
    return assemble(painter, sheet, cells, bars, frames)


def _slices_of_frames(painter: Painter, quantity: Quantity, frames: Sequence[int]) -> Drawing:
    """One quantity in 3D: frames down, slices across."""
    rows = len(frames)
    sheet = _slice_sheet(painter, rows, _TOP)
    cells = [
        Cell(row, view, quantity, frame, view, _corner(painter, frame, view, "   "),
             bottom=row == rows - 1)
        for row, frame in enumerate(frames) for view in range(painter.views)
    ]  # fmt: skip
    bar = Bar(quantity, painter.views - 1, (0, rows - 1), quantity.label)
    return assemble(painter, sheet, cells, [bar], frames)


def _slices_of_quantities(
    painter: Painter, quantities: Sequence[Quantity], frame: int, frames: Sequence[int]
) -> Drawing:
    """One frame in 3D: quantities down, slices across."""
    rows = len(quantities)
    sheet = _slice_sheet(painter, rows, _TOP + 0.14)
    cells = [
        Cell(row, view, quantity, frame, view, painter.heading(view), bottom=row == rows - 1)
        for row, quantity in enumerate(quantities) for view in range(painter.views)
    ]  # fmt: skip
    bars = [Bar(q, painter.views - 1, (row, row), q.label) for row, q in enumerate(quantities)]
    return assemble(painter, sheet, cells, bars, frames, painter.scene.time_text(frame))


def _slice_sheet(painter: Painter, rows: int, top: float) -> Sheet:
    before = [_LEFT, *[0.5] * (painter.views - 1), _RIGHT]
    return Sheet(_panel(painter, 1.9), before, [top, *[0.3] * (rows - 1), _BOTTOM])


def _corner(painter: Painter, frame: int, view: int, between: str) -> str:
    """Heading of a panel: the time on the first view, and what sets the view apart."""
    parts = [painter.scene.time_text(frame) if view == 0 else "", painter.heading(view)]
    return between.join(part for part in parts if part)


def _panel(painter: Painter, width: float) -> tuple[float, float]:
    """A panel about `width` inches wide in the shape of the domain, neither flat nor towering."""
    ratio = min(max(painter.size[1] / painter.size[0], 0.12), 3.0)
    width = width if ratio <= 1 else max(width / ratio, 0.55 * width)
    return width, width * ratio
