"""A store seen through a codec: the same five questions for grids, meshes and particles.

What is asked for are trajectories by their rows in the store, so that ragged data need no padding:
fields come back as one array for each trajectory, (time, *space, channel) or (time, node, channel).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.cloud import Cloud, cloud_of, merged
from ups.codec.grid import GridCodec
from ups.codec.points import PointCodec
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.errors import DataError

Array = npt.NDArray[Any]
Codec = GridCodec | PointCodec
_FRAMES_PER_CALL = 1024


@runtime_checkable
class CodedStore(Protocol):
    """A store and the codec of its task.

    Shape:
        members, rows: (trajectory,) int64, rows of the store
        frames: (time,) stored frames, evenly spaced
        tokens: (trajectory, time, tokens, dim)
    """

    @property
    def codec(self) -> Codec: ...

    @property
    def store(self) -> TrajectoryStore | PointStore: ...

    @property
    def num_frames(self) -> int: ...

    def encode(self, members: Array, frames: Sequence[int]) -> Tensor:
        """Tokens of true frames, (trajectory, time, tokens, dim)."""
        ...

    def context(self, members: Array) -> Tensor | None:
        """Tokens of what is given with each problem, (trajectory, tokens, context_dim)."""
        ...

    def decode(self, tokens: Tensor, members: Array, frames: Sequence[int]) -> list[Tensor]:
        """Physical fields of predicted frames, one tensor for each trajectory, on the device."""
        ...

    def reference(self, members: Array, frames: Sequence[int]) -> list[Tensor]:
        """The truth at the same places, in main memory."""
        ...


class CodedGrid:
    """Trajectories on a grid through a `GridCodec`; the grid may be finer than the codec's own."""

    def __init__(self, store: TrajectoryStore, codec: GridCodec) -> None:
        self.store, self.codec = store, codec
        found = replace(codec.geometry, **geometry_of(store))
        self._other = None if found.is_same_grid(codec.geometry) else found

    @property
    def num_frames(self) -> int:
        return self.store.num_frames

    @torch.no_grad()
    def encode(
        self, members: Array, frames: Sequence[int]
    ) -> Float[Tensor, "trajectory time tokens dim"]:
        chosen = _every(frames)
        parts = []
        per_call = max(1, _FRAMES_PER_CALL // max(len(frames), 1))
        for start in range(0, len(members), per_call):
            block = self.store.fields[members[start : start + per_call]][:, chosen]
            fields = torch.from_numpy(np.ascontiguousarray(block)).to(self.codec.scale.device)
            tokens = self.codec.encode(fields.flatten(0, 1), self._other)
            parts.append(tokens.unflatten(0, (len(block), len(frames))))
        return torch.cat(parts)

    @torch.no_grad()
    def context(self, members: Array) -> Float[Tensor, "trajectory tokens context"] | None:
        if self.store.inputs is None:
            return None
        inputs = torch.from_numpy(self.store.inputs[members])
        return self.codec.encode_inputs(inputs.to(self.codec.scale.device), self._other)

    def decode(
        self,
        tokens: Float[Tensor, "trajectory time tokens dim"],
        members: Array,
        frames: Sequence[int],
    ) -> list[Tensor]:
        count, times = tokens.shape[:2]
        if self._other is None:
            fields = self.codec.decode(tokens.flatten(0, 1))
        else:
            places = self._other.coords().to(tokens.device)
            fields = self.codec.decode(tokens.flatten(0, 1), places)
            fields = fields.unflatten(1, self._other.space)
        return list(fields.unflatten(0, (count, times)))

    def reference(self, members: Array, frames: Sequence[int]) -> list[Tensor]:
        block = self.store.fields[members][:, _every(frames)]
        return list(torch.from_numpy(np.ascontiguousarray(block)))

    def training_frames(
        self, frames: range, limit: int = 20_000
    ) -> Iterator[Float[Tensor, "batch *rest"]]:
        """At most `limit` frames of the training split, evenly spread, for fitting a codec."""
        for batch in frames_of(self.store, "train", frames, limit, batch_size=256):
            yield batch.to(self.codec.scale.device)


def geometry_of(store: TrajectoryStore) -> dict[str, Any]:
    """Where the store's grid points are: space, origin and spacing of a `GridGeometry`."""
    return {
        "space": store.space,
        "origin": tuple(float(coord[0]) for coord in store.coords),
        "spacing": tuple(float((c[-1] - c[0]) / (len(c) - 1)) for c in store.coords),
    }


def frames_of(
    store: TrajectoryStore, split: str, frames: range, limit: int, *, batch_size: int = 64
) -> Iterator[Float[Tensor, "batch *rest"]]:
    """About `limit` of the given frames of a split, evenly spread, (batch, *space, channel)."""
    members = store.split(split)
    total = len(members) * len(frames)
    chosen = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(int))
    for start in range(0, len(chosen), batch_size):
        rows, places = np.divmod(chosen[start : start + batch_size], len(frames))
        yield torch.from_numpy(store.fields[members[rows], frames.start + places])


