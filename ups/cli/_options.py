"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Dataset = Annotated[str, typer.Argument(help="Key of the dataset: ups data list.")]
Version = Annotated[
    str, typer.Option("--version", help="Converted version; 'latest' is the newest.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config", help="YAML file, or the name of one in configs/.", show_default="burgers1d"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set seed=1."),
]

RunArgument = Annotated[
    str | None,
    typer.Argument(help="Folder, name/id or name of a run.", show_default="the newest"),
]
InPlace = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="REMOTE", help="Read the data there, without copying all of it.",
        show_default="this machine",
    ),
]  # fmt: skip
OnRemote = Annotated[
    str | None,
    typer.Option("--from", metavar="REMOTE", help="Those there.", show_default="this machine"),
]
StageOption = Annotated[
    str | None,
    typer.Option("--stage", help="Whose checkpoint.", show_default="the last that finished"),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
