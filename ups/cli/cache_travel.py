"""`ups cache push` and `ups cache pull`: tokens on their way between machines."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Dataset, Version
from ups.cli.data_download import ByteBars
from ups.errors import UsageError

Codec = Annotated[
    str | None,
    typer.Option(
        metavar="CODEC",
        help="Whose tokens: fingerprint, name or run of a codec.",
        show_default="the newest cache",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would move; move nothing.")]


def push(
    dataset: Dataset,
    version: Version = "latest",
    codec: Codec = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="REMOTE", help="Where to.", show_default="the default remote"),
    ] = None,
    dry_run: DryRun = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read back what is there, and replace what is wrong.")
    ] = False,
) -> None:
    """Send a cache, the codec that made it, and the data but for the training trajectories.

    With these another machine trains and evaluates: ups train --stage operator --cache-from REMOTE.
    """
    from ups.cache.travel import name_of, push_cache
    from ups.training.codec_runs import parcel_of
    from ups.transfer.remotes import find_remote

    remote = find_remote(to)
    parcel = parcel_of(dataset, version, codec)
    name = name_of(parcel.cache.manifest.identity)
    with ByteBars() as bars:
        pushed = push_cache(
            parcel, remote, progress=_bar(bars, "push"), dry_run=dry_run, repair=repair
        )
    if not pushed.sent_bytes:
        _output.summary("pushed", f"{name}: on {remote.describe()} already, nothing sent")
        return
    what = "would push" if dry_run else "pushed"
    present = f", {_output.size(pushed.present_bytes)} there already" * bool(pushed.present_bytes)
    _output.summary(
        what, f"{name}: {_output.size(pushed.sent_bytes)} to {remote.describe()}{present}"
    )


def pull(
    dataset: Dataset,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", help="Of the data.", show_default="the card's, else the newest cache's"
        ),
    ] = None,
    codec: Codec = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="REMOTE", help="Where from.", show_default="the default remote"
        ),
    ] = None,
    parts: Annotated[
        str, typer.Option("--parts", help="Which of tokens, codec and data to bring.")
    ] = "tokens,codec,data",
    dry_run: DryRun = False,
) -> None:
    """Bring a cache with its codec and the held-out data. What is here already stays as it is.

    The data come without their training trajectories; ups data pull brings those.
    """
    from ups.cache import pulling
    from ups.training.codec_runs import cache_on
    from ups.transfer.remotes import find_remote

    steps = {
        "tokens": pulling.pull_tokens, "codec": pulling.pull_codec, "data": pulling.pull_data
    }  # fmt: skip
    chosen = [name.strip() for name in parts.split(",")]
    if unknown := set(chosen) - set(steps):
        raise UsageError(f"--parts {sorted(unknown)[0]}: expected {', '.join(steps)}")
    remote = find_remote(source)
    found = cache_on(remote, dataset, version, codec)
    if found.deprecated is not None:
        _output.summary("warning", f"{found.manifest.name} is deprecated: {found.deprecated}")
    _output.summary("cache", f"{found.manifest.name} on {remote.describe()}")
    for name in chosen:
        with ByteBars() as bars:
            part = steps[name](found, remote, progress=_bar(bars, name), dry_run=dry_run)
        _output.summary(name, describe_part(part, dry_run=dry_run))


def describe_part(part: Any, *, dry_run: bool = False) -> str:
    """One line on a part of a cache's artefact."""
    if not part.received_bytes:
        return f"here already: {paths.display(part.where)}"
    size = _output.size(part.received_bytes)
    return f"{'would bring ' * dry_run}{size} -> {paths.display(part.where)}"


def describe_use(use: Any, *, planned: bool = False) -> str:
    """Where a run's tokens come from: found here, pulled, or built and why."""
    identity, size = use.identity, _output.size(use.received_bytes)
    origins = {
        "here": "found here",
        "pulled": f"{'to be ' * planned}pulled from {use.detail}, {size}",
        "built": f"{'to be built' if planned else 'built now'}, {use.detail}",
    }
    return (
        f"{origins[use.origin]}: {identity.tokens} tokens x {identity.dim}, {identity.dtype} -> "
        f"{paths.display(identity.folder)}"
    )


def describe_fetched(fetched: Any) -> str:
    """What of a version was pulled because it was not here."""
    parts = ", ".join(
        f"{part.what} {_output.size(part.received_bytes)}" if part.received_bytes
        else f"{part.what} here already"
        for part in fetched.parts
    )  # fmt: skip
    return f"{fetched.version} from {fetched.remote}: {parts}"


def _bar(bars: ByteBars, what: str) -> Any:
    return lambda done, total: bars(what, done, total)
