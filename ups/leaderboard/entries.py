"""One immutable file per report, named by the hash of what it says.

Nothing is ever changed or locked: processes that add at the same time write different files, or
the same file with the same content. An entry is taken off the leaderboard by deleting its file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups import files
from ups.errors import CheckpointError, UpsError, translated_os_errors
from ups.evaluation.report import Report, load_report

FORMAT = 1
_KEYS = {"format", "created", "run", "protocol", "rows"}


@dataclass(frozen=True)
class Entry:
    """What one report said, without the machine it ran on.

    Attributes:
        id: The first 16 hex digits of the sha256 of the content, the name of its file.
        created: When the report was made, UTC, ISO 8601.
        run: 'name', 'id', 'seed', 'commit', 'num_parameters', ...
        protocol: As `Protocol.to_dict`, and its 'id'.
        rows: As in `report.json`: 'name', 'kind', 'metrics', 'per_step', ...
    """

    id: str
    created: str
    run: Mapping[str, Any]
    protocol: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, report: Report) -> Entry:
        return cls._from_content(_content(report))

    @classmethod
    def _from_content(cls, content: Mapping[str, Any]) -> Entry:
        return cls(
            id=_name(content),
            created=content["created"],
            run=content["run"],
            protocol=content["protocol"],
            rows=tuple(content["rows"]),
        )

    def path(self, folder: Path) -> Path:
        """Where the entry is in a leaderboard's folder."""
        return folder / f"{self.id}.json"


def add(report_path: Path, folder: Path) -> tuple[Entry, bool]:
    """Put a `report.json` on the leaderboard.

    Returns:
        The entry, and whether it is new; False if this very report had been added before.
    Raises:
        CheckpointError: The report is broken, or the folder cannot be written.
    """
    content = _content(load_report(report_path))
    entry = Entry._from_content(content)
    path = entry.path(folder)
    if path.exists():
        return load(path), False
    files.write_json(path, content, CheckpointError)
    return entry, True


def load(path: Path) -> Entry:
    """Read one entry.

    Raises:
        CheckpointError: The content does not match the name, or is not an entry.
    """
    with translated_os_errors(path, "reading", CheckpointError):
        raw = path.read_bytes()
    try:
        content = json.loads(raw)
        name = _name(content)
    except ValueError as error:
        raise _damaged(path, f"not readable as JSON: {error}") from error
    if name != path.stem:
        raise _damaged(path, f"the content does not match the name (it gives '{name}')")
    if not isinstance(content, dict) or content.keys() != _KEYS or content["format"] != FORMAT:
        raise _damaged(path, f"not a leaderboard entry of format {FORMAT}")
    return Entry._from_content(content)


def load_all(folder: Path) -> list[Entry]:
    """Every entry of a folder, oldest first; none if there is no folder.

    Raises:
        CheckpointError: At least one file is damaged; all of them are named.
    """
    entries, errors = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            entries.append(load(path))
        except UpsError as error:
            errors.append(error)
    if errors:
        raise CheckpointError("\n".join(map(str, errors)), hint=errors[0].hint)
    return sorted(entries, key=lambda entry: (entry.created, entry.id))


def _content(report: Report) -> dict[str, Any]:
    content = {key: value for key, value in report.to_dict().items() if key in _KEYS}
    return content | {"format": FORMAT}


def _name(content: Any) -> str:
    return files.sha256_json(content)[:16]


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}",
        hint="delete the file and add its report again: ups leaderboard add <report.json>",
    )
