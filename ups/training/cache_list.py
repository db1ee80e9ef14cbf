"""Caches on this machine: which runs they serve, and which of them may go."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ups import checkpoint as checkpoints
from ups import files, paths, runs
from ups.cache.format import DEPRECATED, MANIFEST, PROGRESS, Manifest, list_caches
from ups.data.disk import Item, Pruning
from ups.errors import CacheError, CheckpointError

State = Literal["complete", "deprecated", "unfinished", "building", "damaged"]
_LEFTOVER_AGE_S = 86400.0


@dataclass(frozen=True)
class CacheEntry:
    """One cache.

    Attributes:
        manifest: Of what is finished; None where it cannot be read.
        size_bytes: Of everything in its folder.
        modified: When anything in it was written last, seconds since the epoch.
        runs: Those that hold its codec, newest first.
        reason: Why it is deprecated or damaged.
    """

    folder: Path
    state: State
    manifest: Manifest | None
    size_bytes: int
    modified: float
    runs: tuple[str, ...] = ()
    reason: str = ""

    @property
    def dataset(self) -> str:
        return self.folder.parent.parent.name

    @property
    def version(self) -> str:
        return self.folder.parent.name

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.modified)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        identity = self.manifest.identity if self.manifest else None
        return {
            "dataset": f"{self.dataset}/{self.version}",
            "cache": self.folder.name,
            "codec": identity.codec if identity else None,
            "fingerprint": identity.fingerprint if identity else None,
            "dtype": identity.dtype if identity else None,
            "repeats": identity.repeats if identity else None,
            "splits": list(self.manifest.splits) if self.manifest else [],
            "size_bytes": self.size_bytes,
            "age_s": round(self.age_s),
            "state": self.state,
            "reason": self.reason,
            "runs": list(self.runs),
            "path": str(self.folder),
        }


def caches_here(dataset: str | None = None, *, strict: bool = False) -> list[CacheEntry]:
    """Every cache, of one dataset or all, in the order of their names.

    Args:
        strict: Refuse a run of which it cannot be told which codec it holds; it counts for no
            cache otherwise.

    Raises:
        CheckpointError: There is such a run.
    """
    users = _runs_by_codec(strict)
    return [_entry(folder, users) for folder in list_caches(dataset)]


def plan_pruning(
    entries: Sequence[CacheEntry], *, older_than_s: float | None = None, force: bool = False
) -> Pruning:
    """Choose what to remove; nothing is touched.

    Deprecated caches go, and those whose codec no run holds; unfinished ones that nobody builds
    go when they are a day old. With `older_than_s` only what is older. What a run's codec
    belongs to stays without `force`.
    """
    remove: list[Item] = []
    keep: list[tuple[Item, str]] = []
    for entry in entries:
        item = Item(
            "cache", entry.dataset, entry.folder, entry.size_bytes, entry.modified,
            tuple(f"run {run}" for run in entry.runs), f"ups cache build {entry.dataset}",
        )  # fmt: skip
        reason = _why_not(entry, older_than_s, force)
        if reason:
            keep.append((item, reason))
        else:
            remove.append(item)
    return Pruning(tuple(remove), tuple(keep))


def _why_not(entry: CacheEntry, older_than_s: float | None, force: bool) -> str:
    """Why a cache stays; empty if it may go."""
    if files.is_locked(entry.folder):
        return "in use by another process"
    whole = entry.state in ("complete", "deprecated")
    if entry.state == "complete" and entry.runs and not force:
        more = f" and {len(entry.runs) - 1} more" if len(entry.runs) > 1 else ""
        return f"run {entry.runs[0]}{more} refers to it"
    least = older_than_s if older_than_s is not None else 0.0 if whole else _LEFTOVER_AGE_S
    if entry.age_s >= least:
        return ""
    age = "a day" if older_than_s is None else "--older-than"
    more = " and unfinished: ups cache build continues it" * (entry.state == "unfinished")
    return f"younger than {age}{more}"


def _runs_by_codec(strict: bool) -> dict[str, list[str]]:
    """Which runs hold the codec of a fingerprint."""
    found: dict[str, list[str]] = {}
    for run in runs.list_runs():
        held: set[str] = set()
        for path in sorted((run / "checkpoints").glob("*.pt")):
            try:
                held |= checkpoints.codec_fingerprints(path)
            except CheckpointError as error:
                if strict:
                    raise CheckpointError(
                        f"cannot tell which caches a run refers to: {error}",
                        hint=f"mend or remove that run: {paths.display(run)}",
                    ) from error
        for fingerprint in held:
            found.setdefault(fingerprint, []).append(runs.run_id(run))
    return found


def _entry(folder: Path, users: dict[str, list[str]]) -> CacheEntry:
    done = (folder / MANIFEST).is_file()
    stats = [path.stat() for path in folder.iterdir() if path.is_file()]
    state: State = "complete" if done else "unfinished"
    manifest, reason = None, ""
    try:
        manifest = Manifest.read(folder / (MANIFEST if done else PROGRESS))
        reason = _deprecation(folder)
    except CacheError as error:
        state, reason = "damaged", str(error)
    else:
        if (folder / DEPRECATED).is_file():
            state = "deprecated"
        elif files.is_locked(folder):
            state = "building"
    known = users.get(manifest.identity.fingerprint, []) if manifest else []
    return CacheEntry(
        folder, state, manifest, sum(one.st_size for one in stats),
        max((one.st_mtime for one in stats), default=0.0), tuple(known), reason,
    )  # fmt: skip


def _deprecation(folder: Path) -> str:
    """Why a cache is to be used no more; empty where nobody says so."""
    path = folder / DEPRECATED
    if not path.is_file():
        return ""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheError(f"{path}: not a note of deprecation: {error}") from error