def _every(frames: Sequence[int]) -> slice | list[int]:
    """Evenly spaced frames as a slice, which a memory map reads without a copy of all."""
    chosen = list(frames)
    step = chosen[1] - chosen[0] if len(chosen) > 1 else 1
    if step > 0 and chosen == list(range(chosen[0], chosen[-1] + 1, step)):
        return slice(chosen[0], chosen[-1] + 1, step)
    return chosen


class CodedPoints:
    """Meshes and particles through a `PointCodec`.

    Where nodes move, predicted velocities move them: a rollout starts at the true positions of its
    last given frame, and fields are asked for where the prediction has carried each node.

    Args:
        velocity: Names of the fields that move nodes, one for each axis.
    """

    def __init__(
        self, store: PointStore, codec: PointCodec, *, velocity: Sequence[str] = ()
    ) -> None:
        self.store, self.codec = store, codec
        names = list(store.metadata.fields)
        self._velocity = [names.index(name) for name in velocity]

    @property
    def num_frames(self) -> int:
        return self.store.num_frames

    @property
    def _device(self) -> torch.device:
        return self.codec.scale.device

    def training_frames(
        self, frames: range, limit: int = 512
    ) -> Iterator[tuple[Float[Tensor, "node channel"], Cloud]]:
        """At most `limit` frames of the training split, evenly spread, for fitting a codec."""
        members = self.store.split("train")
        total = len(members) * len(frames)
        for chosen in np.unique(np.linspace(0, total - 1, min(limit, total)).astype(int)).tolist():
            row, frame = int(members[chosen // len(frames)]), frames[chosen % len(frames)]
            values = _copied(self.store.fields(row, slice(frame, frame + 1))[0])
            cloud = cloud_of(self.store, row, frame if self.store.moves(row) else None)
            yield values.to(self._device), cloud.to(self._device)

    @torch.no_grad()
    def encode(
        self, members: Array, frames: Sequence[int]
    ) -> Float[Tensor, "trajectory time tokens dim"]:
        return torch.stack([self._encode(int(row), list(frames)) for row in members])

    def _encode(self, row: int, frames: list[int]) -> Float[Tensor, "time tokens dim"]:
        values = torch.from_numpy(self.store.fields(row)[frames]).to(self._device)
        if not self.store.moves(row):
            return self.codec.encode_frames(values, cloud_of(self.store, row).to(self._device))
        clouds = [cloud_of(self.store, row, frame) for frame in frames]
        return self.codec.encode(values.flatten(0, 1), merged(clouds).to(self._device))

    @torch.no_grad()
    def context(self, members: Array) -> Float[Tensor, "trajectory tokens context"] | None:
        """Inputs and geometry; of moving nodes, as they are at first."""
        if not self.codec.context_dim:
            return None
        return torch.cat([self._context(int(row)) for row in members])

    def _context(self, row: int) -> Float[Tensor, "1 tokens context"]:
        inputs = self.store.inputs(row)
        given = None if inputs is None else _copied(inputs).to(self._device)
        cloud = cloud_of(self.store, row, 0 if self.store.moves(row) else None)
        return self.codec.context(given, cloud.to(self._device))

    def decode(
        self,
        tokens: Float[Tensor, "trajectory time tokens dim"],
        members: Array,
        frames: Sequence[int],
    ) -> list[Tensor]:
        rows = [int(row) for row in members]
        return [
            self._carried(one, row, list(frames)) if self.store.moves(row)
            else _at(self.codec, one, _copied(self.store.coords(row)).to(self._device))
            for one, row in zip(tokens, rows, strict=True)
        ]  # fmt: skip

    def _carried(
        self, tokens: Float[Tensor, "time tokens dim"], row: int, frames: list[int]
    ) -> Float[Tensor, "time node channel"]:
        """Fields where nodes are carried to, by the trapezoidal rule in decoded velocities."""
        if not self._velocity:
            raise DataError(
                f"{self.store.name}: nodes move, and the card does not say which fields move them",
                hint="add discretisation.velocity to the card in registry/",
            )
        step = frames[1] - frames[0] if len(frames) > 1 else 1
        start = max(frames[0] - step, 0)
        dt = float(self.store.time[frames[0]] - self.store.time[start])
        places = _copied(self.store.coords(row, slice(start, start + 1))[0])
        values = _copied(self.store.fields(row, slice(start, start + 1))[0])
        places, values = places.to(self._device), values.to(self._device)
        return carried(self.codec, tokens, places, values, self._velocity, dt)[1]

    def reference(self, members: Array, frames: Sequence[int]) -> list[Tensor]:
        return [torch.from_numpy(self.store.fields(int(row))[list(frames)]) for row in members]


def carried(
    codec: PointCodec,
    tokens: Float[Tensor, "time tokens dim"],
    places: Float[Tensor, "node axis"],
    values: Float[Tensor, "node channel"],
    velocity: Sequence[int],
    dt: float,
) -> tuple[Float[Tensor, "time node axis"], Float[Tensor, "time node channel"]]:
    """Nodes carried along by the trapezoidal rule in decoded velocities, and fields where they are.

    Args:
        tokens: Of frames that are `dt` apart.
        places, values: One frame before the first.
        velocity: Channels that move nodes, one for each axis.
    """
    positions, fields = [], []
    for state in tokens:
        now = values[:, velocity]
        ahead = _at(codec, state[None], _inside(codec, places + dt * now))[0]
        places = _inside(codec, places + dt / 2 * (now + ahead[:, velocity]))
        values = _at(codec, state[None], places)[0]
        positions.append(places)
        fields.append(values)
    return torch.stack(positions), torch.stack(fields)


def _at(
    codec: PointCodec, tokens: Float[Tensor, "time tokens dim"], coords: Float[Tensor, "node axis"]
) -> Float[Tensor, "time node channel"]:
    """Fields of all frames at the same places."""
    times, nodes = len(tokens), len(coords)
    sample = torch.arange(times, device=coords.device).repeat_interleave(nodes)
    return codec.decode(tokens, coords.repeat(times, 1), sample).unflatten(0, (times, nodes))


def _inside(codec: PointCodec, places: Float[Tensor, "node axis"]) -> Float[Tensor, "node axis"]:
    """Around periodic axes, and not beyond the others."""
    low, high = torch.tensor(codec.geometry.bounds, dtype=places.dtype).T.to(places)
    wraps = torch.tensor(codec.geometry.periodic, device=places.device)
    around = low + torch.remainder(places - low, high - low)
    return torch.where(wraps, around, places.clamp(low, high))


def _copied(values: Array) -> Tensor:
    """What was read from a store, which may be a view of its file that nobody may write to."""
    return torch.from_numpy(np.array(values))


def coded(
    store: TrajectoryStore | PointStore, codec: Codec, *, velocity: Sequence[str] = ()
) -> CodedGrid | CodedPoints:
    """The store as its codec sees it."""
    if isinstance(store, TrajectoryStore):
        assert isinstance(codec, GridCodec)
        return CodedGrid(store, codec)
    assert isinstance(codec, PointCodec)
    return CodedPoints(store, codec, velocity=velocity)
