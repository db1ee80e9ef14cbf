"""Leaderboards brought together: the union of their immutable entries, nothing overwritten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ups import files
from ups.errors import CheckpointError, UpsError, UsageError, translated_os_errors
from ups.leaderboard import entries, references


@dataclass(frozen=True)
class Merged:
    """What became of another leaderboard's files.

    Attributes:
        new: Names of the files that were copied.
        known: How many were here already.
        damaged: What is wrong with those that were left where they are.
    """

    new: list[str] = field(default_factory=list)
    known: int = 0
    damaged: list[str] = field(default_factory=list)


def merge(source: Path, target: Path) -> Merged:
    """Copy every sound entry and published figure of `source` that `target` lacks.

    Files are named by the hash of their content, so that one that is here already is the same
    unless one of the two is damaged. A file that is damaged here is named as well, and left alone.

    Raises:
        UsageError: `source` is no folder, or is `target` itself.
        CheckpointError: `target` cannot be written.
    """
    if not source.is_dir():
        raise UsageError(f"{source}: no such folder", hint="a leaderboard is a folder of entries")
    if target.exists() and source.resolve() == target.resolve():
        raise UsageError(f"{source}: is this leaderboard itself")
    new: list[str] = []
    damaged: list[str] = []
    known = 0
    for folder, check in CHECKS.items():
        for path in sorted((source / folder).glob("*.json")):
            copy = target / folder / path.name
            try:
                check(path)
                if copy.exists():
                    check(copy)
                    known += 1
                    continue
            except UpsError as error:
                damaged.append(str(error))
                continue
            _copy(path, copy)
            new.append(path.name)
    return Merged(new, known, damaged)


def _entry_is_sound(path: Path) -> None:
    entries.load(path)


def _reference_is_sound(path: Path) -> None:
    references.load(path)


CHECKS: dict[str, Callable[[Path], None]] = {
    "": _entry_is_sound, references.FOLDER: _reference_is_sound,
}  # fmt: skip
"""Folder inside a leaderboard's -> what finds a damaged file in it."""


def _copy(path: Path, copy: Path) -> None:
    with translated_os_errors(path, "reading", CheckpointError):
        text = path.read_text(encoding="utf-8")
    files.write_text(copy, text, CheckpointError)
