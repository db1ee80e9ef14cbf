"""Options and prints that the commands of `ups remote` share."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ups.cli import _output
from ups.errors import UsageError

if TYPE_CHECKING:
    from ups.remote.driver import Offer
    from ups.remote.outlook import Outlook
    from ups.remote.records import Job

MIN_OFFERS = 5


class EngineChoice(StrEnum):
    auto = "auto"
    dstack = "dstack"
    slurm = "slurm"
    ssh = "ssh"


EngineOption = Annotated[
    EngineChoice, typer.Option("--engine", help="auto: the only one that can be used from here.")
]
Gpu = Annotated[
    str, typer.Option("--gpu", help="A100, a100-80gb, 'RTX 4090', H100:2, 24GB, or none.")
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="Of the engine: host, partition, account, region, ...; may be repeated.",
    ),
]
Spot = Annotated[bool, typer.Option("--spot", help="Machines that may be taken away; cheaper.")]
Nodes = Annotated[int, typer.Option(min=1, help="Machines that train together.")]
MaxPrice = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="USD", help="Most for one machine and hour.", show_default=""),
]
JobArgument = Annotated[
    str | None,
    typer.Argument(metavar="JOB", help="Id, or its beginning.", show_default="the newest"),
]


def parsed(options: Sequence[str] | None) -> dict[str, str]:
    """`KEY=VALUE` each."""
    found = {}
    for option in options or ():
        key, equals, value = option.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"--option {option}: expected KEY=VALUE", hint="--option host=NAME")
        found[key] = value
    return found


def dollars(amount: float | None) -> str:
    """`$1.85`, `$0.004`, `free`."""
    if amount is None:
        return "unknown"
    if amount == 0:
        return "free"
    return f"${amount:.2f}" if amount >= 0.1 else f"${amount:.2g}"


def hours(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:.1f} h" if amount >= 1 else (
        _output.duration(amount * 3600)
    )  # fmt: skip


def print_offers(offers: Sequence[Offer], limit: int, title: str = "") -> None:
    """A table of the cheapest offers."""
    if not offers:
        return
    rows = [
        [one.engine, one.backend, one.region, _gpu(one), _number(one.cpus),
         "" if one.memory_gb is None else f"{one.memory_gb:g} GB",
         "spot" if one.spot else "", dollars(one.price), "" if one.available else "busy"]
        for one in offers[:limit]
    ]  # fmt: skip
    heads = ["engine", "backend", "region~", "GPU", ">cpus", ">memory", "", ">an hour", ""]
    _output.print_table(title, heads, rows)
    if len(offers) > limit:
        typer.echo(f"and {len(offers) - limit} more: --limit N")


def _gpu(offer: Offer) -> str:
    if not offer.gpu:
        return "-"
    memory = "" if offer.gpu_memory_gb is None else f" {offer.gpu_memory_gb:g}GB"
    return f"{offer.gpu}{memory}" + (f":{offer.gpu_count}" if offer.gpu_count > 1 else "")


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def print_outlook(outlook: Outlook, *, whole: bool) -> None:
    """What a launch would do.

    Args:
        whole: Also the engine's specification and the offers, as --dry-run does.
    """
    spec, offer = outlook.spec, outlook.offer
    if whole:
        typer.echo(outlook.plan.rendered.rstrip("\n"))
        typer.echo("---")
        print_offers(outlook.plan.offers, MIN_OFFERS, "Offers")
    _output.summary("job", f"{spec.id}: {spec.gpu}, {spec.nodes} "
                    f"machine{'s' * (spec.nodes > 1)}, run {spec.task.run_name}/"
                    f"{spec.task.run_id}")  # fmt: skip
    if offer is not None:
        _output.summary("machine", f"{_gpu(offer)} of {offer.backend} {offer.region}".rstrip()
                        + f", {dollars(offer.price)} an hour")  # fmt: skip
    _output.summary("hours", f"{hours(outlook.estimate.hours)}, without set-up and evaluation")
    for source in outlook.estimate.sources:
        _output.summary("", source)
    _output.summary("cost", _cost(outlook))
    for item in outlook.transfers:
        size = "missing" if item.size is None else _output.size(item.size)
        _output.summary("transfer", f"{item.what}: {item.name}, {size}")
    _output.summary("secrets", f"{', '.join(spec.secrets) or 'none'} (by name)")
    for warning in outlook.warnings:
        _output.summary("warning", warning)


def _cost(outlook: Outlook) -> str:
    spec = outlook.spec
    if spec.worst_cost is None or spec.max_price is None or spec.max_hours is None:
        return "nothing is paid" if outlook.offer is not None else "unknown"
    likely = "" if outlook.likely_cost is None else f"likely {dollars(outlook.likely_cost)}, "
    nodes = f" x {spec.nodes} machines" if spec.nodes > 1 else ""
    return (
        f"{likely}at most {dollars(spec.worst_cost)} "
        f"(${spec.max_price:g}/h x {spec.max_hours:g} h{nodes})"
    )


def state_of(job: Job) -> str:
    """A job's state in a word or two."""
    if job.is_pending:
        return "creating"
    if job.refusal or job.handle is None:
        return "not created"
    status = job.status
    if status is None:
        return "created"
    if status.state == "done":
        return "done" if status.exit_code == 0 else f"exit {status.exit_code}"
    return status.state.replace("_", " ")
