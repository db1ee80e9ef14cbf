"""`ups remotes`: the places that data, caches and runs travel to."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ups.cli import _output
from ups.cli._app import group
from ups.cli._options import Json

if TYPE_CHECKING:
    from ups.transfer.remotes import Remote

app = group("Places that data, caches and runs travel to: buckets, servers, folders, W&B.")

_CLOCK_OFF_S = 60


class Kind(StrEnum):
    b2 = "b2"
    s3 = "s3"
    gcs = "gcs"
    sftp = "sftp"
    local = "local"
    rclone = "rclone"
    wandb = "wandb"


Name = Annotated[
    str | None,
    typer.Argument(
        help="Name, folder, or NAME:PATH of rclone's own config.", show_default="the default"
    ),
]


@app.command("list")
def list_remotes(as_json: Json = False) -> None:
    """Show the remotes that have a name, and whether their credentials are set.

    Credentials are shown by the names of their environment variables only. Without an entry there
    are also: any folder by its path, NAME:PATH of rclone's own config, and wandb.
    """
    from ups.transfer import remotes

    known = remotes.load()
    if as_json:
        _output.print_json([
            {"name": remote.name, "kind": remote.kind, "where": remote.describe(),
             "credentials": _credentials(remote), "default": remote.name == known.default}
            for remote in known.remotes.values()
        ])  # fmt: skip
        return
    if not known.remotes:
        _output.summary("empty", "no remote is configured; ups remotes add --help")
        return
    rows = [
        [remote.name + (" *" if remote.name == known.default else ""), remote.kind,
         remote.describe(),
         ", ".join(f"{name} {state}" for name, state in _credentials(remote).items()) or "-"]
        for remote in known.remotes.values()
    ]  # fmt: skip
    _output.print_table("", ["name", "kind", "where", "credentials"], rows)
    typer.echo("\n* the default")


def _credentials(remote: Remote) -> dict[str, str]:
    names = remote.credentials()
    return {name: "set" if os.environ.get(name) else "missing" for name in names}


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Letters, digits, - and _.")],
    kind: Annotated[Kind, typer.Option(help="What kind of place.")],
    bucket: Annotated[str | None, typer.Option(help="Of b2, s3 and gcs.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Folder in the bucket.")] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="Of an S3 server.", show_default="AWS; b2: $B2_S3_ENDPOINT")
    ] = None,
    region: Annotated[str | None, typer.Option(help="Of b2 and s3.")] = None,
    path: Annotated[
        str | None,
        typer.Option(
            "--path",
            "--folder",
            help="Folder of local and sftp; NAME:PATH of rclone's own config; ENTITY/PROJECT of "
            "wandb.",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Of sftp.")] = None,
    user: Annotated[str | None, typer.Option(help="Of sftp.")] = None,
    port: Annotated[int | None, typer.Option(help="Of sftp.", show_default="22")] = None,
    key_file: Annotated[
        str | None, typer.Option(help="Private key for sftp.", show_default="the SSH agent")
    ] = None,
    known_hosts: Annotated[
        str | None, typer.Option(help="What sftp trusts.", show_default="~/.ssh/known_hosts")
    ] = None,
    key_id_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE", help="Name of the variable that holds the key's id.",
            show_default="B2_KEY_ID or AWS_ACCESS_KEY_ID",
        ),
    ] = None,
    secret_env: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE", help="Name of the variable that holds the secret.",
            show_default="B2_APP_KEY or AWS_SECRET_ACCESS_KEY",
        ),
    ] = None,
    default: Annotated[
        bool, typer.Option("--default", help="Meant where no remote is named.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of one of this name.")
    ] = False,
) -> None:  # fmt: skip
    """Give a place a name. Secrets stay in the environment; ups never asks for or stores one.

    The first remote becomes the default; UPS_REMOTE names another one for a while.
    """
    from ups.transfer import remotes

    options = {
        "bucket": bucket, "prefix": prefix, "endpoint": endpoint, "region": region, "folder": path,
        "host": host, "user": user, "port": port, "key_file": key_file,
        "known_hosts": known_hosts, "key_id_env": key_id_env, "secret_env": secret_env,
    }  # fmt: skip
    given = {key: value for key, value in options.items() if value is not None}
    remote = remotes.make(name, kind=kind.value, **given)
    remotes.add(remote, default=default, replace_it=replace)
    _output.summary("added", f"{remote.name}: {remote.describe()}")
    missing = [key for key, state in _credentials(remote).items() if state == "missing"]
    if missing:
        _output.summary("missing", f"set {' and '.join(missing)} before using it")
    _output.summary("next", f"ups remotes check {remote.name}")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of a remote.")]) -> None:
    """Forget a remote. What is stored there stays."""
    from ups.transfer import remotes

    remotes.remove(name)
    _output.summary("removed", f"{name}; what is stored there stays")


@app.command()
def check(name: Name = None, as_json: Json = False) -> None:
    """List, write, read back and delete a small file; compare the clocks.

    Exit code 6 and one line when a step fails.
    """
    from ups.transfer.check import check as check_remote
    from ups.transfer.remotes import find_remote

    result = check_remote(find_remote(name))
    if as_json:
        _output.print_json(vars(result))
        return
    steps = ", ".join(f"{step} {1000 * value:.0f} ms" for step, value in result.seconds.items())
    _output.summary("remote", f"{result.remote}: {result.place}")
    _output.summary("works", steps)
    if result.clock_s is not None:
        off = "; set this machine's clock" if abs(result.clock_s) > _CLOCK_OFF_S else ""
        _output.summary("clock", f"the server's is {result.clock_s:+.0f} s from here{off}")


@app.command()
def clean(
    name: Name = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed; remove nothing.")
    ] = False,
) -> None:
    """Remove what cut-off pushes left: unfinished uploads, and objects older than a day that no
    manifest names. Do not run it while somebody pushes there.
    """
    from ups.transfer.clean import clean as clean_remote
    from ups.transfer.remotes import find_remote

    remote = find_remote(name)
    result = clean_remote(remote, dry_run=dry_run, notice=lambda line: typer.echo(line, err=True))
    for place in (*result.uploads, *result.objects):
        typer.echo(place)
    verb = "would remove" if dry_run else "removed"
    _output.summary(
        "clean",
        f"{verb} {len(result.uploads)} unfinished uploads and {len(result.objects)} objects, "
        f"{_output.size(result.size)}, of {remote.name}",
    )
