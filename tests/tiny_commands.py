"""The command line as a user types it, in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from ups.cli.main import app


def ups(*arguments: str, code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, list(arguments))
    assert result.exit_code == code, (arguments, result.output, result.exception)
    return result
