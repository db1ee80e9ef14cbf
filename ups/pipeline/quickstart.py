"""The whole path in one call: from nothing to a leaderboard entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ups import files, paths, registry, runs
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.data.generate import generate, is_generated, raw_file_name
from ups.errors import DataError
from ups.evaluation.gates import Gate, failed
from ups.evaluation.report import OWN, Report
from ups.pipeline.judge import judge
from ups.pipeline.parts import (
    Progress,
    Step,
    Teller,
    convert_and_audit,
    enter,
    present_reports,
    trained,
)
from ups.registry import DatasetCard
from ups.training.distributed import local_device


@dataclass(frozen=True)
class DataRecipe:
    """What the quickstart generates: enough for a good rollout, little enough for a laptop."""

    num_trajectories: int = 1280
    points: int = 256
    frames: int = 41
    seed: int = 0


@dataclass
class Quickstart:
    """What the path leads to."""

    run: Path
    report: Report
    page: Path
    failed_gates: list[Gate]
    steps: list[Step] = field(default_factory=list)


def quickstart(
    config: str = "quickstart",
    recipe: DataRecipe | None = None,
    *,
    progress: Progress | None = None,
    told: Callable[[Step], None] | None = None,
) -> Quickstart:
    """Generate, convert, audit, train, cache, evaluate and enter; reuse what is unchanged.

    Args:
        config: An experiment whose `data.version` names the version to be made.
        told: Called after each part.

    Raises:
        UpsError: The first thing that went wrong; what was finished is reused by the next call.
    """
    experiment = load_experiment(config)
    teller = Teller(progress, told)
    (task,) = experiment.data.tasks
    card = registry.load_card(task.dataset)
    raw, made = _generated(card, recipe or DataRecipe(), teller)
    convert_and_audit(card, [raw], teller, version=task.version, force=made)
    run = trained(experiment, teller)
    report, page = _judged(run, experiment, teller)
    enter(run / runs.REPORT, teller)
    return Quickstart(run, report, page, failed(report.gates), teller.steps)


def _generated(card: DatasetCard, recipe: DataRecipe, teller: Teller) -> tuple[Path, bool]:
    """The raw file, and whether it had to be made."""
    if card.generator is None:
        raise DataError(f"{card.key}: has no built-in generator")
    folder, parameters = paths.data_dir(card.key) / "quickstart", card.generator.parameters
    path, wanted = folder / raw_file_name(card, parameters), asdict(recipe)
    with files.exclusive(path, "running the quickstart"):
        made = not is_generated(path, card, parameters=parameters, **wanted)
        if made:
            generate(
                card, parameters=parameters, out_dir=folder, batch_size=256, force=True,
                progress=teller.bar("generate"), **wanted,
            )  # fmt: skip
    teller.tell("generate", path, reused=not made)
    return path, made


def _judged(run: Path, experiment: Experiment, teller: Teller) -> tuple[Report, Path]:
    """Evaluate on the test split, unless this checkpoint has been."""
    existing, page = report_of(run, experiment), run / "report.html"
    if existing is not None and page.is_file():
        teller.tell("eval", existing, reused=True)
        return existing, page
    found = judge(run, device=local_device(experiment.device), progress=teller.progress)
    own = found[0]
    assert own.page is not None
    teller.tell("eval", own.report, reused=False)
    return own.report, own.page


def report_of(run: Path, experiment: Experiment) -> Report | None:
    """The run's report, if it judges the present checkpoint by the config's own protocol."""
    (task,) = experiment.data.tasks
    settings = experiment.evaluation
    for _, report in present_reports(run):
        protocol = report.protocol
        same_data = (protocol.version, protocol.stride) == (task.version, task.stride)
        same_split = (protocol.split, protocol.history) == (settings.split, settings.history)
        same_horizon = settings.horizon in (None, protocol.horizon)
        if report.protocol_name == OWN and same_data and same_split and same_horizon:
            return report
    return None
