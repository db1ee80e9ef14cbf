"""Every loss term of the operator but the unrolling itself: in tokens, in fields, of physics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from ups.codec.coded import CodedGrid
from ups.config.stages import LossesConfig
from ups.data.store import TrajectoryStore
from ups.errors import ConfigError
from ups.physics.grids import UniformGrid
from ups.training.losses import (
    PhysicsPriors,
    check_available,
    diversity,
    inverse_decoding,
    inverse_encoding,
    latent_norm,
    nrmse,
    relative_l2,
    spectral,
    wanted,
    weighted,
)
from ups.training.queries import QuerySampler, cells_of
from ups.training.tasks import LatentTask

Array = npt.NDArray[Any]
Terms = dict[str, Tensor | Callable[[], Tensor]]
_LATENT = ("forward", "latent_norm", "diversity")
_DECODED = ("decoded", "nrmse", "spectral", "inverse_encoding", "inverse_decoding")
_PRIORS = ("divergence", "conservation", "boundary", "positivity", "pde_residual")


@dataclass(frozen=True)
class Unrolled:
    """Predicted states of some windows of one task, beside the true ones.

    Attributes:
        before: The true state before the first predicted one; None for a steady problem.
        rows: Trajectories, counted inside the training split.
        frames: Stored frames of the predicted states, (batch, step).
        fields: The true fields of these frames, where they are at hand.
        stride: Stored frames from one state to the next.
    """

    task: LatentTask
    prediction: Float[Tensor, "batch step tokens dim"]
    truth: Float[Tensor, "batch step tokens dim"]
    before: Float[Tensor, "batch tokens dim"] | None
    dt: Float[Tensor, " batch"]
    rows: Array
    frames: Array
    stride: int
    step: int
    fields: Tensor | None = None


class LossTerms:
    """The weighted terms of a batch, for the tasks of a run.

    Terms of decoded fields are for grids; on meshes and of particles the loss is in tokens.

    Raises:
        ConfigError: No task can evaluate a term that has a weight, or one of fields has a weight
            and the cache holds moved tokens, whose fields are kept nowhere.
    """

    def __init__(self, config: LossesConfig, tasks: Sequence[LatentTask], seed: int) -> None:
        self.config = config
        of_fields = sorted(wanted(config) - set(_LATENT))
        if of_fields and any(task.repeats("train") > 1 for task in tasks):
            raise ConfigError(
                f"stages.operator.losses.{of_fields[0]}: needs fields, and cache.repeats keeps "
                "only tokens of moved ones",
                hint="--set cache.repeats=1, with data.augment instead",
            )
        self._grids = {
            task.name: _GridTerms(config, task, task.coded, seed)
            for task in tasks
            if isinstance(task.coded, CodedGrid)
        }
        available = {
            task.name: {*_LATENT, *self._grids[task.name].available}
            if task.name in self._grids
            else set(_LATENT)
            for task in tasks
        }
        check_available(config, available)

    def weighted(self, unrolled: Unrolled, progress: float) -> dict[str, Tensor]:
        """Weight times value of each term that counts now, mean over the predicted states."""
        prediction, truth = unrolled.prediction, unrolled.truth
        states = list(zip(prediction.unbind(1), truth.unbind(1), strict=True))
        terms: Terms = {
            "forward": partial(_mean, relative_l2, states),
            "latent_norm": partial(_mean, latent_norm, states),
            "diversity": partial(_mean, diversity, states),
        }
        grid = self._grids.get(unrolled.task.name)
        if grid is not None and wanted(self.config) - set(_LATENT):
            terms |= grid.terms(unrolled)
        return weighted(terms, self.config, progress)

    def state_dict(self) -> dict[str, Any]:
        return {name: grid.queries.state_dict() for name, grid in self._grids.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, grid in self._grids.items():
            grid.queries.load_state_dict(state[name])


def _mean(loss: Callable[[Tensor, Tensor], Tensor], states: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([loss(mine, true) for mine, true in states]).mean()


class _GridTerms:
    """Terms of decoded fields of one task on a grid."""

    def __init__(self, config: LossesConfig, task: LatentTask, coded: CodedGrid, seed: int) -> None:
        self.config, self.coded, self.codec, self.store = config, coded, coded.codec, coded.store
        self._members = task.members("train")
        self.periodic = self.codec.periodic
        geometry = self.codec.geometry
        grid = UniformGrid.within(
            self.store.metadata.bounds, task.layout.boundaries,
            space=geometry.space, origin=geometry.origin, spacing=geometry.spacing,
        )  # fmt: skip
        self.priors = PhysicsPriors(task.data.card, grid)
        self.available = frozenset([*_DECODED, *self.priors.available])
        cells = cells_of(geometry.space, max(max(geometry.space) // 16, 1))
        points = config.query_points or len(cells)
        self.queries = QuerySampler(cells, points, kind=config.query_sampling, seed=seed)

    def terms(self, unrolled: Unrolled) -> Terms:
        fields = _DecodedFields(self, unrolled)
        terms: Terms = {
            "decoded": partial(self._at_queries, fields, unrolled.step),
            "nrmse": lambda: nrmse(*fields.flat, floor=1e-3 * self.codec.scale),
            "spectral": lambda: spectral(*fields.flat, self.periodic),
            "inverse_encoding": lambda: inverse_encoding(
                self.codec.encode, self.codec.decode, unrolled.prediction.flatten(0, 1)
            ),
            "inverse_decoding": lambda: inverse_decoding(
                self.codec.encode, self.codec.decode, fields.flat[0]
            ),
        }
        if self.priors.available & wanted(self.config):
            terms |= self._physics(fields, unrolled)
        return terms

    def _at_queries(self, fields: _DecodedFields, step: int) -> Tensor:
        """Relative L2 at query points, fields in the codec's units."""
        prediction, truth = (one.flatten(1, -2) / self.codec.scale for one in fields.flat)
        chosen = self.queries.sample(step, device=prediction.device)
        mine, true = prediction[:, chosen.points], truth[:, chosen.points]
        if self.queries.kind == "error":
            self.queries.update(chosen.points, (mine - true).detach().square().mean((0, 2)).sqrt())
        return relative_l2(mine, true, chosen.weights)

    def _physics(self, fields: _DecodedFields, unrolled: Unrolled) -> Terms:
        prediction, truth = fields.consecutive
        members = self._members[unrolled.rows]
        parameters = torch.from_numpy(self.store.parameters[members]).to(prediction)
        inputs = None
        if self.store.inputs is not None:
            inputs = torch.from_numpy(self.store.inputs[members]).to(prediction)
        steady = unrolled.before is None
        return dict(
            self.priors.terms(
                prediction,
                truth,
                dt=None if steady else unrolled.dt,
                parameters=parameters,
                inputs=inputs,
            )
        )


