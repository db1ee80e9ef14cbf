"""The training loop: every stage runs through it."""

from __future__ import annotations

import copy
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ups import checkpoint as checkpoints
from ups import runs
from ups.checkpoint import Checkpoint
from ups.config.stages import TrainingConfig
from ups.errors import EXIT_INTERRUPTED, CheckpointError, UpsError
from ups.training.optim import Optimizers, averaged, build_optimizer, lr_factor
from ups.training.tracking import Tracker

Progress = Callable[[int, int, str], None]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@runtime_checkable
class Stage(Protocol):
    """Which weights move, and what the loss is.

    `batch` must depend on the step alone, so that a resumed run repeats the uninterrupted one.

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


class InterruptedRunError(UpsError):
    """Ctrl-C, after the state was saved."""

    exit_code = EXIT_INTERRUPTED


@dataclass
class FitResult:
    """What a finished stage tells.

    Attributes:
        first: The step it began at in this process: 0 unless it was resumed, `steps` if there was
            nothing left to do.
    """

    steps: int
    first: int
    seconds: float
    best: dict[str, float]
    skipped: int


@dataclass
class Fit:
    """The moving state of one stage: everything that a resumed run needs.

    Args:
        folder: Where `<stage>.pt` (best so far) and `<stage>-last.pt` (to resume from) go.
    """

    stage: Stage
    folder: Path
    trackers: Sequence[Tracker]
    device: torch.device
    step: int = 0
    skipped: int = 0
    best: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = self.stage.config
        self.optimizers: Optimizers = build_optimizer(self.stage.trainable, self.config.optimizer)
        self.average = averaged(self.stage.trainable, self.config.ema_decay)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.config.amp == "float16" and self.device.type == "cuda"
        )
        self._untrained: nn.Module | None = None
        if self.config.compile:
            self.stage.trainable.compile()

    @property
    def best_path(self) -> Path:
        return self.folder / f"{self.stage.name}.pt"

    @property
    def last_path(self) -> Path:
        return self.folder / f"{self.stage.name}-last.pt"

    def run(self, progress: Progress | None = None) -> FitResult:
        """Train to the last step; save, validate and log along the way.

        Validation begins with the untrained state, which is what a stage that never beats it
        leaves behind.
        """
        config, started, first = self.config, time.perf_counter(), self.step
        with interrupts() as interrupted:
            if self.step == 0:
                self._validate()
            while self.step < config.steps:
                loss, norm = self._update()
                self.step += 1
                last = self.step == config.steps
                if last or self.step % config.log_every == 0:
                    self._log(loss=loss, grad_norm=norm, lr_factor=self._lr_factor())
                if last or self.step % config.validate_every == 0:
                    self._validate()
                stop = interrupted.is_set()  # read once: what is raised below has been saved
                if last or stop or self.step % config.checkpoint_every == 0:
                    self._save_last()
                if progress:
                    progress(self.step, config.steps, f"loss {loss:.5f}{self._best_note()}")
                if stop:
                    break
        if interrupted.is_set():
            raise InterruptedRunError(
                f"interrupted at step {self.step} of {config.steps}, state saved",
                hint=f"ups train --resume {runs.run_id(self.folder.parent)}",
            )
        seconds = time.perf_counter() - started
        return FitResult(self.step, first, seconds, self.best, self.skipped)

    def _update(self) -> tuple[float, float]:
        """One optimizer step; returns the loss and the gradient norm."""
        config, stage = self.config, self.stage
        stage.trainable.train()
        self.optimizers.set_factor(self._lr_factor())
        self.optimizers.zero_grad()
        total = torch.zeros((), device=self.device)
        for micro in range(config.accumulate):
            with self._autocast():
                terms = stage.losses(stage.batch(self.step, micro), self.step / config.steps)
                loss = torch.stack(list(terms.values())).sum() / config.accumulate
            self.scaler.scale(loss).backward()
            total += loss.detach()
        value = total.item()
        if not torch.isfinite(total):
            raise CheckpointError(
                f"{stage.name}: loss is {value} at step {self.step}; {self._last_good()}",
                hint="lower the learning rate, or look at the data: ups data audit",
            )
        self.optimizers.unscale(self.scaler)
        limit = config.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(stage.trainable.parameters(), limit).item()
        if norm != norm or norm == float("inf"):
            self._skip(norm)
        else:
            self.optimizers.step(self.scaler)
        self.scaler.update()
        if self.average:
            self.average.update_parameters(stage.trainable)
        return value, norm

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES.get(self.config.amp)
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    def _lr_factor(self) -> float:
        return lr_factor(self.config.schedule, self.step, self.config.steps)

    def _skip(self, norm: float) -> None:
        """Count a step whose gradient is not finite; stop when there are too many."""
        if self.scaler.is_enabled():
            return  # the scaler lowers its scale and skips by itself
        self.skipped += 1
        self._log(step=self.step + 1, skipped=self.skipped)
        if self.skipped > self.config.max_skipped:
            raise CheckpointError(
                f"{self.stage.name}: gradient norm is {norm} at step {self.step}, after "
                f"{self.config.max_skipped} such steps were skipped; {self._last_good()}",
                hint="lower the learning rate, or raise stages.*.max_skipped",
            )

    def _last_good(self) -> str:
        good = [path for path in (self.last_path, self.best_path) if path.is_file()]
        return f"last good checkpoint: {good[0]}" if good else "no checkpoint was written yet"

    def _validate(self) -> None:
        """Measure the weights that would be used, and keep them if they are the best so far."""
        module = self.stage.trainable
        with self._weights(self.average.module if self.average else module):
            metrics = self.stage.validate()
            self._log(**metrics)
            if self.step == 0:
                self.best, self._untrained = metrics, copy.deepcopy(module)
                return
            is_better = metrics[self.stage.criterion] <= self.best[self.stage.criterion]
            is_lost = self._untrained is None and not self.best_path.is_file()
            if is_better or is_lost:
                self.best, self._untrained = metrics, None
                checkpoints.save(self.best_path, self.stage.checkpoint(self.step, metrics))
        if self._untrained is not None:
            with self._weights(self._untrained):
                checkpoints.save(self.best_path, self.stage.checkpoint(0, self.best))
            self._untrained = None

    @contextmanager
    def _weights(self, source: nn.Module) -> Iterator[None]:
        """Put the weights of `source` into the module for the block, in evaluation mode."""
        module = self.stage.trainable
        module.eval()
        if source is module:
            yield
            return
        kept = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
        module.load_state_dict(source.state_dict())
        try:
            yield
        finally:
            module.load_state_dict(kept)

    def _save_last(self) -> None:
        state = self.stage.checkpoint(self.step, self.best)
        state.training = {
            "trainable": self.stage.trainable.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "skipped": self.skipped,
        }
        checkpoints.save(self.last_path, state)

    def restore(self) -> None:
        """Continue from `<stage>-last.pt`."""
        saved = checkpoints.load(self.last_path)
        if saved.training is None:
            raise CheckpointError(f"{self.last_path}: holds no training state")
        self.step, self.best = saved.step, saved.metrics
        self.skipped = saved.training["skipped"]
        self.stage.trainable.load_state_dict(saved.training["trainable"])
        self.optimizers.load_state_dict(saved.training["optimizers"])
        if self.average:
            self.average.load_state_dict(saved.training["average"])
        self.scaler.load_state_dict(saved.training["scaler"])
        torch.set_rng_state(saved.training["random"])

    def _log(self, **values: float | int) -> None:
        """Tell the trackers; a step in progress names itself, one more than the steps taken."""
        for tracker in self.trackers:
            tracker.log({"stage": self.stage.name, "step": self.step, **values})

    def _best_note(self) -> str:
        found = self.best.get(self.stage.criterion)
        return f"  valid {found:.4f}" if found is not None else ""


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, read between steps; the second one stops at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
