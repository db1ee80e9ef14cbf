"""What a forecast starts from, as the models see it: a stored trajectory or a user's own state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.boundary import inside_at
from ups.codec.cloud import Cloud, cloud_of, make_cloud, merged
from ups.codec.coded import Codec
from ups.codec.grid import GridCodec
from ups.codec.points import PointCodec
from ups.data.points import PointStore
from ups.data.splits import SPLITS
from ups.errors import DataError
from ups.evaluation.context import Context
from ups.evaluation.inference.arrays import FIELDS, INPUTS, Arrays
from ups.evaluation.inference.places import Places, axes_of, check_inside, even_grid
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
_UNUSUAL = 30.0
"""RMS of a field, in units of the training data's deviation, above which it is refused."""
_POINTS_PER_CALL = 4096


@dataclass(frozen=True, eq=False)
class Start:
    """What is given, encoded.

    Attributes:
        tokens: Of the given frames, the present one last; None for a steady problem.
        parameters: Physical values, as far as they are known.
        places: Where fields are asked for unless the caller says otherwise.
        text: What it is, in a few words.
        moving: Positions and values of nodes that the prediction moves; None where they rest.
        cloud: The mesh that the state is on, which says what is inside of it.
    """

    tokens: Float[Tensor, "1 frame tokens dim"] | None
    context: Float[Tensor, "1 tokens context"] | None
    parameters: dict[str, float]
    places: Places
    text: str
    moving: tuple[Tensor, Tensor] | None = None
    cloud: Cloud | None = None

    def inside(self, places: Places) -> npt.NDArray[np.bool_] | None:
        """Which points of a grid are inside of the mesh; None where nothing is outside.

        Nodes of a mesh and points by themselves are asked for one by one, and are not left out.
        """
        if places.axes is None or self.cloud is None or self.cloud.normals is None:
            return None
        parts = torch.from_numpy(places.coords).to(self.cloud.coords).split(_POINTS_PER_CALL)
        shares = torch.cat([inside_at(self.cloud, part)[0] for part in parts])
        return (shares > 0.5).cpu().numpy()


def stored_start(context: Context, row: int) -> Start:
    """The given frames of a trajectory of the run's own data."""
    coded, horizon, store = context.coded, context.horizon, context.store
    rows, stride = np.array([row]), horizon.stride
    tokens = None
    if horizon.history:
        first = max(0, horizon.history - context.surrogate.history)
        tokens = coded.encode(rows, range(first * stride, horizon.first + 1, stride))
    values = dict(zip(store.metadata.parameters, store.parameters[row].tolist(), strict=True))
    code = int(store.splits[row])
    text = f"trajectory {row} ({SPLITS[code] if code < len(SPLITS) else 'excluded'})"
    given = coded.context(rows)
    if not isinstance(store, PointStore):
        return Start(tokens, given, values, Places.on_grid(store.coords), text)
    frame, moving = slice(horizon.first, horizon.first + 1), None
    moves = store.moves(row)
    coords = store.coords(row, frame)[0] if moves else store.coords(row)
    if moves:
        moving = _tensors(context.device, coords, store.fields(row, frame)[0])
    cells = store.cells(row)
    cloud = cloud_of(store, row) if cells is not None and not moves else None
    places = Places(np.asarray(coords, np.float64), cells=cells)
    return Start(tokens, given, values, places, text, moving, _with_walls(cloud, context.card))


def own_start(
    found: Arrays, codec: Codec, card: DatasetCard, *, steady: bool, extrapolate: bool = False
) -> Start:
    """A user's own state, or of a steady problem what is given with it.

    Args:
        extrapolate: Accept values far from those trained on.
    Raises:
        DataError: Something is missing, of another shape, not finite, on points that are not of
            the domain, or far from what the run was trained on.
    """
    if isinstance(codec, GridCodec):
        start = _grid_start(found, codec, card, steady, extrapolate)
    else:
        start = _point_start(found, codec, card, steady, extrapolate)
    return start


