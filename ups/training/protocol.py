"""What a stage of training is: the loop's side of the bargain."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from ups.checkpoint import Checkpoint
from ups.config.stages import TrainingConfig


@runtime_checkable
class Stage(Protocol):
    """Which weights move, and what the loss is.

    `batch` must depend on the step alone, so that a resumed run repeats the uninterrupted one; of
    several processes each takes its `distributed.portion` of the same global batch. `losses` are
    means over the samples. `validate` must give the same on all processes; where weights are
    sharded it must run the trained module equally often on each.

    A stage may say more: `flops_per_step`, the floating-point operations of one optimizer step of
    all processes; `leaves_unused = False` where every step uses every weight, which saves several
    processes a search.

    Attributes:
        criterion: Key of `validate()` whose smallest value chooses the checkpoint.
    """

    name: ClassVar[str]
    criterion: ClassVar[str]
    trainable: nn.Module

    @property
    def config(self) -> TrainingConfig: ...

    def batch(self, step: int, micro: int) -> Any: ...

    def losses(self, batch: Any, progress: float) -> dict[str, Tensor]: ...

    def validate(self) -> dict[str, float]:
        """Physical-space metrics, among them the criterion."""
        ...

    def checkpoint(self, step: int, metrics: dict[str, float]) -> Checkpoint: ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides weights and optimizers: plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def is_reached(self, loss: float) -> bool:
        """Whether this training loss is low enough to stop early."""
        ...


class StageDefaults:
    """What most stages need not say: no state of their own, no early stop."""

    criterion: ClassVar[str] = "valid_nrmse"

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take up."""

    def is_reached(self, loss: float) -> bool:
        return False
