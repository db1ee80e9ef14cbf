"""Runs on a remote: what belongs to one, its snapshots, and a run folder made of one again.

A run may be pushed while it trains. Every push is a snapshot of its own; objects that did not
change since the last one are not sent again:

    run/<run name>/<run id>/<identity16>/manifest-<UTC>-<sha8>.json

A pull replaces a local run only by a rename, and only if the remote holds what is lost: the local
run is as some snapshot says, or `force` is given; then the old folder is kept in `runs/.replaced`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ups import files, runs
from ups.config.stages import STAGES
from ups.errors import CheckpointError, translated_os_errors
from ups.runs.folders import FOUNDATION
from ups.runs.speed import speeds_of
from ups.runs.summary import summarise
from ups.transfer.links import link_or_copy
from ups.transfer.packing import LocalPiece
from ups.transfer.push import Progress, Pushed, Source, push
from ups.transfer.remotes import Remote
from ups.transfer.scratch import scratch_folder

SHA256 = "sha256"
"""The label with the hash of every file."""
SPEEDS = "speeds"
"""The label with how fast each stage went: `ups.runs.speed.Speed`."""

_SUFFIXES = frozenset({".yaml", ".json", ".jsonl", ".html"})
_ATTEMPTS = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def push_run(
    run: Path,
    remote: Remote,
    *,
    every_checkpoint: bool = False,
    uses: Mapping[str, list[str]] | None = None,
    progress: Progress = lambda done, total: None,
    dry_run: bool = False,
) -> Pushed:
    """Make the present state of a run a snapshot on a remote.

    Args:
        every_checkpoint: As in `files_of`.
        uses: As in `source_of`.
        progress: Called with (bytes done, bytes in all).
        dry_run: Send nothing.

    Raises:
        CheckpointError: It is no run, or one of its files does not stop changing.
        RemoteError: The remote cannot be reached; W&B was given nothing.
    """
    is_running = files.is_locked(run)
    with snapshot(run, every_checkpoint=every_checkpoint) as folder:
        source = source_of(folder, is_running=is_running, uses=uses)
        return push(source, remote, progress=progress, dry_run=dry_run)


def is_run_name(name: str) -> bool:
    """Whether `name` is `name/id` and may become a folder under `runs/`."""
    return _NAME.fullmatch(name) is not None


def files_of(run: Path, *, every_checkpoint: bool = False) -> list[str]:
    """What belongs to a run: config, records, checkpoints, reports and pages; relative paths.

    Pictures are left out, since `ups report` draws them again, and so are W&B's own files. The
    checkpoint that a run is resumed from stands before the best one, and the metrics last: read in
    this order, a run that is training looks as if it had been killed at some moment.

    Args:
        every_checkpoint: Also those that are neither a stage's best nor its last.
    """
    folder = run / "checkpoints"
    known = [f"{stage}{end}.pt" for stage in STAGES for end in ("-last", "")]
    found = [folder / name for name in known]
    if every_checkpoint:
        found += [path for path in sorted(folder.glob("*.pt")) if path.name not in known]
    found += sorted((run / FOUNDATION).glob("*.pt"))
    small = [path for path in sorted(run.iterdir()) if path.suffix in _SUFFIXES]
    found += sorted((run / "report").glob("*.npz")) + small
    names = [
        path.relative_to(run).as_posix()
        for path in found if path.is_file() and not path.name.startswith(".")
    ]  # fmt: skip
    return sorted(names, key=lambda name: name == runs.METRICS)


@contextmanager
def snapshot(run: Path, *, every_checkpoint: bool = False) -> Iterator[Path]:
    """A copy of what belongs to a run that stays as it is while the run goes on.

    Checkpoints are replaced by a rename, so a link keeps their bytes; the rest is small and copied.
    Earlier stages' checkpoints of other runs, which this run stands on, are in it as well.

    Raises:
        CheckpointError: The run has no config, or a file does not stop changing.
    """
    if not (run / runs.CONFIG).is_file():
        raise CheckpointError(f"{run}: not a run, it has no {runs.CONFIG}", hint="ups runs list")
    with scratch_folder("run") as space:
        folder = space / runs.run_id(run)
        with translated_os_errors(folder, "copying a run", CheckpointError):
            for name in files_of(run, every_checkpoint=every_checkpoint):
                _take(run / name, folder / name)
            for stage, path in _foundation(run).items():
                if path.is_file():
                    _take(path, folder / FOUNDATION / f"{stage}.pt")
        yield folder


def source_of(
    folder: Path, *, is_running: bool = False, uses: Mapping[str, list[str]] | None = None
) -> Source:
    """A snapshot as something to be pushed.

    Args:
        folder: As `snapshot` yields it.
        is_running: Whether the run goes on.
        uses: Kind of artefact -> the names of those that the run was made from.
    """
    summed = summarise(folder)
    if is_running:
        summed = replace(summed, state="running")
    names = files_of(folder, every_checkpoint=True)
    told = summed.to_dict()
    labels: dict[str, Any] = {
        key: told[key] for key in ("state", "datasets", "stages", "began", "score", "score_of")
    }
    labels |= {"uses": dict(uses or {}), SHA256: hashes(folder, names)}
    labels[SPEEDS] = [speed.to_dict() for speed in speeds_of(folder)]
    pieces = [
        LocalPiece(folder / name, name, (folder / name).stat().st_size, split=_group(name))
        for name in names
    ]
    name, _, run = summed.id.partition("/")
    return Source("run", summed.id, {"name": name, "id": run}, pieces, labels, snapshot=True)


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """File -> SHA-256 of its bytes."""
    with translated_os_errors(folder, "reading", CheckpointError):
        return {name: files.sha256_file(folder / name) for name in names}


def _group(name: str) -> str:
    """Files that change at different times are packed apart, so that few are sent again."""
    folder, _, rest = name.rpartition("/")
    return rest.removesuffix(".pt") if rest.endswith(".pt") else folder


def _foundation(run: Path) -> dict[str, Path]:
    """The checkpoints that the run stands on, where its record is readable."""
    try:
        return {stage: Path(path) for stage, path in runs.planned(run).stands_on.items()}
    except CheckpointError:
        return {}


def _take(source: Path, target: Path) -> None:
    """Link or copy one file as it is now; one that is gone by now is left out."""
    if target.exists():
        return
    if source.suffix == ".pt":
        with suppress(FileNotFoundError):
            link_or_copy(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy(source, target)
    if source.name == runs.METRICS:
        _cut_to_lines(target)


def _copy(source: Path, target: Path) -> None:
    """Copy a file that nobody writes to meanwhile; tried again if somebody did."""
    for _ in range(_ATTEMPTS):
        try:
            before = _state(source)
            shutil.copyfile(source, target)
            if _state(source) == before or source.name == runs.METRICS:
                return
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            return
    raise CheckpointError(
        f"{source}: does not stop changing", hint="push the run again when this file is written"
    )


def _state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _cut_to_lines(path: Path) -> None:
    """Take a last line away that was only half written."""
    content = path.read_bytes()
    if (end := content.rfind(b"\n") + 1) < len(content):
        os.truncate(path, end)