def _grid_start(
    found: Arrays, codec: GridCodec, card: DatasetCard, steady: bool, extrapolate: bool
) -> Start:
    own, names = codec.geometry, _axes(card)
    axes, geometry = axes_of(found, names), own
    if axes is not None:
        even = even_grid(axes, own)
        if even is None:
            raise DataError(f"{found.path}: coordinates {', '.join(names)}: not evenly spaced")
        own.check_same_domain(even)
        geometry = even
    fields, inputs = _given(found, codec, card, names, steady, extrapolate)
    for what, values in ((FIELDS, fields), (INPUTS, inputs)):
        space = None if values is None else tuple(values.shape[1:-1])
        if space not in (None, geometry.space):
            raise DataError(
                f"{found.path}: {what} on {_by(space or ())} points, expected "
                f"{_by(geometry.space)}{'' if axes is None else ', as its coordinates say'}",
                hint="another grid of the same domain: say where its points are, in arrays "
                f"named {', '.join(names)}",
            )
    device = codec.scale.device
    tokens = context = None
    with torch.no_grad():
        if fields is not None:
            tokens = codec.encode(fields.to(device), geometry)[None]
        if inputs is not None:
            context = codec.encode_inputs(inputs.to(device), geometry)
    lines = axes or [axis.numpy() for axis in own.axes()]
    return Start(tokens, context, _numbers(found, card), Places.on_grid(lines), str(found.path))


def _point_start(
    found: Arrays, codec: PointCodec, card: DatasetCard, steady: bool, extrapolate: bool
) -> Start:
    fields, inputs = _given(found, codec, card, ["node"], steady, extrapolate)
    frames = 1 if fields is None else len(fields)
    clouds, coords, cells = _clouds(found, codec, card, frames)
    for what, values in ((FIELDS, fields), (INPUTS, inputs)):
        if values is not None and values.shape[1] != len(clouds[0]):
            raise DataError(
                f"{found.path}: {what} at {values.shape[1]} nodes, coords has {len(clouds[0])}"
            )
    device, tokens, moving = codec.scale.device, None, None
    clouds = [cloud.to(device) for cloud in clouds]
    with torch.no_grad():
        if fields is not None and len(clouds) == 1:
            tokens = codec.encode_frames(fields.to(device), clouds[0])[None]
        elif fields is not None:
            tokens = codec.encode(fields.to(device).flatten(0, 1), merged(clouds))[None]
        given = None if inputs is None else inputs[0].to(device)
        context = codec.context(given, clouds[0]) if codec.context_dim else None
    if card.discretisation.velocity and fields is not None:
        moving = _tensors(device, coords, fields[-1].numpy())
    places = Places(np.asarray(coords, np.float64), cells=cells)
    check_inside(places, codec, str(found.path), _axes(card))
    cloud = clouds[0] if cells is not None else None
    return Start(tokens, context, _numbers(found, card), places, str(found.path), moving,
                 _with_walls(cloud, card))  # fmt: skip


def _clouds(
    found: Arrays, codec: PointCodec, card: DatasetCard, frames: int
) -> tuple[list[Cloud], Array, Array | None]:
    """The nodes of every frame, or once where they rest; their last positions; the cells."""
    geometry, names = codec.geometry, _axes(card)
    dims = geometry.num_dims
    coords = found.find("coords")
    columns = [one for name in names if (one := found.find(name, "coords")) is not None]
    if coords is None and len(columns) == dims:
        coords = np.stack(columns, -1)
    if coords is None or coords.shape[-1] != dims or coords.ndim not in (2, 3):
        shape = "none" if coords is None else str(coords.shape)
        raise DataError(f"{found.path}: coords: {shape}, expected (node, {dims})")
    if coords.ndim == 3 and len(coords) != frames:
        raise DataError(f"{found.path}: coords of {len(coords)} frames, fields of {frames}")
    cells, tags = found.find("cells"), found.find("tags")
    if geometry.kind == "mesh" and cells is None:
        raise DataError(f"{found.path}: no 'cells' (cell, {dims + 1}): the run is on meshes")
    if geometry.num_tags and tags is None:
        raise DataError(f"{found.path}: no 'tags' (node,): 0 inside, 1 to {geometry.num_tags} "
                        "on the kinds of boundary")  # fmt: skip
    pairs = zip(geometry.bounds, geometry.periodic, strict=True)
    periods = [high - low if wraps else None for (low, high), wraps in pairs]
    each = [
        make_cloud(
            positions, cells=cells, tags=tags, radius=card.discretisation.neighbour_radius,
            periods=periods, where=str(found.path),
        )
        for positions in (coords if coords.ndim == 3 else coords[None])
    ]  # fmt: skip
    return each, (coords[-1] if coords.ndim == 3 else coords), cells


