"""A few trajectories as predicted and as they are, kept beside a report so that they can be drawn.

`report/<task>.<protocol>.npz` in the run's folder holds the median, the worst and the best
trajectory, thinned to what a picture shows: truth and error in half precision, each divided by its
largest value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ups import files
from ups.data.pictures.meshes import triangles_of
from ups.data.pictures.style import with_unit
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.errors import CheckpointError, translated_os_errors
from ups.evaluation.context import Context
from ups.evaluation.evaluate import Evaluation, Example
from ups.evaluation.report import EVALUATE, OWN
from ups.registry import FieldSpec

Array = npt.NDArray[Any]
Kind = Literal["grid", "mesh", "particles"]

FOLDER = "report"
_FORMAT = 1
_MOST = {1: (160, 512), 2: (32, 128), 3: (24, 96)}
"""Frames, and points per axis, that are kept of a grid of so many dimensions."""
_MOST_FRAMES, _MOST_NODES, _FEW_FRAMES = 32, 20_000, 4


@dataclass(frozen=True)
class View:
    """A plane that is shown: the numbers of its axes across and upwards, and where it lies."""

    axes: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class Setting:
    """What the trajectories of one task have in common.

    Attributes:
        fields: Names of the channels; `labels` have units, 'density (kg/m³)'.
        signed: Whether zero is the middle of what a field can be.
        axes: With units.
        bounds: (low, high) of each axis.
        time: Name and unit of the time axis; empty for a steady problem.
        views: One; of a 3D grid the three central planes.
        inputs: Labels of what is given with a steady problem.
    """

    kind: Kind
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    signed: tuple[bool, ...]
    axes: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    periodic: tuple[bool, ...]
    time: str
    views: tuple[View, ...]
    inputs: tuple[str, ...] = ()

    @property
    def is_steady(self) -> bool:
        return not self.time


@dataclass(frozen=True, eq=False)
class Shown:
    """One trajectory.

    Attributes:
        title: 'median trajectory (17): nRMSE 0.0123'.
        times: Of the frames that are kept.
        reference, prediction: For each view (time, *space, channel), for nodes
            (time, node, channel).
        inputs: For each view (*space, channel); empty where nothing is given.
        coords: (node, dim), or (time, node, dim) where they move; None on a grid.
        triangles: (triangle, 3), node numbers; None where there is no mesh of the plane.
    """

    title: str
    trajectory: int
    times: Array
    reference: tuple[Array, ...]
    prediction: tuple[Array, ...]
    inputs: tuple[Array, ...] = ()
    coords: Array | None = None
    triangles: Array | None = None

    def places(self, frame: int) -> Array:
        """(node, dim) at a kept frame."""
        assert self.coords is not None
        return self.coords[frame] if self.coords.ndim == 3 else self.coords


@dataclass(frozen=True)
class Examples:
    """The trajectories of one evaluation that are shown: the median first."""

    setting: Setting
    shown: tuple[Shown, ...] = field(default=())


def examples_path(run: Path, task: str, protocol_name: str = OWN) -> Path:
    """Where the examples of an evaluation are."""
    return run / FOLDER / f"{task}.{protocol_name}.npz"


def save_examples(evaluation: Evaluation) -> Path:
    """Keep what pictures of an evaluation need; a few MB at most.

    Raises:
        CheckpointError: The file cannot be written.
    """
    context = evaluation.context
    path = examples_path(context.run, context.task, context.protocol_name)
    found = examples_of(context, evaluation.examples)
    arrays: dict[str, Array] = {}
    about = [_packed(one, f"{index}.", arrays) for index, one in enumerate(found.shown)]
    content = {"format": _FORMAT, "setting": asdict(found.setting), "shown": about}
    arrays["about"] = np.array(json.dumps(content))
    with files.atomic_path(path, CheckpointError) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def load_examples(path: Path) -> Examples:
    """What `save_examples` kept.

    Raises:
        CheckpointError: The file is missing, damaged or of another format.
    """
    with translated_os_errors(path, "reading", CheckpointError):
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file", hint=EVALUATE)
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            content = json.loads(str(arrays["about"]))
        except (ValueError, KeyError, EOFError, OSError) as error:
            raise CheckpointError(f"{path}: damaged", hint=EVALUATE) from error
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: of another version of ups", hint=EVALUATE)
    setting = _setting_from(content["setting"])
    shown = (_unpacked(one, f"{i}.", arrays) for i, one in enumerate(content["shown"]))
    return Examples(setting, tuple(shown))


def examples_of(context: Context, examples: Sequence[Example]) -> Examples:
    """The trajectories of an evaluation, thinned. All frames that are kept of the first one; of
    the others, in two or three dimensions, a few.
    """
    setting = setting_of(context)
    store, shown = context.store, []
    for index, one in enumerate(examples):
        frames = _kept_frames(len(one.times), context, few=index > 0)
        if isinstance(store, TrajectoryStore):
            shown.append(_of_grid(one, store, setting, frames))
        else:
            shown.append(_of_nodes(one, store, context, frames))
    return Examples(setting, tuple(shown))


def setting_of(context: Context) -> Setting:
    """Names, units and bounds, from the data and its card."""
    meta, card, store = context.store.metadata, context.card, context.store
    specs: dict[str, FieldSpec] = {spec.name: spec for spec in (*card.fields, *card.inputs)}

    def label(name: str) -> str:
        return with_unit(name, specs[name].unit) if name in specs else name

    signed = [
        name not in specs or (specs[name].normalisation == "rms" and not specs[name].positive)
        for name in meta.fields
    ]
    units = {axis.name: axis.unit for axis in card.discretisation.axes}
    has_inputs = context.is_steady and bool(meta.inputs)
    kind: Kind = "grid" if isinstance(store, TrajectoryStore) else store.kind
    return Setting(
        kind=kind,
        fields=tuple(meta.fields),
        labels=tuple(label(name) for name in meta.fields),
        signed=tuple(signed),
        axes=tuple(with_unit(name, units.get(name, "1")) for name in meta.axes),
        bounds=tuple((float(low), float(high)) for low, high in meta.bounds),
        periodic=tuple(bool(wraps) for wraps in meta.periodic),
        time="" if context.is_steady else with_unit("time t", card.time.unit),
        views=_views(kind, meta.axes, meta.bounds),
        inputs=tuple(label(name) for name in meta.inputs) if has_inputs else (),
    )


def _views(
    kind: Kind, axes: Sequence[str], bounds: Sequence[tuple[float, float]]
) -> tuple[View, ...]:
    if len(axes) == 1:
        return (View((0,)),)
    if kind == "grid" and len(axes) == 3:
        middle = [(low + high) / 2 for low, high in bounds]
        return tuple(
            View(shown, f"{axes[normal]} = {middle[normal]:.3g}")
            for shown, normal in (((0, 1), 2), ((0, 2), 1), ((1, 2), 0))
        )
    on_globe = kind == "grid" and axes[0].startswith("lat")
    return (View((1, 0) if on_globe else (0, 1)),)


def _kept_frames(num_frames: int, context: Context, *, few: bool) -> Array:
    dims = len(context.store.metadata.bounds)
    most = _MOST[dims][0] if context.is_grid else _MOST_FRAMES
    if few and dims > 1:
        most = _FEW_FRAMES
    return np.unique(np.linspace(0, num_frames - 1, min(most, num_frames)).round().astype(int))


def _of_grid(one: Example, store: TrajectoryStore, setting: Setting, frames: Array) -> Shown:
    inputs = (
        store.inputs[one.trajectory][None] if setting.inputs and store.inputs is not None else None
    )

    def planes(values: Array) -> tuple[Array, ...]:
        return tuple(_plane(values, view) for view in setting.views)

    return Shown(
        title=one.title,
        trajectory=one.trajectory,
        times=np.asarray(one.times, np.float64)[frames],
        reference=planes(one.reference[frames]),
        prediction=planes(one.prediction[frames]),
        inputs=() if inputs is None else tuple(part[0] for part in planes(inputs)),
    )


def _plane(values: Array, view: View) -> Array:
    """(time, *space, channel) -> (time, across, up, channel), thinned; in 1D (time, x, channel)."""
    space = values.shape[1:-1]
    most = _MOST[len(space)][1]
    index: list[Any] = [
        slice(None, None, -(-size // most)) if axis in view.axes else size // 2
        for axis, size in enumerate(space)
    ]
    cut = values[(slice(None), *index)]
    return cut.swapaxes(1, 2) if view.axes == (1, 0) else cut


def _of_nodes(one: Example, store: PointStore, context: Context, frames: Array) -> Shown:
    row = one.trajectory
    nodes = store.num_nodes(row)
    kept: Any = slice(None)
    if nodes > _MOST_NODES:
        kept = np.sort(np.random.default_rng(0).choice(nodes, _MOST_NODES, replace=False))
    stored = np.arange(store.num_frames)[context.horizon.frames][frames]
    if store.moves(row):
        coords = np.stack([store.coords(row, slice(f, f + 1))[0] for f in stored])[:, kept]
    else:
        coords = store.coords(row)[kept]
    cells = store.cells(row) if len(store.metadata.axes) == 2 and nodes <= _MOST_NODES else None
    given = store.inputs(row) if context.is_steady else None
    return Shown(
        title=one.title,
        trajectory=row,
        times=np.asarray(one.times, np.float64)[frames],
        reference=(one.reference[frames][:, kept],),
        prediction=(one.prediction[frames][:, kept],),
        inputs=() if given is None else (given[kept],),
        coords=coords.astype(np.float32),
        triangles=None if cells is None else triangles_of(cells).astype(np.int32),
    )


def _packed(one: Shown, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    """Put the arrays of a trajectory among the others; returns what else there is to say."""
    scales: dict[str, float] = {}

    def put(name: str, values: Array) -> None:
        scaled, scales[name] = _halved(values)
        arrays[prefix + name] = scaled

    for view, (true, predicted) in enumerate(zip(one.reference, one.prediction, strict=True)):
        put(f"reference{view}", true)
        put(f"error{view}", predicted.astype(np.float64) - true)
    for view, given in enumerate(one.inputs):
        put(f"inputs{view}", given)
    arrays[prefix + "times"] = one.times
    for name in ("coords", "triangles"):
        if (values := getattr(one, name)) is not None:
            arrays[prefix + name] = values
    return {"title": one.title, "trajectory": one.trajectory, "scales": scales}


def _halved(values: Array) -> tuple[Array, float]:
    finite = np.abs(values[np.isfinite(values)])
    scale = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return (values / scale).astype(np.float16), scale


def _unpacked(about: dict[str, Any], prefix: str, arrays: dict[str, Array]) -> Shown:
    def several(name: str) -> Iterator[Array]:
        view = 0
        while f"{prefix}{name}{view}" in arrays:
            scale = about["scales"][f"{name}{view}"]
            yield arrays[f"{prefix}{name}{view}"].astype(np.float64) * scale
            view += 1

    reference = tuple(several("reference"))
    return Shown(
        title=about["title"],
        trajectory=about["trajectory"],
        times=arrays[prefix + "times"],
        reference=reference,
        prediction=tuple(a + b for a, b in zip(reference, several("error"), strict=True)),
        inputs=tuple(several("inputs")),
        coords=arrays.get(prefix + "coords"),
        triangles=arrays.get(prefix + "triangles"),
    )


def _setting_from(content: dict[str, Any]) -> Setting:
    views = tuple(View(tuple(view["axes"]), view["note"]) for view in content["views"])
    lists = {k: tuple(v) for k, v in content.items() if isinstance(v, list)}
    bounds = tuple((low, high) for low, high in content["bounds"])
    return Setting(**{**content, **lists, "views": views, "bounds": bounds})
