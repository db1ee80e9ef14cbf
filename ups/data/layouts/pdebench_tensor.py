"""PDEBench's scalar 1-D layout: one array `tensor` (trajectory, time, x)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups.data.layouts.base import dataset_of, open_hdf5, reading
from ups.errors import DataError
from ups.registry import DatasetCard


class PdebenchTensor:
    """Read `tensor`, `t-coordinate`, `x-coordinate` and the parameter attributes.

    `t-coordinate` has one entry more than `tensor` has frames; the first ones count. Files made by
    the 2024 scripts carry a device axis in front, which is folded into the trajectories. Unknown
    attributes are tolerated.

    Raises:
        DataError: A key or attribute is missing, or shapes disagree.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        self.coords: tuple[npt.NDArray[Any], ...]
        self._file = open_hdf5(path)
        with ExitStack() as opened:
            opened.callback(self._file.close)
            self._tensor = dataset_of(self._file, "tensor", path)
            self._check_shape(card)
            self.num_trajectories = int(np.prod(self._tensor.shape[:-2]))
            self.times = self._coordinate("t-coordinate", self._tensor.shape[-2], extra=1)
            self.coords = (self._coordinate("x-coordinate", self._tensor.shape[-1], extra=0),)
            self.parameters = {p.name: self._attribute(p.attribute) for p in card.parameters}
            opened.pop_all()  # all is well: the file stays open until `close`

    def _check_shape(self, card: DatasetCard) -> None:
        shape, kind = self._tensor.shape, self._tensor.dtype
        if len(shape) not in (3, 4) or card.num_dims != 1:
            raise DataError(f"{self.path}: tensor: shape {shape} is not (trajectory, time, x)")
        if kind.kind != "f":
            raise DataError(f"{self.path}: tensor: expected floating point, found {kind}")

    def _coordinate(self, key: str, length: int, *, extra: int) -> npt.NDArray[Any]:
        values = np.asarray(dataset_of(self._file, key, self.path)[()], dtype=np.float64)
        if values.ndim != 1 or not length <= len(values) <= length + extra:
            raise DataError(
                f"{self.path}: {key}: {values.shape} entries for {length} along tensor's axis"
            )
        return values[:length]

    def _attribute(self, name: str) -> float:
        if name not in self._file.attrs:
            found = sorted(self._file.attrs)
            raise DataError(f"{self.path}: attribute '{name}' is missing, found {found}")
        return float(self._file.attrs[name])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        with reading(self.path):
            if self._tensor.ndim == 3:
                block = self._tensor[start:stop]
            else:
                per_device = self._tensor.shape[1]
                block = np.stack([self._tensor[divmod(i, per_device)] for i in range(start, stop)])
        return np.asarray(block, dtype=np.float32)[..., None]

    def close(self) -> None:
        self._file.close()
