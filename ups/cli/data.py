"""`ups data`: what there is, and getting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._app import group
from ups.cli._options import Dataset, Json, Version
from ups.errors import DataError, UsageError

app = group("List, generate, convert and audit datasets.")


@app.command("list")
def list_datasets(as_json: Json = False) -> None:
    """List all datasets, with the versions converted on this machine."""
    from ups import registry
    from ups.data.store import list_versions

    cards = [registry.load_card(key) for key in registry.dataset_keys()]
    rows = [{"key": c.key, "title": c.title, "dims": c.num_dims, "fields": c.field_names,
             "published_files": len(c.source.files), "generated": c.generator is not None,
             "versions": list_versions(c.key)} for c in cards]  # fmt: skip
    if as_json:
        _output.print_json(rows)
        return
    _output.print_table(
        "",
        ["dataset", "title", "fields", "converted here"],
        [[card.key, card.title, ",".join(card.field_names),
          ", ".join(list_versions(card.key)) or "-"] for card in cards],
    )  # fmt: skip


@app.command()
def info(dataset: Dataset, as_json: Json = False) -> None:
    """Show a dataset's card: equation, fields, files, licence, known issues, versions."""
    from ups import registry
    from ups.data.store import list_versions

    card = registry.load_card(dataset)
    if as_json:
        _output.print_json({**card.model_dump(mode="json"), "versions": list_versions(dataset)})
        return
    axes = card.discretisation.axes
    shape = " x ".join(str(axis.points) for axis in axes)
    ranges = ", ".join(f"{a.name} in ({a.bounds[0]:g}, {a.bounds[1]:g}) {a.boundary}" for a in axes)
    facts = [
        ("title", card.title),
        ("equation", card.pde.equation + (f"   ({card.pde.notes})" if card.pde.notes else "")),
        ("domain", ranges),
        ("published", _published(card, shape)),
        ("fields", ", ".join(f"{f.name} ({f.description}, {f.unit})" for f in card.fields)),
        *[(p.name, f"{p.description} {p.range[0]:g} to {p.range[1]:g}") for p in card.parameters],
        ("splits", _splits_in_words(card)),
        ("source", f"{card.source.name}, doi {card.source.doi}, licence {card.source.licence}"),
        ("cite", card.source.citation),
        *[("issue", f"{issue.summary} {issue.consequence}") for issue in card.known_issues],
        ("here", ", ".join(list_versions(dataset)) or "not converted on this machine"),
    ]
    _output.print_table("", ["", ""], [[key, text] for key, text in facts])
    _output.print_table(
        "\nPublished files (~ size from the shape)", ["file", ">size", "md5"],
        [[f.name, _output.size(f.size_bytes) if f.size_bytes
          else "~" + _output.size(card.payload_bytes(f)), f.md5] for f in card.source.files],
    )  # fmt: skip


def _published(card: Any, shape: str) -> str:
    counts = {file.trajectories for file in card.source.files}
    each = f"{min(counts)} trajectories a file, " if len(counts) == 1 else ""
    step = f", dt {card.time.step:g} {card.time.unit}" if card.time.step else ""
    return f"{each}{shape} points, {card.time.frames} frames{step}".removesuffix(" 1")


def _splits_in_words(card: Any) -> str:
    share = card.splits.test.replace("_", " ")
    return (
        f"test: {share} of each file (PDEBench's); validation: {card.splits.valid_fraction:.0%}, "
        f"carved from training; kept apart by {card.splits.kept_apart_by.replace('_', ' ')}"
    )


