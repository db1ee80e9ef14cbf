"""Finished units -> the Zarr folder of a point store, array by array, in the order of the plan."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from ups.data.conversion.point_plan import PointPlan
from ups.data.conversion.point_units import DTYPES, PointRecord, read_rows, unit_folder
from ups.data.points import BULK, FORMAT, record_sha256
from ups.data.sharded import create_rows, fill_rows
from ups.data.splits import EXCLUDED, divide, split_hash, statistics_rows
from ups.data.statistics import joined, pooled
from ups.data.store import StoreMetadata
from ups.errors import DataError
from ups.files import flush

Array = npt.NDArray[Any]
_BLOCK_BYTES = 8 * 2**20


def lay_out(path: Path, plan: PointPlan, records: Sequence[PointRecord], units: Path) -> None:
    """Write the whole store to `path`, replacing what an interrupted run left there.

    Raises:
        DataError: Some trajectories have arrays that others have not.
    """
    shutil.rmtree(path, ignore_errors=True)
    small, metadata = _described(plan, records)
    kind = plan.card.discretisation
    radius = kind.neighbour_radius if kind.kind == "particles" else None
    attributes = {
        "format": FORMAT,
        "kind": kind.kind,
        "neighbour_radius": radius,
        "identity": plan.identity,
        "record_sha256": record_sha256(small, [kind.kind, radius, metadata.to_json()]),
        "metadata": json.loads(metadata.to_json()),
    }
    group = zarr.create_group(str(path), zarr_format=3, attributes=attributes)
    for name, width in _widths(plan, records).items():
        rows = sum(record.rows(name, len(plan.times)) for record in records)
        shape = (rows,) if name == "tags" else (rows, width)
        array = create_rows(group, name, shape, DTYPES[name])
        fill_rows(array, _blocks(units, len(records), name, width))
    for name, values in small.items():
        _write_small(group, name, values)
    for place in path.rglob("*"):
        flush(place)
    flush(path)


def _widths(plan: PointPlan, records: Sequence[PointRecord]) -> dict[str, int]:
    """Columns of every array; all units have the same."""
    for unit, record in zip(plan.units, records, strict=True):
        if record.widths != records[0].widths:
            raise DataError(
                f"{plan.sources[unit.source]}: trajectories from {unit.first} on have "
                f"{sorted(record.widths)}, others have {sorted(records[0].widths)}",
                hint="convert files that differ in this separately, each with --raw FILE",
            )
    return {name: records[0].widths[name] for name in BULK if name in records[0].widths}


def _blocks(units: Path, count: int, name: str, width: int) -> Iterator[Array]:
    for index in range(count):
        yield from read_rows(unit_folder(units, index), name, width, _BLOCK_BYTES)


def _described(
    plan: PointPlan, records: Sequence[PointRecord]
) -> tuple[dict[str, Array], StoreMetadata]:
    """The small arrays, and the metadata with what the values tell."""
    digests = np.concatenate([record.digests for record in records])
    finite = np.concatenate([record.finite for record in records])
    divided, groups = divide(plan.card.splits, plan.shares, digests)
    splits = np.where(finite, divided, EXCLUDED).astype(np.uint8)
    arrays = {
        **_offsets(records),
        "time": plan.times,
        "parameters": plan.parameters,
        "source": np.repeat(np.arange(len(plan.shares)), [share.size for share in plan.shares]),
        "place": np.concatenate([share.first + np.arange(share.size) for share in plan.shares]),
        "group": groups,
        "split": splits,
        "sha256": digests,
    }
    fields = joined(record.fields for record in records).rows(statistics_rows(splits))
    arrays |= {f"statistics/{name}": values for name, values in pooled(fields).items()}
    if plan.card.inputs:
        inputs = joined(record.inputs for record in records if record.inputs is not None)
        found = pooled(inputs.rows(statistics_rows(splits)))
        arrays |= {f"input_statistics/{name}": values for name, values in found.items()}
    metadata = replace(
        plan.metadata,
        data_sha256=hashlib.sha256(np.ascontiguousarray(digests).tobytes()).hexdigest(),
        split_hash=split_hash(splits, groups),
        excluded=tuple(int(i) for i in np.flatnonzero(~finite)),
    )
    return arrays, metadata


def _offsets(records: Sequence[PointRecord]) -> dict[str, Array]:
    found = {
        f"offsets/{name}": np.concatenate([record.counts[name] for record in records])
        for name in ("nodes", "coords", "cells", "edge_lists")
    }
    found["offsets/edges"] = np.concatenate([record.edges for record in records])
    return {
        name: np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        for name, counts in found.items()
    }


def _write_small(group: Any, name: str, values: Array) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=tuple(max(1, length) for length in values.shape),
        compressors=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    array[...] = values
