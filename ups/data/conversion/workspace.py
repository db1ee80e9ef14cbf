"""A conversion under way: values, what is recorded of them, and how it becomes a store.

    .<version>.converting/       beside the store; nothing reads it but the next run
        plan                     identity of the plan
        values                   the store's bytes, field values filled in unit by unit
        frame.h5                 the HDF5 structure around them
        units/<index>.npz        record of each finished unit

A killed conversion leaves this folder. The next one with the same plan hashes what is recorded,
keeps what is true, and does the rest; the store comes out byte for byte the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from ups.data.bulk import create_contiguous, reserve
from ups.data.conversion.plan import Array, Plan, Unit
from ups.data.conversion.units import Place, UnitRecord, written_digests
from ups.data.splits import EXCLUDED, divide, split_hash, statistics_rows
from ups.data.statistics import Moments, joined, pooled
from ups.data.store import write_metadata
from ups.files import flush


@dataclass(frozen=True)
class Workspace:
    """Open with `Workspace.prepare`.

    Attributes:
        units: Those that are converted here.
        place: Where their values go.
    """

    folder: Path
    plan: Plan
    units: tuple[Unit, ...]
    place: Place

    @classmethod
    def prepare(cls, folder: Path, plan: Plan) -> Workspace:
        """The work folder of a whole store, kept if it is of this plan, else made new."""
        values = folder / "values"
        with _begun(folder, plan.identity):
            offsets = _lay_out(folder / "frame.h5", plan)
            reserve(values, _end_of_values(plan, offsets) + 2 * _around(plan))
        return cls(folder, plan, plan.units, Place(values, *offsets))

    @classmethod
    def prepare_shard(cls, folder: Path, plan: Plan, index: int, count: int) -> Workspace:
        """The work folder of shard `index` of `count`: plain values, no HDF5 around them."""
        identity = f"{plan.identity} {index} of {count}"
        units = plan.share(index, count)
        rows = sum(len(unit) for unit in units)
        inputs = rows * plan.trajectory_bytes
        values = folder / "values"
        with _begun(folder, identity):
            reserve(values, inputs + rows * plan.input_bytes)
        return cls(folder, plan, units, Place(values, 0, inputs, units[0].row))

    @classmethod
    def of_shard(cls, folder: Path, plan: Plan, index: int, count: int) -> Workspace | None:
        """A shard that was begun, of this plan; None where there is none."""
        if _signature(folder) != f"{plan.identity} {index} of {count}":
            return None
        units = plan.share(index, count)
        inputs = sum(len(unit) for unit in units) * plan.trajectory_bytes
        return cls(folder, plan, units, Place(folder / "values", 0, inputs, units[0].row))

    def record_path(self, unit: Unit) -> Path:
        return self.folder / "units" / f"{unit.index:06d}.npz"

    def record(self, unit: Unit) -> UnitRecord | None:
        """What was recorded of a finished unit; None where it is not finished."""
        found = UnitRecord.load(self.record_path(unit))
        return found if found and len(found.digests) == len(unit) else None

    def is_true(self, unit: Unit) -> bool:
        """Whether a unit is recorded and its values are the recorded ones."""
        found = self.record(unit)
        return found is not None and np.array_equal(
            found.digests, written_digests(self.plan, unit, self.place)
        )

    def finish(self, target: Path) -> None:
        """Put the HDF5 structure around the values and give the store its name."""
        records = [record for unit in self.units if (record := self.record(unit))]
        end = _end_of_values(self.plan, (self.place.fields, self.place.inputs))
        os.truncate(self.place.path, end + _around(self.plan))  # room for the frame's own file
        _write_frame(self.folder / "frame.h5", self.plan, records)
        _transplant(self.folder / "frame.h5", self.place, self.plan)
        os.replace(self.place.path, target)
        flush(target.parent)
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _around(plan: Plan) -> int:
    """More bytes than the HDF5 structure takes."""
    return 2**20 + 256 * plan.shape[0]


@contextmanager
def _begun(folder: Path, identity: str) -> Iterator[None]:
    """Keep a folder of this identity or make a new one, sign it after the block.

    If there is no room for the values, nothing is left.
    """
    if folder.exists() and _signature(folder) != identity:
        shutil.rmtree(folder)
    (folder / "units").mkdir(parents=True, exist_ok=True)
    try:
        yield
    except (OSError, RuntimeError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sign(folder, identity)


def _signature(folder: Path) -> str:
    try:
        return (folder / "plan").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _sign(folder: Path, identity: str) -> None:
    temporary = folder / ".plan"
    temporary.write_text(identity, encoding="utf-8")
    os.replace(temporary, folder / "plan")


def _lay_out(frame: Path, plan: Plan) -> tuple[int, int]:
    """Create the bare arrays and return where their bytes begin; none of these is written."""
    frame.unlink(missing_ok=True)
    with h5py.File(frame, "w") as file:
        fields = create_contiguous(file, "fields", plan.shape, np.float32)
        inputs = 0
        if plan.input_shape:
            inputs = create_contiguous(file, "inputs", plan.input_shape, np.float32)
    return fields, inputs


def _regions(plan: Plan, offsets: tuple[int, int]) -> list[tuple[int, int]]:
    """First and last byte of the field and the input values, in the file's order."""
    count, (fields, inputs) = plan.shape[0], offsets
    regions = [(fields, fields + count * plan.trajectory_bytes)]
    if plan.input_shape:
        regions.append((inputs, inputs + count * plan.input_bytes))
    return sorted(regions)


