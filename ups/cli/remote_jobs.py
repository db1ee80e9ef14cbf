"""`ups remote list`, `status`, `logs`, `wait`, `stop`, `cost`: jobs that have been launched."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups.cli import _output
from ups.cli import _remote_options as shared
from ups.cli._options import ConfigOption, Json, Overrides
from ups.cli._remote_options import EngineChoice, EngineOption, Gpu, JobArgument, MaxPrice, Options
from ups.errors import EXIT_INTERRUPTED, UpsError, UsageError

if TYPE_CHECKING:
    from ups.remote.costs import Budget
    from ups.remote.driver import Driver
    from ups.remote.records import Job

_SHOWN = 20


def list_jobs(
    everything: Annotated[bool, typer.Option("--all", help="Not only the newest 20.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="As last seen; no engine is asked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show jobs: state, machine, hours, cost so far, and totals of each project."""
    from ups.remote import costs, records

    jobs = records.load_all()
    problems: list[str] = []
    if not offline:
        jobs = _refreshed(jobs, problems)
    if as_json:
        _output.print_json({
            "jobs": [_facts(job) for job in jobs], "problems": problems,
            "totals": [vars(one) for one in costs.totals(jobs)],
        })  # fmt: skip
        return
    if not jobs:
        _output.summary("list", "no job yet: ups remote launch --help")
        return
    shown = jobs if everything else jobs[:_SHOWN]
    _output.print_table(
        "",
        ["job", "state", ">age", ">hours", ">cost", "GPU", "machine~"],
        [[job.id, shared.state_of(job), _output.age(time.time() - job.began),
          f"{costs.hours_of(job):.2f}", f"${job.cost:.2f}", str(job.spec.gpu),
          _machine(job)] for job in shown],
    )  # fmt: skip
    for one in costs.totals(jobs):
        _output.summary("project", f"{one.project}: {one.jobs} jobs, {one.running} going on, "
                        f"{one.gpu_hours:.1f} GPU h, ${one.dollars:.2f}")  # fmt: skip
    for problem in problems:
        _output.summary("warning", problem)


def status(job: JobArgument = None, as_json: Json = False) -> None:
    """Show one job: state, machine, cost, and what has happened to it."""
    from ups.remote import launch, records

    found = records.find(job)
    found = launch.refresh(found, launch.driver_for(found))
    if as_json:
        _output.print_json({**_facts(found), "events": [dict(one) for one in found.events]})
        return
    task = found.spec.task
    _output.summary("job", f"{found.id} on {found.spec.engine}, {found.spec.gpu}")
    _output.summary("run", f"{task.run_name}/{task.run_id}")
    _output.summary("state", shared.state_of(found))
    known = found.status
    if known is not None:
        if known.machine:
            _output.summary("machine", f"{known.machine}, {known.attempts} so far")
        _output.summary("time", _output.duration(known.running_s))
        _output.summary("cost", f"${found.cost:.2f} so far, at most "
                        f"{shared.dollars(found.spec.worst_cost)}")  # fmt: skip
    if found.has_ended:
        _output.summary("outcome", launch.outcome(found))
    for event in found.events:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(event["time"])))
        said = event.get("state") or event.get("reason") or ""
        _output.summary("", f"{when} {event['event']} {said}".rstrip())


def logs(
    job: JobArgument = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the job ends.")] = False,
) -> None:
    """Print a job's output from its beginning, over all its machines."""
    from ups.remote import launch, records
    from ups.remote.driver import Handle

    found = records.find(job)
    driver = launch.driver_for(found)
    found = launch.reconcile(found, driver)
    handle: Handle | None = found.handle
    if handle is None:
        _output.summary("job", f"{found.id}: {shared.state_of(found)}")
        return
    try:
        for line in driver.logs(handle, follow=follow):
            typer.echo(line)
    except KeyboardInterrupt:
        _goes_on(found)


def wait(job: JobArgument = None) -> None:
    """Wait for a job's end; exit with its code, as `ups remote launch` does."""
    from ups.remote import launch, records

    found = records.find(job)
    try:
        found = launch.wait(found, launch.driver_for(found), tell=_tell)
    except KeyboardInterrupt:
        _goes_on(found)
    _end(found)


def stop(job: JobArgument = None) -> None:
    """End a job with a checkpoint and a push, and see its machine go."""
    from ups.remote import launch, records

    found = records.find(job)
    if found.has_ended:
        _output.summary("ended", f"{found.id}: {launch.outcome(found)}")
        return
    _output.summary("stopping", found.id)
    found = launch.stop(found, launch.driver_for(found))
    _output.summary("stopped", f"{found.id}: {launch.outcome(found)}")


def watch(job: Job, driver: Driver, *, quiet: bool = False) -> None:
    """Show a job's output until it ends, and exit as it does."""
    from ups.remote import launch

    say = (lambda line: typer.echo(line, err=True)) if quiet else typer.echo
    try:
        job = launch.follow(job, driver, say, tell=_tell)
    except KeyboardInterrupt:
        _goes_on(job)
    _end(job, err=quiet)


