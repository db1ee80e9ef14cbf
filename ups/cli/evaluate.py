"""`ups eval`: judge a run in physical space."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _eval_text, _output
from ups.cli._options import Device, InPlace, Json, RunArgument, StageOption
from ups.errors import GateError, UsageError

SPLITS = ("valid", "test", "all")

Protocols = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        help="own (the config's), ic, pdebench, well or a YAML file; may be repeated.",
        show_default="own, and those in evaluation.protocols",
    ),
]
Horizon = Annotated[
    int | None, typer.Option(min=1, help="Frames to predict.", show_default="to the end")
]
History = Annotated[
    int | None, typer.Option(min=1, help="True frames given.", show_default="from the config")
]
Split = Annotated[
    str | None,
    typer.Option(help="test or valid; with --version also all.", show_default="from the config"),
]
OtherVersion = Annotated[
    str | None,
    typer.Option(
        help="Judge on another converted version, unseen in training.",
        show_default="the run's own",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        "--task", "--dataset", help="One task of several, by name.", show_default="all of them"
    ),
]
Members = Annotated[int, typer.Option(min=0, help="Ensemble drawn from the residual model.")]
Partners = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="RUN", help="Ensemble with runs of other seeds."),
]
Ttc = Annotated[
    bool, typer.Option("--ttc", help="Test-time compute: candidates scored by physics.")
]
Candidates = Annotated[int, typer.Option(min=1, help="With --ttc: drawn at each step.")]
Beam = Annotated[int, typer.Option(min=1, help="With --ttc: kept at each step.")]
LookAhead = Annotated[int, typer.Option(min=0, help="With --ttc: steps.")]
Budget = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="With --ttc: evaluations of networks for a trajectory.",
        show_default="no limit",
    ),
]
Finer = Annotated[
    str | None,
    typer.Option(
        "--super-resolution",
        metavar="VERSION,...",
        help="Judge on finer grids too; auto finds them.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="A look: errors on the first trajectories only, not ranked.",
        show_default="all of the split",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 5 if any gate is missed.")]


def evaluate(
    run: RunArgument = None,
    protocol: Protocols = None,
    horizon: Horizon = None,
    history: History = None,
    split: Split = None,
    version: OtherVersion = None,
    task: Task = None,
    stage: StageOption = None,
    members: Members = 0,
    partner: Partners = None,
    ttc: Ttc = False,
    candidates: Candidates = 8,
    beam: Beam = 2,
    look_ahead: LookAhead = 1,
    budget: Budget = None,
    super_resolution: Finer = None,
    limit: Limit = None,
    source: InPlace = None,
    strict: Strict = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Roll a run out on unseen trajectories, decode, and compare with the truth and persistence.

    Writes reports and a page with pictures into the run's folder. Exits with 5 if the result
    misses a limit that the config sets; gates of physics, calibration and health are told, and
    count with --strict and on the leaderboard.
    """
    from ups import runs
    from ups.cli._in_place import in_place
    from ups.pipeline.extras import Extras, Search
    from ups.pipeline.judge import Request, judge
    from ups.training.distributed import crew, together
    from ups.training.run import stage_name

    if split is not None and split not in SPLITS:
        raise UsageError(f"--split {split}: expected valid, test or all")
    chosen = None if stage is None else stage_name(stage)
    folder = runs.find_run(run, with_stage=chosen or runs.MODEL)
    given = {"history": history, "horizon": horizon, "split": split}
    changes = {key: value for key, value in given.items() if value is not None}
    settings = runs.run_experiment_of(folder).evaluation.model_copy(update=changes)
    search = Search(candidates, beam, look_ahead, budget) if ttc else None
    extras = Extras(
        members=members,
        partners=tuple(runs.find_run(name) for name in partner or ()),
        search=search,
        finer=tuple(super_resolution.split(",")) if super_resolution else (),
    )
    request = Request(
        tasks=None if task is None else (task,),
        stage=chosen,
        settings=settings,
        protocols=tuple(protocol) if protocol else None,
        version=version,
        extras=extras,
        limit=limit,
    )
    with in_place(source), together(device) as chosen_device, _output.Bars() as bars:
        found = judge(folder, request, device=chosen_device, progress=bars, crew=crew())
    if found:  # of several processes the first one tells
        tell(found, as_json=as_json, strict=strict)


def tell(found: list[Any], *, as_json: bool, strict: bool = False) -> None:
    """Print every report, and leave with an error where one misses a gate that counts."""
    from ups.evaluation.gates import failed
    from ups.pipeline.judge import own_reports

    reports = [one.report for one in found]
    if as_json:
        _output.print_json([report.to_dict() for report in reports])
    else:
        for report in reports:
            _eval_text.print_report(report)
        for page in dict.fromkeys(one.page for one in found if one.page):
            _output.summary("report", paths.display(page))
        own = own_reports(found)
        if len(own) > 1:
            _eval_text.print_average(own)
    wrong = [
        gate.detail
        for report in reports
        for gate in failed(report.gates)
        if strict or gate.kind == "accuracy"
    ]
    if wrong:
        page = next((one.page for one in found if one.page), None)
        hint = f"the report: {paths.display(page)}" if page else None
        raise GateError("; ".join(dict.fromkeys(wrong)), hint=hint)
