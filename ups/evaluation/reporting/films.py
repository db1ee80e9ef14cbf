"""Fields that move: all frames of a panel in one image, of which a page shows one at a time."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex, to_rgb
from PIL import Image, ImageDraw

from ups.data.pictures.style import Scale, number
from ups.evaluation.reporting.examples import Examples
from ups.evaluation.reporting.plates import BEHIND, ERROR, PREDICTED, TRUE, Panel
from ups.evaluation.reporting.raster import Raster, raster_of

Array = npt.NDArray[Any]
_MOST_FRAMES = {1: 40, 2: 24, 3: 24}
_LINE_SIZE, _SHARPER = (420, 200), 2
_PALE, _DARK, _RED = "#9ecae8", "#003d66", "#a04000"
_QUALITY, _SMALL = 82, 500_000


@dataclass(frozen=True)
class Legend:
    """A colour scale: its stops from low to high, and the numbers at its ends."""

    stops: tuple[str, ...]
    low: str
    high: str
    label: str


@dataclass(frozen=True)
class Screen:
    """One panel of a film.

    Attributes:
        sheet: `data:` address of an image with all frames above one another.
        shape: Width and height of one frame, pixels.
        across, up: (low, name, high) of each axis.
        legend: None where heights are shown and not colours.
    """

    title: str
    sheet: str
    shape: tuple[int, int]
    across: tuple[str, str, str]
    up: tuple[str, str, str]
    legend: Legend | None


@dataclass(frozen=True)
class Film:
    """Screens that show the same moments."""

    times: tuple[str, ...]
    screens: tuple[Screen, ...]
    wide: bool


def film_of(examples: Examples, which: int, channel: int) -> Film | None:
    """A field of a trajectory in motion; None for a steady problem, or of a single frame."""
    panel = Panel(examples.setting, examples.shown[which], 0, channel)
    count = len(panel.shown.times)
    if examples.setting.is_steady or count < 2:
        return None
    dims = len(examples.setting.bounds)
    frames = np.unique(np.linspace(0, count - 1, min(_MOST_FRAMES[dims], count)).round())
    chosen = [int(frame) for frame in frames]
    unit = examples.setting.time.partition(" (")[2].rstrip(")")
    times = tuple(
        f"t = {number(float(f'{panel.shown.times[frame]:.3g}'))} {unit}".rstrip()
        for frame in chosen
    )
    screens = _lines(panel, chosen) if dims == 1 else _images(panel, chosen)
    return Film(times, screens, wide=dims == 1)


def _images(panel: Panel, frames: Sequence[int]) -> tuple[Screen, ...]:
    scale, error_scale = panel.scale(), panel.error_scale()
    raster = _raster(panel, frames)
    left, right, bottom, top = panel.extent
    across, up = (panel.setting.axes[axis] for axis in panel.axes[:2])
    screens = []
    for title, values, colours, label in (
        (TRUE, panel.reference, scale, panel.label),
        (PREDICTED, panel.prediction, scale, panel.label),
        (ERROR, panel.error, error_scale, "error"),
    ):
        shown = values[list(frames)]
        inside = None
        if raster is not None:
            shown, inside = raster.image(shown), raster.mask(shown)
            if shown.ndim == 4:
                shown, inside = shown[..., 0], inside[..., 0]
        behind = BEHIND if panel.setting.kind == "particles" else "white"
        pixels = _coloured(shown, colours, inside, behind)
        screens.append(Screen(
            title=title,
            sheet=webp(pixels.reshape(-1, *pixels.shape[2:]), lossless=pixels.size < _SMALL),
            shape=(round(pixels.shape[1] / panel.ratio), pixels.shape[1]),
            across=(_short(left), across, _short(right)),
            up=(_short(bottom), up, _short(top)),
            legend=_legend(colours, label),
        ))  # fmt: skip
    return tuple(screens)


def _raster(panel: Panel, frames: Sequence[int]) -> Raster | None:
    """Which node a pixel shows, of fields at nodes."""
    setting, shown = panel.setting, panel.shown
    if setting.kind == "grid":
        return None
    assert shown.coords is not None
    moves = shown.coords.ndim == 3
    places = [shown.places(frame) for frame in (frames if moves else frames[:1])]
    return raster_of(places, panel.bounds, setting.periodic, is_mesh=setting.kind == "mesh")


def _coloured(values: Array, scale: Scale, inside: Array | None, behind: str) -> Array:
    """(time, across, up) -> (time, row, column, 3) uint8, the first row at the top."""
    turned = values.swapaxes(1, 2)[:, ::-1]
    shades = scale.map(scale.norm(np.ma.masked_invalid(turned)))[..., :3]
    pixels = (255 * shades).round().astype(np.uint8)
    if inside is not None:
        pixels[~inside.swapaxes(1, 2)[:, ::-1]] = np.round(255 * np.array(to_rgb(behind)))
    return pixels


def _lines(panel: Panel, frames: Sequence[int]) -> tuple[Screen, ...]:
    """Truth and prediction in one panel, the error in another one."""
    scale = panel.scale()
    margin = 0.08 * (scale.high - scale.low)
    limit = panel.error_scale().high
    ((left, right),) = panel.setting.bounds
    across = (_short(left), panel.setting.axes[0], _short(right))
    screens = []
    for title, curves, low, high, name in (
        (
            "true (broad), predicted (thin)",
            ((panel.reference, _PALE, 6), (panel.prediction, _DARK, 2)),
            scale.low - margin, scale.high + margin, panel.label,
        ),
        (ERROR, ((panel.error, _RED, 2),), -limit, limit, "error"),
    ):  # fmt: skip
        drawn = [_line_frame(curves, frame, low, high) for frame in frames]
        screens.append(Screen(
            title=title,
            sheet=webp(np.concatenate(drawn), lossless=True),
            shape=_LINE_SIZE,
            across=across,
            up=(_short(low), name, _short(high)),
            legend=None,
        ))  # fmt: skip
    return tuple(screens)


def _line_frame(
    curves: Sequence[tuple[Array, str, int]], frame: int, low: float, high: float
) -> Array:
    width, height = (_SHARPER * side for side in _LINE_SIZE)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    if low < 0 < high:
        zero = height * high / (high - low)
        pen.line([(0, zero), (width, zero)], fill="#dddddd", width=2)
    for values, colour, thickness in curves:
        heights = height * (high - values[frame]) / (high - low)
        places = (np.arange(len(heights)) + 0.5) * width / len(heights)
        good = np.isfinite(heights)
        points = np.stack([places[good], heights[good].clip(-height, 2 * height)], 1)
        if len(points) > 1:
            pen.line([tuple(point) for point in points.tolist()], fill=colour,
                     width=thickness * _SHARPER // 2 + 1, joint="curve")  # fmt: skip
    small = image.resize(_LINE_SIZE, Image.Resampling.BOX)
    return np.asarray(small.quantize(32).convert("RGB"))


def webp(pixels: Array, *, lossless: bool, quality: int = _QUALITY) -> str:
    """An image as a `data:` address."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="WEBP", lossless=lossless, quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _legend(scale: Scale, label: str) -> Legend:
    stops = tuple(to_hex(colour) for colour in scale.map(np.linspace(0, 1, 13)))
    return Legend(stops, _short(scale.low), _short(scale.high), label)


def _short(value: float) -> str:
    return number(float(f"{value:.3g}"))
