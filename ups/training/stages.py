"""The stages: which weights move, and what the loss is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.cache.format import LatentCache
from ups.checkpoint import Checkpoint
from ups.codec.grid import GridCodec
from ups.codec.interpolation import shifted
from ups.codec.report_card import ReportCard, report_card
from ups.config.stages import CodecStageConfig, OperatorStageConfig
from ups.data.store import TrajectoryStore
from ups.data.windows import Shards, WindowSampler, gather
from ups.evaluation.metrics import nrmse
from ups.evaluation.rollout import horizon_for, predict_split
from ups.models.operator import LatentOperator
from ups.models.surrogate import Surrogate, scale_parameters
from ups.registry import Parameter
from ups.training.loop import StageDefaults
from ups.training.losses import relative_l2

MakeCheckpoint = Callable[..., Checkpoint]
_VALIDATION_FRAMES = 512
_STATISTICS_TRAJECTORIES = 256
_RESIDENT_BYTES = 4 * 2**30


@dataclass
class CodecStage(StageDefaults):
    """Teach the codec to reconstruct single frames, on the grid and between its points.

    Between the points the truth is the band-limited interpolant of the frame at a random shift.
    An invertible codec is exact on the grid and has nothing to learn there.
    """

    name: ClassVar[str] = "codec"
    config: CodecStageConfig
    codec: GridCodec
    store: TrajectoryStore
    device: torch.device
    seed: int
    make_checkpoint: MakeCheckpoint

    def __post_init__(self) -> None:
        self.trainable: nn.Module = self.codec
        self._members = self.store.split("train")
        self._sampler = WindowSampler(
            num_trajectories=len(self._members),
            num_frames=self.store.num_frames,
            length=1,
            batch_size=self.config.batch_size,
            seed=self.seed,
        )
        self._coords = self.codec.geometry.coords().to(self.device)
        self._spacing = torch.tensor(self.codec.geometry.spacing, dtype=torch.float64)

    def batch(self, step: int, micro: int) -> tuple[Tensor, list[float]]:
        """Frames (batch, *space, channel), and how far off the grid they are queried."""
        rows, frames = self._sampler.draw(step)
        part = slice(micro, None, self.config.accumulate)
        fields = gather(self.store.fields, self._members[rows[part]], frames[part], 1)[:, 0]
        random = np.random.default_rng([self.seed, step, 1])
        offset = random.random(len(self.store.space)).tolist()
        return torch.from_numpy(fields).to(self.device), offset

    def losses(self, batch: tuple[Tensor, list[float]], progress: float) -> dict[str, Tensor]:
        fields, offset = batch
        geometry, share = self.codec.geometry, self.config.off_grid_share
        move = (torch.tensor(offset, dtype=torch.float64) * self._spacing).to(self.device)
        on_grid, between = self.codec(fields, self._coords + move)
        truth = shifted(fields, offset, geometry.periodic).flatten(1, -2)
        terms = {"off_grid": share * relative_l2(between, truth)}
        if not self.codec.is_invertible:
            terms["on_grid"] = (1 - share) * relative_l2(on_grid, fields)
        return terms

    def validate(self) -> dict[str, float]:
        """Reconstruction error on the validation split; the mean of both grids is the criterion."""
        card = self.card()
        return {
            "valid_nrmse": (card.native.nrmse + card.double.nrmse) / 2,
            "valid_nrmse_native": card.native.nrmse,
            "valid_nrmse_2x": card.double.nrmse,
        }

    def card(self) -> ReportCard:
        """The codec's report card on the validation split."""
        return report_card(self.codec, validation_frames(self.store, self.device))

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint:
        return self.make_checkpoint(self.name, step, metrics, self.codec)


def validation_frames(
    store: TrajectoryStore, device: torch.device, limit: int = _VALIDATION_FRAMES
) -> Iterator[Float[Tensor, "batch *space channel"]]:
    """About `limit` frames of the validation split, evenly spread, in batches of 64."""
    members = store.split("valid")
    total = len(members) * store.num_frames
    chosen = np.unique(np.linspace(0, total - 1, min(limit, total)).astype(int))
    for start in range(0, len(chosen), 64):
        rows, frames = np.divmod(chosen[start : start + 64], store.num_frames)
        yield torch.from_numpy(gather(store.fields, members[rows], frames, 1)[:, 0]).to(device)


