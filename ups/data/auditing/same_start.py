"""Finding states that two sets of trajectories share, without comparing all values of all pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.partial import Rows

Array = npt.NDArray[Any]
SAME = 1e-4
"""States nearer than this share of their norm count as the same."""
_SKETCH = 1024
_ROWS = 256


def nearest_pairs(
    states: Rows, known: Array, held: Array, *, held_states: Rows | None = None
) -> Iterator[tuple[int, int, float]]:
    """Pairs (of `known`, of `held`) of the same state, with their relative distance.

    States are first compared by sums over runs of neighbouring values, each divided by the root
    of the run's length. By Cauchy and Schwarz these are never farther apart than the states
    themselves, so no pair is missed; what is near is then compared in full. At most one pair for
    each of `held`, the nearest.

    Args:
        known, held: Rows of `states`; of `held_states` the latter, where those are given.
    Shape:
        states, held_states: (state, *space, channel), the same but for the first axis
    """
    if not len(known) or not len(held):
        return
    others = states if held_states is None else held_states
    ours = _sketches(states, known)
    squares = np.einsum("ij,ij->i", ours, ours)
    for start in range(0, len(held), _ROWS):
        rows = held[start : start + _ROWS]
        theirs = _sketches(others, rows)
        norms = np.asarray([np.square(others[i], dtype=np.float64).sum() for i in rows])
        own = np.einsum("ij,ij->i", theirs, theirs)
        distance = own[:, None] + squares - 2 * theirs @ ours.T
        # Cancellation leaves about 1e-15 of the squares in float64.
        candidates = distance <= (SAME**2 + 1e-12) * norms[:, None] + 1e-12 * squares
        for row in np.flatnonzero(candidates.any(1)):
            found = [
                (_gap(states[known[c]], others[rows[row]], norms[row]), int(known[c]))
                for c in np.flatnonzero(candidates[row])
            ]
            gap, partner = min(found)
            if gap <= SAME:
                yield partner, int(rows[row]), gap


def _gap(one: Array, other: Array, norm: float) -> float:
    difference = np.square(one.astype(np.float64) - other.astype(np.float64)).sum()
    return float(np.sqrt(difference / norm)) if norm else float(difference > 0)


def _sketches(states: Rows, rows: Array) -> Array:
    """Sums over at most 1024 runs of each state, divided by the root of each run's length."""
    size = int(np.prod(states.shape[1:]))
    starts = np.unique(np.linspace(0, size, min(size, _SKETCH), endpoint=False).astype(int))
    lengths = np.sqrt(np.diff([*starts, size]))
    flat = (np.asarray(states[i], np.float64).reshape(-1) for i in rows)
    return np.stack([np.add.reduceat(values, starts) / lengths for values in flat])