def _end_of_values(plan: Plan, offsets: tuple[int, int]) -> int:
    return _regions(plan, offsets)[-1][1]


def _write_frame(frame: Path, plan: Plan, records: Iterable[UnitRecord]) -> None:
    """The whole HDF5 structure, but for the field values."""
    found = list(records)
    fields = joined(record.fields for record in found)
    finite = np.concatenate([record.finite for record in found])
    digests = np.concatenate([record.digests for record in found])
    divided, groups = divide(plan.card.splits, plan.shares, digests)
    splits = np.where(finite, divided, EXCLUDED).astype(np.uint8)
    training = statistics_rows(splits)
    arrays = {
        "time": plan.times,
        **{f"coords/{axis}": coord for axis, coord in zip(plan.metadata.axes, plan.coords,
                                                          strict=True)},
        "parameters": plan.parameters,
        "source": _each(plan, lambda unit: np.full(len(unit), unit.source)),
        "place": _each(plan, lambda unit: np.arange(unit.first, unit.end)),
        "group": groups,
        "split": splits,
        "sha256": digests,
        **_named("statistics", fields.rows(training)),
    }  # fmt: skip
    if plan.input_shape:
        inputs = joined(record.inputs for record in found if record.inputs)
        arrays |= _named("input_statistics", inputs.rows(training))
    metadata = replace(
        plan.metadata,
        data_sha256=data_sha256(digests),
        split_hash=split_hash(splits, groups),
        excluded=tuple(int(i) for i in np.flatnonzero(~finite)),
    )
    _lay_out(frame, plan)
    with h5py.File(frame, "r+") as file:
        for name, array in arrays.items():
            file[name] = array
        write_metadata(file, metadata)


def data_sha256(digests: Array) -> str:
    """The version's hash: SHA-256 of the SHA-256 sums of its trajectories."""
    return hashlib.sha256(np.ascontiguousarray(digests).tobytes()).hexdigest()


def _each(plan: Plan, of_unit: Callable[[Unit], Array]) -> Array:
    return np.concatenate([of_unit(unit) for unit in plan.units]).astype(np.int64)


def _named(kind: str, found: Moments) -> dict[str, Array]:
    return {f"{kind}/{name}": values for name, values in pooled(found).items()}


def _transplant(frame: Path, place: Place, plan: Plan) -> None:
    """Copy every byte of the frame that is no field value into the file of values.

    The frame is far larger than what is in it: nothing was written where the values are.
    """
    size, start = frame.stat().st_size, 0
    with frame.open("rb") as source, place.path.open("r+b") as values:
        values.truncate(size)
        regions = _regions(plan, (place.fields, place.inputs))
        for begin, end in [*regions, (size, size)]:
            source.seek(start)
            values.seek(start)
            values.write(source.read(begin - start))
            start = end
        values.flush()
        os.fsync(values.fileno())
