"""`ups remote offers`, `setup` and `doctor`: engines and their machines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ups.cli import _output
from ups.cli import _remote_options as shared
from ups.cli._options import Json
from ups.cli._remote_options import EngineChoice, EngineOption, Gpu, MaxPrice, Nodes, Options, Spot
from ups.errors import RemoteError, UpsError, UsageError

if TYPE_CHECKING:
    from ups.remote.doctor import Audit
    from ups.remote.driver import Offer
    from ups.remote.engines import Engine
    from ups.remote.spec import EngineName


def offers(
    gpu: Gpu = "none",
    engine: EngineOption = EngineChoice.auto,
    options: Options = None,
    spot: Spot = False,
    nodes: Nodes = 1,
    disk: Annotated[int, typer.Option(min=1, metavar="GB", help="Of each machine.")] = 100,
    max_price: MaxPrice = None,
    limit: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 20,
    as_json: Json = False,
) -> None:
    """Show machines that could be had now, cheapest first, of every engine."""
    from ups.remote.prepare import any_job

    found: list[Offer] = []
    problems: list[str] = []
    for one in _asked(engine, options):
        spec = any_job(one, gpu, spot=spot, nodes=nodes, disk_gb=disk)
        try:
            found += one.driver().offers(spec)
        except UpsError as error:
            problems.append(f"{one.name}: {error}")
    found = sorted(
        (offer for offer in found if max_price is None or offer.price <= max_price),
        key=lambda offer: offer.price,
    )
    if problems and not found:
        raise RemoteError("; ".join(problems), hint="ups remote doctor")
    if as_json:
        _output.print_json({"offers": [vars(offer) for offer in found], "problems": problems})
        return
    shared.print_offers(found, limit)
    if not found:
        _output.summary("offers", "no machine fits")
    for problem in problems:
        _output.summary("warning", problem)


def _asked(engine: EngineChoice, options: list[str] | None) -> list[Engine]:
    """The engine that is named; else all that can be used."""
    from ups.remote import engines

    given = shared.parsed(options)
    if engine is EngineChoice.auto and not given and (known := engines.usable()):
        return known
    return [engines.choose(engine.value, given)]


def setup(
    backends: Annotated[
        list[str] | None,
        typer.Argument(help="Clouds.", show_default="those whose keys are in the environment"),
    ] = None,
    engine: EngineOption = EngineChoice.dstack,
    options: Options = None,
    stop_server: Annotated[
        bool, typer.Option("--stop-server", help="End the dstack server that runs here.")
    ] = False,
) -> None:
    """Make an engine ready; again changes nothing.

    Clouds: starts a dstack server on this machine, hands over keys (VASTAI_API_KEY,
    VULTR_API_KEY, ...) and makes an empty fleet. With --engine ssh or slurm, the options are
    checked and kept in UPS_HOME/remote.yaml.
    """
    match engine:
        case EngineChoice.auto:
            raise UsageError("--engine auto: name the engine that is to be set up")
        case EngineChoice.ssh | EngineChoice.slurm:
            if backends or stop_server:
                raise UsageError("backends and --stop-server belong to --engine dstack")
            _keep("ssh" if engine is EngineChoice.ssh else "slurm", shared.parsed(options))
        case _:
            _set_up_dstack(backends, stop_server)


def _set_up_dstack(backends: list[str] | None, stop_server: bool) -> None:
    from ups.remote import dstack_setup

    if stop_server:
        stopped = dstack_setup.stop_server()
        _output.summary("server", "stopped" if stopped else "none of ours is running")
        return
    done = dstack_setup.setup(backends or None, say=lambda line: _output.summary("setup", line))
    _output.summary("server", done.url)
    _output.summary("backends", ", ".join(done.backends) or "none")
    for warning in done.warnings:
        _output.summary("warning", warning)


def _keep(name: EngineName, options: dict[str, str]) -> None:
    from ups import paths
    from ups.remote import drivers
    from ups.remote.engines import Engine
    from ups.remote.prepare import any_job
    from ups.remote.settings import load_settings, save_settings, settings_file

    settings = load_settings()
    merged = {**settings.options.get(name, {}), **options}
    found = drivers.driver_of(name, merged).offers(any_job(Engine(name, merged), "none"))
    save_settings(settings.model_copy(update={"options": {**settings.options, name: merged}}))
    shared.print_offers(found, shared.MIN_OFFERS)
    _output.summary("kept", f"{name} in {paths.display(settings_file())}")


def doctor(
    remove: Annotated[
        bool, typer.Option("--remove", help="Give machines back that serve no job.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --remove.")] = False,
    as_json: Json = False,
) -> None:
    """Look for machines that belong to no job that runs, and complete records.

    Exit code 6 says that such machines are left, or that an engine does not answer.
    """
    from ups.remote import doctor as auditing

    found = auditing.audit()
    if remove and (found.leaks or found.failed):
        _show(found)
        _confirm(len(found.leaks), yes)
        found = auditing.audit(remove=True)
    if as_json:
        _output.print_json({
            "engines": list(found.engines), "unreachable": found.unreachable,
            "completed": list(found.found), "removed": list(found.removed),
            "failed": list(found.failed),
            "machines": [{**vars(one.machine), "verdict": one.verdict} for one in found.held],
        })  # fmt: skip
    else:
        _show(found)
    if found.leaks or found.unreachable or found.failed:
        hint = "ups remote doctor --remove" if found.leaks or found.failed else None
        raise RemoteError(_problems(found), hint=hint)
    if not as_json:
        _output.summary("healthy", "every machine belongs to a job that runs")


def _show(found: Audit) -> None:
    for name in found.engines:
        _output.summary("engine", f"{name}: {found.unreachable.get(name, 'answers')}")
    for line in found.found:
        _output.summary("job", line)
    for name in found.removed:
        _output.summary("removed", name)
    for line in found.failed:
        _output.summary("warning", line)
    if found.held:
        _output.print_table(
            "",
            ["engine", "machine~", "job", "", ">an hour", ">age"],
            [[one.machine.engine, one.machine.name, one.machine.job or "-", one.verdict,
              shared.dollars(one.machine.price), _output.age(one.machine.age_s)]
             for one in found.held],
        )  # fmt: skip


def _problems(found: Audit) -> str:
    parts = [f"{len(found.leaks)} machines belong to no job that runs"] if found.leaks else []
    parts += [f"{name} does not answer" for name in found.unreachable]
    parts += [f"{len(found.failed)} things could not be done"] if found.failed else []
    return "; ".join(parts)


def _confirm(count: int, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            f"--remove: would end {count} machines that another of your computers may use",
            hint="--yes if none has",
        )
    if not typer.confirm("Another of your computers may have launched them. End them?"):
        raise typer.Exit(0)
