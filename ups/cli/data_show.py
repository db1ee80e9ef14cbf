"""`ups data show`: look at a trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Dataset, InPlace, Json, Version


def show(
    dataset: Dataset,
    version: Version = "latest",
    trajectory: Annotated[int, typer.Option(help="Number of the trajectory.")] = 0,
    field: Annotated[
        str | None,
        typer.Option(
            help="One field or input; of a vector (velocity) its length.", show_default="all fields"
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="How many, evenly spaced.", show_default="6; moving, to 100")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(help="The only one to show; -1 is the last.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Ends in .png, .pdf, .svg, .gif or .mp4.",
            show_default="KEY-VERSION-TRAJECTORY.png",
        ),
    ] = None,
    fps: Annotated[
        int, typer.Option(min=1, max=50, help="Frames per second of a moving picture.")
    ] = 10,
    dpi: Annotated[
        int | None, typer.Option(min=20, max=600, help="Pixels per inch.", show_default="130")
    ] = None,
    arrows: Annotated[bool, typer.Option("--arrows", help="Velocities of particles.")] = False,
    source: InPlace = None,
    as_json: Json = False,
) -> None:
    """Draw a trajectory: space-time, frames, slices, meshes, particles; still or moving."""
    from ups.cli._in_place import in_place
    from ups.data.pictures import show as draw

    with in_place(source):
        picture = draw(
            dataset, version, trajectory=trajectory, field=field, frames=frames, frame=frame,
            out=out, fps=fps, dpi=dpi, arrows=arrows,
        )  # fmt: skip
    if as_json:
        _output.print_json({**vars(picture), "path": str(picture.path)})
        return
    names = ", ".join(picture.quantities)
    _output.summary(
        "show",
        f"{picture.store}: trajectory {picture.trajectory}, {names}, "
        f"{len(picture.frames)} of {picture.num_frames} frames -> {paths.display(picture.path)}",
    )
