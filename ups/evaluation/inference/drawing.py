"""A forecast as a picture, still or moving, drawn like data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.pictures import Picture, check_suffix, draw, style
from ups.data.pictures.scene import Scene
from ups.data.points import PointStore
from ups.data.store import StoreMetadata, TrajectoryStore
from ups.errors import UsageError
from ups.evaluation.inference.forecast import Forecast

Array = npt.NDArray[Any]


def draw_forecast(forecast: Forecast, path: Path, *, field: str | None = None) -> Picture:
    """Draw a forecast into a .png, .pdf, .svg, .gif or .mp4 file.

    Args:
        field: Only this one.
    Raises:
        UsageError: An ensemble, points in no order in 1D, a steady problem that should move.
        MissingExtraError: An MP4 is wanted and ffmpeg is not there.
    """
    check_suffix(path)
    if forecast.is_ensemble:
        raise UsageError(f"--out {path}: a picture shows one forecast, and there are several",
                         hint="--out with .h5, .zarr or .nc")  # fmt: skip
    if forecast.places.axes is None and forecast.card.num_dims == 1:
        raise UsageError(f"--out {path}: points in one dimension are drawn in rising order")
    store = _OnGrid(forecast) if forecast.places.axes is not None else _AtNodes(forecast)
    return draw(_ForecastScene(store, forecast.card, 0, forecast), path, field=field)


def _metadata(forecast: Forecast) -> StoreMetadata:
    axes = forecast.card.discretisation.axes
    known = {name: value for name, value in forecast.parameters.items()
             if name in forecast.card.parameter_names}  # fmt: skip
    return StoreMetadata(
        dataset=forecast.card.key, version=forecast.version, fields=forecast.card.field_names,
        parameters=tuple(known), axes=tuple(axis.name for axis in axes),
        bounds=tuple(axis.bounds for axis in axes), periodic=forecast.card.periodic,
        dt=forecast.dt, stride_x=1, stride_t=1, sources=(), split_hash="", data_sha256="",
    )  # fmt: skip


class _OnGrid(TrajectoryStore):
    """A forecast in memory as a store of one trajectory."""

    def __init__(self, forecast: Forecast) -> None:
        assert forecast.places.axes is not None
        self.path, self.metadata = Path("forecast"), _metadata(forecast)
        self.fields, self.inputs = forecast.fields[None], None
        self.coords, self.time = forecast.places.axes, forecast.times


class _AtNodes(PointStore):
    """A forecast in memory as a store of one trajectory."""

    def __init__(self, forecast: Forecast) -> None:
        self.path, self.metadata = Path("forecast"), _metadata(forecast)
        self.kind = "particles" if forecast.places.cells is None else "mesh"
        self.time, self._forecast = forecast.times, forecast

    @property
    def num_trajectories(self) -> int:
        return 1

    @property
    def num_frames(self) -> int:
        return self._forecast.num_frames

    def moves(self, trajectory: int) -> bool:
        return self._forecast.positions is not None

    def num_nodes(self, trajectory: int) -> int:
        return len(self._forecast.places.coords)

    def fields(self, trajectory: int, frames: slice = slice(None)) -> Array:
        return self._forecast.fields[frames]

    def coords(self, trajectory: int, frames: slice = slice(None)) -> Array:
        moving = self._forecast.positions
        if moving is None:
            return self._forecast.places.coords.astype(np.float32)
        return moving[frames]

    def inputs(self, trajectory: int) -> None:
        return None

    def cells(self, trajectory: int) -> Array | None:
        return self._forecast.places.cells


@dataclass(frozen=True, eq=False)
class _ForecastScene(Scene):
    """What is drawn, under a title that says whose prediction it is."""

    forecast: Forecast

    @property
    def title(self) -> str:
        found = self.forecast
        facts = [style.plain(f"{found.run} from {Path(found.start).name}")]
        symbols = {spec.name: (spec.symbol or spec.name, spec.unit)
                   for spec in self.card.parameters}  # fmt: skip
        for name in self.store.metadata.parameters:
            symbol, unit = symbols[name]
            text = f"{style.symbol(symbol)} = {style.number(found.parameters[name])}"
            facts.append(text if unit == "1" else f"{text} {style.plain(unit)}")
        return f"{style.plain(self.card.title)}: forecast\n" + "   ".join(facts)
