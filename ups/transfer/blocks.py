"""What was read in place, kept here: a folder for each artefact, the oldest dropped first.

    UPS_HOME/blocks/<remote>-<hash>/<kind>/<name>/<identity16>/
        in-use                  locked while it is open; its time is that of the last use
        manifest-...json        of the artefact, as read from the remote
        parts.json, present.json, store.h5 ...      as `ups.transfer.pull`, `ups.data.partial` say

UPS_BLOCKS_GB is how much the folders may take together, 10 by default.
"""

from __future__ import annotations

import os
import re
import shutil
import weakref
from contextlib import suppress
from pathlib import Path

from ups import files, paths
from ups.errors import DataError, RemoteError, UsageError, translated_os_errors
from ups.transfer.manifest import Manifest
from ups.transfer.remote import Remote

LIMIT = "UPS_BLOCKS_GB"
_DEFAULT_GB = 10.0
_REMOVED = ".removed"


class BlockFolder:
    """The folder of one artefact, kept from removal while this object lives.

    Attributes:
        path: The folder.
        manifest: What is in the artefact.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        descriptor = files.use(path)
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def of(cls, remote: Remote, manifest: Manifest) -> BlockFolder:
        """The folder for an artefact of a remote; it is made if it is not there."""
        folder = cls(_above(remote) / manifest.folder, manifest)
        kept = _above(remote) / manifest.place
        if not kept.is_file():
            with files.atomic_path(kept) as temporary:
                temporary.write_bytes(manifest.to_bytes())
        return folder

    @classmethod
    def known(cls, remote: Remote, kind: str, name: str) -> BlockFolder | None:
        """The folder of the artefact of that name that was read last; None if none was."""
        found = list((_above(remote) / kind / name).glob("[0-9a-f]*/manifest-*.json"))
        for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            with suppress(RemoteError):  # damaged here: it is read from the remote again
                return cls(path.parent, Manifest.from_bytes(path.read_bytes(), path.as_posix()))
        return None

    def close(self) -> None:
        """Let others remove the folder."""
        self._close()

    def make_room(self, needed: int) -> None:
        """Drop folders that are not in use, the oldest first, until so many bytes fit.

        Raises:
            DataError: They do not fit.
        """
        limit = limit_bytes()
        taken = {path: disk_bytes(path) for path in block_folders()}
        for path in sorted(taken, key=_last_use):
            if sum(taken.values()) + needed <= limit:
                return
            if path != self.path and _drop(path):
                del taken[path]
        if sum(taken.values()) + needed > limit:
            dataset, _, version = self.manifest.name.partition("/")
            raise DataError(
                f"{self.manifest.name}: {needed / 1e9:.2g} GB more do not fit into "
                f"{limit / 1e9:.3g} GB for what is read in place",
                hint=f"ups data pull {dataset} --version {version}, or {LIMIT}=100",
            )


def block_folders() -> list[Path]:
    """The folders of all artefacts that were read in place."""
    return [path.parent for path in paths.blocks_dir().rglob(files.IN_USE)]


def limit_bytes() -> int:
    """How much all folders may take together.

    Raises:
        UsageError: UPS_BLOCKS_GB is not a number.
    """
    text = os.environ.get(LIMIT, "") or str(_DEFAULT_GB)
    try:
        limit = float(text)
        if not limit > 0:
            raise ValueError
    except ValueError:
        raise UsageError(f"{LIMIT}={text}: expected a number of gigabytes, such as 10") from None
    return int(limit * 1e9)


def disk_bytes(folder: Path) -> int:
    """What a folder takes on the disk; holes in files take nothing."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _above(remote: Remote) -> Path:
    """Two remotes of one name at different places are different."""
    place = files.sha256_json([remote.kind, remote.describe()])[:8]
    name = re.sub(r"[^A-Za-z0-9_-]", "_", remote.name)[:40]
    return paths.blocks_dir() / f"{name}-{place}"


def _drop(folder: Path) -> bool:
    """Remove a folder unless it is in use."""
    with files.unused(folder) as free:
        if not free:
            return False
        hidden = folder.with_name(f".{folder.name}{_REMOVED}")
        with translated_os_errors(folder, "removing"):
            shutil.rmtree(hidden, ignore_errors=True)
            os.replace(folder, hidden)
            shutil.rmtree(hidden)
    return True


def _last_use(folder: Path) -> float:
    return (folder / files.IN_USE).stat().st_mtime
