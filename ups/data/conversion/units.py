"""One unit of a conversion: read, reduce, describe and write some trajectories of one raw file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ups.data.bulk import copy_range, write_at
from ups.data.conversion.plan import Plan, Unit
from ups.data.layouts import open_raw
from ups.data.layouts.base import RawTrajectories
from ups.data.statistics import Moments, joined, merged, moments
from ups.errors import DataError

Array = npt.NDArray[Any]
_BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Place:
    """A file that holds the values of some trajectories, and where in it.

    Attributes:
        fields, inputs: Offset of the first byte of each kind of value.
        first_row: The trajectory that comes first there.
    """

    path: Path
    fields: int
    inputs: int
    first_row: int = 0

    def fields_at(self, plan: Plan, row: int) -> int:
        return self.fields + (row - self.first_row) * plan.trajectory_bytes

    def inputs_at(self, plan: Plan, row: int) -> int:
        return self.inputs + (row - self.first_row) * plan.input_bytes


@dataclass(frozen=True)
class UnitRecord:
    """What is known of a unit whose values are written.

    Attributes:
        digests: SHA-256 of each trajectory, fields then inputs, (trajectory, 32) uint8.
        fields, inputs: Moments of each trajectory; inputs None where there are none.
    """

    digests: Array
    fields: Moments
    inputs: Moments | None

    @property
    def finite(self) -> Array:
        """Trajectories without NaN and infinity, (trajectory,)."""
        fine = self.fields.finite
        return fine if self.inputs is None else fine & self.inputs.finite

    def save(self, path: Path) -> None:
        """Write it whole or not at all; whether it is true is checked when it is used again."""
        arrays: dict[str, Any] = {"digests": self.digests, **_arrays("fields", self.fields)}
        if self.inputs is not None:
            arrays |= _arrays("inputs", self.inputs)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> UnitRecord | None:
        """Read it back; None where there is none, or one that is damaged."""
        with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(path) as file:
            inputs = _moments(file, "inputs") if "inputs.count" in file else None
            return cls(file["digests"], _moments(file, "fields"), inputs)
        return None


_PARTS = ("count", "mean", "squares", "low", "high")


def _arrays(kind: str, found: Moments) -> dict[str, Array]:
    return {f"{kind}.{name}": getattr(found, name) for name in _PARTS}


def _moments(file: Any, kind: str) -> Moments:
    return Moments(*(file[f"{kind}.{name}"] for name in _PARTS))


class UnitConverter:
    """Converts units one after the other; raw files stay open between them."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self._plan, self._place = plan, place
        self._open: dict[int, RawTrajectories] = {}
        self._file = os.open(place.path, os.O_WRONLY)
        self._threads = ThreadPoolExecutor(3)
        self._flushing: Future[None] | None = None

    def __call__(self, unit: Unit) -> UnitRecord:
        """Write the unit's values; the record says what they are.

        Raises:
            DataError: A value cannot be read, or is not finite and the recipe does not allow it.
        """
        source, plan = self._source(unit), self._plan
        digests = [hashlib.sha256() for _ in range(len(unit))]
        fields = (self._plain if plan.plain else self._fields)(source, unit, digests)
        inputs = self._inputs(source, unit, digests) if plan.input_shape else None
        self._flush()
        return UnitRecord(_as_rows(digests), fields, inputs)

    def _fields(self, source: RawTrajectories, unit: Unit, digests: list[Any]) -> Moments:
        offset = self._place.fields_at(self._plan, unit.row)
        found: list[Moments] = []
        for first, frames, block in _blocks(source, unit, self._plan):
            now = self._take(block, digests[first - unit.first :], offset)
            offset += block.nbytes
            self._check_finite(source, first, frames.start, block, now)
            if frames.start:
                now = merged(found.pop(), now)  # of the same trajectory
            found.append(now)
        return joined(found)

    def _plain(self, source: RawTrajectories, unit: Unit, digests: list[Any]) -> Moments:
        """As `_fields`, where the raw file holds the very bytes: the kernel copies them."""
        plan = self._plan
        assert plan.plain is not None
        start = plan.plain[unit.source] + unit.first * plan.trajectory_bytes
        target, size = self._place.fields_at(plan, unit.row), len(unit) * plan.trajectory_bytes
        shape = (len(unit), *plan.shape[1:])
        values = np.memmap(source.path, np.float32, "r", start, shape)
        with source.path.open("rb") as raw:
            copying = self._threads.submit(
                copy_range, raw.fileno(), self._file, start, target, size
            )
            hashing = self._threads.submit(_hash_rows, values, digests)
            found = moments(values)
            for work in (copying, hashing):
                work.result()
        self._check_finite(source, unit.first, 0, values, found)
        return found

    def close(self) -> None:
        for source in self._open.values():
            source.close()
        self._threads.shutdown()
        os.close(self._file)

    def _flush(self) -> None:
        """Have the disk write while the next unit is computed, instead of all at the end."""
        if self._flushing:
            self._flushing.result()
        self._flushing = self._threads.submit(_flush_values, self._file)

    def _source(self, unit: Unit) -> RawTrajectories:
        if unit.source not in self._open:
            for other in self._open.values():
                other.close()
            self._open = {unit.source: open_raw(self._plan.paths[unit.source], self._plan.card)}
        return self._open[unit.source]

    def _take(self, block: Array, digests: list[Any], offset: int) -> Moments:
        """Hash, write and describe a block, all at once."""
        writing = self._threads.submit(write_at, self._file, block, offset)
        hashing = self._threads.submit(_hash_rows, block, digests)
        found = moments(block)
        for work in (writing, hashing):
            work.result()
        return found

    def _inputs(self, source: RawTrajectories, unit: Unit, digests: list[Any]) -> Moments:
        plan = self._plan
        step, found = max(1, _BLOCK_BYTES // plan.input_bytes), []
        for first in range(unit.first, unit.end, step):
            rows = slice(first, min(first + step, unit.end))
            block = source.read_inputs(rows, plan.recipe.stride_x)
            expected = (rows.stop - rows.start, *(plan.input_shape or ())[1:])
            if block is None or block.shape != expected:
                raise DataError(f"{source.path}: the inputs {plan.metadata.inputs} are not there")
            block, place = np.ascontiguousarray(block), first - unit.first
            offset = self._place.inputs_at(plan, unit.row + place)
            found.append(self._take(block, digests[place:], offset))
            self._check_finite(source, first, 0, block, found[-1])
        return joined(found)

    def _check_finite(
        self, source: RawTrajectories, first: int, frame: int, block: Array, found: Moments
    ) -> None:
        if self._plan.recipe.exclude_invalid or found.finite.all():
            return
        index = int(np.flatnonzero(~found.finite)[0])
        frame += int(np.argwhere(~np.isfinite(block[index]))[0][0])
        raise DataError(
            f"{source.path}: trajectory {first + index}: NaN or infinity first at frame "
            f"{frame * self._plan.recipe.stride_t}",
            hint="--exclude-invalid keeps such trajectories out of every split and records them",
        )


def _as_rows(digests: list[Any]) -> Array:
    return np.frombuffer(b"".join(d.digest() for d in digests), np.uint8).reshape(-1, 32)


def _hash_rows(block: Array, digests: list[Any]) -> None:
    for row, digest in zip(block, digests, strict=False):
        digest.update(np.ascontiguousarray(row).data)


def _blocks(source: RawTrajectories, unit: Unit, plan: Plan) -> Iterator[tuple[int, slice, Array]]:
    """(first trajectory, kept frames, values) of at most 32 MiB as they lie in the raw file.

    Several whole trajectories, or a run of frames of one where that alone is larger.
    """
    recipe, kept = plan.recipe, plan.shape[1]
    points = int(np.prod([len(coord) for coord in source.coords]))
    frame_bytes = 4 * points * len(plan.card.fields) * recipe.stride_t
    together = max(1, _BLOCK_BYTES // (frame_bytes * kept))
    run = kept if together > 1 else max(1, min(kept, _BLOCK_BYTES // frame_bytes))
    for first in range(unit.first, unit.end, together):
        rows = slice(first, min(first + together, unit.end))
        for start in range(0, kept, run):
            stop = min(start + run, kept)
            frames = slice(start * recipe.stride_t, (stop - 1) * recipe.stride_t + 1,
                           recipe.stride_t)  # fmt: skip
            block = source.read(rows, frames, recipe.stride_x)
            expected = (rows.stop - rows.start, stop - start, *plan.shape[2:])
            if block.shape != expected:
                raise DataError(
                    f"{source.path}: trajectories {rows.start} to {rows.stop - 1}: shape "
                    f"{block.shape}, expected {expected}"
                )
            yield first, slice(start, stop), np.ascontiguousarray(block)


def written_digests(plan: Plan, unit: Unit, place: Place) -> Array:
    """SHA-256 of each trajectory of a unit as it lies there now, (trajectory, 32)."""
    return copy_unit(plan, unit, place, None)


def copy_unit(plan: Plan, unit: Unit, place: Place, target: Place | None) -> Array:
    """Copy a unit's values from one place to another, and hash what was copied."""
    digests = []
    with ExitStack() as stack:
        source = stack.enter_context(place.path.open("rb"))
        out = stack.enter_context(target.path.open("r+b")) if target else None
        for row in range(unit.row, unit.row + len(unit)):
            digest = hashlib.sha256()
            for offset, size, goal in (
                (place.fields_at(plan, row), plan.trajectory_bytes,
                 target.fields_at(plan, row) if target else 0),
                (place.inputs_at(plan, row), plan.input_bytes,
                 target.inputs_at(plan, row) if target else 0),
            ):  # fmt: skip
                for start in range(0, size, _BLOCK_BYTES):
                    source.seek(offset + start)
                    piece = source.read(min(_BLOCK_BYTES, size - start))
                    digest.update(piece)
                    if out:
                        out.seek(goal + start)
                        out.write(piece)
            digests.append(digest)
    return _as_rows(digests)


def _flush_values(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has the latter only
