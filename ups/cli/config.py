"""`ups config`: what an experiment says."""

from __future__ import annotations

import typer

from ups.cli import _output
from ups.cli._app import group
from ups.cli._options import ConfigOption, Overrides

app = group("Show, validate and explain configs.")


@app.command()
def show(config: ConfigOption = None, overrides: Overrides = None) -> None:
    """Print the resolved config, fit to be passed back to `ups train --config`."""
    from ups.config.loading import load_experiment, to_yaml

    typer.echo(to_yaml(load_experiment(config, overrides or [])), nl=False)


@app.command()
def validate(config: ConfigOption = None, overrides: Overrides = None) -> None:
    """Check a config without running anything."""
    from ups import registry
    from ups.config.loading import load_experiment

    experiment = load_experiment(config, overrides or [])
    for task in experiment.data.tasks:
        registry.load_card(task.dataset)
    _output.summary("valid", experiment.name)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config: every key, its meaning and its default."""
    from ups.config.loading import json_schema

    typer.echo(json_schema())
