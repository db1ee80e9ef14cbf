"""The pictures of an evaluation, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import runs
from ups.data.points import PointStore
from ups.evaluation import evaluate as evaluation
from ups.evaluation import plots
from ups.evaluation.evaluate import Evaluation
from ups.evaluation.page import Picture, write_page
from ups.evaluation.raster import Raster, raster_of
from ups.evaluation.rollout import Horizon

Array = npt.NDArray[Any]
_OF_NODES = {
    "mesh": " Each point shows its nearest node; what is far from all of them is left white.",
    "particles": " Particles are where they truly are, whatever was predicted.",
}


def write_pictures(result: Evaluation, run: Path) -> Path:
    """Draw fields, errors and losses, and write the page that shows them.

    Into `report/` and `report.html`; of one of several tasks into `report/<task>/` and
    `report-<task>.html`.

    Returns:
        The page.
    """
    folder = pictures_folder(result, run)
    pictures = [*_fields(result, folder), _errors(result, folder)]
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


def pictures_folder(result: Evaluation, run: Path) -> Path:
    """Where the pictures of an evaluation are."""
    task = result.report.run.get("task")
    return run / "report" / task if task else run / "report"


def _fields(result: Evaluation, folder: Path) -> Iterator[Picture]:
    """A picture of each field: the median and the worst trajectory."""
    store, steady = result.store, result.report.protocol.dt is None
    meta = store.metadata
    caption = (
        "Unseen problems, from what is given with them: the one with the median error, and the "
        "worst."
        if steady
        else "Unseen trajectories, predicted from the given frames alone: the one with the median "
        "error, and the worst."
    )
    chosen = plots.shown_frames(len(result.times))
    times = result.times
    examples: list[Draw] = [_plain_example] * len(result.examples)
    if isinstance(store, PointStore):
        times, caption = times[chosen], caption + _OF_NODES[store.kind]
        examples = [_of_nodes(result, one, chosen) for one in result.examples]
    for channel, name in enumerate(meta.fields):
        grid = plots.Grid(
            times=times.tolist(), bounds=meta.bounds, axes=meta.axes, field=name, is_steady=steady
        )
        drawn = [draw(one, channel) for draw, one in zip(examples, result.examples, strict=True)]
        path = plots.plot_examples(folder / f"fields_{name}.png", drawn, grid)
        yield Picture(path, f"True, predicted, error: {name}", caption)


Draw = Callable[[evaluation.Example, int], plots.Example]


def _plain_example(one: evaluation.Example, channel: int) -> plots.Example:
    """One field as it is."""
    return plots.Example(one.title, one.prediction[..., channel], one.reference[..., channel])


def _of_nodes(result: Evaluation, one: evaluation.Example, chosen: Array) -> Draw:
    """The shown frames of fields at nodes, on the pixels of a picture."""
    store, protocol = result.store, result.report.protocol
    assert isinstance(store, PointStore)
    predicted = Horizon(protocol.history, protocol.horizon, protocol.stride).frames
    frames = np.arange(store.num_frames)[predicted][chosen]
    raster = raster_of(store, one.trajectory, frames.tolist())

    def draw(example: evaluation.Example, channel: int) -> plots.Example:
        return _rastered(_plain_example(example, channel), raster, chosen)

    return draw


def _rastered(example: plots.Example, raster: Raster, chosen: Array) -> plots.Example:
    prediction, reference = example.prediction[chosen], example.reference[chosen]
    return replace(
        example,
        prediction=raster.image(prediction),
        reference=raster.image(reference),
        inside=raster.mask(reference),
    )


def _errors(result: Evaluation, folder: Path) -> Picture:
    """Over time; of steady problems, which have none, over problems."""
    curves = {name: found.nrmse_curves.numpy() for name, found in result.metrics.items()}
    if result.report.protocol.dt is None:
        errors = {name: values[:, 0] for name, values in curves.items()}
        path = plots.plot_error_shares(folder / "errors.png", errors)
        return Picture(path, "Errors", "How many unseen problems have an error below a value.")
    path = plots.plot_error_over_time(folder / "error_over_time.png", result.times.tolist(), curves)
    caption = "Median over unseen trajectories; the band holds 10 to 90 % of them."
    return Picture(path, "Error over time", caption)