def cost(
    job: JobArgument = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Estimate the trials of a space file.")
    ] = None,
    all_datasets: Annotated[
        bool, typer.Option("--all-datasets", help="Estimate the config of every dataset.")
    ] = False,
    config: ConfigOption = None,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="With --plan; a grid has its own.")] = 20,
    gpu: Gpu = "none",
    engine: EngineOption = EngineChoice.auto,
    options: Options = None,
    max_price: MaxPrice = None,
    as_json: Json = False,
) -> None:
    """What a job has cost, or what a sweep or all datasets would: GPU hours and money.

    The price is that of the cheapest offer, or --max-price. Hours come from runs on this machine.
    """
    if plan is None and not all_datasets:
        _print_cost(job, as_json)
        return
    if plan is not None and all_datasets:
        raise UsageError("--plan and --all-datasets exclude each other")
    from ups.remote import costs
    from ups.remote.estimates import known_speeds
    from ups.remote.gpus import parse_gpu

    counts: dict[str, int] = {}
    if plan is not None:
        jobs, counts = costs.experiments_of_plan(plan, config, overrides or (), trials)
    else:
        jobs = costs.experiments_of_all_datasets()
    price = max_price if max_price is not None else _cheapest(gpu, engine, options)
    found = costs.budget(jobs, parse_gpu(gpu), price, known_speeds("", None), counts)
    if as_json:
        _output.print_json(found.to_dict())
    else:
        _print_budget(found)


def _print_cost(name: str | None, as_json: bool) -> None:
    from ups.remote import costs, launch, records

    job = records.find(name)
    job = launch.refresh(job, launch.driver_for(job))
    if as_json:
        _output.print_json(_facts(job))
        return
    planned = job.last(records.PLANNED) or {}
    _output.summary("job", f"{job.id}: {shared.state_of(job)}")
    _output.summary("cost", f"${job.cost:.2f} for {costs.hours_of(job):.2f} h, "
                    f"{costs.gpu_hours_of(job):.2f} GPU h")  # fmt: skip
    _output.summary("planned", f"{shared.hours(planned.get('hours'))}, likely "
                    f"{shared.dollars(planned.get('likely_cost'))}, at most "
                    f"{shared.dollars(planned.get('worst_cost'))}")  # fmt: skip


def _cheapest(gpu: str, engine: EngineChoice, options: list[str] | None) -> float | None:
    """Price of the cheapest machine; None where no engine is named and none can be asked."""
    from ups.remote import engines
    from ups.remote.prepare import any_job

    try:
        chosen = engines.choose(engine.value, shared.parsed(options))
        offers = chosen.driver().offers(any_job(chosen, gpu))
    except UpsError as error:
        if engine is not EngineChoice.auto:
            raise
        typer.echo(f"warning: no price: {error}", err=True)
        return None
    return min((offer.price for offer in offers), default=None)


def _print_budget(found: Budget) -> None:
    rows = [
        [job.name, str(job.count), shared.hours(job.hours), job.estimate.quality,
         job.estimate.sources[0]] for job in found.jobs
    ]  # fmt: skip
    _output.print_table("", ["job", ">number", ">hours", "", "source~"], rows)
    price = "price unknown: --max-price" if found.price is None else (
        f"{shared.dollars(found.dollars)} at {shared.dollars(found.price)} an hour"
    )  # fmt: skip
    _output.summary("in all", f"{found.hours:.1f} h, {found.gpu_hours:.1f} GPU h: {price}")
    if found.unknown:
        _output.summary("unknown", f"{len(found.unknown)} of {len(found.jobs)} are not in the sum: "
                        "nothing like them has been trained yet")  # fmt: skip


def _refreshed(jobs: Sequence[Job], problems: list[str]) -> list[Job]:
    from concurrent.futures import ThreadPoolExecutor

    from ups.remote import launch

    def one(job: Job) -> Job:
        if job.has_ended:
            return job
        try:
            return launch.refresh(job, launch.driver_for(job))
        except UpsError as error:
            problems.append(f"{job.id}: as last seen: {error}")
            return job

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, jobs))


def _facts(job: Job) -> dict[str, Any]:
    from ups.remote import costs, launch

    return {
        "job": job.id, "project": job.spec.project, "engine": job.spec.engine,
        "run": f"{job.spec.task.run_name}/{job.spec.task.run_id}", "gpu": str(job.spec.gpu),
        "state": shared.state_of(job), "machine": _machine(job), "ended": job.has_ended,
        "exit_code": launch.exit_code_of(job) if job.has_ended else None,
        "hours": costs.hours_of(job), "gpu_hours": costs.gpu_hours_of(job), "cost": job.cost,
        "worst_cost": job.spec.worst_cost,
    }  # fmt: skip


def _machine(job: Job) -> str:
    return job.status.machine if job.status is not None else ""


def _tell(line: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


def _goes_on(job: Job) -> None:
    typer.echo(f"the job goes on; to end it: ups remote stop {job.id}", err=True)
    raise typer.Exit(EXIT_INTERRUPTED) from None


def _end(job: Job, *, err: bool = False) -> None:
    from ups.remote import launch

    code = launch.exit_code_of(job)
    line = f"{job.id}: {launch.outcome(job)}"
    if err:
        typer.echo(line, err=True)
    else:
        _output.summary("ended", line)
    if code:
        raise typer.Exit(code)
