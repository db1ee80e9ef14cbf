"""Mixed precision, and what is done about numbers that are not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ups.training.sharding import local

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE, _RAISE_AFTER = 2.0**16, 2000


class Precision:
    """Autocast, and for float16 a loss scale that keeps small gradients from vanishing.

    The scale is halved by a gradient that is not finite and doubled by 2000 finite ones in a row.
    It lives on the device: nothing here waits for it.

    Source:
        Loss scaling: Micikevicius et al. 2018, arXiv:1710.03740.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        self._dtype, self._device = _DTYPES.get(amp), device
        self.is_scaled = amp == "float16"
        self.scale = torch.full((), _FIRST_SCALE if self.is_scaled else 1.0, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int64, device=device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None)

    def scaled(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        return loss * self.scale if self.is_scaled else loss

    def unscale(self, grads: list[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        if self.is_scaled:
            torch._foreach_div_([local(grad) for grad in grads], self.scale)

    def update(self, is_finite: Bool[Tensor, ""]) -> None:
        """Take up whether this step's gradient was finite."""
        if not self.is_scaled:
            return
        steps = torch.where(is_finite, self.finite_steps + 1, 0)
        grown = torch.where(steps == _RAISE_AFTER, 2.0 * self.scale, self.scale)
        self.scale = torch.where(is_finite, grown, 0.5 * self.scale)
        self.finite_steps = steps % _RAISE_AFTER

    def state_dict(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "finite_steps": self.finite_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale = state["scale"].to(self._device)
        self.finite_steps = state["finite_steps"].to(self._device)


@torch.no_grad()
def without_gradient(grads: list[Tensor], unless: Bool[Tensor, ""]) -> None:
    """Set all gradients to zero, in place, unless the condition holds; nothing waits for it."""
    for grad in grads:
        local(grad).masked_fill_(~unless, 0.0)


@dataclass(frozen=True)
class Seen:
    """What `Watch` tells.

    Attributes:
        loss: Of the last step.
        norm: Of its gradient, before clipping.
        skipped: Steps with a gradient that is not finite, in all.
        bad_step: The first step whose loss was not finite; -1 if there was none.
        bad_loss: The loss of that step.
    """

    loss: float
    norm: float
    skipped: int
    bad_step: int
    bad_loss: float


class Watch:
    """Loss and gradient norm, kept on the device until somebody looks."""

    def __init__(self, device: torch.device) -> None:
        self._numbers = torch.zeros(5, dtype=torch.float64, device=device)
        self._numbers[3] = -1.0

    def note(
        self, step: int, loss: Float[Tensor, ""], norm: Float[Tensor, ""], skip: Bool[Tensor, ""]
    ) -> None:
        """Take up one step; `skip` says whether it counts as skipped."""
        _, _, skipped, bad_step, bad_loss = self._numbers.unbind()
        is_first = (bad_step < 0) & ~loss.isfinite()
        numbers = (
            loss,
            norm,
            skipped + skip,
            torch.where(is_first, step, bad_step),
            torch.where(is_first, loss, bad_loss),
        )
        self._numbers = torch.stack([number.double() for number in numbers])

    def numbers(self) -> Float[Tensor, "number"]:
        return self._numbers

    def set_skipped(self, number: int) -> None:
        self._numbers[2] = float(number)


def seen(rows: list[list[float]]) -> Seen:
    """The numbers of all processes as one: the mean loss, and the first bad one of any."""
    loss = sum(row[0] for row in rows) / len(rows)
    bad = min((row for row in rows if row[3] >= 0), key=lambda row: row[3], default=rows[0])
    return Seen(loss, rows[0][1], int(rows[0][2]), int(bad[3]), bad[4])
