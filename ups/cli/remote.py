"""`ups remote`: the same training on a rented GPU, a Slurm cluster or a box over ssh."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups.cli import _output, remote_convert, remote_jobs, remote_setup
from ups.cli import _remote_options as shared
from ups.cli._app import group
from ups.cli._options import ConfigOption, Json, Overrides
from ups.cli._remote_options import EngineChoice, EngineOption, Gpu, MaxPrice, Nodes, Options, Spot
from ups.errors import EXIT_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from ups.remote.driver import Driver
    from ups.remote.outlook import Outlook
    from ups.remote.prepare import Request
    from ups.remote.records import Job

app = group("Train elsewhere: on a rented GPU, a Slurm cluster or a box over ssh.")


class StageName(StrEnum):
    codec = "codec"
    operator = "operator"
    diff_residual = "diff_residual"
    consistency_distill = "consistency_distill"
    steady_prior = "steady_prior"


@app.command()
def launch(
    gpu: Gpu = "none",
    config: ConfigOption = None,
    overrides: Overrides = None,
    stages: Annotated[
        list[StageName] | None,
        typer.Option("--stage", help="May be repeated.", show_default="those of the config"),
    ] = None,
    engine: EngineOption = EngineChoice.auto,
    options: Options = None,
    max_price: MaxPrice = None,
    max_hours: Annotated[
        float | None, typer.Option(min=0.0, help="After which the machine goes.", show_default="")
    ] = None,
    spot: Spot = False,
    nodes: Nodes = 1,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes a machine.", show_default="one a GPU")
    ] = None,
    disk: Annotated[int, typer.Option(min=1, metavar="GB", help="Of each machine.")] = 100,
    remote: Annotated[
        str | None,
        typer.Option(
            help="Where data come from and results go: ups remotes list.",
            show_default="the default remote",
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further environment variable that the job gets."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Under which its cost is counted.", show_default="ups")
    ] = None,
    hang_minutes: Annotated[float, typer.Option(min=0.1, help="Ended without progress.")] = 30,
    push_minutes: Annotated[float, typer.Option(min=0.1, help="Between pushes.")] = 10,
    no_eval: Annotated[bool, typer.Option("--no-eval", help="Train and push only.")] = False,
    sweep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Space file: each trial is a job.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Jobs of a sweep at a time.")] = 1,
    trials: Annotated[int, typer.Option(min=1, help="Of a sweep; a grid ends by itself.")] = 20,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, price, hours, cost; change nothing.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Train, judge and push elsewhere; the machine goes whatever happens.

    Waits for the end and exits with the job's own code; 10: the engine failed, 11: time limit,
    12: stopped, 13: no progress, 14: the machine was not fit. Ctrl-C leaves the job running.
    """
    from ups.config.loading import load_experiment
    from ups.remote import engines
    from ups.remote.prepare import Request
    from ups.remote.settings import load_settings

    chosen = engines.choose(engine.value, shared.parsed(options))
    if chosen.why and not as_json:
        _output.summary("engine", f"{chosen.name}: {chosen.why}")
    request = Request(
        engine=chosen, experiment=load_experiment(config, overrides or ()), gpu=gpu,
        stages=[stage.value for stage in stages or ()], nproc=nproc, remote=remote,
        max_price=max_price, max_hours=max_hours, spot=spot, nodes=nodes, disk_gb=disk,
        evaluate=not no_eval, secrets=secret or (), project=project or load_settings().project,
        hang_minutes=hang_minutes, push_minutes=push_minutes,
    )  # fmt: skip
    if sweep is not None:
        if detach or as_json:
            raise UsageError("--sweep: goes without --detach and --json",
                             hint="a sweep launches its jobs one after another")  # fmt: skip
        from ups.cli import remote_sweep

        about = remote_sweep.About(config, tuple(overrides or ()), sweep, trials, parallel)
        remote_sweep.launch_sweep(request, about, dry_run=dry_run, yes=yes)
        return
    outlook, driver = look_ahead(request)
    if dry_run:
        _tell(outlook, as_json, whole=True)
        return
    job = begin(outlook, driver, yes=yes, quiet=as_json)
    if as_json:
        _output.print_json({"job": job.id, "run": _run_of(job), **outlook.to_dict()})
    if detach:
        if not as_json:
            _output.summary("started", f"{job.id}; ups remote logs -f {job.id}")
        return
    remote_jobs.watch(job, driver, quiet=as_json)


def look_ahead(request: Request) -> tuple[Outlook, Driver]:
    """What a launch would do."""
    from ups.remote import outlook
    from ups.remote.prepare import job_spec, remote_of

    spec, driver = job_spec(request), request.engine.driver()
    return outlook.look_ahead(spec, request.experiment, driver, remote_of(spec)), driver


def begin(
    outlook: Outlook,
    driver: Driver,
    *,
    yes: bool,
    quiet: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Job:
    """Show, ask where that is wanted, and launch."""
    from ups.remote import launch as launching
    from ups.remote.outlook import check_offer
    from ups.remote.prepare import secret_values

    check_offer(outlook)
    secret_values(outlook.spec)
    if not quiet:
        _tell(outlook, as_json=False, whole=False)
    ask(outlook.spec.worst_cost if driver.is_paid else None, yes=yes)
    return launching.start(
        outlook.spec, driver, {**outlook.to_dict(), **(about or {})},
        say=lambda line: typer.echo(f"warning: {line}", err=True),
    )  # fmt: skip


def ask(worst_cost: float | None, *, yes: bool) -> None:
    """Ask before what may cost more than UPS_HOME/remote.yaml says."""
    from ups.remote.settings import load_settings

    limit = load_settings().ask_above
    if yes or worst_cost is None or worst_cost <= limit:
        return
    what = f"this may cost {shared.dollars(worst_cost)}, more than ask_above, {limit:g} dollars"
    if not sys.stdin.isatty():
        raise UsageError(what, hint="--yes if that is meant; ask_above is in UPS_HOME/remote.yaml")
    if not typer.confirm(f"{what}. Launch?"):
        typer.echo("nothing was launched", err=True)
        raise typer.Exit(EXIT_INTERRUPTED)


def _tell(outlook: Outlook, as_json: bool, *, whole: bool) -> None:
    if not as_json:
        shared.print_outlook(outlook, whole=whole)
        return
    _output.print_json({
        **outlook.to_dict(), "specification": outlook.plan.rendered,
        "offers": [vars(offer) for offer in outlook.plan.offers],
        "transfers": [vars(item) for item in outlook.transfers],
        "secrets": list(outlook.spec.secrets), "warnings": list(outlook.warnings),
    })  # fmt: skip


def _run_of(job: Job) -> str:
    return f"{job.spec.task.run_name}/{job.spec.task.run_id}"


for _command in (remote_setup.offers, remote_jobs.status, remote_jobs.logs, remote_jobs.wait,
                 remote_jobs.stop, remote_jobs.cost, remote_setup.setup,
                 remote_setup.doctor, remote_convert.convert):  # fmt: skip
    app.command()(_command)
app.command("list")(remote_jobs.list_jobs)
