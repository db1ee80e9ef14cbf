"""`ups infer`: a user's own initial state in, a rollout out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ups import paths
from ups.cli import _output
from ups.cli._options import Device, RunArgument, StageOption
from ups.errors import UsageError


def infer(
    run: RunArgument = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", help="Initial state: .npy, .npz, .h5 or .nc, physical units."),
    ] = None,
    trajectory: Annotated[
        int | None, typer.Option(min=0, help="A trajectory of the run's data, instead.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Count --trajectory inside train, valid or test.")
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Frames to predict.", show_default="to the end of --trajectory"),
    ] = None,
    points: Annotated[
        str | None,
        typer.Option(
            metavar="grid:NX[xNY..]|FILE",
            help="Where to decode: cell centres of a grid, or points or a mesh in a file.",
            show_default="where the input is",
        ),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A PDE parameter: nu=0.01.")
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=2, help="Draw an ensemble; needs a residual model.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the ensemble's noise.")] = 0,
    out: Annotated[
        Path,
        typer.Option(help="Forecast: .h5, .zarr, .nc, .gif, .mp4, .png, .pdf or .svg."),
    ] = Path("forecast.h5"),
    field: Annotated[
        str | None, typer.Option(help="The one to draw.", show_default="all of them")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="One task of several.", show_default="the only one")
    ] = None,
    stage: StageOption = None,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Accept values beyond those trained on.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    device: Device = "auto",
) -> None:
    """Predict from an initial state of your own, and write the rollout.

    The file holds fields named as in the dataset's card (ups data info), or all of them in
    'fields', (*space, channel); with a time axis in front the frames are a history. On another
    grid of the same domain it also holds its coordinates, on a mesh 'coords' and 'cells'. Steady
    problems take what is given with them.
    """
    from ups import runs
    from ups.evaluation.inference import forecast as forecasts
    from ups.evaluation.inference import writing
    from ups.training.distributed import local_device
    from ups.training.run import stage_name

    if (source is None) == (trajectory is None):
        raise UsageError("say what to start from: --input FILE or --trajectory I")
    if source is not None and split is not None:
        raise UsageError(f"--split {split}: goes with --trajectory")
    is_picture = _checked(out, writing, force=force)
    start: Any = source if trajectory is None else forecasts.Stored(trajectory, split)
    chosen = None if stage is None else stage_name(stage)
    folder = runs.find_run(run, with_stage=chosen or runs.MODEL)
    found = forecasts.infer(
        folder, start, horizon=horizon, points=points, parameters=_parameters(param), task=task,
        stage=chosen, members=members, seed=seed, extrapolate=extrapolate,
        device=local_device(device),
    )  # fmt: skip
    if is_picture:
        from ups.evaluation.inference.drawing import draw_forecast

        draw_forecast(found, out, field=field)
    else:
        writing.write_forecast(found, out, force=force)
    _tell(found, out)


def _checked(out: Path, writing: Any, *, force: bool) -> bool:
    """Whether a picture is wanted; refuses what cannot be written before any work."""
    from ups.data.pictures import MOVING, STILLS
    from ups.errors import did_you_mean

    suffix, pictures = out.suffix.lower(), (*STILLS, *MOVING)
    if suffix not in (*writing.DATA, *pictures):
        known = (*writing.DATA, *pictures)
        raise UsageError(f"--out {out}: '{suffix}' cannot be written{did_you_mean(suffix, known)}",
                         hint=f"end it in one of {', '.join(known)}")  # fmt: skip
    writing.check_free(out, force=force)
    return suffix in pictures


def _parameters(pairs: list[str] | None) -> dict[str, float] | None:
    if not pairs:
        return None
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise UsageError(f"--param {pair}: expected NAME=NUMBER, as in nu=0.01") from None
    return found


def _tell(found: Any, out: Path) -> None:
    given = ", ".join(f"{name} = {value:g}" for name, value in found.parameters.items())
    _output.summary("from", found.start + (f", {given}" if given else ""))
    many = f"{len(found.fields)} x " if found.is_ensemble else ""
    when = "solution" if found.dt is None else (
        f"{found.num_frames} frames, {found.dt:g} apart, to t = {found.times[-1]:g}"
    )  # fmt: skip
    fields = ", ".join(found.card.field_names)
    _output.summary("forecast", f"{many}{when}: {fields} at {found.places.text} "
                                f"[dim]({_output.duration(found.seconds)})[/dim]")  # fmt: skip
    if found.error is not None:
        error, frames = found.error
        _output.summary("truth", f"nRMSE {error:.4f} of {frames} stored frame(s)")
    if found.finite_frames < found.num_frames:
        _output.summary("warning", f"not finite after {found.finite_frames} frames: it blew up")
    _output.summary("out", paths.display(out))
