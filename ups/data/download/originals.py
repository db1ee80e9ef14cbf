"""The published originals on this disk: which are wanted, what state each is in, where parts live.

raw/NAME                        verified, or put there by hand
raw/NAME.first200.EXT           the first trajectories of NAME.EXT
raw/.NAME.part, .part.json      an unfinished download, and what it is a part of
raw/.NAME.verified.json         size, time and MD5 of a file that has been verified
rejected/NAME.bad-<md5>         failed its checksum; conversion never looks there
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ups import files, paths
from ups.data.download.http import Identity
from ups.errors import UsageError, did_you_mean, translated_os_errors
from ups.registry import DatasetCard, RawFile

State = Literal["absent", "partial", "verified", "unverified", "rejected"]
_BLOCK = 2**20


@dataclass(frozen=True)
class Place:
    """Everything that belongs to one original in a dataset's raw folder."""

    file: RawFile
    folder: Path

    @property
    def target(self) -> Path:
        return self.folder / self.file.name

    @property
    def part(self) -> Path:
        return self.folder / f".{self.file.name}.part"

    @property
    def journal(self) -> Path:
        return self.folder / f".{self.file.name}.part.json"

    @property
    def sidecar(self) -> Path:
        return self.folder / f".{self.file.name}.verified.json"

    @property
    def rejects(self) -> Path:
        return self.folder.parent / "rejected"

    def first(self, trajectories: int) -> Path:
        """The name of a file with only the first trajectories."""
        return self.folder / f"{self.target.stem}.first{trajectories}{self.target.suffix}"

    def firsts(self) -> list[Path]:
        """All files here that hold only first trajectories of this original."""
        begin, end = f"{self.target.stem}.first", self.target.suffix
        return [p for p in _listed(self.folder)
                if p.name.startswith(begin) and p.name.endswith(end)
                and p.name[len(begin) : len(p.name) - len(end)].isdigit()]  # fmt: skip

    def part_bytes(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def drop_part(self) -> None:
        self.part.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def write_journal(self, url: str, identity: Identity) -> None:
        files.write_json(self.journal, {"url": url, "md5": self.file.md5, **vars(identity)})

    def read_journal(self) -> tuple[str, Identity] | None:
        """Where the part came from and of which state of the file; None if that is unknown."""
        content = _read_json(self.journal)
        if content.get("md5") != self.file.md5 or not isinstance(content.get("url"), str):
            return None
        total, etag, modified = (content.get(key) for key in ("total", "etag", "modified"))
        if not isinstance(total, int | None):
            return None
        texts = [text if isinstance(text, str) else None for text in (etag, modified)]
        return content["url"], Identity(total, *texts)

    def remember(self) -> None:
        """Note that the file as it is now has the published MD5."""
        files.write_json(self.sidecar, self._stamp())

    def remembered(self) -> bool:
        return self.target.is_file() and _read_json(self.sidecar) == self._stamp()

    def _stamp(self) -> dict[str, Any]:
        stat = self.target.stat()
        return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "md5": self.file.md5}

    def reject(self, path: Path, md5: str) -> Path:
        """Move a file that failed its checksum to where nothing picks it up."""
        aside = self.rejects / f"{self.file.name}.bad-{md5}"
        with translated_os_errors(aside, "moving a rejected file"):
            self.rejects.mkdir(parents=True, exist_ok=True)
            os.replace(path, aside)
        return aside

    def rejected(self) -> list[Path]:
        begin = f"{self.file.name}.bad-"
        return [path for path in _listed(self.rejects) if path.name.startswith(begin)]

    def state(self) -> State:
        if self.target.is_file():
            return "verified" if self.remembered() else "unverified"
        if self.part.is_file() or self.firsts():
            return "partial"
        return "rejected" if self.rejected() else "absent"


def checksum_state(card: DatasetCard, file: RawFile) -> State:
    """What is known about a published original on this machine, without reading it.

    Returns:
        'verified': it is here and had the published MD5, and has not changed since. 'unverified':
        a file of that name is here. 'partial': an unfinished download, or the first trajectories
        only. 'rejected': bytes came, and failed the checksum. 'absent': nothing.
    """
    return Place(file, paths.raw_dir(card.key)).state()


def md5_file(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """MD5 of a file's bytes on the disk, in hex; `progress` is called with the bytes read."""
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    with translated_os_errors(path, "reading"), path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            if progress:
                progress(done)
    return digest.hexdigest()


def select(
    card: DatasetCard, variant: Sequence[str] = (), limit: int | None = None
) -> list[RawFile]:
    """The card's files that match every NAME=VALUE in `variant`, in the card's order.

    A name given twice matches either value. Parameters compare as numbers, labels as text.

    Args:
        limit: Take the first so many.

    Raises:
        UsageError: The dataset has no published files, or a name or value matches none.
    """
    if not card.source.files:
        makes = card.generator is not None
        raise UsageError(
            f"{card.key}: {card.source.name} publishes no files for it"
            + ("; it is generated here" if makes else ""),
            hint=f"ups data generate {card.key}" if makes else f"see {card.source.doi}",
        )
    wanted: dict[str, list[str]] = {}
    for pair in variant:
        name, equals, value = pair.partition("=")
        if not equals or not value:
            raise UsageError(f"--variant {pair}: expected NAME=VALUE, for example nu=0.001")
        known = _values(card, name)
        if not any(_same(value, other) for other in known):
            shown = ", ".join(_shown(other) for other in known)
            raise UsageError(
                f"--variant {pair}: no published file has it; {name} is one of {shown}"
            )
        wanted.setdefault(name, []).append(value)
    found = [file for file in card.source.files if _matches(file, wanted)]
    if not found:
        raise UsageError(
            f"{card.key}: no published file has {' and '.join(variant)}",
            hint=f"ups data info {card.key} lists the files",
        )
    return found[:limit]


def _values(card: DatasetCard, name: str) -> list[float | str]:
    """Every value that a parameter or label takes in the published files."""
    found = {label[name] for f in card.source.files
             for label in (f.parameters, f.variant) if name in label}  # fmt: skip
    if not found:
        names = {n for f in card.source.files for n in (*f.parameters, *f.variant)}
        have = f"the files differ by {', '.join(sorted(names))}" if names else "there is one kind"
        raise UsageError(f"--variant {name}: unknown name{did_you_mean(name, names)}; {have}")
    return sorted(found, key=lambda value: (isinstance(value, str), value))


def _matches(file: RawFile, wanted: dict[str, list[str]]) -> bool:
    labels: dict[str, float | str] = {**file.parameters, **file.variant}
    return all(name in labels and any(_same(value, labels[name]) for value in values)
               for name, values in wanted.items())  # fmt: skip


def _same(text: str, value: float | str) -> bool:
    if isinstance(value, str):
        return text.lower() == value.lower()
    try:
        return math.isclose(float(text), value, rel_tol=1e-9)
    except ValueError:
        return False


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _read_json(path: Path) -> dict[str, Any]:
    """A small state file; one that is missing or damaged counts as empty."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
