"""What can be wrong with a converted version, looked for instead of assumed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ups.data.splits import SPLITS, assign_splits, groups_of, split_hash
from ups.data.statistics import RunningStatistics
from ups.data.store import TrajectoryStore
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]
Verdict = Literal["ok", "note", "warn", "fail"]

_BLOCK_BYTES = 32 * 2**20
_SAME_START = 1e-4
_MEDIAN_DRIFT = 5e-3
_WORST_DRIFT = 5e-2


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    verdict: Verdict
    detail: str


@dataclass
class _Scan:
    """What one pass over all values collects, (trajectory, ...) each."""

    finite: Array
    constant: Array
    flat_frames: Array
    flat_tail: Array
    zero_frames: Array
    drift: Array
    statistics: dict[str, Array]
    sha256: str


def audit(
    store: TrajectoryStore, card: DatasetCard, progress: Progress | None = None
) -> list[Finding]:
    """Read everything once and report on it, worst news included.

    Returns:
        One finding for each check; `fail` means that numbers from this version are not to be
        trusted, `warn` that something looks wrong, `note` what is known of the published data.
    """
    scan = _scan(store, card, progress)
    return [
        _check_bytes(store, scan),
        _check_finite(store, scan),
        _check_constant(scan),
        _check_zero_frames(scan),
        _check_split_record(store, card),
        _check_leaks(store),
        _check_statistics(store, scan),
        _check_parameters(store, card),
        *_check_conserved(store, card, scan),
        *[Finding("known issue", "note", f"{i.id}: {i.summary} {i.consequence}")
          for i in card.known_issues],
    ]  # fmt: skip


def worst(findings: list[Finding]) -> Verdict:
    """The gravest verdict among the findings."""
    order: tuple[Verdict, ...] = ("ok", "note", "warn", "fail")
    return max((finding.verdict for finding in findings), key=order.index)


def _scan(store: TrajectoryStore, card: DatasetCard, progress: Progress | None) -> _Scan:
    statistics, digest = RunningStatistics(), hashlib.sha256()
    rows: list[tuple[Array, ...]] = []
    for start, block in _blocks(store):
        digest.update(block.data)
        training = store.splits[start : start + len(block)] == 0
        statistics.update(block[training])
        rows.append(_describe(block))
        if progress:
            progress(start + len(block), store.num_trajectories)
    finite, constant, flat, tail, zero, drift = (
        np.concatenate(column) for column in zip(*rows, strict=True)
    )
    return _Scan(finite, constant, flat, tail, zero, drift, statistics.result(), digest.hexdigest())


def _blocks(store: TrajectoryStore) -> Iterator[tuple[int, Array]]:
    each = store.fields[0].nbytes
    step = max(1, _BLOCK_BYTES // each)
    for start in range(0, store.num_trajectories, step):
        yield start, np.ascontiguousarray(store.fields[start : start + step])


def _describe(block: Array) -> tuple[Array, ...]:
    """Per trajectory: finite, constant, flat frames, those at its end, zero frames, drift."""
    space = tuple(range(2, block.ndim - 1))
    finite = np.asarray(np.isfinite(block).reshape(len(block), -1).all(axis=1))
    low, high = block.min(space), block.max(space)
    flat = (high == low).all(-1)
    zero = flat & (high == 0).all(-1)
    constant = (high.max(1) == low.min(1)).any(-1)
    with np.errstate(invalid="ignore"):  # excluded trajectories may hold infinity
        means = block.mean(space, dtype=np.float64)
        size = np.sqrt(np.square(block, dtype=np.float64).mean((1, *space))) + 1e-30
        drift = np.abs(means - means[:, :1]).max(1) / size
    tail = flat[:, ::-1].cumprod(1).sum(1)
    return finite, constant, flat.sum(1), tail, zero.sum(1), drift


def _check_bytes(store: TrajectoryStore, scan: _Scan) -> Finding:
    if scan.sha256 != store.metadata.data_sha256:
        return Finding("bytes", "fail", "values have changed since conversion: sha256 differs")
    return Finding("bytes", "ok", f"sha256 {scan.sha256[:16]} as converted")


def _check_finite(store: TrajectoryStore, scan: _Scan) -> Finding:
    bad = set(np.flatnonzero(~scan.finite).tolist())
    used = sorted(bad - set(store.metadata.excluded))
    if used:
        return Finding("finite", "fail", f"NaN or infinity in {_some(used)}")
    if bad:
        return Finding("finite", "warn", f"NaN in {_some(sorted(bad))}, excluded from all splits")
    return Finding("finite", "ok", f"{len(scan.finite)} trajectories hold finite values only")


def _check_constant(scan: _Scan) -> Finding:
    constant = np.flatnonzero(scan.constant)
    if len(constant):
        return Finding("constant", "fail", f"a field never changes in {_some(constant.tolist())}")
    early = np.flatnonzero(scan.flat_frames > scan.flat_tail)
    if len(early):
        detail = f"frames constant in space, followed by others that are not, in {_some(early)}"
        return Finding("constant", "warn", detail)
    decayed = np.flatnonzero(scan.flat_tail)
    if len(decayed):
        detail = f"{len(decayed)} trajectories have decayed to a constant by their last frames"
        return Finding("constant", "note", detail)
    return Finding("constant", "ok", "every frame varies in space")


def _check_zero_frames(scan: _Scan) -> Finding:
    zero = np.flatnonzero(scan.zero_frames)
    if len(zero):
        return Finding("zero frames", "fail", f"frames of zeros, a failed run, in {_some(zero)}")
    return Finding("zero frames", "ok", "none")


def _check_split_record(store: TrajectoryStore, card: DatasetCard) -> Finding:
    sizes = [source.trajectories for source in store.metadata.sources]
    stored = split_hash(store.splits, store.groups)
    expected = assign_splits(card.splits, sizes)
    if stored != store.metadata.split_hash:
        return Finding("split record", "fail", "the splits do not match their recorded hash")
    kept = store.splits < len(SPLITS)
    if not np.array_equal(expected[kept], store.splits[kept]):
        return Finding("split record", "fail", "the splits differ from the card's rule")
    if not np.array_equal(groups_of(card.splits, sizes), store.groups):
        return Finding("split record", "fail", "the groups differ from the card's rule")
    counts = ", ".join(f"{name} {len(store.split(name))}" for name in SPLITS)
    return Finding("split record", "ok", f"{counts}; hash {stored}")


def _check_leaks(store: TrajectoryStore) -> Finding:
    """Compare the first frames of held-out trajectories with those of the training split."""
    groups = {name: set(store.groups[store.split(name)].tolist()) for name in SPLITS}
    for held in ("valid", "test"):
        shared = groups["train"] & groups[held]
        if shared:
            return Finding("leaks", "fail", f"train and {held} share groups {_some(shared)}")
    starts = store.fields[:, 0]
    order = {name: store.split(name) for name in SPLITS}
    for known, held in (("train", "valid"), ("train", "test"), ("valid", "test")):
        pair = shared_start(starts[order[known]], starts[order[held]])
        if pair:
            a, b = int(order[known][pair[0]]), int(order[held][pair[1]])
            detail = f"trajectory {a} ({known}) and {b} ({held}) start from the same state"
            return Finding("leaks", "fail", detail)
    return Finding("leaks", "ok", "no group and no initial state is shared between splits")


def shared_start(known: Array, held: Array) -> tuple[int, int] | None:
    """A state of `known` and one of `held` nearer than 1e-4 of the latter's norm, if there are.

    Shape:
        known, held: (state, *space, channel)
    """
    size = int(np.prod(known.shape[1:]))
    known = known.reshape(len(known), size).astype(np.float32)
    held = held.reshape(len(held), size).astype(np.float32)
    squares = np.einsum("ij,ij->i", known, known)
    for start in range(0, len(held), 256):
        rows = held[start : start + 256]
        sizes = np.einsum("ij,ij->i", rows, rows)
        distance = sizes[:, None] + squares - 2 * rows @ known.T
        # Cancellation leaves about 1e-6 of the squares, so candidates are compared again exactly.
        for row, column in np.argwhere(distance < 1e-4 * sizes[:, None] + 1e-12):
            gap = np.linalg.norm(rows[row] - known[column])
            if gap <= _SAME_START * np.sqrt(sizes[row]):
                return int(column), start + int(row)
    return None


def _check_statistics(store: TrajectoryStore, scan: _Scan) -> Finding:
    for name, values in scan.statistics.items():
        scale = scan.statistics["rms"] + 1e-30
        gap = float(np.max(np.abs(values - store.statistics[name]) / scale))
        if not gap < 1e-6:
            detail = f"stored {name} is off by {gap:.1e} of the training split's RMS"
            return Finding("statistics", "fail", detail)
    rms = ", ".join(f"{value:.4g}" for value in scan.statistics["rms"])
    return Finding("statistics", "ok", f"match the training split (RMS {rms})")


def _check_parameters(store: TrajectoryStore, card: DatasetCard) -> Finding:
    for index, parameter in enumerate(card.parameters):
        low, high = parameter.range
        values = store.parameters[:, index]
        if values.min() < low * (1 - 1e-9) or values.max() > high * (1 + 1e-9):
            detail = f"{parameter.name} is in [{values.min():g}, {values.max():g}], the card says "
            return Finding("parameters", "warn", f"{detail}[{low:g}, {high:g}]")
    named = [
        f"{name} {', '.join(f'{v:g}' for v in np.unique(store.parameters[:, index]))}"
        for index, name in enumerate(card.parameter_names)
    ]
    return Finding("parameters", "ok", "; ".join(named) or "none")


def _check_conserved(store: TrajectoryStore, card: DatasetCard, scan: _Scan) -> Iterator[Finding]:
    """The mean over the points: exact where fronts are resolved, else as good as the sampling."""
    stride = store.metadata.stride_x
    over = f" over every {stride}th point" if stride > 1 else ""
    for index, name in enumerate(card.field_names):
        if name not in card.pde.conserved:
            continue
        drift = scan.drift[scan.finite, index]
        median, most = float(np.median(drift)), float(drift.max())
        is_fine = median < _MEDIAN_DRIFT and most < _WORST_DRIFT
        detail = f"the mean of {name}{over} drifts by {median:.1e} of its RMS (worst {most:.1e})"
        yield Finding("conservation", "ok" if is_fine else "warn", detail)


def _some(items: Any) -> str:
    """`trajectories 3, 5, 8 and 4 more`."""
    listed = [int(item) for item in items]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    noun = "trajectory" if len(listed) == 1 else "trajectories"
    return f"{noun} {', '.join(map(str, listed[:5]))}{more}"
