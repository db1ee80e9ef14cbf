"""What the leaderboard's pages are made of: a frame, tables, lists of facts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses to load anything from elsewhere."""


@dataclass(frozen=True)
class Cell:
    """One cell: markup, and what to sort by.

    Attributes:
        html: Escaped already.
        value: None sorts by the text; "" is no number and comes last.
    """

    html: str
    value: int | float | str | None = None
    kind: str = "number"


@dataclass(frozen=True)
class TableRow:
    """A row whose first cell names it."""

    cells: Sequence[Cell]
    kind: str = ""


def document(title: str, body: Iterable[str], *, is_sortable: bool = False) -> str:
    """A whole page, self-contained."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8") if is_sortable else ""
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style}</style>'
    )
    end = f"<script>{script}</script>" if script else ""
    content = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{content}\n{end}</body>\n'
        "</html>\n"
    )


def table(heads: Sequence[Cell], rows: Iterable[TableRow], *, is_sortable: bool = False) -> str:
    """A table that scrolls sideways where it is too wide."""
    shown = "".join(f"<th{_class(head.kind)}>{head.html}</th>" for head in heads)
    kind = ' class="sortable"' if is_sortable else ""
    parts = [f'<div class="wide"><table{kind}><thead><tr>{shown}</tr></thead><tbody>']
    parts += [_row(row) for row in rows]
    return "\n".join([*parts, "</tbody></table></div>"])


def _row(row: TableRow) -> str:
    first, *rest = row.cells
    named = "".join(
        f'<th scope="row"{_class(cell.kind)}{_value(cell)}>{cell.html}</th>'
        if cell.kind == "run" else f"<td{_class(cell.kind)}{_value(cell)}>{cell.html}</td>"
        for cell in (first, *rest)
    )  # fmt: skip
    return f"<tr{_class(row.kind)}>{named}</tr>"


def _class(kind: str) -> str:
    return f' class="{escape(kind, quote=True)}"' if kind else ""


def _value(cell: Cell) -> str:
    return "" if cell.value is None else f' data-value="{escape(str(cell.value), quote=True)}"'


def facts(content: Mapping[str, Any]) -> str:
    """Nested facts as rows of dotted names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in _flat(content)
    )
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None or value == "" else str(value)


def details(title: str, content: str) -> str:
    """Folded away until it is asked for."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def link(text: str, address: str) -> str:
    """A link; text alone where the address is none that a page should lead to."""
    is_local = ":" not in address and not address.startswith("//")
    if not address or not (is_local or address.startswith("https://")):
        return escape(text)
    return f'<a href="{escape(address, quote=True)}">{escape(text)}</a>'
