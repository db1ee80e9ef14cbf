"""A generation under way: finished batches on the disk, and the file while it is put together.

    .<name>.generating/     beside the file; nothing reads it but the next run
        request.json        what is being made, for whoever wonders
        <identity>/         one file for each finished batch of exactly this job
        file                the raw file, while it is written

A killed generation leaves this folder. The next one of the same job keeps what is whole and does
the rest. A job's batches lie under its identity, so that those of another are never taken for them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ups import files
from ups.data.generate.job import Arrays, Job

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Pieces:
    """Finished batches of one job. Hold a lock on `folder` from `prepare` on."""

    folder: Path
    identity: str

    @classmethod
    def beside(cls, path: Path, job: Job) -> Pieces:
        """The pieces of the file that will be at `path`."""
        return cls(path.with_name(f".{path.name}.generating"), job.identity[:16])

    @property
    def file(self) -> Path:
        """Where the raw file is put together."""
        return self.folder / "file"

    def prepare(self, job: Job) -> None:
        """Make the folder, or keep it where it is this job's; remove what is of no use."""
        if not self.exist:
            self.remove()
            self._own.mkdir(parents=True)
            files.write_text(self.folder / "request.json", job.request.to_json() + "\n")
        self.file.unlink(missing_ok=True)
        for leftover in self._own.glob(".*"):  # of a killed process
            leftover.unlink()

    @property
    def exist(self) -> bool:
        """Whether this job was begun and not finished."""
        return self._own.is_dir()

    def has(self, batch: range) -> bool:
        """Whether a batch is there, be it damaged."""
        return self._path(batch).is_file()

    def size(self, batch: range) -> int:
        return self._path(batch).stat().st_size

    def save(self, batch: range, arrays: Arrays) -> None:
        """Store a batch, whole or not at all.

        It is not forced onto the disk: what a power cut damages is solved again.
        """
        path, named = self._path(batch), dict[str, Any](arrays)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("w+b") as file:
                file.write(bytes(_DIGEST_BYTES))
                np.savez(file, **named)
                file.seek(_DIGEST_BYTES)
                digest = hashlib.file_digest(file, "sha256").digest()
                file.seek(0)
                file.write(digest)
            os.replace(temporary, path)
            os.utime(self.folder)  # by which `ups data prune` tells what is abandoned
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load(self, batch: range) -> Arrays | None:
        """A stored batch; None where it is missing or its bytes are not those that were stored."""
        try:
            with self._path(batch).open("rb") as file:
                digest = file.read(_DIGEST_BYTES)
                if hashlib.file_digest(file, "sha256").digest() != digest:
                    return None
                file.seek(_DIGEST_BYTES)
                with np.load(file) as stored:
                    return dict(stored)
        except FileNotFoundError:
            return None

    def finish(self, path: Path) -> None:
        """Give the file its name and remove the rest."""
        files.flush(self.file)
        os.replace(self.file, path)
        files.flush(path.parent)
        self.remove()

    def close(self) -> None:
        """Keep the folder for the next run only if a batch is in it."""
        self.file.unlink(missing_ok=True)
        if not self._own.is_dir() or not any(self._own.iterdir()):
            self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _own(self) -> Path:
        return self.folder / self.identity

    def _path(self, batch: range) -> Path:
        return self._own / f"{batch.start:08d}.npz"
