"""`ups data list` and `ups data info`: what there is, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ups.cli import _output
from ups.cli._options import Dataset, InPlace, Json

_MOST_FILES = 20


def list_datasets(
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table of the cards.")
    ] = False,
) -> None:
    """List all datasets, with the versions converted on this machine."""
    from ups import registry
    from ups.data.versions import list_versions

    cards = [registry.load_card(key) for key in registry.dataset_keys()]
    rows = [{"key": c.key, "title": c.title, "kind": c.discretisation.kind, "dims": c.num_dims,
             "fields": c.field_names, "published_files": len(c.source.files),
             "generated": c.generator is not None, "versions": list_versions(c.key)}
            for c in cards]  # fmt: skip
    if as_json:
        _output.print_json(rows)
        return
    if markdown:
        typer.echo("\n".join(_markdown(cards)))
        return
    _output.print_table(
        "",
        ["dataset", "on", ">files", "made", ">here", "title~"],
        [[card.key, f"{card.num_dims}D {card.discretisation.kind}",
          str(len(card.source.files) or "-"), "yes" if card.generator else "-",
          str(len(list_versions(card.key)) or "-"), card.title] for card in cards],
    )  # fmt: skip
    typer.echo("\nfiles: published originals, ups data download. made: ups data generate.\n"
               "here: converted versions on this machine, ups data info KEY.")  # fmt: skip


def _markdown(cards: list[Any]) -> list[str]:
    lines = ["| dataset | title | on | parameters | published files | generator |",
             "|---|---|---|---|---:|---|"]  # fmt: skip
    for card in cards:
        on = f"{card.num_dims}D {card.discretisation.kind}"
        names = ", ".join(card.parameter_names) or "-"
        files = str(len(card.source.files) or "-")
        made = "yes" if card.generator else "-"
        lines.append(f"| {card.key} | {card.title} | {on} | {names} | {files} | {made} |")
    return lines


def info(
    dataset: Dataset,
    all_files: Annotated[
        bool, typer.Option("--files", help="List every published file, however many.")
    ] = False,
    source: InPlace = None,
    as_json: Json = False,
) -> None:
    """Show a dataset's card: equation, fields, files, licence, known issues, versions.

    With --from: which versions a remote has, how large they are, and what is in the newest.
    """
    if source is not None:
        from ups.cli._in_place import info_of

        info_of(dataset, source, as_json=as_json, show=print_version)
        return
    from ups import registry
    from ups.data.download.originals import checksum_state
    from ups.data.versions import list_versions

    card = registry.load_card(dataset)
    states = {file.name: checksum_state(card, file) for file in card.source.files}
    if as_json:
        content = {**card.model_dump(mode="json"), "versions": list_versions(dataset)}
        _output.print_json(content | {"checksums": states})
        return
    _output.print_table("", ["", ""], [[key, text] for key, text in _facts(card)])
    for name in list_versions(dataset):
        print_version(dataset, name)
    _print_files(card, states, all_files)


def _facts(card: Any) -> list[tuple[str, str]]:
    return [
        ("title", card.title or card.key),
        *([("about", card.description)] if card.description else []),
        ("equation", card.pde.equation + (f"   ({card.pde.notes})" if card.pde.notes else "")),
        ("domain", _domain(card)),
        ("published" if card.source.files else "size", _published(card)),
        ("fields", "; ".join(_field(field) for field in card.fields)),
        *([("inputs", "; ".join(_field(field) for field in card.inputs))] if card.inputs else []),
        *[(p.name, _parameter(p, card)) for p in card.parameters],
        ("splits", _splits_in_words(card)),
        ("source", ", doi ".join(filter(None, (card.source.name, card.source.doi))) or "your own"),
        ("licence", card.source.licence),
        ("cite", card.source.citation),
        *[("issue", _issue(issue)) for issue in card.known_issues],
    ]


def _domain(card: Any) -> str:
    return ", ".join(
        f"{a.name} in ({a.bounds[0]:g}, {a.bounds[1]:g}){_unit(a.unit)} {a.boundaries}"
        for a in card.discretisation.axes
    )


def _unit(unit: str) -> str:
    return "" if unit == "1" else f" {unit}"


def _field(field: Any) -> str:
    return f"{field.name} ({field.description}{', ' + field.unit if field.unit != '1' else ''})"


def _parameter(parameter: Any, card: Any) -> str:
    low, high = parameter.range
    values = sorted({f.parameters[parameter.name] for f in card.source.files
                     if parameter.name in f.parameters})  # fmt: skip
    listed = f"; published: {', '.join(f'{v:g}' for v in values)}" if values else ""
    drawn = card.generator is not None and parameter.name in card.generator.drawn
    how = "; drawn for each trajectory" if drawn else listed
    return f"{parameter.description} {low:g} to {high:g}{_unit(parameter.unit)}{how}"


def _issue(issue: Any) -> str:
    reference = f" [{issue.reference}]" if issue.reference else ""
    return f"{issue.id}: {issue.summary} {issue.consequence}{reference}"


def _published(card: Any) -> str:
    disc = card.discretisation
    sizes = {file.points or tuple(axis.points for axis in disc.axes) for file in card.source.files}
    shapes = sorted(" x ".join(map(str, size)) for size in sizes) or [
        " x ".join(str(axis.points) for axis in disc.axes)
    ]
    points = " or ".join(shapes) + " points"
    if disc.kind != "grid":
        points = "nodes" if disc.kind == "mesh" else "particles"
        points = f"{disc.nodes[0]} to {disc.nodes[1]} {points}" if disc.nodes else points
    counts = sorted({f.trajectories for f in card.source.files if f.trajectories})
    each = f"{' or '.join(map(str, counts))} trajectories a file, " if counts else ""
    step = f", dt {card.time.step:g}{_unit(card.time.unit)}" if card.time.step else ""
    return f"{each}{points}, {card.time.frames} frame{'s' * (card.time.frames > 1)}{step}"


def _splits_in_words(card: Any) -> str:
    rule = card.splits
    test = {"by_folder": "the publisher's, by folder"}.get(
        rule.test, f"{rule.test.replace('_', ' ')} of each file"
    )
    how = "its end" if rule.valid == "last" else "drawn by a hash"
    valid = f"validation: {rule.valid_fraction:.0%} out of the rest, {how}; "
    return (
        f"test: {test}; {valid if rule.test != 'by_folder' else ''}"
        f"kept apart by {rule.kept_apart_by.replace('_', ' ')}"
    )


def print_version(dataset: str, name: str) -> None:
    from ups.data.versions import open_store

    store = open_store(dataset, name)
    part = store.presence
    some = (
        "" if part is None else f"{int(part.here.sum())} of {len(part.here)} trajectories are here"
    )
    counts = ", ".join(f"{split} {len(store.split(split))}" for split in ("train", "valid", "test"))
    rows = [
        [
            field,
            *(f"{store.statistics[key][i]:.4g}" for key in ("mean", "std", "rms", "min", "max")),
        ]
        for i, field in enumerate(store.metadata.fields)
    ]
    typer.echo(f"\nVersion {name}: {store.num_trajectories} trajectories ({counts}), "
               f"{store.num_frames} frames; statistics of the training split")  # fmt: skip
    if some:
        typer.echo(f"{some}; the rest: ups data pull {dataset} --version {name}")
    _output.print_table("", ["field", ">mean", ">std", ">rms", ">min", ">max"], rows)


def _size(card: Any, file: Any) -> str:
    if file.size_bytes:
        return _output.size(file.size_bytes)
    payload = card.payload_bytes(file)
    return f"~{_output.size(payload)}" if payload else "unknown"


def _print_files(card: Any, states: Mapping[str, str], all_files: bool) -> None:
    files = card.source.files
    if not files:
        return
    shown = files if all_files or len(files) <= _MOST_FILES else files[:_MOST_FILES]
    _output.print_table(
        "\nPublished files (~ size from the shape)",
        ["file", ">size", "md5", "here"],
        [[f.name, _size(card, f), f.md5, states[f.name]] for f in shown],
    )  # fmt: skip
    if len(shown) < len(files):
        typer.echo(f"and {len(files) - len(shown)} more: ups data info {card.key} --files")