@app.command()
def generate(
    dataset: Dataset,
    num_trajectories: Annotated[int, typer.Option(min=1, help="How many to make.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial conditions.")] = 0,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="PDE parameter, e.g. --param nu=0.001."),
    ] = None,
    points: Annotated[
        int | None, typer.Option(min=8, help="Grid points per axis.", show_default="as published")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=2, help="Stored frames.", show_default="as published")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the raw file.", show_default="the dataset's raw folder"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another file of the same name.")
    ] = False,
) -> None:
    """Solve the PDE and write trajectories in the published layout."""
    from ups import registry
    from ups.data.generate import generate as run

    card = registry.load_card(dataset)
    ticks: list[int] = []
    with _output.Bars() as bars:
        bar = bars.of("generate")

        def made(done: int, total: int) -> None:
            ticks.append(done)
            bar(done, total)

        path = run(
            card,
            parameters={**_defaults(card), **_parse_parameters(param or [])},
            num_trajectories=num_trajectories,
            seed=seed,
            out_dir=out or paths.raw_dir(dataset),
            points=points,
            frames=frames,
            device=device,
            force=force,
            progress=made,
        )
    state = "" if ticks else "unchanged, reused: "
    _output.summary("generate", f"{state}{num_trajectories} trajectories -> {paths.display(path)}")


def _defaults(card: Any) -> dict[str, float]:
    return card.generator.parameters if card.generator else {}


def _parse_parameters(pairs: list[str]) -> dict[str, float]:
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            values[name] = float(text)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(f"--param {pair}: expected NAME=NUMBER, for example nu=0.001")
    return values


@app.command()
def convert(
    dataset: Dataset,
    raw: Annotated[
        list[Path] | None,
        typer.Option(help="Raw files or folders.", show_default="the dataset's raw folder"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take the first N trajectories of each file.")
    ] = None,
    stride_x: Annotated[int, typer.Option(min=1, help="Keep every n-th grid point.")] = 1,
    stride_t: Annotated[int, typer.Option(min=1, help="Keep every n-th frame.")] = 1,
    version: Annotated[
        str | None,
        typer.Option(help="Name of the version.", show_default="derived, e.g. nu0.01-x4-t5"),
    ] = None,
    exclude_invalid: Annotated[
        bool, typer.Option("--exclude-invalid", help="Keep NaN trajectories out of all splits.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a version that was made differently.")
    ] = False,
) -> None:
    """Turn raw files into a trajectory store with splits and statistics."""
    from ups import registry
    from ups.data import convert as conversion

    recipe = conversion.Recipe(limit, stride_x, stride_t, exclude_invalid)
    with _output.Bars() as bars:
        result = conversion.convert(
            registry.load_card(dataset),
            raw or [],
            recipe=recipe,
            version=version,
            force=force,
            progress=bars.of("convert"),
        )
    _output.summary("convert", describe_conversion(result))


def describe_conversion(result: Any) -> str:
    """One line on a converted version."""
    store = result.store
    counts = " / ".join(str(len(store.split(name))) for name in ("train", "valid", "test"))
    space = " x ".join(str(n) for n in store.space)
    return (
        f"{'unchanged, reused: ' if result.reused else ''}{store.name}: "
        f"{store.num_trajectories} x {store.num_frames} frames x {space} points, "
        f"train / valid / test {counts} -> {paths.display(store.path)}"
    )


@app.command()
def audit(dataset: Dataset, version: Version = "latest", as_json: Json = False) -> None:
    """Look for what is wrong: NaN, leaks, constant fields, changed bytes, wrong statistics."""
    from ups import registry
    from ups.data import audit as auditing
    from ups.data.store import TrajectoryStore

    store = TrajectoryStore.open(dataset, version)
    with _output.Bars() as bars:
        findings = auditing.audit(store, registry.load_card(dataset), bars.of("audit"))
    if as_json:
        _output.print_json([vars(finding) for finding in findings])
    else:
        marks = {"ok": "[green]ok[/]", "note": "note", "warn": "[yellow]warn[/]",
                 "fail": "[red]fail[/]"}  # fmt: skip
        rows = [[marks[f.verdict], f.check, f.detail] for f in findings]
        _output.print_table(f"{store.name}", ["", "check", "finding"], rows)
    failed = [finding.check for finding in findings if finding.verdict == "fail"]
    if failed:
        raise DataError(
            f"{store.path}: audit failed: {', '.join(failed)}",
            hint=f"mend or replace the raw files, then: ups data convert {dataset} --force",
        )
