"""One interface to training samples, whatever the store: windows drawn, read, augmented.

windows = Windows(open_store("burgers1d"), load_card("burgers1d"), history=1, horizon=4)
batch = windows.batch(step, 64)    # depends on seed, step and batch size alone
"""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ups.data.points import PointStore
from ups.data.reading.augment import noisy
from ups.data.reading.batches import (
    Empty,
    GridBatch,
    Kind,
    PointBatch,
    Problem,
    WindowBatch,
    boundary_codes,
    unit_conditions,
)
from ups.data.reading.grids import GridReader, Reduce, Reduction
from ups.data.reading.points import PointReader
from ups.data.reading.symmetries import Augmentation, Geometry, Move, permit, vectors_of
from ups.data.store import TrajectoryStore
from ups.data.windows import WindowSampler
from ups.errors import ConfigError, DataError
from ups.registry import DatasetCard

Array = npt.NDArray[Any]
_MOVES, _NOISE = 0x6D6F7665, 0x6E6F6973
"""Set the random numbers of augmentations apart from those of the windows' places."""


class Windows:
    """Random windows of one split of a store, with what is known of the problem they solve.

    Safe across fork and spawn: a pickled one opens its store again, and refuses a store that was
    converted again in between. Memory does not grow with what has been read.

    Args:
        store: Of a grid, a mesh or particles: `ups.data.versions.open_store`.
        card: The dataset's.
        split: 'train', 'valid' or 'test'.
        history, horizon: Frames given and frames to be predicted; a window has both. A static
            problem has windows of one frame, none of them given, whatever is asked for.
        stride_t: Stored frames from one frame of a window to the next.
        stride_x: Grids: every which point along each axis.
        reduce: 'stride' takes every `stride_x`-th point, 'mean' the mean of a block of them.
        early_bias: As in `WindowSampler`: above 1 prefers early frames.
        augment: Checked against the card's symmetries and the store's boundaries.
        seed: Of the windows and of their augmentation.
        name: Of the task in a mixture; the store's by default.

    Raises:
        ConfigError: A number or an augmentation that this store or its card does not allow.
        DataError: The split is empty, a window does not fit, or the card and the store disagree.
    """

    def __init__(
        self,
        store: TrajectoryStore | PointStore,
        card: DatasetCard,
        *,
        split: str = "train",
        history: int = 1,
        horizon: int = 1,
        stride_t: int = 1,
        stride_x: int = 1,
        reduce: Reduce = "stride",
        early_bias: int | float = 1.0,
        augment: Augmentation | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self._options: dict[str, Any] = {
            "split": split, "history": history, "horizon": horizon, "stride_t": stride_t,
            "stride_x": stride_x, "reduce": reduce, "early_bias": early_bias,
            "augment": augment, "seed": seed, "name": name,
        }  # fmt: skip
        self.store, self.card, self.name = store, card, name or store.name
        _check_card(store, card)
        static = store.metadata.dt is None
        _check_counts(self.name, history, horizon, stride_t, static)
        self.history = 0 if static else history
        self.length = 1 if static else history + horizon
        self.stride_t, self.stride_x, self.seed = stride_t, stride_x, seed
        self.augment = augment or Augmentation()
        self.trajectories = store.split(split)
        if not len(self.trajectories):
            raise DataError(f"{store.name}: no trajectory in split '{split}'")
        if store.presence is not None:
            store.presence.require_unless_fetched(self.trajectories)
        self._sampler = self._build_sampler(early_bias)
        self._reader = self._build_reader(Reduction(stride_x, reduce))
        self._permitted = permit(self.augment, card, self._geometry())
        self._problem = self._build_problem()
        self._conditions = unit_conditions(store.parameters, card, store.name)
        self._scale = np.array(
            [store.statistics["std" if f.normalisation == "standard" else "rms"][channel]
             for channel, f in enumerate(card.fields)]
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        identity = self.store.metadata.data_sha256
        return (_reopened, (self.store, self.card, self._options, identity))

    def __copy__(self) -> Windows:
        return self  # nothing of it changes

    @property
    def num_places(self) -> int:
        """Frames at which a window can begin."""
        return self._sampler.num_places

    def __len__(self) -> int:
        """How many different windows there are, before augmentation."""
        return len(self.trajectories) * self.num_places

    @property
    def kind(self) -> Kind:
        return self._problem.kind

    @property
    def coords(self) -> tuple[Array, ...]:
        """Of the reduced grid; none for meshes and particles."""
        return self._reader.coords if isinstance(self._reader, GridReader) else ()

    def batch_bytes(self, batch_size: int) -> int:
        """Most bytes of the arrays of a batch, without small ones."""
        return batch_size * self._reader.window_bytes

    def draw(self, step: int, batch_size: int) -> tuple[Array, Array]:
        """Trajectory (row of the store) and first frame of each window of batch `step`."""
        sampler = dataclasses.replace(self._sampler, batch_size=batch_size)
        chosen, starts = sampler.draw(step)
        return self.trajectories[chosen], starts

    def batch(self, step: int, batch_size: int, empty: Empty = np.empty) -> WindowBatch:
        """Batch `step`: a pure function of the seed, `step` and `batch_size`.

        Args:
            empty: Makes the large arrays.
        """
        trajectories, starts = self.draw(step, batch_size)
        moves = None
        if self.augment.moves:
            random = np.random.default_rng([self.seed, step, _MOVES])
            moves = [self._permitted.draw(random) for _ in range(batch_size)]
        batch = self._read(trajectories, starts, moves, empty)
        if self.augment.noise and self.history:
            self._add_noise(batch, np.random.default_rng([self.seed, step, _NOISE]))
        return batch

    def read(self, trajectories: Array, starts: Array) -> WindowBatch:
        """The windows of these rows of the store that begin at these frames, as they are stored.

        Raises:
            IndexError: There is no such row or frame.
        """
        rows, places = np.asarray(trajectories), np.asarray(starts)
        for values, size, what in ((rows, self.store.num_trajectories, "trajectory"),
                                   (places, self.num_places, "first frame")):  # fmt: skip
            if len(values) and not (values.min() >= 0 and values.max() < size):
                raise IndexError(f"{self.name}: {what} outside 0 to {size - 1}")
        return self._read(rows, places, None, np.empty)

    def read_moved(
        self, trajectories: Array, starts: Array, random: np.random.Generator
    ) -> WindowBatch:
        """As `read`, each window moved by a symmetry drawn from `random`."""
        moves = [self._permitted.draw(random) for _ in trajectories]
        return self._read(np.asarray(trajectories), np.asarray(starts), moves, np.empty)

    def _read(
        self, trajectories: Array, starts: Array, moves: list[Move] | None, empty: Empty
    ) -> WindowBatch:
        frames = starts[:, None] + self.stride_t * np.arange(self.length)
        common: dict[str, Any] = {
            "problem": self._problem,
            "times": self.store.time[frames],
            "parameters": self.store.parameters[trajectories],
            "conditions": self._conditions[trajectories],
            "trajectories": trajectories,
            "starts": starts,
        }
        if isinstance(self._reader, GridReader):
            fields, inputs = self._reader.read(trajectories, starts, moves, empty)
            return GridBatch(fields=fields, inputs=inputs, coords=self._reader.coords, **common)
        points = self._reader.read(trajectories, starts, moves, empty)
        return PointBatch(**vars(points), **common)

    def _add_noise(self, batch: WindowBatch, random: np.random.Generator) -> None:
        time = 0 if isinstance(batch, PointBatch) else 1
        history = batch.fields[(slice(None),) * time + (slice(self.history),)]
        positive = [field.positive for field in self.card.fields]
        history[...] = noisy(history, self.augment.noise, self._scale, positive, random)

    def _build_sampler(self, early_bias: int | float) -> WindowSampler:
        try:
            return WindowSampler(
                num_trajectories=len(self.trajectories), num_frames=self.store.num_frames,
                length=self.length, stride=self.stride_t, early_bias=float(early_bias),
                seed=self.seed,
            )  # fmt: skip
        except DataError as error:
            raise DataError(
                f"{self.name}: {error}", hint="a shorter horizon or a smaller stride_t"
            ) from error

    def _build_reader(self, reduction: Reduction) -> GridReader | PointReader:
        vectors = vectors_of(self.card)
        if isinstance(self.store, TrajectoryStore):
            return GridReader(
                self.store, length=self.length, stride_t=self.stride_t, reduction=reduction,
                vectors=vectors,
            )  # fmt: skip
        if reduction.stride != 1:
            raise ConfigError(f"{self.name}: stride_x: meshes and particles have no grid to thin")
        return PointReader(
            self.store, length=self.length, stride_t=self.stride_t, vectors=vectors,
            geometry=self._points_geometry(), chosen=self.trajectories,
        )  # fmt: skip

    def _geometry(self) -> Geometry:
        if not isinstance(self._reader, GridReader):
            return self._points_geometry()
        return dataclasses.replace(self._points_geometry(), coords=self._reader.coords)

    def _points_geometry(self) -> Geometry:
        data = self.store.metadata
        kind = self.store.kind if isinstance(self.store, PointStore) else "grid"
        return Geometry(self.name, kind, data.bounds, data.boundaries, None)

    def _build_problem(self) -> Problem:
        data = self.store.metadata
        return Problem(
            task=self.name,
            kind=cast(Kind, self._points_geometry().kind),
            family=self.card.pde.family,
            boundaries=boundary_codes(data, self.store.name),
            dt=None if data.dt is None else data.dt * self.stride_t,
            history=self.history,
            parameter_names=data.parameters,
        )


def _reopened(store: Any, card: Any, options: dict[str, Any], identity: str) -> Windows:
    """In a worker process: the same windows of the same data."""
    if store.metadata.data_sha256 != identity:
        raise DataError(
            f"{store.path}: was converted again while it was being read", hint="start again"
        )
    return Windows(store, card, **options)


def _check_card(store: TrajectoryStore | PointStore, card: DatasetCard) -> None:
    data = store.metadata
    if data.dataset != card.key:
        raise ConfigError(f"{store.name}: is not of the card '{card.key}'")
    for what, stored, stated in (
        ("fields", data.fields, card.field_names),
        ("inputs", data.inputs, card.input_names),
        ("parameters", data.parameters, card.parameter_names),
    ):
        if tuple(stored) != tuple(stated):
            raise DataError(
                f"{store.name}: {what} {', '.join(stored) or 'none'}, and the card has "
                f"{', '.join(stated) or 'none'}",
                hint=f"ups data convert {card.key} --force",
            )


def _check_counts(name: str, history: int, horizon: int, stride_t: int, static: bool) -> None:
    least = {"history": (history, 0), "horizon": (horizon, 0), "stride_t": (stride_t, 1)}
    for what, (value, lowest) in least.items():
        if value < lowest:
            raise ConfigError(f"{name}: {what}: must be at least {lowest}, found {value}")
    if not static and history + horizon < 1:
        raise ConfigError(f"{name}: history and horizon are both 0: a window would be empty")
