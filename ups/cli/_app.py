"""The one way out: errors become a line, a hint and an exit code here."""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.core import TyperGroup

from ups.errors import EXIT_INTERRUPTED, UpsError


class UpsGroup(TyperGroup):
    """A command group that turns `UpsError` into `error:` and `hint:` lines.

    A traceback means a bug in ups; UPS_DEBUG=1 keeps it for every error.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Commands may have two words: `ups eval export RUN` beside `ups eval RUN`."""
        words = " ".join(args[:2])
        if words in self.commands:
            return words, self.commands[words], args[2:]
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UpsError as error:
            if os.environ.get("UPS_DEBUG") == "1":
                raise
            typer.secho(_printable(f"error: {error}"), fg="red", err=True)
            if error.hint:
                typer.echo(_printable(f"hint: {error.hint}"), err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.secho("interrupted", fg="red", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _printable(text: str) -> str:
    """One line without control characters; bytes that were no text stand as question marks."""
    whole = text.encode("utf-8", errors="replace").decode("utf-8")
    return "".join(c if c.isprintable() else "?" for c in " ".join(whole.splitlines()))


def group(help_text: str) -> typer.Typer:
    """A command group with our conventions."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)
