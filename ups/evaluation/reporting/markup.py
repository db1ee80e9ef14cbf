"""The few forms that a page is made of: tables, figures, films, folded parts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ups.errors import CheckpointError, translated_os_errors
from ups.evaluation.reporting.films import Film, Legend, Screen, webp

Cells = Sequence[str]
_HEAVY, _QUALITY = 120_000, 90
"""Characters from which on a picture is stored with small losses."""


@dataclass(frozen=True)
class Picture:
    """A PNG file with a title and, where it needs one, an explanation."""

    path: Path
    title: str
    caption: str = ""


def number(value: int | float | None) -> str:
    """Three significant digits; a dash where there is no number."""
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def between(interval: Sequence[float] | None) -> str:
    """`0.0120 to 0.0153`; nothing where there is no interval."""
    return f"{number(interval[0])} to {number(interval[1])}" if interval else ""


def part(name: str, title: str, *bodies: str, level: int = 2) -> str:
    """A part with a heading that can be linked to; nothing where nothing is in it."""
    inside = "\n".join(body for body in bodies if body)
    if not inside:
        return ""
    heading = f"h{level}"
    return (
        f'<section id="{escape(name)}"><{heading}>{escape(title)}</{heading}>\n{inside}</section>'
    )


def paragraph(text: str, kind: str = "") -> str:
    opening = f'<p class="{kind}">' if kind else "<p>"
    return f"{opening}{escape(text)}</p>" if text else ""


def folded(title: str, *bodies: str) -> str:
    """A part that opens when it is asked for."""
    inside = "\n".join(body for body in bodies if body)
    return f"<details><summary>{escape(title)}</summary>\n{inside}</details>" if inside else ""


def code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


def table(head: Cells | None, rows: Iterable[tuple[str, Cells]]) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        head: With a head, all columns but the first are numbers.
        rows: CSS class and cells of each.
    """
    kind = ' class="number"' if head else ""
    parts = [f'<div class="wide" tabindex="0"><table{"" if head else " class=pairs"}>']
    if head:
        cells = "".join(
            f'<th scope="col"{kind if index else ""}>{escape(cell)}</th>'
            for index, cell in enumerate(head)
        )
        parts.append(f"<thead><tr>{cells}</tr></thead>")
    parts.append("<tbody>")
    for css, row in rows:
        first, *rest = (escape(cell) for cell in row)
        cells = f'<th scope="row">{first}</th>' + "".join(f"<td{kind}>{c}</td>" for c in rest)
        parts.append(f'<tr class="{escape(css)}">{cells}</tr>' if css else f"<tr>{cells}</tr>")
    return "\n".join([*parts, "</tbody></table></div>"])


def pairs(content: Mapping[str, Any]) -> str:
    """A nested mapping as rows of dotted keys and values."""
    return table(None, _flat(content))


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Cells]]:
    rows: list[tuple[str, Cells]] = []
    for key, value in content.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows.append(("", [f"{prefix}{key}", " ".join(map(str, value))]))
        else:
            rows.append(("", [f"{prefix}{key}", "–" if value is None else str(value)]))
    return rows


def gallery(pictures: Iterable[Picture]) -> str:
    """Pictures side by side, as many as fit."""
    figures = "\n".join(_figure(picture) for picture in pictures)
    return f'<div class="gallery">{figures}</div>' if figures else ""


def _figure(picture: Picture) -> str:
    with (
        translated_os_errors(picture.path, "reading", CheckpointError),
        Image.open(picture.path) as image,
    ):
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    address = webp(pixels, lossless=True)
    if len(address) > _HEAVY:
        address = webp(pixels, lossless=False, quality=_QUALITY)
    title, caption = escape(picture.title), escape(picture.caption)
    element = f'<img alt="{title}" src="{address}" width="{width}" height="{height}">'
    said = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure><h4>{title}</h4>{element}{said}</figure>"


def moving(film: Film, title: str) -> str:
    """A film with a button and a slider; what print, or a page without scripts, leaves out."""
    screens = "".join(_screen(screen, len(film.times)) for screen in film.screens)
    times = escape(json.dumps(film.times))
    last = len(film.times) - 1
    return (
        f'<figure class="film{" broad" if film.wide else ""}" data-times="{times}">'
        f'<h4>{escape(title)}</h4><div class="screens">{screens}</div>'
        '<div class="controls"><button type="button" aria-label="play">▶</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="time">'
        f"<output>{escape(film.times[-1])}</output></div></figure>"
    )


def _screen(screen: Screen, count: int) -> str:
    width, height = screen.shape
    left, across, right = (escape(text) for text in screen.across)
    bottom, up, top = (escape(text) for text in screen.up)
    legend = _legend(screen.legend) if screen.legend else ""
    return (
        f'<div class="screen"><div class="name">{escape(screen.title)}</div>'
        f'<div class="box"><div class="up"><span>{top}</span><span>{up}</span>'
        f"<span>{bottom}</span></div>"
        f'<div class="frame" role="img" aria-label="{escape(screen.title)}" '
        f'style="aspect-ratio:{width}/{height};background-size:100% {count}00%;'
        f"background-image:url('{screen.sheet}')\"></div></div>"
        f'<div class="across"><span>{left}</span><span>{across}</span><span>{right}</span></div>'
        f"{legend}</div>"
    )


def _legend(legend: Legend) -> str:
    stops = ",".join(legend.stops)
    return (
        f'<div class="legend"><i style="background:linear-gradient(to right,{stops})"></i>'
        f"<div><span>{escape(legend.low)}</span><span>{escape(legend.label)}</span>"
        f"<span>{escape(legend.high)}</span></div></div>"
    )
