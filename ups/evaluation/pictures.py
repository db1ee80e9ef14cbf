"""The pictures of an evaluation, and the page that shows them."""

from __future__ import annotations

from pathlib import Path

from ups import runs
from ups.evaluation import plots
from ups.evaluation.evaluate import Evaluation
from ups.evaluation.page import Picture, write_page


def write_pictures(result: Evaluation, run: Path) -> Path:
    """Draw fields, error over time and losses into `report/`, and write `report.html`.

    Returns:
        The page.
    """
    folder = run / "report"
    names = result.store.metadata.fields
    pictures = [_fields(result, folder, channel) for channel in range(len(names))]
    pictures.append(_error_over_time(result, folder))
    if records := runs.read_metrics(run / runs.METRICS):
        pictures.append(
            Picture(
                plots.plot_losses(folder / "losses.png", records),
                "Losses",
                "Above: the training loss of each stage. Below: its validation error on decoded "
                "fields, whose minimum chose the checkpoint.",
            )
        )
    return write_page(result.report, run, pictures)


def _fields(result: Evaluation, folder: Path, channel: int) -> Picture:
    meta = result.store.metadata
    name = meta.fields[channel]
    grid = plots.Grid(times=result.times.tolist(), bounds=meta.bounds, axes=meta.axes, field=name)
    examples = [
        plots.Example(one.title, one.prediction[..., channel], one.reference[..., channel])
        for one in result.examples
    ]
    path = plots.plot_examples(folder / f"fields_{name}.png", examples, grid)
    caption = "Unseen trajectories, predicted from the given frames alone: the one with the median "
    return Picture(path, f"True, predicted, error: {name}", caption + "error, and the worst.")


def _error_over_time(result: Evaluation, folder: Path) -> Picture:
    curves = {name: found.nrmse_curves.numpy() for name, found in result.metrics.items()}
    path = plots.plot_error_over_time(folder / "error_over_time.png", result.times.tolist(), curves)
    caption = "Median over unseen trajectories; the band holds 10 to 90 % of them."
    return Picture(path, "Error over time", caption)
