"""PDEBench's incompressible-flow layout: `velocity` and `particles` with components, 2-D `t`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups.data.layouts.base import (
    Array,
    dataset_of,
    opening,
    parameter_rows,
    reading,
    rising,
    values_of,
)
from ups.data.layouts.components import by_array
from ups.data.layouts.strided import pieces
from ups.data.layouts.yaml_text import as_number, read_settings
from ups.errors import DataError
from ups.registry import DatasetCard, FieldSpec

_Channels = list[tuple[h5py.Dataset, list[tuple[int, int]]]]


class PdebenchNsIncompressible:
    """Read fields (trajectory, time, x, y, component) and inputs (trajectory, x, y, component).

    `t` is (trajectory, time), the same times in each row. No coordinates are stored: they are the
    centres of equal cells over `domain_size` in the YAML text `config`. A run that was cut short
    leaves zeros after frame `latestIndex`; those frames are not there for the reader.

    Raises:
        DataError: A key is missing, shapes disagree, or `config` has no domain.
    """

    def __init__(self, path: Path, card: DatasetCard) -> None:
        self.path = path
        with opening(path) as file:
            self._file = file
            self._fields = self._channels(card.fields, 3 + card.num_dims)
            self._inputs = self._channels(card.inputs, 2 + card.num_dims)
            trajectories, frames, *points = self._fields[0][0].shape[:-1]
            self._check_shapes((trajectories, frames, *points))
            self._num_channels = (len(card.fields), len(card.inputs))
            self.num_trajectories = int(trajectories)
            self.times = self._times(frames)[: self._whole_frames(frames)]
            self.coords = _cell_centres(read_settings(file, path), points, path)
            self.parameters = parameter_rows(file, path, card, self.num_trajectories)

    def _channels(self, specs: tuple[FieldSpec, ...], rank: int) -> _Channels:
        """Arrays with the (channel, component) pairs wanted of each."""
        found = []
        for key, channels in by_array(specs).items():
            array = values_of(self._file, key, self.path)
            highest = max(component or 0 for _, component in channels)
            if array.ndim != rank or highest >= array.shape[-1]:
                raise DataError(
                    f"{self.path}: {key}: shape {array.shape}, expected {rank} axes and at least "
                    f"{highest + 1} components in the last one"
                )
            found.append((array, [(channel, component or 0) for channel, component in channels]))
        return found

    def _check_shapes(self, shape: tuple[int, ...]) -> None:
        static = (shape[0], *shape[2:])
        for arrays, expected in ((self._fields, shape), (self._inputs, static)):
            for array, _ in arrays:
                if array.shape[:-1] != expected:
                    name = array.name.lstrip("/")
                    raise DataError(
                        f"{self.path}: {name}: shape {array.shape} does not begin with {expected}"
                    )

    def _times(self, frames: int) -> Array:
        stored = dataset_of(self._file, "t", self.path)
        if stored.shape != (self.num_trajectories, frames) or stored.dtype.kind not in "fiu":
            raise DataError(
                f"{self.path}: t: shape {stored.shape}, expected numbers of shape "
                f"{(self.num_trajectories, frames)}"
            )
        whole = self._whole_frames(frames)
        times = np.asarray(stored[:, :whole], dtype=np.float64)
        if not np.array_equal(times, np.broadcast_to(times[0], times.shape)):
            raise DataError(f"{self.path}: t: the trajectories have different times")
        return rising(times[0], "t", self.path)

    def _whole_frames(self, frames: int) -> int:
        """Frames up to `latestIndex`; all where the attribute is absent."""
        if "latestIndex" not in self._file.attrs:
            return frames
        latest = np.asarray(self._file.attrs["latestIndex"])
        if latest.size != 1 or latest.dtype.kind not in "iu" or latest.item() < 0:
            raise DataError(f"{self.path}: attribute 'latestIndex': not the number of a frame")
        return min(frames, int(latest.item()) + 1)

    def read(self, trajectories: slice, frames: slice, stride_x: int = 1) -> Array:
        kept = range(len(self.times))[frames]
        frames = slice(kept.start, kept.stop, kept.step)
        return self._gather(self._fields, self._num_channels[0], trajectories, [frames], stride_x)

    def read_inputs(self, trajectories: slice, stride_x: int = 1) -> Array | None:
        if not self._inputs:
            return None
        return self._gather(self._inputs, self._num_channels[1], trajectories, [], stride_x)

    def _gather(
        self,
        arrays: _Channels,
        num_channels: int,
        trajectories: slice,
        time: list[slice],
        stride_x: int,
    ) -> Array:
        selection = (trajectories, *time, *[slice(None, None, stride_x)] * len(self.coords))
        sizes = [self.num_trajectories, *[len(self.times)] * len(time), *map(len, self.coords)]
        shape = [len(range(n)[part]) for n, part in zip(sizes, selection, strict=True)]
        out = np.empty((*shape, num_channels), np.float32)
        with reading(self.path):
            for array, channels in arrays:
                for place, block in pieces(array, (*selection, slice(None))):
                    for channel, component in channels:
                        out[..., channel][place[:-1]] = block[..., component]
        return out

    def close(self) -> None:
        self._file.close()


def _cell_centres(settings: dict[str, Any], points: list[int], path: Path) -> tuple[Array, ...]:
    stated = settings.get("domain_size")
    lengths = [as_number(n) or 0.0 for n in stated] if isinstance(stated, list) else []
    if len(lengths) != len(points) or min(lengths) <= 0:
        found = " ".join(str(stated).split())
        raise DataError(
            f"{path}: config: domain_size: expected {len(points)} lengths, found {found:.80}"
        )
    return tuple(
        (np.arange(n) + 0.5) * (length / n) for n, length in zip(points, lengths, strict=True)
    )
