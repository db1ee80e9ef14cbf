"""What can be wrong with a converted version on a grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.auditing.common import (
    Finding,
    check_duplicates,
    check_parameters,
    check_split_record,
    check_statistics,
    known_issues,
    shared_groups,
    some,
)
from ups.data.auditing.same_start import nearest_pairs
from ups.data.partial import Rows
from ups.data.splits import SPLITS, statistics_rows
from ups.data.statistics import Moments, joined, moments
from ups.data.store import TrajectoryStore
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]

_BLOCK_BYTES = 32 * 2**20
_MEDIAN_DRIFT = 5e-3
_WORST_DRIFT = 5e-2


@dataclass(frozen=True)
class _Scan:
    """What one pass over all values collects.

    Attributes:
        frames: Moments of each frame, rows in order of (trajectory, time).
        inputs: Moments of each trajectory's inputs; None where there are none.
        digests: SHA-256 of each trajectory, (trajectory, 32).
    """

    num_frames: int
    frames: Moments
    inputs: Moments | None
    digests: Array

    def per_frame(self, name: str) -> Array:
        """A part of the moments as (trajectory, time, channel)."""
        values = getattr(self.frames, name)
        return values.reshape(-1, self.num_frames, values.shape[-1])

    @property
    def finite(self) -> Array:
        """Trajectories without NaN and infinity, (trajectory,)."""
        fine = np.isfinite(self.per_frame("squares")).all((1, 2))
        return np.asarray(fine if self.inputs is None else fine & self.inputs.finite)

    @property
    def flat(self) -> Array:
        """Frames in which every field is one number but for rounding, (trajectory, time)."""
        low, high = self.per_frame("low"), self.per_frame("high")
        rounding = 2e-6 * np.maximum(np.abs(low), np.abs(high))
        return np.asarray((high - low <= rounding).all(-1))

    def of_trajectories(self, chosen: Array) -> Moments:
        """Moments of the chosen trajectories."""
        return self.frames.rows(np.repeat(chosen, self.num_frames))


def audit_grid(
    store: TrajectoryStore, card: DatasetCard, progress: Progress | None
) -> list[Finding]:
    """One finding for each check, after reading everything once."""
    scan, training = _scan(store, progress), statistics_rows(store.splits)
    inputs = scan.inputs.rows(training) if scan.inputs else None
    return [
        _check_bytes(store, scan),
        _check_finite(store, scan),
        *_check_constant(store, scan),
        _check_coordinates(store),
        check_duplicates(store),
        check_split_record(store, card),
        *check_leaks(store, card),
        check_statistics(store, scan.of_trajectories(training), inputs),
        check_parameters(store.parameters, card),
        *_check_positive(store, card, scan),
        *_check_conserved(store, card, scan),
        *known_issues(card),
    ]


def _scan(store: TrajectoryStore, progress: Progress | None) -> _Scan:
    frames: list[Moments] = []
    inputs: list[Moments] = []
    digests: list[bytes] = []
    run = max(1, _BLOCK_BYTES // max(1, store.fields[0, 0].nbytes))
    for index in range(store.num_trajectories):
        digest = hashlib.sha256()
        for start in range(0, store.num_frames, run):
            block = np.ascontiguousarray(store.fields[index, start : start + run])
            digest.update(block.data)
            frames.append(moments(block))
        if store.inputs is not None:
            block = np.ascontiguousarray(store.inputs[index])
            digest.update(block.data)
            inputs.append(moments(block[None]))
        digests.append(digest.digest())
        if progress:
            progress(index + 1, store.num_trajectories)
    rows = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return _Scan(store.num_frames, joined(frames), joined(inputs) if inputs else None, rows)


def _check_bytes(store: TrajectoryStore, scan: _Scan) -> Finding:
    damaged = np.flatnonzero((scan.digests != store.digests).any(1))
    if len(damaged):
        detail = f"values have changed since conversion: sha256 differs in {some(damaged)}"
        return Finding("bytes", "fail", detail)
    whole = hashlib.sha256(store.digests.tobytes()).hexdigest()
    if whole != store.metadata.data_sha256:
        return Finding("bytes", "fail", "the recorded sha256 sums are not the recorded ones' sum")
    return Finding("bytes", "ok", f"sha256 {whole[:16]} as converted")


def _check_finite(store: TrajectoryStore, scan: _Scan) -> Finding:
    bad = set(np.flatnonzero(~scan.finite).tolist())
    used = sorted(bad - set(store.metadata.excluded))
    if used:
        return Finding("finite", "fail", f"NaN or infinity in {some(used)}")
    if bad:
        return Finding("finite", "warn", f"NaN in {some(sorted(bad))}, excluded from all splits")
    return Finding("finite", "ok", f"{len(scan.finite)} trajectories hold finite values only")


def _check_constant(store: TrajectoryStore, scan: _Scan) -> Iterator[Finding]:
    low, high = scan.per_frame("low"), scan.per_frame("high")
    zero = np.flatnonzero(((low == 0) & (high == 0)).all(-1).any(1))
    if len(zero):
        yield Finding("zero frames", "fail", f"frames of zeros, a failed run, in {some(zero)}")
    else:
        yield Finding("zero frames", "ok", "none")
    never = (low.min(1) == high.max(1)).any(-1)
    if never.any():
        detail = f"a field never changes in {some(np.flatnonzero(never))}"
        yield Finding("constant", "fail", detail)
        return
    yield _flat_frames(scan)


def _flat_frames(scan: _Scan) -> Finding:
    flat = scan.flat
    tail = flat[:, ::-1].cumprod(1).sum(1)
    inside = flat.sum(1) > tail
    first_only = flat[:, 0] & (flat.sum(1) == tail + 1)
    if (inside & ~first_only).any():
        places = np.flatnonzero(inside & ~first_only)
        detail = f"frames constant in space, followed by others that are not, in {some(places)}"
        return Finding("constant", "warn", detail)
    if first_only.any():
        detail = f"{int(first_only.sum())} trajectories start from a state that is one number"
        return Finding("constant", "note", detail)
    if tail.any():
        detail = f"{int((tail > 0).sum())} trajectories have decayed to a constant by their end"
        return Finding("constant", "note", detail)
    return Finding("constant", "ok", "every frame varies in space")


def _check_coordinates(store: TrajectoryStore) -> Finding:
    """Times and coordinates rise evenly, and lie where the metadata say."""
    axes = {"time": store.time, **dict(zip(store.metadata.axes, store.coords, strict=True))}
    for name, values in axes.items():
        steps = np.diff(values)
        if len(steps) and not (np.isfinite(values).all() and (steps > 0).all()):
            return Finding("coordinates", "fail", f"{name} does not rise from each to the next")
        if len(steps) and not np.allclose(steps, steps.mean(), rtol=2e-2):
            return Finding("coordinates", "warn", f"{name} is not evenly spaced")
    for name, (low, high), values in zip(
        store.metadata.axes, store.metadata.bounds, store.coords, strict=True
    ):
        if values[0] < low - 1e-6 or values[-1] > high + 1e-6:
            return Finding("coordinates", "fail", f"{name} leaves its bounds [{low:g}, {high:g}]")
    dt = store.metadata.dt
    if dt is not None and not np.allclose(np.diff(store.time), dt, rtol=1e-3):
        return Finding("coordinates", "fail", f"times do not step by the recorded dt {dt:g}")
    shape = " x ".join(str(len(values)) for values in store.coords)
    return Finding("coordinates", "ok", f"{len(store.time)} times, {shape} points, even")


def check_leaks(store: TrajectoryStore, card: DatasetCard) -> Iterator[Finding]:
    """Compare what held-out trajectories start from with what those of training start from."""
    if (shared := shared_groups(store)) is not None:
        yield shared
        return
    static = store.num_frames == 1 and store.inputs is not None
    states = store.inputs if static and store.inputs is not None else store.fields[:, 0]
    what = "have the same coefficient" if static else "start from the same state"
    yield from _shared_states(store, card, states, what)
    if len(store.metadata.sources) > 1:
        yield _between_files(store, states, what)


def _shared_states(
    store: TrajectoryStore, card: DatasetCard, states: Rows, what: str
) -> Iterator[Finding]:
    """One finding: the pairs across splits, and how bad they are.

    Where the card promises to keep states apart, a shared one is a failure. Where states are
    drawn from a family of few parameters, near ones are bound to occur: that is a warning.
    """
    order = {name: store.split(name) for name in SPLITS}
    strict = card.splits.kept_apart_by in ("initial_condition", "coefficient")
    near: set[int] = set()
    for known, held in (("train", "valid"), ("train", "test"), ("valid", "test")):
        for a, b, gap in nearest_pairs(states, order[known], order[held]):
            same = np.array_equal(store.parameters[a], store.parameters[b])
            if strict or (gap == 0 and same):
                detail = f"trajectory {a} ({known}) and {b} ({held}) {what}"
                yield Finding("leaks", "fail", detail)
                return
            near.add(b)
    if near:
        held_out = len(order["valid"]) + len(order["test"])
        share = f"{len(near)} of {held_out} held-out trajectories"
        detail = f"{share} {what} as one of another split, within 1e-4"
        yield Finding("leaks", "warn", detail)
    else:
        yield Finding("leaks", "ok", f"no group is shared between splits, none {what}")


def _between_files(store: TrajectoryStore, states: Rows, what: str) -> Finding:
    """Whether files of other parameters hold the same states, as PDEBench's do."""
    first = np.flatnonzero(store.sources == 0)[:256]
    others = np.flatnonzero(store.sources > 0)
    pairs = list(nearest_pairs(states, first, others))
    if not pairs:
        return Finding("between files", "ok", f"trajectories of different files never {what}")
    apart = [(a, b) for a, b, _ in pairs if store.groups[a] != store.groups[b]]
    shared = f"{len({b for _, b, _ in pairs})} trajectories of other files"
    if apart:
        a, b = apart[0]
        detail = f"{shared} {what} as one of the first file, not all in its group ({a} and {b})"
        return Finding("between files", "warn", detail)
    return Finding("between files", "note", f"{shared} {what}; kept in one split by place")


