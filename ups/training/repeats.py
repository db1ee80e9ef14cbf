"""Trajectories moved by the symmetries of their card, encoded once and kept in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.cloud import Cloud, make_cloud, merged, periods_of
from ups.codec.coded import CodedPoints, CodedStore
from ups.codec.grid import GridCodec
from ups.codec.points import PointCodec
from ups.data.points import PointStore
from ups.data.reading.batches import GridBatch, PointBatch, WindowBatch
from ups.data.reading.symmetries import Augmentation, Geometry, permit
from ups.data.reading.windows import Windows
from ups.errors import ConfigError
from ups.training.session import TaskData

Array = npt.NDArray[Any]
_SYMMETRIES = ("shift", "reflection", "rotation")


def moves_of(task: TaskData) -> tuple[str, ...]:
    """Symmetries of the task's card that its grid and boundaries have too; reads no data.

    Raises:
        ConfigError: There are none; says why.
    """
    store, found = task.store, []
    data, coords = store.metadata, None
    kind = store.kind if isinstance(store, PointStore) else "grid"
    if not isinstance(store, PointStore):
        coords = tuple(np.asarray(axis) for axis in store.coords)
    geometry = Geometry(store.name, kind, data.bounds, data.boundaries, coords)
    reason = f"the card of {task.card.key} names no symmetry (pde.symmetries)"
    for name in _SYMMETRIES:
        if name not in task.card.pde.symmetries:
            continue
        try:
            permit(Augmentation.parse(name), task.card, geometry)
        except ConfigError as error:
            reason = str(error)
        else:
            found.append(name)
    if not found:
        raise ConfigError(f"cache.repeats: {reason}", hint="--set cache.repeats=1")
    return tuple(found)


class MovedTrajectories:
    """Whole trajectories of a store, each moved by a symmetry of its card drawn at random.

    The move follows from the seed, the repeat and the row alone.

    Args:
        names: Of symmetries: `moves_of`.
    """

    def __init__(self, task: TaskData, coded: CodedStore, names: Sequence[str], seed: int) -> None:
        self._coded, self._seed = coded, seed
        self._windows = Windows(
            task.store, task.card, history=1, horizon=task.store.num_frames - 1,
            augment=Augmentation.parse(",".join(names)),
        )  # fmt: skip

    def read(self, row: int, repeat: int) -> WindowBatch:
        """All frames of one row of the store, moved."""
        random = np.random.default_rng([self._seed, repeat, row])
        return self._windows.read_moved(np.array([row]), np.array([0]), random)

    @torch.no_grad()
    def encode(self, rows: Array, repeat: int) -> Float[Tensor, "trajectory time tokens dim"]:
        """Tokens of all frames."""
        batches = [self.read(row, repeat) for row in rows.tolist()]
        grids = [batch.fields for batch in batches if isinstance(batch, GridBatch)]
        codec = self._coded.codec
        if isinstance(codec, GridCodec):
            fields = torch.from_numpy(np.concatenate(grids)).to(codec.scale.device)
            return codec.encode(fields.flatten(0, 1)).unflatten(0, fields.shape[:2])
        return torch.stack([self._encode_points(codec, batch) for batch in batches])

    @torch.no_grad()
    def context(self, rows: Array, repeat: int) -> Float[Tensor, "trajectory tokens context"]:
        """Tokens of what is given with each problem, moved alike."""
        codec = self._coded.codec
        found = []
        for row in rows.tolist():
            batch = self.read(row, repeat)
            inputs = None if batch.inputs is None else torch.from_numpy(batch.inputs)
            given = None if inputs is None else inputs.to(codec.scale.device)
            if isinstance(codec, GridCodec):
                assert given is not None
                found.append(codec.encode_inputs(given))
            else:
                found.append(codec.context(given, self._cloud(batch, 0)))
        return torch.cat(found)

    def _encode_points(
        self, codec: PointCodec, batch: WindowBatch
    ) -> Float[Tensor, "time tokens dim"]:
        assert isinstance(batch, PointBatch)
        values = torch.from_numpy(batch.fields).to(codec.scale.device)
        if batch.coords.ndim == 2:
            return codec.encode_frames(values, self._cloud(batch, 0))
        clouds = [self._cloud(batch, time) for time in range(len(values))]
        return codec.encode(values.flatten(0, 1), merged(clouds))

    def _cloud(self, batch: WindowBatch, time: int) -> Cloud:
        """Nodes where they were moved to, at one frame."""
        assert isinstance(batch, PointBatch)
        assert isinstance(self._coded, CodedPoints)
        made = make_cloud(
            batch.coords if batch.coords.ndim == 2 else batch.coords[time],
            cells=batch.cells,
            edges=batch.edges_of(time),
            tags=batch.tags,
            periods=periods_of(self._coded.store),
            where=f"{self._coded.store.name}: trajectory {batch.trajectories[0]}, moved",
        )
        return made.to(self._coded.codec.scale.device)
