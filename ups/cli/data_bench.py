"""`ups data bench`: whether this machine's disk or the loader would limit training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ups.cli import _output
from ups.cli._options import Json
from ups.errors import UsageError

if TYPE_CHECKING:
    from ups.data.reading.bench import Ratio, Speed
    from ups.data.reading.mixing import Mixture
    from ups.data.reading.symmetries import Augmentation
    from ups.data.reading.windows import Windows


def bench(
    datasets: Annotated[
        list[str],
        typer.Argument(metavar="KEY...", help="Datasets, each KEY or KEY/VERSION: ups data list."),
    ],
    weights: Annotated[
        str, typer.Option(help="Mixing: uniform, size, or KEY=WEIGHT,KEY=WEIGHT.")
    ] = "uniform",
    workers: Annotated[int, typer.Option(min=1, help="Processes, compared with none.")] = 4,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows in a batch.")] = 64,
    history: Annotated[int, typer.Option(min=0, help="Frames given.")] = 1,
    horizon: Annotated[int, typer.Option(min=0, help="Frames to be predicted.")] = 4,
    augment: Annotated[
        str, typer.Option(help="shift,reflection,rotation,noise=0.01; where the card allows it.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.01, help="For each measurement.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Measure how fast training windows of converted data are read and mixed."""
    from ups.data.reading.symmetries import Augmentation

    asked = Augmentation.parse(augment)
    plain = [_windows(key, history, horizon, None) for key in datasets]
    tasks = [_windows(key, history, horizon, asked) for key in datasets]
    mixture = _mixture(tasks, weights)
    ratios = [_ratio(task, batch_size, seconds) for task in plain]
    speeds = [_speed(mixture, batch_size, count, seconds) for count in (0, workers)]
    if as_json:
        _output.print_json(_record(tasks, mixture, ratios, speeds, batch_size))
        return
    _print_tasks(tasks, mixture, ratios, speeds)
    _print_speeds(speeds, batch_size)


def _windows(key: str, history: int, horizon: int, augment: Augmentation | None) -> Windows:
    from ups.data.reading.windows import Windows
    from ups.data.versions import open_store
    from ups.registry import load_card

    dataset, _, version = key.partition("/")
    card = load_card(dataset)
    return Windows(
        open_store(dataset, version or "latest"), card, history=history, horizon=horizon,
        augment=augment, name=key,
    )  # fmt: skip


def _mixture(tasks: list[Windows], weights: str) -> Mixture:
    from ups.data.reading.mixing import Mixture

    if weights == "uniform":
        return Mixture(tasks, "uniform")
    return Mixture(tasks, "size" if weights == "size" else _parse_weights(weights))


def _parse_weights(text: str) -> dict[str, float]:
    values = {}
    for pair in text.split(","):
        name, equals, number = pair.partition("=")
        try:
            values[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise UsageError(
                f"--weights {text}: expected uniform, size or KEY=WEIGHT,...",
                hint="--weights burgers1d=2,advection1d=1",
            )
    return values


def _ratio(task: Windows, batch_size: int, seconds: float) -> Ratio | None:
    from ups.data.reading.bench import memmap_ratio

    return memmap_ratio(task, batch_size, seconds)


def _speed(mixture: Mixture, batch_size: int, workers: int, seconds: float) -> Speed:
    from ups.data.reading.bench import loader_speed

    return loader_speed(mixture, batch_size, workers, seconds)


def _print_tasks(
    tasks: list[Windows], mixture: Mixture, ratios: list[Ratio | None], speeds: list[Speed]
) -> None:
    rows = []
    for task, ratio in zip(tasks, ratios, strict=True):
        rows.append([
            task.name, task.kind, str(len(task)), _output.size(task.batch_bytes(1)),
            f"{mixture.weights[task.name]:.3f}",
            str(sum(speed.batches.get(task.name, 0) for speed in speeds)),
            f"{ratio.bytes_per_s / 1e6:.0f}" if ratio else "-",
            f"{ratio.median:.2f}" if ratio else "not mapped",
        ])  # fmt: skip
    columns = ["task", "kind", ">windows", ">of up to", ">weight", ">batches", ">MB/s", ">x memmap"]
    _output.print_table("", columns, rows)


def _print_speeds(speeds: list[Speed], batch_size: int) -> None:
    typer.echo("")
    for speed in speeds:
        who = f"{speed.workers} workers" if speed.workers else "no worker"
        _output.summary(
            who,
            f"{speed.windows_per_s:.0f} windows/s, {speed.windows_per_s / batch_size:.1f} "
            f"batches/s, {speed.bytes_per_s / 1e6:.0f} MB/s",
        )
    alone, together = speeds
    slowest = 1000 * batch_size / max(alone.windows_per_s, together.windows_per_s)
    _output.summary(
        "scaling",
        f"{together.windows_per_s / alone.windows_per_s:.2f} times as fast with workers; "
        f"reading limits training steps\n{'':9} shorter than {slowest:.2g} ms",
    )


def _record(
    tasks: list[Windows],
    mixture: Mixture,
    ratios: list[Ratio | None],
    speeds: list[Speed],
    batch_size: int,
) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "tasks": [
            {
                "task": task.name,
                "version": task.store.metadata.version,
                "kind": task.kind,
                "windows": len(task),
                "window_bytes": task.batch_bytes(1),
                "weight": mixture.weights[task.name],
                "memmap": vars(ratio) if ratio else None,
            }
            for task, ratio in zip(tasks, ratios, strict=True)
        ],
        "loader": [vars(speed) for speed in speeds],
    }
