"""Error against cost as inline SVG: no script, no font, no file beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 44
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a6761d", "#56b4e9", "#000000")
"""Okabe and Ito's, which are told apart with any colour vision; shapes differ as well."""
_SHAPES = ("circle", "square", "triangle", "diamond", "cross", "plus", "bar")
_INK, _GRID = "#333", "#e3e3e3"
_NEAR = 4
"""A level further above the points than this factor would press them together."""
_PLACES = ((11, -4), (11, 9), (-11, -4), (-11, 9), (0, -9), (0, 17), (21, 2), (-21, 2))
_APART = 10


@dataclass(frozen=True)
class Point:
    """One result.

    Attributes:
        x, y: Both positive.
        low, high: Interval of y.
        kind: What gives it its colour and shape.
        hollow: Drawn empty: trained on a CPU.
    """

    x: int | float
    y: int | float
    label: str
    title: str
    kind: str
    low: int | float | None = None
    high: int | float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis: its name, and how a value on it is written."""

    name: str
    said: Callable[[int | float], str]


@dataclass(frozen=True)
class _Scale:
    """From the logarithm of values to pixels."""

    low: int | float
    high: int | float
    start: int | float
    end: int | float

    def __call__(self, value: int | float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def scatter(
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    kinds: Sequence[str],
    level: tuple[str, int | float] | None,
) -> str:
    """Points on two logarithmic axes, with the front of those that no other one beats in both.

    Args:
        kinds: All that share a legend, in its order.
        level: A name and a value of y to draw as a line.
    """
    ends = [value for one in points for value in (one.low or one.y, one.high or one.y)]
    is_near = level is not None and level[1] <= _NEAR * max(ends)
    across = _scale([one.x for one in points], _LEFT, WIDTH - _RIGHT)
    up = _scale([*ends, *([level[1]] if level and is_near else [])], HEIGHT - _BOTTOM, _TOP)
    parts = [*_axes(across, up, x, y), *_level(level, up, y)]
    parts += [*_front(points, across, up), *_marks(points, across, up, kinds)]
    said = escape(f"{y.name} against {x.name}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{_INK}">'
        + "".join(parts) + "</svg>"
    )  # fmt: skip


def legend(kinds: Sequence[str]) -> str:
    """A list of the kinds with their marks."""
    items = []
    for kind in kinds:
        mark = _mark(kind, kinds, 7, 7, 5, hollow=False)
        drawn = f'<svg viewBox="0 0 14 14" aria-hidden="true">{mark}</svg>'
        items.append(f"<li>{drawn}{escape(kind)}</li>")
    return f'<ul class="key">{"".join(items)}</ul>'


def _scale(values: Sequence[int | float], start: int | float, end: int | float) -> _Scale:
    """A margin on both sides, and never less than two thirds of a decade."""
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = max(0.08 * (high - low), (0.66 - (high - low)) / 2, 0.05)
    return _Scale(low - margin, high + margin, start, end)


def _ticks(scale: _Scale) -> list[float]:
    """Powers of ten; with fewer than two of them also 2 and 5 times."""
    first, last = math.floor(scale.low), math.ceil(scale.high)
    inside = (scale.low, scale.high)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        found = [value for value in found if inside[0] <= math.log10(value) <= inside[1]]
        if len(found) > 1:
            break
    every = max(1, math.ceil(len(found) / 6))
    return found[::every]


def _axes(across: _Scale, up: _Scale, x: Axis, y: Axis) -> Iterable[str]:
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM
    for value in _ticks(across):
        at = across(value)
        yield f'<path d="M{at:.1f} {top}V{bottom}" stroke="{_GRID}"/>'
        yield (f'<text x="{at:.1f}" y="{bottom + 15}" text-anchor="middle">'
               f"{escape(x.said(value))}</text>")  # fmt: skip
    for value in _ticks(up):
        at = up(value)
        yield f'<path d="M{left} {at:.1f}H{right}" stroke="{_GRID}"/>'
        yield (f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">'
               f"{escape(y.said(value))}</text>")  # fmt: skip
    yield f'<path d="M{left} {top}V{bottom}H{right}" stroke="{_INK}" fill="none"/>'
    middle = (top + bottom) / 2
    yield (f'<text x="{(left + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
           f"{escape(x.name)}</text>")  # fmt: skip
    yield (f'<text transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">'
           f"{escape(y.name)}</text>")  # fmt: skip


def _level(level: tuple[str, int | float] | None, up: _Scale, y: Axis) -> Iterable[str]:
    """A dotted line with its name; where it lies above the picture, its value alone."""
    if not level:
        return
    name, value = level
    at, end = up(value), WIDTH - _RIGHT
    if at >= _TOP:
        yield f'<path d="M{_LEFT} {at:.1f}H{end}" stroke="#777" stroke-dasharray="2 3"/>'
    else:
        at, name = _TOP - 3, f"{name} above, at {y.said(value)}"
    yield (f'<text x="{end - 2}" y="{at + 13:.1f}" text-anchor="end" fill="#555">'
           f"{escape(name)}</text>")  # fmt: skip


def _front(points: Sequence[Point], across: _Scale, up: _Scale) -> Iterable[str]:
    """Steps through the points that no other one beats in both cost and error."""
    best: list[Point] = []
    for one in sorted(points, key=lambda one: (one.x, one.y)):
        if not best or one.y < best[-1].y:
            best.append(one)
    if len(best) > 1:
        path = f"M{across(best[0].x):.1f} {up(best[0].y):.1f}"
        path += "".join(f"H{across(one.x):.1f}V{up(one.y):.1f}" for one in best[1:])
        yield f'<path d="{path}" fill="none" stroke="#999" stroke-dasharray="5 3"/>'


def _marks(
    points: Sequence[Point], across: _Scale, up: _Scale, kinds: Sequence[str]
) -> Iterable[str]:
    """Every point with its bar; its label where it hides no other one."""
    taken: list[tuple[float, float]] = []
    for one in points:
        at, height, colour = across(one.x), up(one.y), _colour(one.kind, kinds)
        parts = [f"<g><title>{escape(one.title)}</title>"]
        if one.low and one.high:
            bar = f"M{at:.1f} {up(one.low):.1f}V{up(one.high):.1f}"
            parts.append(f'<path d="{bar}" stroke="{colour}"/>')
        parts.append(_mark(one.kind, kinds, at, height, 4.5, hollow=one.hollow))
        place = _free_place(at, height, taken)
        if place is not None:
            taken.append(place)
            parts.append(f'<text x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="middle">'
                         f"{escape(one.label)}</text>")  # fmt: skip
        yield "".join([*parts, "</g>"])


def _free_place(
    x: int | float, y: int | float, taken: Sequence[tuple[float, float]]
) -> tuple[float, float] | None:
    """Beside a point where no label stands yet; None where all places are taken."""
    for across, down in _PLACES:
        place = (x + across, y + down)
        if all(abs(place[0] - a) > _APART or abs(place[1] - b) > _APART for a, b in taken):
            return place
    return None


def _colour(kind: str, kinds: Sequence[str]) -> str:
    return _COLOURS[kinds.index(kind) % len(_COLOURS)]


def _mark(
    kind: str,
    kinds: Sequence[str],
    x: int | float,
    y: int | float,
    size: int | float,
    *,
    hollow: bool,
) -> str:
    colour = _colour(kind, kinds)
    paint = f'fill="{"#fff" if hollow else colour}" stroke="{colour}" stroke-width="1.6"'
    s = size
    match _SHAPES[kinds.index(kind) % len(_SHAPES)]:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s}" {paint}/>'
        case "square":
            path = f"m{-s} {-s}h{2 * s}v{2 * s}h{-2 * s}z"
        case "triangle":
            path = f"m0 {-s * 1.2}l{s * 1.15} {s * 2.1}h{-s * 2.3}z"
        case "diamond":
            path = f"m0 {-s * 1.3}l{s * 1.3} {s * 1.3}l{-s * 1.3} {s * 1.3}l{-s * 1.3} {-s * 1.3}z"
        case "cross":
            path = f"m{-s} {-s}l{2 * s} {2 * s}m{-2 * s} 0l{2 * s} {-2 * s}"
        case "plus":
            path = f"m{-s} 0h{2 * s}m{-s} {-s}v{2 * s}"
        case _:
            path = f"m{-s} -2h{2 * s}v4h{-2 * s}z"
    return f'<path d="M{x:.1f} {y:.1f}{path}" {paint}/>'