def _given(
    found: Arrays,
    codec: Codec,
    card: DatasetCard,
    space: Sequence[str],
    steady: bool,
    extrapolate: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Fields (frame, *space, channel), and inputs (1, *space, input), checked."""
    fields = inputs = None
    if card.inputs:
        inputs = found.stacked(INPUTS, card.input_names, space, timed=False)
        if inputs is None:
            raise _nothing(found, INPUTS, card.input_names)
        inputs = inputs[None]
    if not steady:
        fields = found.stacked(FIELDS, card.field_names, space, timed=True)
        if fields is None:
            raise _nothing(found, FIELDS, card.field_names)
    given = None if fields is None else torch.from_numpy(fields)
    known = None if inputs is None else torch.from_numpy(inputs)
    if given is not None:
        _check(found, given, card.field_names, codec.shift, codec.scale, codec.is_log, extrapolate)
    if known is not None:
        plain = torch.zeros_like(codec.input_shift, dtype=torch.bool)
        _check(found, known, card.input_names, codec.input_shift, codec.input_scale, plain,
               extrapolate)  # fmt: skip
    return given, known


def _check(
    found: Arrays,
    values: Float[Tensor, "frame *space channel"],
    names: Sequence[str],
    shift: Float[Tensor, " channel"],
    scale: Float[Tensor, " channel"],
    is_log: Tensor,
    extrapolate: bool,
) -> None:
    """Raise DataError for values that are not finite, have no logarithm, or are far off."""
    for channel, name in enumerate(names):
        one = values[..., channel]
        bad = int((~one.isfinite()).sum())
        if bad:
            raise DataError(f"{found.path}: {name}: {bad} values are not finite")
        if is_log[channel] and not one.min() > 0:
            raise DataError(f"{found.path}: {name}: {one.min():g}, expected positive values")
        one = one.log() if is_log[channel] else one
        size = float((one - shift[channel].cpu()).div(scale[channel].cpu()).square().mean().sqrt())
        if size > _UNUSUAL and not extrapolate:
            raise DataError(
                f"{found.path}: {name}: {size:.3g} times as large as in training; in another unit?",
                hint="values are in the unit of the dataset's card; --extrapolate takes them as "
                "they are",
            )


def _nothing(found: Arrays, whole: str, names: Sequence[str]) -> DataError:
    held = ", ".join(sorted(found.values)) or "nothing"
    return DataError(
        f"{found.path}: no {whole}: expected '{whole}' with the channels {', '.join(names)}, or "
        f"arrays of these names; found {held}"
    )


def _with_walls(cloud: Cloud | None, card: DatasetCard) -> Cloud | None:
    """The cloud, where its boundary goes all the way round."""
    return None if cloud is None or any(card.periodic) else cloud


def _numbers(found: Arrays, card: DatasetCard) -> dict[str, float]:
    return found.numbers(card.parameter_names)


def _axes(card: DatasetCard) -> list[str]:
    return [axis.name for axis in card.discretisation.axes]


def _tensors(device: torch.device, *arrays: Array) -> tuple[Tensor, Tensor]:
    first, second = (torch.from_numpy(np.array(one, np.float32)).to(device) for one in arrays)
    return first, second


def _by(space: Sequence[int]) -> str:
    return " x ".join(map(str, space))
