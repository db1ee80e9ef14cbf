"""Stage `codec`: reconstruct single frames, on a grid also between its points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.codec.cloud import Cloud, cloud_of, merged
from ups.codec.coded import frames_of
from ups.codec.grid import GridCodec
from ups.codec.interpolation import shifted
from ups.codec.points import PointCodec
from ups.codec.report_card import ReportCard, report_card
from ups.config.stages import CodecStageConfig
from ups.data.points import PointStore
from ups.data.reading.mixing import TaskOrder
from ups.data.store import TrajectoryStore
from ups.data.windows import WindowSampler, gather
from ups.evaluation.metrics import nrmse
from ups.training.distributed import portion
from ups.training.loop import StageDefaults
from ups.training.losses import relative_l2
from ups.training.session import TaskData
from ups.training.stages.fresh import MovedWindows

Array = npt.NDArray[Any]
MakeCheckpoint = Callable[..., Checkpoint]
_VALIDATION_FRAMES, _FEWEST_FRAMES = 512, 32
_VALIDATION_POINTS = 2**18
_VALIDATION_CLOUDS = 64


@dataclass(frozen=True)
class GridFrames:
    """Single frames of one task on a grid.

    Between the points the truth is the band-limited interpolant of the frame at a random shift.
    An invertible codec is exact on the grid and has nothing to learn there.
    """

    data: TaskData
    store: TrajectoryStore
    codec: GridCodec
    config: CodecStageConfig
    device: torch.device
    seed: int
    moved: MovedWindows | None = None

    @property
    def name(self) -> str:
        return self.data.name

    def __len__(self) -> int:
        return len(self.store.split("train")) * len(self.data.frames)

    def batch(self, number: int, micro: int) -> tuple[Tensor, list[float], Tensor]:
        """Frames (batch, *space, channel), how far off the grid they are queried, and where."""
        rows, frames = _drawn(self.data, self.config, self.seed, number, micro)
        if self.moved is None:
            fields = gather(self.store.fields, rows, frames, 1)[:, 0]
        else:
            fields = self.moved.read(rows, frames, 1, 1, (number, micro)).fields[:, 0]
        random = np.random.default_rng([self.seed, number, 1])
        offset = random.random(len(self.store.space)).tolist()
        points = math.prod(self.store.space)
        chosen = random.permutation(points)[: self.config.off_grid_points]
        return (
            torch.from_numpy(fields).to(self.device),
            offset,
            torch.from_numpy(chosen).to(self.device),
        )

    def losses(self, batch: tuple[Tensor, list[float], Tensor]) -> dict[str, Tensor]:
        fields, offset, chosen = batch
        geometry, share = self.codec.geometry, self.config.off_grid_share
        spacing = torch.tensor(geometry.spacing, dtype=torch.float64)
        move = (torch.tensor(offset, dtype=torch.float64) * spacing).to(self.device)
        on_grid, between = self.codec(fields, (geometry.coords().to(self.device) + move)[chosen])
        truth = shifted(fields, offset, geometry.periodic).flatten(1, -2)[:, chosen]
        terms = {"off_grid": share * relative_l2(between, truth)}
        if not self.codec.is_invertible:
            terms["on_grid"] = (1 - share) * relative_l2(on_grid, fields)
        return terms

    def validate(self) -> dict[str, float]:
        """Errors on the validation split; the mean of both grids is the criterion."""
        card = self.card(quadruple=False)
        return {
            "nrmse": (card.native.nrmse + card.double.nrmse) / 2,
            "nrmse_native": card.native.nrmse,
            "nrmse_2x": card.double.nrmse,
        }

    def card(self, *, quadruple: bool = True) -> ReportCard:
        """The codec's report card on the validation split."""
        points = math.prod(self.store.space)
        number = max(_FEWEST_FRAMES, min(_VALIDATION_FRAMES, _VALIDATION_POINTS // points))
        frames = frames_of(self.store, "valid", self.data.frames, number)
        on_device = (batch.to(self.device) for batch in frames)
        return report_card(self.codec, on_device, quadruple=quadruple)


@dataclass(frozen=True)
class PointFrames:
    """Single frames of one task on meshes or of particles."""

    data: TaskData
    store: PointStore
    codec: PointCodec
    config: CodecStageConfig
    device: torch.device
    seed: int

    @property
    def name(self) -> str:
        return self.data.name

    def __len__(self) -> int:
        return len(self.store.split("train")) * len(self.data.frames)

    def batch(self, number: int, micro: int) -> tuple[Tensor, Cloud]:
        """Values (node, channel) of one frame of each drawn trajectory, and where they are."""
        rows, frames = _drawn(self.data, self.config, self.seed, number, micro)
        return self._frames(rows, frames)

    def _frames(self, rows: Array, frames: Array) -> tuple[Tensor, Cloud]:
        pairs = list(zip(rows.tolist(), frames.tolist(), strict=True))
        clouds = [cloud_of(self.store, row, frame) for row, frame in pairs]
        values = [self.store.fields(row, slice(frame, frame + 1))[0] for row, frame in pairs]
        fields = torch.from_numpy(np.concatenate(values)).to(self.device)
        return fields, merged(clouds).to(self.device)

    def losses(self, batch: tuple[Tensor, Cloud]) -> dict[str, Tensor]:
        fields, cloud = batch
        return {"nodes": _per_sample(self.codec(fields, cloud), fields, cloud).mean()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Reconstruction error at the nodes, mean over frames and fields."""
        members = self.store.split("valid")
        first, length = self.data.frames.start, len(self.data.frames)
        total = len(members) * length
        chosen = np.unique(np.linspace(0, total - 1, min(_VALIDATION_CLOUDS, total)).astype(int))
        errors = []
        for start in range(0, len(chosen), 16):
            rows, places = np.divmod(chosen[start : start + 16], length)
            fields, cloud = self._frames(members[rows], first + places)
            found = self.codec(fields, cloud)
            for sample in range(cloud.num_samples):
                mine = cloud.sample == sample
                errors.append(nrmse(found[mine][None, None], fields[mine][None, None]).mean())
        error = float(torch.stack(errors).mean())
        return {"nrmse": error, "nrmse_native": error}


Frames = GridFrames | PointFrames


def _drawn(
    data: TaskData, config: CodecStageConfig, seed: int, number: int, micro: int
) -> tuple[Array, Array]:
    """Rows of the store and frames of this process' share of a batch."""
    members = data.store.split("train")
    sampler = WindowSampler(
        num_trajectories=len(members), num_frames=len(data.frames), length=1,
        batch_size=config.batch_size, seed=seed,
    )  # fmt: skip
    rows, frames = (portion(part, micro, config.accumulate) for part in sampler.draw(number))
    return members[rows], data.frames.start + frames


def _per_sample(prediction: Tensor, target: Tensor, cloud: Cloud) -> Tensor:
    """Relative L2 over nodes, of each sample and field, with the constants of `relative_l2`."""

    def mean_square(values: Tensor) -> Tensor:
        sums = values.new_zeros(cloud.num_samples, values.shape[-1])
        counts = torch.bincount(cloud.sample, minlength=cloud.num_samples)
        return sums.index_add(0, cloud.sample, values.square()) / counts[:, None]

    error = (mean_square(prediction - target) + 1e-12).sqrt()
    return error / (mean_square(target) + 1e-12).sqrt().clamp_min(1e-3)


def is_trainable(module: nn.Module) -> bool:
    """Whether there is anything to learn; a codec may be fitted to the data and no more."""
    return any(weight.requires_grad for weight in module.parameters())


@dataclass
class CodecStage(StageDefaults):
    """Teach the codecs of all tasks to reconstruct single frames."""

    name: ClassVar[str] = "codec"
    config: CodecStageConfig
    tasks: tuple[Frames, ...]
    seed: int
    make_checkpoint: MakeCheckpoint

    def __post_init__(self) -> None:
        self.trainable: nn.Module = nn.ModuleDict({task.name: task.codec for task in self.tasks})
        self._learning = [task for task in self.tasks if is_trainable(task.codec)]
        self._order: TaskOrder[Frames] | None = None
        if self._learning:
            self._order = TaskOrder(self._learning, seed=self.seed)

    def batch(self, step: int, micro: int) -> tuple[Frames, Any]:
        assert self._order is not None
        index, number = self._order.locate(step)
        task = self._learning[index]
        return task, task.batch(number, micro)

    def losses(self, batch: tuple[Frames, Any], progress: float) -> dict[str, Tensor]:
        task, content = batch
        return task.losses(content)

    def validate(self) -> dict[str, float]:
        """Reconstruction errors, macro averages over tasks."""
        found = {task.name: task.validate() for task in self.tasks}
        return {**_averages(found), **_by_task(found)}

    def cards(self) -> dict[str, ReportCard]:
        """Report cards of the codecs on grids."""
        return {task.name: task.card() for task in self.tasks if isinstance(task, GridFrames)}

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint:
        return self.make_checkpoint(self.name, step, metrics)


def _averages(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for one in found.values():
        for key, value in one.items():
            values.setdefault(key, []).append(value)
    return {f"valid_{key}": sum(some) / len(some) for key, some in values.items()}


def _by_task(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{name}/{key}": value for name, one in found.items() for key, value in one.items()}