def _check_positive(store: TrajectoryStore, card: DatasetCard, scan: _Scan) -> Iterator[Finding]:
    low = scan.per_frame("low")
    for index, field in enumerate(card.fields):
        if field.positive:
            bad = np.flatnonzero(low[:, :, index].min(1) <= 0)
            if len(bad):
                yield Finding("positivity", "fail", f"{field.name} is not positive in {some(bad)}")
            else:
                least = low[:, :, index].min()
                yield Finding("positivity", "ok", f"{field.name} is at least {least:.3g}")


def _check_conserved(store: TrajectoryStore, card: DatasetCard, scan: _Scan) -> Iterator[Finding]:
    """The mean over the points: exact where fronts are resolved, else as good as the sampling."""
    stride = store.metadata.stride_x
    over = f" over every {stride}th point" if stride > 1 else ""
    means = scan.per_frame("mean")[scan.finite]
    squares = scan.per_frame("squares")[scan.finite]
    points = int(np.prod(store.space))
    size = np.sqrt((squares / points + means**2).mean(1)) + 1e-30
    drift = np.abs(means - means[:, :1]).max(1) / size
    for index, name in enumerate(card.field_names):
        if name not in card.pde.conserved:
            continue
        median, most = float(np.median(drift[:, index])), float(drift[:, index].max())
        is_fine = median < _MEDIAN_DRIFT and most < _WORST_DRIFT
        detail = f"the mean of {name}{over} drifts by {median:.1e} of its RMS (worst {most:.1e})"
        yield Finding("conservation", "ok" if is_fine else "warn", detail)
