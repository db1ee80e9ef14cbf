"""What can be wrong with a converted version of a mesh or particle dataset."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.auditing.common import (
    Finding,
    Verdict,
    check_duplicates,
    check_parameters,
    check_split_record,
    check_statistics,
    known_issues,
    some,
)
from ups.data.auditing.mesh_checks import check_cells, check_edges
from ups.data.points import PointStore
from ups.data.splits import SPLITS, statistics_rows
from ups.data.statistics import Moments, joined, moments
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Scan:
    """What one pass over all values collects, one entry or row for each trajectory.

    Attributes:
        fields, inputs: Moments; inputs None where there are none.
        digests: SHA-256 of the values as they are now, (trajectory, 32).
        zero: Some frame holds nothing but zeros.
        flat: Some frame after the first is one number in every field, and a later one is not.
        outside: Largest distance of a position from the domain, in its length.
        starts: Hash of what the trajectory starts from: see `_start`.
        cells, edges: What is wrong with them, or nothing.
    """

    fields: Moments
    inputs: Moments | None
    digests: Array
    zero: Array
    flat: Array
    outside: Array
    starts: tuple[bytes, ...]
    cells: tuple[str, ...]
    edges: tuple[str, ...]

    @property
    def finite(self) -> Array:
        fine = self.fields.finite
        return fine if self.inputs is None else fine & self.inputs.finite


def audit_points(
    store: PointStore, card: DatasetCard, progress: Progress | None = None
) -> list[Finding]:
    """Read everything once and report on it, worst news included.

    Returns:
        One finding for each check; `fail` means that numbers from this version are not to be
        trusted, `warn` that something looks wrong, `note` what is known of the published data.
    """
    scan, training = _scan(store, card, progress), statistics_rows(store.splits)
    inputs = scan.inputs.rows(training) if scan.inputs else None
    return [
        _check_bytes(store, scan),
        _check_finite(store, scan),
        *_check_constant(scan),
        _check_times(store),
        _check_coordinates(store, card, scan),
        _check_node_counts(store, card),
        *_check_geometry(store, scan),
        check_duplicates(store),
        check_split_record(store, card),
        _check_leaks(store, scan.starts),
        check_statistics(store, scan.fields.rows(training), inputs),
        check_parameters(store.parameters, card),
        *_check_positive(card, scan),
        *known_issues(card),
    ]


def _scan(store: PointStore, card: DatasetCard, progress: Progress | None) -> _Scan:
    rows = []
    for index in range(store.num_trajectories):
        rows.append(_describe(store, card, index))
        if progress:
            progress(index + 1, store.num_trajectories)
    fields, inputs, digests, zero, flat, outside, starts, cells, edges = zip(*rows, strict=True)
    return _Scan(
        fields=joined(fields),
        inputs=joined(inputs) if store.metadata.inputs else None,
        digests=np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32),
        zero=np.asarray(zero),
        flat=np.asarray(flat),
        outside=np.asarray(outside),
        starts=starts,
        cells=cells,
        edges=edges,
    )


def _describe(store: PointStore, card: DatasetCard, index: int) -> tuple[Any, ...]:
    fields, coords, inputs = store.fields(index), store.coords(index), store.inputs(index)
    low, high = fields.min(1), fields.max(1)
    flat = (low == high).all(-1)
    after = np.flatnonzero(~flat)
    return (
        moments(fields.reshape(1, -1, fields.shape[-1])),
        moments(inputs[None]) if inputs is not None else None,
        store.digest(index),
        bool(((low == 0) & (high == 0)).all(-1).any()),
        bool(len(after) and flat[1 : after[-1]].any()),
        _outside(coords, card),
        _start(fields, coords, inputs),
        check_cells(store, index),
        check_edges(store, index),
    )


def _outside(coords: Array, card: DatasetCard) -> float:
    """How far the farthest position lies outside the card's domain, in lengths of its axes."""
    if not np.isfinite(coords).all():
        return math.inf
    flat = coords.reshape(-1, coords.shape[-1]).astype(np.float64)
    low, high = np.asarray([axis.bounds for axis in card.discretisation.axes]).T
    beyond = np.maximum(low - flat.min(0), flat.max(0) - high) / (high - low)
    return float(beyond.max())


def _start(fields: Array, coords: Array, inputs: Array | None) -> bytes:
    """Hash of the state a trajectory starts from; of the coefficient where it is static.

    On nodes of its own a trajectory shares a state with another only if it shares the nodes.
    """
    first = coords[0] if coords.ndim == 3 else coords
    static = len(fields) == 1 and inputs is not None
    state = [first, inputs] if static else [first, inputs, fields[0]]
    digest = hashlib.sha256()
    for array in state:
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _check_bytes(store: PointStore, scan: _Scan) -> Finding:
    damaged = np.flatnonzero((scan.digests != store.digests).any(1))
    if len(damaged):
        detail = f"values have changed since conversion: sha256 differs in {some(damaged)}"
        return Finding("bytes", "fail", detail)
    whole = hashlib.sha256(store.digests.tobytes()).hexdigest()
    if whole != store.metadata.data_sha256:
        return Finding("bytes", "fail", "the recorded sha256 sums are not those of the conversion")
    if not store.record_is_true():
        detail = "metadata, times, parameters, splits or statistics have changed since conversion"
        return Finding("bytes", "fail", detail)
    return Finding("bytes", "ok", f"sha256 {whole[:16]} as converted")


