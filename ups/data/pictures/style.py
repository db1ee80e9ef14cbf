"""How all pictures of data look: text, numbers, colours, paper, and how they reach the disk.

Colours are told apart with any colour vision: viridis, cividis, and a blue-red pair for signs.
Nothing outside a picture changes: matplotlib's settings are put back, no display is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure

from ups.files import atomic_path

Array = npt.NDArray[Any]
DPI = 130
GREY = "0.35"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MARGIN_INCHES = 0.08
_RARE = 1 / 3
_MIDDLE = (0.002, 0.998)
_NO_DATE = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
}


@contextmanager
def house() -> Iterator[None]:
    """Matplotlib's own defaults with our few changes, whatever the user's settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "font.size": 9.0, "axes.titlesize": 9.0, "axes.labelsize": 9.0,
            "xtick.labelsize": 8.0, "ytick.labelsize": 8.0, "axes.linewidth": 0.6,
            "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
            "ytick.major.size": 2.5, "text.parse_math": False, "svg.hashsalt": "ups",
            "axes.formatter.limits": (-3, 5), "axes.formatter.use_mathtext": False,
        })  # fmt: skip
        yield


def number(value: float) -> str:
    """`0.01`, `10⁻⁸`, `2.5×10⁻⁷`."""
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    if not exponent:
        return mantissa.replace("-", "−")
    power = "10" + str(int(exponent)).translate(_RAISED)
    return power if mantissa == "1" else f"{mantissa.replace('-', '−')}×{power}"


def plain(text: str) -> str:
    """`text` as it stands, where mathematics would be set."""
    return text.replace("$", r"\$")


def symbol(text: str) -> str:
    """`σ_ω` with its index lowered."""
    base, _, index = text.partition("_")
    return (
        rf"$\mathrm{{{base}}}_{{\mathrm{{{index}}}}}$" if base and index.isalnum() else plain(text)
    )


def with_unit(text: str, unit: str) -> str:
    """`velocity (m²/s²)`; dimensionless quantities have no brackets."""
    if unit == "1":
        return text
    base, *powers = unit.split("^")
    for power in powers:
        digits = power[: len(power) - len(power.lstrip("-0123456789"))]
        base += digits.translate(_RAISED) + power[len(digits) :]
    return f"{text} ({base})"


@dataclass(frozen=True)
class Scale:
    """The colours of one quantity.

    Attributes:
        low, high: Values at the ends.
        colours: Name of the colour map.
        beyond: Which end has values outside: 'neither', 'min', 'max' or 'both'.
    """

    low: float
    high: float
    colours: str
    beyond: str = "neither"

    @property
    def norm(self) -> Normalize:
        return Normalize(self.low, self.high)

    @property
    def map(self) -> Colormap:
        return matplotlib.colormaps[self.colours].with_extremes(bad="0.6")

    @property
    def mappable(self) -> ScalarMappable:
        return ScalarMappable(self.norm, self.map)


def scale_of(samples: Iterable[Array], *, signed: bool, colours: str = "viridis") -> Scale:
    """One scale for all shown frames of a quantity.

    A few extremes may not make the rest pale. Where the middle 99.6 % of the values span less than
    half of their range, or all frames but the widest less than a third of it, the scale ends there.
    `signed` quantities that take both signs get a scale that is symmetric about zero, unless one
    sign is so rare that this would waste colours.

    Args:
        samples: Values of each frame.
    """
    frames = [part[np.isfinite(part)].ravel().astype(np.float64) for part in samples]
    frames = [frame for frame in frames if frame.size]
    if not frames:
        return Scale(0.0, 1.0, colours)
    least, most = min(float(f.min()) for f in frames), max(float(f.max()) for f in frames)
    low, high = _without_extremes(frames, least, most)
    if signed and low < 0 < high and min(-low, high) > _RARE * max(-low, high):
        high = max(-low, high)
        low, colours = -high, "RdBu_r"
    elif not high - low > 1e-6 * max(abs(low), abs(high)):
        middle, half = (low + high) / 2, max(abs(low), abs(high)) / 10 or 0.5
        low, high = middle - half, middle + half
    ends = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    return Scale(low, high, colours, ends[int(least < low), int(most > high)])


def _without_extremes(frames: Sequence[Array], least: float, most: float) -> tuple[float, float]:
    low, high = (float(q) for q in np.quantile(np.concatenate(frames), _MIDDLE))
    if not 0 < high - low < 0.5 * (most - least):
        low, high = least, most
    if len(frames) > 2:
        ranges = sorted((np.quantile(frame, _MIDDLE) for frame in frames), key=np.ptp)[:-1]
        below, above = float(min(r[0] for r in ranges)), float(max(r[1] for r in ranges))
        if 0 < above - below < (high - low) / 3:
            low, high = below, above
    near = 0.1 * (high - low)  # an end that is nearly reached is not cut off
    return least if low - least < near else low, most if most - high < near else high


def save(figure: Figure, path: Path, dpi: int | None = None) -> None:
    """Write a still picture whole or not at all; the same picture gives the same bytes."""
    kind = path.suffix[1:].lower()
    with atomic_path(path) as temporary:
        figure.savefig(
            temporary, format=kind, dpi=dpi or DPI, metadata=_NO_DATE[kind], bbox_inches="tight",
            pad_inches=_MARGIN_INCHES,
        )  # fmt: skip
