"""`ups data push`, `pull`, `publish` and `deprecate`: converted versions to and from remotes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Dataset, Json, Version
from ups.errors import ConfigError, UpsError

Datasets = Annotated[list[str], typer.Argument(help="Keys of datasets: ups data list.")]
To = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="REMOTE", help="Name of a remote, or a folder.", show_default="the default"
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="REMOTE", help="Name of a remote, or a folder.",
        show_default="the default",
    ),
]  # fmt: skip
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")]


def push(
    dataset: Dataset,
    version: Version = "latest",
    to: To = None,
    dry_run: DryRun = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read back what is there; send again what is wrong.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Afterwards read back every byte.")
    ] = False,
) -> None:
    """Send a converted version to a remote. Readers see all of it or nothing.

    What is there already is not sent again. A push that was cut off goes on where it was.
    """
    from ups.cli.data_download import ByteBars
    from ups.data.versions import find_version, version_of
    from ups.transfer import datasets
    from ups.transfer.remotes import find_remote

    remote = find_remote(to)
    version = version_of(find_version(dataset, version))
    with ByteBars() as bars:
        pushed = datasets.push_dataset(
            dataset, version, remote, dry_run=dry_run, repair=repair,
            progress=lambda done, total: bars("push", done, total),
        )  # fmt: skip
    _output.summary("push", _pushed(pushed, f"{dataset}/{version}", remote, dry_run))
    if verify and not dry_run:
        with ByteBars() as bars:
            size = datasets.verify_dataset(
                dataset, version, remote, lambda done, total: bars("verify", done, total)
            )
        _output.summary("verify", f"read back {_output.size(size)}, every byte is right")


def _pushed(pushed: Any, name: str, remote: Any, dry_run: bool) -> str:
    where = f"{remote.describe()}: {pushed.place.partition('/manifest-')[0]}"
    if pushed.manifest_sha256 and not pushed.sent_bytes:
        return f"{name}: already there, nothing sent -> {where}"
    sent, verb = _output.size(pushed.sent_bytes), "would send" if dry_run else "sent"
    there = f", {_output.size(pushed.present_bytes)} were there" if pushed.present_bytes else ""
    return f"{name}: {verb} {sent} in {pushed.objects} objects{there} -> {where}"


def pull(
    dataset: Datasets,
    version: Annotated[
        str | None,
        typer.Option(help="Which one.", show_default="the card's, else the newest there"),
    ] = None,
    splits: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Of train,valid,test only these.", show_default="all"),
    ] = None,
    first: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="The first N trajectories of every split."),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(metavar="small", help="The first 16 trajectories of every split."),
    ] = None,
    source: From = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched; fetch nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch converted versions from a remote: verified, resumable, several at once.

    Parts are enough to work with; what is missing says so when it is read.
    """
    from ups.cli.data_download import ByteBars
    from ups.transfer import datasets

    part = datasets.Part.of(splits, first, subset)
    with ByteBars() as bars:
        outcomes = datasets.pull_datasets(
            dataset, source, version=version, part=part, progress=bars, dry_run=dry_run
        )
    if as_json:
        _output.print_json([_outcome_json(outcome) for outcome in outcomes if outcome.arrived])
    _report(outcomes, dry_run, quiet=as_json)


def _report(outcomes: list[Any], dry_run: bool, *, quiet: bool) -> None:
    """One line for each dataset; the first failure ends the command after them."""
    failed: list[UpsError] = [outcome.error for outcome in outcomes if outcome.error]
    for outcome in outcomes:
        if outcome.arrived and not quiet:
            _output.summary("pull", _arrived(outcome, dry_run))
        if outcome.deprecated is not None:
            name = outcome.arrived.version.name
            typer.secho(f"warning: {name} is deprecated: {outcome.deprecated}", err=True)
    for error in failed[1:]:
        typer.secho(f"error: {error}", fg="red", err=True)
    if failed:
        raise failed[0]


def _arrived(outcome: Any, dry_run: bool) -> str:
    arrived = outcome.arrived
    which = "" if outcome.named else " (the newest there)"
    name, size = f"{arrived.version.name}{which}", _output.size(arrived.received_bytes)
    if not arrived.received_bytes and (dry_run or arrived.here == arrived.trajectories):
        return f"{name}: already here, nothing transferred"
    if dry_run:
        return f"{name}: would fetch {size} into {paths.display(arrived.path)}"
    what = f"fetched {size}" if arrived.received_bytes else "nothing transferred"
    whole = arrived.here == arrived.trajectories
    count = str(arrived.here) if whole else f"{arrived.here} of {arrived.trajectories}"
    return f"{name}: {what}, verified; {count} trajectories -> {paths.display(arrived.path)}"


def _outcome_json(outcome: Any) -> dict[str, Any]:
    arrived = outcome.arrived
    return {
        "dataset": outcome.key,
        "version": arrived.version.version,
        "path": str(arrived.path),
        "received_bytes": arrived.received_bytes,
        "here": arrived.here,
        "trajectories": arrived.trajectories,
        "deprecated": outcome.deprecated,
    }


def publish(
    dataset: Dataset, version: Version = "latest", to: To = None, dry_run: DryRun = False
) -> None:
    """Audit a version, push it, read it back, and enter it into the registry card.

    Without a version, raw files that are here are converted first.
    """
    from ups.pipeline import publish as publishing
    from ups.transfer.remotes import find_remote

    remote = find_remote(to)
    with _output.Bars() as bars:

        def tell(what: str, done: int, total: int) -> None:
            unit = 10**6 if what in ("push", "verify") else 1
            bars(what, done // unit, -(-total // unit), "MB" if unit > 1 else "")
            if done == total:
                bars.close(what)

        done = publishing.publish(dataset, remote, version=version, progress=tell, dry_run=dry_run)
    _output.summary("audit", _audited(done.findings))
    _output.summary("push", _pushed(done.pushed, done.store, remote, dry_run))
    if done.entry is None:
        return
    _output.summary("verify", f"read back {_output.size(done.verified_bytes)}, all right")
    if done.card is None:
        typer.echo(f"artefacts:\n  - {publishing.snippet(done.entry)}")
        raise ConfigError(
            f"{done.store}: published, but not entered into the registry card: {done.problem}",
            hint=f"add the lines above to registry/{dataset}.yaml of a checkout",
        )
    _output.summary("card", f"{paths.display(done.card)}: version {done.entry.version}")


def _audited(findings: Any) -> str:
    warned = [finding.check for finding in findings if finding.verdict == "warn"]
    return f"{len(findings)} checks, none failed" + (
        f"; warnings: {', '.join(warned)}" * bool(warned)
    )


def deprecate(
    dataset: Dataset,
    version: Annotated[str, typer.Option(help="Version on the remote.")],
    reason: Annotated[str, typer.Option(help="Why it is not to be used; readers see it.")],
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="REMOTE", help="Which remote.", show_default="the default"),
    ] = None,
) -> None:
    """Mark a version on a remote as not to be used. It stays until ups data prune --on."""
    from ups.transfer import datasets
    from ups.transfer.remotes import find_remote

    remote = find_remote(on)
    found = datasets.deprecate_dataset(dataset, version, reason, remote)
    _output.summary("deprecate", f"{dataset}/{version}: {remote.describe()}: {found.place}")
