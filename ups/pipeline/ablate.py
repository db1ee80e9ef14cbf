"""What each part of an experiment is worth: trainings without it, under one budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ups import files
from ups.config.schema import Experiment
from ups.errors import CheckpointError
from ups.pipeline.ablation_parts import PARTS, overrides_without, without
from ups.pipeline.benchmark import Benchmark, Entry, Result, run_benchmark
from ups.pipeline.budget import Budget
from ups.pipeline.seeds import Estimate, over_seeds, relative_change
from ups.pipeline.trained import Row
from ups.training.session import open_session

FULL = "full"
HEADINGS = ("without", ">nRMSE", ">change", ">95 % interval", ">params", ">train s", "what it is")
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Loss:
    """What the experiment loses without a part.

    Attributes:
        part: `full` for the whole experiment.
        nrmse: Mean over seeds; None where a training failed or a rollout blew up.
        change: Relative change of nRMSE against the whole, paired by seed; 0.2 is 20 % worse.
        error: Why trainings failed.
    """

    part: str
    description: str
    rows: tuple[Row, ...]
    nrmse: Estimate | None
    change: Estimate | None
    error: str = ""


@dataclass(frozen=True)
class Ablation:
    """The whole experiment first, then its parts, the most missed one first."""

    experiment: str
    budget: str
    seeds: tuple[int, ...]
    losses: tuple[Loss, ...]


def run_ablation(
    experiment: Experiment,
    parts: Sequence[str],
    out: Path,
    *,
    budget: Budget | None = None,
    seeds: Sequence[int] = (0,),
    resume: bool = False,
    progress: Progress | None = None,
    told: Callable[[Result], None] | None = None,
) -> Ablation:
    """Train the whole experiment and one variant without each part, with every seed.

    Args:
        parts: Names in `PARTS`.
        out: Where each finished training is kept, as in `run_benchmark`.
        budget: Of each training; None takes the steps of the config for all.
    Raises:
        UsageError: There is no such part, or the experiment does not have it.
        UpsError: As `run_benchmark`.
    """
    session = open_session(experiment)
    entries = [Entry(FULL, experiment)]
    for name in dict.fromkeys(parts):
        entries.append(Entry(name, without(experiment, overrides_without(name, session))))
    found = run_benchmark(
        entries, out, budget=budget, seeds=seeds, resume=resume, brief=True, times_solver=False,
        progress=progress, told=told,
    )  # fmt: skip
    return summed_up(experiment.name, found)


def summed_up(name: str, benchmark: Benchmark) -> Ablation:
    """Losses of the parts, paired by seed with the whole experiment."""
    by_part: dict[str, dict[int, Result]] = {}
    for result in benchmark.results:
        by_part.setdefault(result.label, {})[result.seed] = result
    whole = by_part.pop(FULL)
    losses = [_loss(part, results, whole) for part, results in by_part.items()]
    losses.sort(key=lambda one: -one.change.mean if one.change else float("-inf"))
    first = _loss(FULL, whole, None)
    return Ablation(name, benchmark.budget, benchmark.seeds, (first, *losses))


def _loss(part: str, results: dict[int, Result], whole: dict[int, Result] | None) -> Loss:
    mine = [_nrmse(result) for result in results.values()]
    change = None
    if whole is not None:
        change = relative_change(mine, [_nrmse(whole[seed]) for seed in results])
    errors = [f"seed {seed}: {one.error}" for seed, one in results.items() if one.error]
    return Loss(
        part=part,
        description="" if whole is None else PARTS[part].description,
        rows=tuple(result.row for result in results.values() if result.row),
        nrmse=over_seeds(mine),
        change=change,
        error="; ".join(errors),
    )


def _nrmse(result: Result) -> float | None:
    return result.row.nrmse if result.row else None


def cells(loss: Loss) -> list[str]:
    """The line as texts, one for each of `HEADINGS`."""
    seconds = over_seeds([row.train_seconds for row in loss.rows]) if loss.rows else None
    return [
        loss.part,
        f"{loss.nrmse.mean:.3g}" if loss.nrmse else "–",
        f"{loss.change.mean:+.1%}" if loss.change else "–",
        _interval(loss.change),
        f"{loss.rows[0].num_parameters:,}" if loss.rows else "–",
        f"{seconds.mean:.3g}" if seconds else "–",
        loss.error or loss.description,
    ]


def _interval(change: Estimate | None) -> str:
    if change is None or change.low is None or change.high is None:
        return "–"
    return f"{change.low:+.1%} to {change.high:+.1%}"


def notes(ablation: Ablation) -> list[str]:
    """What a reader of the table needs to know."""
    budget = f"Budget {ablation.budget} for each training" if ablation.budget else (
        "Each training takes the steps of the config"
    )  # fmt: skip
    seeds = ", ".join(map(str, ablation.seeds))
    found = [
        f"{budget}; seeds {seeds}.",
        "Change of nRMSE without the part, paired by seed (geometric mean); + is worse.",
    ]
    if len(ablation.seeds) < 2:
        found.append("One seed tells nothing of chance: --seeds 1,2,3 gives intervals.")
        return found
    unclear = [one.part for one in ablation.losses[1:] if one.change and not one.change.is_clear]
    if unclear:
        found.append(f"Not told from chance by these seeds: {', '.join(unclear)}.")
    return found


def write_ablation(ablation: Ablation, out: Path) -> list[Path]:
    """Write `ablation.md` and `ablation.json`.

    Returns:
        The files.
    """
    heads = [heading.removeprefix(">") for heading in HEADINGS]
    rule = ["---:" if heading.startswith(">") else "---" for heading in HEADINGS]
    rows = [cells(one) for one in ablation.losses]
    table = "\n".join(f"| {' | '.join(texts)} |" for texts in (heads, rule, *rows))
    listed = "\n".join(f"- {note}" for note in notes(ablation))
    text = f"# Ablation of {ablation.experiment}\n\n{table}\n\n{listed}\n"
    page, data = out / "ablation.md", out / "ablation.json"
    files.write_text(page, text, CheckpointError)
    files.write_json(data, to_dict(ablation), CheckpointError)
    return [page, data]


def to_dict(ablation: Ablation) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    return asdict(ablation)
