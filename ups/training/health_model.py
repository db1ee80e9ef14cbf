"""Whether every weight of a model is alive, and whether its kind can learn one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.config.stages import (
    OperatorStageConfig,
    StageName,
    SteadyPriorStageConfig,
    TrainingConfig,
    Unroll,
)
from ups.evaluation.gates import Gate
from ups.models.layout import Given
from ups.models.steady import SteadyPrior
from ups.training.building import coded_task
from ups.training.health_answers import Outcome
from ups.training.optim import build_optimizer, clip, gradients
from ups.training.protocol import Stage
from ups.training.session import Session, Store, open_session
from ups.training.stages.build import stage_on
from ups.training.tasks import LatentTask

Array = npt.NDArray[Any]
BATCH = 4
OVERFIT_STEPS = 40
OVERFIT_SHARE = 0.5
"""Share of its first value to which the loss of one batch must fall."""
_TRAJECTORIES = 8
_NUMBERS = 2**26
_DEAD = 1e-9
_STAGES: dict[str, StageName] = {
    "operator": "operator",
    "residual": "diff_residual",
    "flow_map": "consistency_distill",
    "prior": "steady_prior",
}
"""Which stage trains which module of a checkpoint."""


@dataclass
class FewTask(LatentTask):
    """A task with a few of its trajectories, encoded on the spot: no cache has to exist.

    Attributes:
        is_varied: Whether parameters and time step are moved at random, so that weights of inputs
            that are the same for all these data are heard too.
    """

    is_varied: bool = False
    _few: dict[str, Array] = field(default_factory=dict, init=False)

    def members(self, split: str) -> Array:
        if split not in self._few:
            rows = _rows_here(self.data.store, split)
            numbers = self.num_frames * self.layout.num_tokens * self.layout.latent_dim
            count = int(np.clip(_NUMBERS // numbers, 2, _TRAJECTORIES))
            places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
            self._few[split] = rows[places]
        return self._few[split]

    def given(self, split: str, rows: Array, stride: int | None = None) -> Given:
        told = super().given(split, rows, stride)
        if not self.is_varied:
            return told
        generator = torch.Generator().manual_seed(0)
        moves = 0.2 * torch.randn(told.parameters.shape, generator=generator)
        pace = (0.2 * torch.randn(told.dt.shape, generator=generator)).exp()
        return replace(
            told,
            parameters=told.parameters + moves.to(self.device),
            dt=told.dt * pace.to(self.device),
        )

    def _resident_tokens(self, split: str) -> Tensor:
        found = self._resident.get(split)
        if found is None:
            found = self.coded.encode(self.members(split), range(self.num_frames)).flatten(0, 1)
            self._resident[split] = found
        return found

    def _context(self, split: str) -> Tensor | None:
        if split not in self._contexts:
            found = self.coded.context(self.members(split))
            if found is None:
                return None
            self._contexts[split] = found
        return self._contexts[split]


def _rows_here(store: Store, split: str) -> Array:
    """Trajectories of a split that are here; of the validation split where none of it is."""
    rows = store.split(split)
    if store.presence is None:
        return rows
    here = np.setdiff1d(rows, store.presence.missing(rows))
    return here if len(here) else store.split("valid")


def session_of_few(checkpoint: Checkpoint, device: torch.device, first_share: float) -> Session:
    """The checkpoint's experiment with small batches, single steps and nothing random.

    Args:
        first_share: Of samples that train a prior's prediction, not its refinements.
    """
    experiment = checkpoint.experiment
    stages = {
        str(name): _small(getattr(experiment.stages, name), first_share)
        for name in _STAGES.values()
    }
    few = experiment.model_copy(
        update={
            "stages": experiment.stages.model_copy(update=stages),
            "data": experiment.data.model_copy(update={"augment": (), "noise": 0.0}),
            "threads": None,
        }
    )
    return open_session(few, device=device)


def _small(config: TrainingConfig, first_share: float) -> TrainingConfig:
    changes: dict[str, Any] = {"batch_size": BATCH, "accumulate": 1, "epochs": None}
    if isinstance(config, OperatorStageConfig):
        changes |= {"unroll": (Unroll(start=0, steps=1),), "curriculum": (), "max_stride": 1}
    if isinstance(config, SteadyPriorStageConfig):
        changes["first_share"] = first_share
    return config.model_copy(update=changes)


def few_tasks(session: Session, checkpoint: Checkpoint, *, is_varied: bool) -> list[FewTask]:
    """The tasks of a checkpoint, each with a few trajectories."""
    return [
        FewTask(
            data=task,
            layout=checkpoint.layouts[task.name],
            coded=coded_task(task, checkpoint.codecs[task.name]),
            cache=None,
            device=session.device,
            is_varied=is_varied,
        )
        for task in session.tasks
    ]


def check_gradients(checkpoint: Checkpoint, device: torch.device) -> Outcome:
    """Whether a gradient reaches every weight of every module that the checkpoint holds.

    A prior that only predicts has no use for the gate of its refinements, which is left out.
    """
    session = session_of_few(checkpoint, device, 0.5)
    tasks = few_tasks(session, checkpoint, is_varied=True)
    dead: list[str] = []
    count = 0
    for name, module in checkpoint.modules.items():
        stage = stage_on(session, _STAGES[name], tasks, checkpoint.modules, _no_checkpoint)
        stage.trainable.load_state_dict(module.state_dict())
        stage.trainable.requires_grad_(True)
        if isinstance(module, SteadyPrior) and module.config.refinement_steps == 1:
            for port in stage.trainable.get_submodule("ports").children():
                port.get_submodule("gate").requires_grad_(False)
        _accumulate(stage, len(tasks))
        found = dead_parameters(stage.trainable)
        count += sum(weight.requires_grad for weight in stage.trainable.parameters())
        dead += [f"{name}.{one}" for one in found]
    if dead:
        detail = f"no gradient reaches {len(dead)} of {count} weights: {_blocks(dead)}"
    else:
        detail = f"a gradient reaches each of {count} weights"
    gate = Gate(
        name="dead_parameters", kind="health", passed=not dead, detail=detail,
        value=float(len(dead)), limit=0.0,
    )  # fmt: skip
    return Outcome(gate.name, gate, content={"dead": dead} if dead else {})


def _accumulate(stage: Stage, num_tasks: int) -> None:
    """Gradients of a few batches of every task, added up."""
    stage.trainable.train()
    for step in range(2 * num_tasks):
        terms = stage.losses(stage.batch(step, 0), 1.0)
        torch.stack([term.float() for term in terms.values()]).sum().backward()


def dead_parameters(module: nn.Module) -> list[str]:
    """Names of weights whose gradient is missing, not finite, or nothing beside the largest."""
    norms = {
        name: 0.0 if weight.grad is None else float(weight.grad.norm())
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }
    finite = [norm for norm in norms.values() if np.isfinite(norm)]
    least = _DEAD * max(finite, default=0.0)
    return [name for name, norm in norms.items() if not np.isfinite(norm) or norm <= least]


def _blocks(names: Sequence[str]) -> str:
    """Where weights are: the modules that hold them, the most dead ones first."""
    found = Counter(name.rpartition(".")[0] for name in names).most_common()
    listed = ", ".join(f"{where} ({count})" for where, count in found[:4])
    return listed + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def check_overfitting(checkpoint: Checkpoint, device: torch.device) -> Outcome:
    """Whether a new model of the config learns one batch of the loss that it was trained with."""
    session = session_of_few(checkpoint, device, 1.0)
    name = "operator" if "operator" in checkpoint.modules else "prior"
    tasks = few_tasks(session, checkpoint, is_varied=False)
    own = [task for task in tasks if name == "operator" or task.layout.is_steady]
    torch.manual_seed(session.experiment.seed)
    stage = stage_on(session, _STAGES[name], own, checkpoint.modules, _no_checkpoint)
    losses = list(_overfit(stage))
    share = min(losses) / losses[0] if losses[0] > 0 else 0.0
    passed = bool(np.isfinite(losses).all()) and share <= OVERFIT_SHARE
    gate = Gate(
        name="overfits_one_batch", kind="health", passed=passed,
        detail=f"in {OVERFIT_STEPS} steps on {BATCH} samples a new model brings their loss from "
        f"{losses[0]:.3g} to {share:.1%} of it; {OVERFIT_SHARE:.0%} or less is asked",
        value=share if np.isfinite(share) else None, limit=OVERFIT_SHARE,
    )  # fmt: skip
    content = {"first": losses[0], "least": min(losses), "steps": OVERFIT_STEPS}
    return Outcome(gate.name, gate, content={"overfit": content})


def _overfit(stage: Stage) -> Iterator[float]:
    """The loss of one and the same batch before each step."""
    module, config = stage.trainable, stage.config
    module.train()
    optimizer, batch = build_optimizer(module, config.optimizer), stage.batch(0, 0)
    for step in range(OVERFIT_STEPS):
        optimizer.set_factor(min(1.0, (step + 1) / 5) * (1 - step / OVERFIT_STEPS))
        terms = stage.losses(batch, 1.0)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        yield float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        clip(gradients(module), config.grad_clip)
        optimizer.step()


def _no_checkpoint(*args: Any, **modules: nn.Module) -> Checkpoint:
    raise AssertionError("a health check saves nothing")