class _DecodedFields:
    """Fields of predicted states, decoded when they are first asked for, and the truth."""

    def __init__(self, owner: _GridTerms, unrolled: Unrolled) -> None:
        self._owner, self._unrolled = owner, unrolled

    @cached_property
    def flat(self) -> tuple[Tensor, Tensor]:
        """Predicted and true fields, (batch x step, *space, channel)."""
        tokens = self._unrolled.prediction.flatten(0, 1)
        return self._owner.codec.decode(tokens), self._truth.flatten(0, 1)

    @cached_property
    def _truth(self) -> Tensor:
        found = self._unrolled
        if found.fields is not None:
            return found.fields
        members = self._owner._members[found.rows]
        values = _frames_at(self._owner.store, members, found.frames)
        return torch.from_numpy(values).to(found.prediction.device)

    @property
    def consecutive(self) -> tuple[Tensor, Tensor]:
        """Predicted and true frames with the true one before them, (batch, time, *space, c)."""
        found = self._unrolled
        steps = found.prediction.shape[1]
        prediction, truth = (one.unflatten(0, (-1, steps)) for one in self.flat)
        if found.before is None:
            return prediction, truth
        before = self._owner.codec.decode(found.before)[:, None]
        return torch.cat([before, prediction], 1), torch.cat([before, truth], 1)


def _frames_at(store: TrajectoryStore, members: Array, frames: Array) -> Array:
    return np.stack(
        [store.fields[row][chosen] for row, chosen in zip(members, frames, strict=True)]
    )  # fmt: skip
