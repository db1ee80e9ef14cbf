"""The champion protocol: a small evaluation, a full one, gates, and the champion changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch

from ups import paths, runs
from ups.errors import CheckpointError
from ups.evaluation.gates import Gate, failed
from ups.leaderboard.entries import add
from ups.pipeline.champion import Champion, Throne, crown, load_throne
from ups.pipeline.contest import (
    Candidate,
    Place,
    candidate_at,
    evaluate_fully,
    evaluate_small,
    places_of,
)
from ups.pipeline.parts import Progress, Teller, checkpoint_of
from ups.pipeline.rules import Benchmark
from ups.pipeline.verdict import gates_of, score_of, small_gate

Outcome = Literal["promoted", "refused", "champion already", "would be promoted", "to be judged"]
_ATTEMPTS = 10


@dataclass(frozen=True)
class Promotion:
    """How a run fared against a benchmark's champion.

    Attributes:
        before: The champion it was held against.
        small: Gates of the small evaluation.
        gates: Of the full one; empty where the small one was missed, or a dry run cannot know.
        unjudged: Places that a dry run would have to evaluate in full.
    """

    benchmark: Benchmark
    run: Path
    outcome: Outcome
    before: Champion | None
    small: tuple[Gate, ...] = ()
    gates: tuple[Gate, ...] = ()
    unjudged: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Gate]:
        """Every gate that said no."""
        return failed((*self.small, *self.gates))


def promote(
    run: Path,
    benchmark: Benchmark,
    *,
    reason: str = "",
    dry_run: bool = False,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    told: Callable[[str, Sequence[Gate]], None] | None = None,
) -> Promotion:
    """Make a run the champion of a benchmark, if it meets every gate.

    A run that a few trajectories show to be much worse is not evaluated in full. What has been
    evaluated is not evaluated again. The champion's file changes as a whole, and only if the
    champion is still the one that the run was held against; else the gates are asked again.

    Args:
        dry_run: Write nothing: a full evaluation that is not there is not made.
        told: Called with 'small evaluation' or 'full evaluation' and the gates of each.
    Raises:
        UsageError: The run cannot be judged on the benchmark.
        CheckpointError: The run holds no model, or the champion's file is damaged or locked.
    """
    throne, places = load_throne(benchmark.name), places_of(run, benchmark, device)
    state = Promotion(benchmark, run, "refused", throne.champion)
    if throne.checkpoint == checkpoint_of(run):
        return replace(state, outcome="champion already")
    small = small_gates(run, places, benchmark, throne.champion, progress)
    state = replace(state, small=tuple(small))
    if told:
        told("small evaluation", small)
    if failed(small):
        return state
    known = {place.name: candidate_at(run, place) for place in places}
    missing = tuple(name for name, one in known.items() if one is None)
    if dry_run and missing:
        return replace(state, outcome="to be judged", unjudged=missing)
    candidates = [known[one.name] or evaluate_fully(run, one, progress) for one in places]
    return _decide(state, throne, candidates, reason, dry_run, told)


def small_gates(
    run: Path,
    places: Sequence[Place],
    benchmark: Benchmark,
    champion: Champion | None,
    progress: Progress | None = None,
) -> list[Gate]:
    """Whether a few trajectories of every place are good enough for a full evaluation."""
    bar = Teller(progress).bar("small eval")
    found = []
    for place in places:
        known = candidate_at(run, place)
        small = evaluate_small(place, benchmark, known=known, progress=bar)
        found.append(small_gate(small, benchmark, champion))
    return found


def _decide(
    state: Promotion,
    throne: Throne,
    candidates: Sequence[Candidate],
    reason: str,
    dry_run: bool,
    told: Callable[[str, Sequence[Gate]], None] | None,
) -> Promotion:
    """Hold full evaluations against the champion, whoever that is by now."""
    benchmark = state.benchmark
    for _ in range(_ATTEMPTS):
        gates = gates_of(candidates, benchmark, throne.champion)
        state = replace(state, before=throne.champion, gates=tuple(gates))
        if told:
            told("full evaluation", gates)
        if failed(gates):
            return replace(state, outcome="refused")
        if dry_run:
            return replace(state, outcome="would be promoted")
        for one in candidates:
            add(one.path, paths.leaderboard_dir())
        champion = _champion(state, candidates, reason)
        if crown(benchmark.name, champion, instead_of=throne.checkpoint):
            return replace(state, outcome="promoted")
        throne = load_throne(benchmark.name)
        if throne.checkpoint == champion.checkpoint_sha256:
            return replace(state, outcome="champion already")
    raise CheckpointError(
        f"{benchmark.name}: the champion changed {_ATTEMPTS} times while this run was judged",
        hint="run the same command again",
    )


def _champion(state: Promotion, candidates: Sequence[Candidate], reason: str) -> Champion:
    told = candidates[0].report.run
    return Champion(
        run=runs.run_id(state.run),
        seed=int(told["seed"]),
        commit=str(told["commit"]),
        checkpoint_sha256=str(told["checkpoint_sha256"]),
        since=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        reason=reason,
        metric=state.benchmark.metric,
        scores=tuple(score_of(one, state.benchmark) for one in candidates),
        gates=(*state.small, *state.gates),
    )