@dataclass
class OperatorStage(StageDefaults):
    """Teach the operator to advance cached tokens, differentiating through several steps.

    Relative L2 in the codec's own units; latent numbers are never z-scored in the loss. Early
    frames, where fronts form, are drawn more often. Validation decodes.
    """

    name: ClassVar[str] = "operator"
    config: OperatorStageConfig
    surrogate: Surrogate
    store: TrajectoryStore
    cache: LatentCache
    cards: tuple[Parameter, ...]
    stride: int
    device: torch.device
    seed: int
    make_checkpoint: MakeCheckpoint
    _resident: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.operator: LatentOperator = self.surrogate.operator
        self.trainable: nn.Module = self.operator
        self._tokens = self.cache.tokens("train")
        rows = torch.from_numpy(self.store.parameters[self.store.split("train")])
        self._parameters = scale_parameters(self.cards, rows).float().to(self.device)
        self._resident = resident(self._tokens, self.device)
        set_step_size(self.operator, self._tokens, self.stride)

    def batch(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
        """Token windows (batch, 1 + unroll, tokens, dim) and scaled parameters."""
        sampler = WindowSampler(
            num_trajectories=self._tokens.shape[0],
            num_frames=self._tokens.shape[1],
            length=1 + self.unroll_at(step / self.config.steps),
            stride=self.stride,
            batch_size=self.config.batch_size,
            early_bias=self.config.early_bias,
            seed=self.seed,
        )
        rows, starts = (part[micro :: self.config.accumulate] for part in sampler.draw(step))
        return self._windows(rows, starts, sampler.length), self._parameters[rows]

    def unroll_at(self, progress: float) -> int:
        """Operator steps to differentiate through at this share of the run."""
        return [item.steps for item in self.config.unroll if progress >= item.start][-1]

    def _windows(self, rows: Any, starts: Any, length: int) -> Tensor:
        if self._resident is None:
            windows = self._tokens.gather(rows, starts, length, self.stride)
            return torch.from_numpy(windows).to(self.device).float()
        times = starts[:, None] + np.arange(length) * self.stride
        index = torch.from_numpy(rows[:, None] * self._tokens.shape[1] + times).to(self.device)
        return self._resident[index].float()

    def losses(self, batch: tuple[Tensor, Tensor], progress: float) -> dict[str, Tensor]:
        windows, parameters = batch
        steps = windows.shape[1] - 1
        tokens, total = windows[:, 0], torch.zeros((), device=self.device)
        for step in range(1, steps + 1):
            tokens = self.surrogate.step(tokens, parameters)
            total = total + relative_l2(tokens, windows[:, step])
        return {"relative_l2": total / steps}

    def validate(self) -> dict[str, float]:
        """Decoded rollout from one frame to the end, on the validation split: nRMSE."""
        members = self.store.split("valid")[: self.config.validation_trajectories]
        horizon = horizon_for(self.store.num_frames, history=1, stride=self.stride, steps=None)
        errors = []
        for batch in predict_split(
            self.surrogate, self.store, members, horizon, batch_size=64, device=self.device
        ):
            errors.append(nrmse(batch.prediction, batch.reference).mean((1, 2)))
        found = torch.cat(errors)
        mean = found.nan_to_num(nan=float("inf")).mean().item()
        return {"valid_nrmse": min(mean, 1e30), "valid_nrmse_median": found.median().item()}

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint:
        return self.make_checkpoint(
            self.name, step, metrics, self.surrogate.codec, operator=self.operator
        )


def resident(tokens: Shards, device: torch.device) -> Tensor | None:
    """All frames as one (frame, tokens, dim) tensor on the device, if they take at most 4 GiB."""
    size = int(np.prod(tokens.shape)) * tokens.arrays[0].dtype.itemsize
    if size > _RESIDENT_BYTES:
        return None
    return torch.from_numpy(tokens.whole()).flatten(0, 1).to(device)


@torch.no_grad()
def set_step_size(operator: LatentOperator, tokens: Shards, stride: int) -> None:
    """Scale the operator's head by the typical relative change over one step."""
    number = min(_STATISTICS_TRAJECTORIES, tokens.shape[0])
    rows = np.linspace(0, tokens.shape[0] - 1, number).astype(int)
    starts = np.zeros(number, dtype=int)
    length = (tokens.shape[1] - 1) // stride + 1
    frames = torch.from_numpy(tokens.gather(rows, starts, length, stride)).float()
    layout = operator.layout
    z = frames.unflatten(-1, (layout.num_coefficients, layout.num_fields))
    _, _, amplitude = operator.normalised(z[:, :-1].flatten(0, 1).to(operator.step_size.device))
    change = (z[:, 1:] - z[:, :-1]).flatten(0, 1).to(amplitude)
    operator.step_size.copy_((change / amplitude[:, None, None]).std().clamp_min(1e-6))
