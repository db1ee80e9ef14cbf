"""Training windows encoded on the spot, for augmentation, which acts on fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ups.codec.grid import GridCodec
from ups.data.reading.batches import GridBatch
from ups.data.reading.symmetries import Augmentation
from ups.data.reading.windows import Windows
from ups.data.store import TrajectoryStore
from ups.errors import ConfigError
from ups.models.layout import Given
from ups.training.session import TaskData
from ups.training.tasks import LatentTask

Array = npt.NDArray[Any]


class MovedWindows:
    """Windows of a task's fields, each moved by symmetries of its card.

    Args:
        names: Of symmetries; those that the card does not have are left out.

    Raises:
        ConfigError: The task is not on a grid, or its card has none of them.
    """

    def __init__(self, data: TaskData, names: Sequence[str], seed: int) -> None:
        chosen = [name for name in names if name in data.card.pde.symmetries]
        if not isinstance(data.store, TrajectoryStore) or not chosen:
            why = f"its card has none of {', '.join(names)}" if chosen == [] else "is not on a grid"
            raise ConfigError(f"data.augment: {data.name}: {why}", hint="--set data.augment=[]")
        self._data, self._seed = data, seed
        self._augment = Augmentation.parse(",".join(chosen))
        self._readers: dict[tuple[int, int], Windows] = {}

    def read(
        self, members: Array, starts: Array, length: int, stride: int, key: Sequence[int]
    ) -> GridBatch:
        """Windows of rows of the store; the moves follow from the seed and `key`."""
        random = np.random.default_rng([self._seed, *key])
        batch = self._reader(length, stride).read_moved(members, starts, random)
        assert isinstance(batch, GridBatch)
        return batch

    def _reader(self, length: int, stride: int) -> Windows:
        if (length, stride) not in self._readers:
            self._readers[length, stride] = Windows(
                self._data.store, self._data.card, history=1, horizon=length - 1,
                stride_t=stride, augment=self._augment, seed=self._seed,
            )  # fmt: skip
        return self._readers[length, stride]


class FreshWindows:
    """Moved windows of a task, encoded on the spot."""

    def __init__(
        self, task: LatentTask, names: Sequence[str], device: torch.device, seed: int
    ) -> None:
        self._task, self._device = task, device
        self._moved = MovedWindows(task.data, names, seed)

    def read(
        self, rows: Array, starts: Array, length: int, stride: int, step: int, micro: int
    ) -> tuple[Tensor, Given, Tensor]:
        """Tokens (batch, length, tokens, dim) of moved windows, what goes with them, the fields."""
        members = self._task.members("train")[rows]
        batch = self._moved.read(members, starts, length, stride, (step, micro))
        codec = self._task.coded.codec
        assert isinstance(codec, GridCodec)
        given = self._task.given("train", rows, stride)
        with torch.no_grad():
            fields = torch.from_numpy(batch.fields).to(self._device)
            tokens = codec.encode(fields.flatten(0, 1)).unflatten(0, fields.shape[:2])
            if batch.inputs is not None:
                inputs = torch.from_numpy(batch.inputs).to(self._device)
                given = Given(given.parameters, given.dt, codec.encode_inputs(inputs))
        return tokens, given, fields
