"""Findings, and the checks that every kind of store shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ups.data.points import PointStore
from ups.data.splits import EXCLUDED, SPLITS, FileShare, divide, split_hash
from ups.data.statistics import Moments, pooled
from ups.data.store import TrajectoryStore
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
Verdict = Literal["ok", "note", "warn", "fail"]
AnyStore = TrajectoryStore | PointStore


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    verdict: Verdict
    detail: str


def worst(findings: list[Finding]) -> Verdict:
    """The gravest verdict among the findings."""
    order: tuple[Verdict, ...] = ("ok", "note", "warn", "fail")
    return max((finding.verdict for finding in findings), key=order.index)


def known_issues(card: DatasetCard) -> list[Finding]:
    """What the card knows of the public data, as notes."""
    return [
        Finding("known issue", "note", f"{issue.id}: {issue.summary} {issue.consequence}")
        for issue in card.known_issues
    ]


def check_duplicates(store: AnyStore) -> Finding:
    """Equal trajectories are harmless in one split and a leak across two."""
    _, first, inverse, counts = np.unique(
        store.digests, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    repeated = counts[inverse.reshape(-1)] > 1
    used = repeated & (store.splits != EXCLUDED)
    for content in np.unique(inverse.reshape(-1)[used]):
        members = np.flatnonzero((inverse.reshape(-1) == content) & used)
        if len(set(store.splits[members].tolist())) > 1:
            detail = f"equal in values and in different splits: {some(members)}"
            return Finding("duplicates", "fail", detail)
    left_out = int((store.splits == EXCLUDED).sum()) - len(store.metadata.excluded)
    if repeated.any() or store.metadata.duplicates:
        detail = f"{len(store.digests) - len(first)} trajectories repeat another one"
        detail += f", {left_out} left out because it is a test trajectory" if left_out else ""
        dropped = store.metadata.duplicates
        detail += f"; raw files that were there twice: {len(dropped)}" if dropped else ""
        return Finding("duplicates", "note", detail)
    return Finding("duplicates", "ok", "no trajectory is there twice")


def shared_groups(store: AnyStore) -> Finding | None:
    """A held-out split that shares a group with training; needs no fields."""
    groups = {name: set(store.groups[store.split(name)].tolist()) for name in SPLITS}
    for held in ("valid", "test"):
        shared = groups["train"] & groups[held]
        if shared:
            detail = f"train and {held} share groups {some(sorted(shared))}"
            return Finding("leaks", "fail", detail)
    return None


def check_split_record(store: AnyStore, card: DatasetCard) -> Finding:
    """The recorded splits are the stored ones, and those of the card's rule."""
    stored = split_hash(store.splits, store.groups)
    if stored != store.metadata.split_hash:
        return Finding("split record", "fail", "the splits do not match their recorded hash")
    if card.splits.test != "by_folder":
        shares = [FileShare(source.trajectories, source.first) for source in store.metadata.sources]
        expected, groups = divide(card.splits, shares, store.digests)
        kept = ~np.isin(np.arange(len(store.splits)), store.metadata.excluded)
        if not np.array_equal(expected[kept], store.splits[kept]):
            return Finding("split record", "fail", "the splits differ from the card's rule")
        if not np.array_equal(groups, store.groups):
            return Finding("split record", "fail", "the groups differ from the card's rule")
    counts = ", ".join(f"{name} {len(store.split(name))}" for name in SPLITS)
    return Finding("split record", "ok", f"{counts}; hash {stored}")


def check_statistics(store: AnyStore, training: Moments, inputs: Moments | None) -> Finding:
    """The stored statistics are those of the training split, whose moments these are."""
    parts = [("", pooled(training), store.statistics)]
    if inputs is not None:
        parts.append(("input ", pooled(inputs), store.input_statistics))
    for kind, found, stored in parts:
        for name, values in found.items():
            gap = float(np.max(np.abs(values - stored[name]) / (found["rms"] + 1e-30)))
            if not gap < 1e-6:
                detail = f"stored {kind}{name} is off by {gap:.1e} of the training split's RMS"
                return Finding("statistics", "fail", detail)
    rms = ", ".join(f"{value:.4g}" for value in parts[0][1]["rms"])
    return Finding("statistics", "ok", f"match the training split (RMS {rms})")


def check_parameters(parameters: Array, card: DatasetCard) -> Finding:
    """Whether (trajectory, parameter) values lie in the card's ranges."""
    for index, parameter in enumerate(card.parameters):
        low, high = parameter.range
        values = parameters[:, index]
        if not (values.min() >= low * (1 - 1e-9) and values.max() <= high * (1 + 1e-9)):
            detail = f"{parameter.name} is in [{values.min():g}, {values.max():g}], the card says "
            return Finding("parameters", "warn", f"{detail}[{low:g}, {high:g}]")
    named = [f"{name} {_values(parameters[:, i])}" for i, name in enumerate(card.parameter_names)]
    return Finding("parameters", "ok", "; ".join(named) or "none")


def _values(column: Array) -> str:
    found = np.unique(column)
    if len(found) <= 8:
        return ", ".join(f"{value:g}" for value in found)
    return f"{found[0]:g} to {found[-1]:g}"


def some(items: Any) -> str:
    """`trajectories 3, 5, 8 and 4 more`."""
    listed = [int(item) for item in items]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    noun = "trajectory" if len(listed) == 1 else "trajectories"
    return f"{noun} {', '.join(map(str, listed[:5]))}{more}"
