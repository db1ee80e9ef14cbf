"""A leaderboard on a remote: the same small files as in a folder, `leaderboard/<id>.json`.

An entry is named by the hash of what it says, so that it needs no manifest: one listing says what
is missing, only that moves, and each file is checked by its own name. Two people who push at once
write different files, or the same one with the same content.
"""

from __future__ import annotations

import re
from pathlib import Path

from ups.errors import RemoteError, UpsError
from ups.leaderboard.merge import CHECKS, Merged, merge
from ups.transfer.rclone import Progress
from ups.transfer.remotes import Remote
from ups.transfer.scratch import scratch_folder

PLACE = "leaderboard"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.json")


def push_entries(
    folder: Path, remote: Remote, progress: Progress = lambda done, total: None
) -> Merged:
    """Send every sound entry and published figure that a remote lacks.

    Raises:
        RemoteError: The remote cannot be reached.
    """
    _refuse_wandb(remote)
    new: list[str] = []
    damaged: list[str] = []
    known = 0
    for part in CHECKS:
        there = _sizes(remote, part)
        missing: dict[str, Path] = {}
        for path in sorted((folder / part).glob("*.json")):
            try:
                CHECKS[part](path)
            except UpsError as error:
                damaged.append(str(error))
                continue
            if path.name not in there:
                missing[path.name] = path
            elif there[path.name] == path.stat().st_size:
                known += 1
            else:
                damaged.append(_wrong_size(remote, part, path, there[path.name]))
        remote.rclone().upload(missing, _place(remote, part), progress)
        new += missing
    return Merged(new, known, damaged)


def pull_entries(
    remote: Remote, folder: Path, progress: Progress = lambda done, total: None
) -> Merged:
    """Take over every sound entry and published figure of a remote that is not here.

    Raises:
        RemoteError: The remote cannot be reached.
        CheckpointError: The leaderboard's folder cannot be written.
    """
    _refuse_wandb(remote)
    known = 0
    differing: list[str] = []
    with scratch_folder("leaderboard") as arrived:
        for part in CHECKS:
            missing: dict[str, int] = {}
            for name, size in _sizes(remote, part).items():
                here = folder / part / name
                if not here.exists():
                    missing[name] = size
                elif here.stat().st_size == size:
                    known += 1
                else:
                    differing.append(_wrong_size(remote, part, here, size))
            if missing:
                remote.rclone().download(missing, _place(remote, part), arrived / part, progress)
        merged = merge(arrived, folder)
    where = f"{remote.describe()}/{PLACE}"
    damaged = [line.replace(str(arrived), where) for line in merged.damaged]
    return Merged(merged.new, known, differing + damaged)


def _sizes(remote: Remote, part: str) -> dict[str, int]:
    """Name -> bytes of the entries or published figures of a remote."""
    return {
        entry.name: entry.size
        for entry in remote.rclone().list(_place(remote, part))
        if not entry.is_dir and _NAME.fullmatch(entry.name)
    }


def _place(remote: Remote, part: str) -> str:
    return remote.path(f"{PLACE}/{part}" if part else PLACE)


def _wrong_size(remote: Remote, part: str, here: Path, size: int) -> str:
    name = f"{part}/{here.name}" if part else here.name
    return (
        f"{remote.describe()}/{PLACE}/{name}: {size} bytes, but {here} has {here.stat().st_size}: "
        "one of the two is damaged"
    )


def _refuse_wandb(remote: Remote) -> None:
    if remote.is_wandb:
        raise RemoteError(
            f"{remote.describe()}: leaderboards do not travel through W&B",
            hint="a bucket, a server or a folder: ups remotes add --help",
        )