def _check_finite(store: PointStore, scan: _Scan) -> Finding:
    bad = set(np.flatnonzero(~scan.finite).tolist())
    used = sorted(bad - set(store.metadata.excluded))
    if used:
        return Finding("finite", "fail", f"NaN or infinity in {some(used)}")
    if bad:
        return Finding("finite", "warn", f"NaN in {some(sorted(bad))}, excluded from all splits")
    return Finding("finite", "ok", f"{len(scan.finite)} trajectories hold finite values only")


def _check_constant(scan: _Scan) -> Iterator[Finding]:
    if scan.zero.any():
        detail = f"frames of zeros, a failed run, in {some(np.flatnonzero(scan.zero))}"
        yield Finding("zero frames", "fail", detail)
    else:
        yield Finding("zero frames", "ok", "none")
    never = (scan.fields.low == scan.fields.high).any(-1)
    if never.any():
        detail = f"a field never changes in {some(np.flatnonzero(never))}"
        yield Finding("constant", "fail", detail)
    elif scan.flat.any():
        places = some(np.flatnonzero(scan.flat))
        detail = f"frames constant in space, followed by others that are not, in {places}"
        yield Finding("constant", "warn", detail)
    else:
        yield Finding("constant", "ok", "every field varies")


def _check_times(store: PointStore) -> Finding:
    steps, dt = np.diff(store.time), store.metadata.dt
    if not np.isfinite(store.time).all() or (steps <= 0).any():
        return Finding("times", "fail", "time does not rise from each to the next")
    if dt is not None and not np.allclose(steps, dt, rtol=1e-3):
        return Finding("times", "fail", f"times do not step by the recorded dt {dt:g}")
    return Finding("times", "ok", f"{len(store.time)} frames" + (f", dt {dt:g}" if dt else ""))


def _check_coordinates(store: PointStore, card: DatasetCard, scan: _Scan) -> Finding:
    """Rounding to float32 may put a wrapped position on the upper bound, not beyond it."""
    bad = np.flatnonzero(~(scan.outside <= 1e-6))
    if len(bad):
        most = float(scan.outside.max())
        detail = f"positions up to {most:.2g} lengths outside the card's domain in {some(bad)}"
        wraps = any(card.periodic) and math.isfinite(most)
        return Finding("coordinates", "warn" if wraps else "fail", detail)
    bounds = ", ".join(f"{a.name} in [{a.bounds[0]:g}, {a.bounds[1]:g}]"
                       for a in card.discretisation.axes)  # fmt: skip
    return Finding("coordinates", "ok", bounds)


def _check_node_counts(store: PointStore, card: DatasetCard) -> Finding:
    counts, allowed = store.node_counts, card.discretisation.nodes
    found = f"{counts.min()} to {counts.max()} nodes"
    if allowed and not (allowed[0] <= counts.min() and counts.max() <= allowed[1]):
        return Finding("nodes", "warn", f"{found}, the card says {allowed[0]} to {allowed[1]}")
    return Finding("nodes", "ok", found)


def _check_geometry(store: PointStore, scan: _Scan) -> Iterator[Finding]:
    if store.kind == "mesh":
        yield _geometry("cells", scan.cells, "every cell has a volume, of the same orientation")
    yield _geometry(
        "edges", scan.edges, "those of the cells or of the neighbours, in both directions"
    )


def _geometry(check: str, problems: Sequence[str], fine: str) -> Finding:
    """The gravest problem; those that begin with 'warn: ' do not spoil a number."""
    grave = {i: text for i, text in enumerate(problems) if text and not text.startswith("warn: ")}
    light = {i: text for i, text in enumerate(problems) if text.startswith("warn: ")}
    verdict: Verdict = "fail" if grave else "warn" if light else "ok"
    found = grave or light
    if not found:
        return Finding(check, verdict, fine)
    first = next(iter(found.values())).removeprefix("warn: ")
    return Finding(check, verdict, f"{first} in {some(found)}")


def check_leaks(store: PointStore) -> Finding:
    """Whether a held-out trajectory shares its group, its start or its coefficient."""
    rows = range(store.num_trajectories)
    starts = (_start(store.fields(i), store.coords(i), store.inputs(i)) for i in rows)
    return _check_leaks(store, tuple(starts))


def _check_leaks(store: PointStore, starts: tuple[bytes, ...]) -> Finding:
    groups = {name: set(store.groups[store.split(name)].tolist()) for name in SPLITS}
    static = store.num_frames == 1 and store.metadata.inputs
    what = "have the same nodes and coefficient" if static else "start from the same state"
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        if shared := groups[one] & groups[other]:
            detail = f"{one} and {other} share groups {some(sorted(shared))}"
            return Finding("leaks", "fail", detail)
        known = {starts[i]: int(i) for i in store.split(one)}
        for index in store.split(other):
            if (first := known.get(starts[index])) is not None:
                detail = f"trajectory {first} ({one}) and {index} ({other}) {what}"
                return Finding("leaks", "fail", detail)
    return Finding("leaks", "ok", f"no group is shared between splits, none {what}")


def _check_positive(card: DatasetCard, scan: _Scan) -> Iterator[Finding]:
    for specs, found in ((card.fields, scan.fields), (card.inputs, scan.inputs)):
        for index, field in enumerate(specs):
            if field.positive and found is not None:
                bad = np.flatnonzero(found.low[:, index] <= 0)
                if len(bad):
                    detail = f"{field.name} is not positive in {some(bad)}"
                    yield Finding("positivity", "fail", detail)
                else:
                    least = found.low[:, index].min()
                    yield Finding("positivity", "ok", f"{field.name} is at least {least:.3g}")
