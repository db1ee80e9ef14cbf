"""The training loop: every stage runs through it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ups import checkpoint as checkpoints
from ups import runs
from ups.checkpoint import Checkpoint
from ups.config.stages import TrainingConfig
from ups.errors import EXIT_INTERRUPTED, EXIT_PREEMPTED, CheckpointError, ConfigError
from ups.training import distributed
from ups.training.optim import (
    Average,
    Optimizers,
    Plateau,
    build_optimizer,
    clip,
    gradients,
    lr_factor,
    own_tensors,
    replaced,
    snapshot,
)
from ups.training.precision import Precision, Seen, Watch, seen, without_gradient
from ups.training.processes import AgreedError
from ups.training.protocol import Stage as Stage
from ups.training.protocol import StageDefaults as StageDefaults
from ups.training.random_state import (
    differ_by_process,
    fixed_random_numbers,
    random_states,
    restore_random_states,
)
from ups.training.sharding import Parallel, gathered_state, load_weights, spread_state, whole_state
from ups.training.signals import Stop, stop_signals
from ups.training.throughput import Throughput
from ups.training.tracking import Tracker

Progress = Callable[[int, int, str], None]


class InterruptedRunError(AgreedError):
    """Ctrl-C, after the state was saved."""

    exit_code = EXIT_INTERRUPTED


class PreemptedRunError(AgreedError):
    """SIGTERM or SIGUSR1, after the state was saved."""

    exit_code = EXIT_PREEMPTED


class DivergedError(AgreedError, CheckpointError):
    """A loss is not finite, or too many gradients are not."""


@dataclass
class FitResult:
    """What a finished stage tells.

    Attributes:
        steps: Taken in all; fewer than configured where the stage stopped early.
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

    Of several processes only the first writes and tells; what it has saved can be continued by
    any number of processes.

    Args:
        folder: Where `<stage>.pt` (best so far) and `<stage>-last.pt` (to resume from) go.
        look_every: Steps between two looks at loss and gradient norm, which wait for the device;
            None is every step on a CPU and `log_every` on a GPU. A gradient that is not finite
            moves no weight where one looks at every step, and counts as zero elsewhere.
    """

    stage: Stage
    folder: Path
    trackers: Sequence[Tracker]
    device: torch.device
    step: int = 0
    skipped: int = 0
    best: dict[str, float] = field(default_factory=dict)
    look_every: int | None = None

    def __post_init__(self) -> None:
        config = self.config = self.stage.config
        module = self.stage.trainable
        _check(config, self.stage.name, self.device)
        usual = 1 if self.device.type == "cpu" else config.log_every
        self._look_every = self.look_every or usual
        self.parallel = Parallel(self.stage)
        self.optimizers: Optimizers = build_optimizer(module, config.optimizer)
        self.average = Average(module, config.ema_decay) if config.ema_decay else None
        self.plateau = Plateau(config.schedule)
        self.precision = Precision(config.amp, self.device)
        self.watch = Watch(self.device)
        self.throughput = Throughput(
            config.batch_size, self.device, getattr(self.stage, "flops_per_step", None)
        )
        self._seen: Seen | None = None
        self._untrained: dict[str, Tensor] | None = None
        self._reached = False
        differ_by_process()
        if config.compile:
            module.compile(mode="reduce-overhead" if config.cuda_graphs else None)

    @property
    def best_path(self) -> Path:
        return self.folder / f"{self.stage.name}.pt"

    @property
    def last_path(self) -> Path:
        return self.folder / f"{self.stage.name}-last.pt"

    @property
    def is_done(self) -> bool:
        """Whether no step is left: all were taken, or the stage has what it wanted."""
        return self._reached or self.step >= self.config.steps

    def run(self, progress: Progress | None = None) -> FitResult:
        """Train to the last step; save, validate and log along the way.

        Validation begins with the untrained state, which is what a stage that never beats it
        leaves behind.

        Raises:
            InterruptedRunError: Ctrl-C; the state is saved.
            PreemptedRunError: SIGTERM or SIGUSR1; the state is saved.
            DivergedError: A loss is not finite, or too many gradients are not.
        """
        started, first = time.perf_counter(), self.step
        with stop_signals() as reason:
            if self.step == 0:
                self._validate()
            stop = Stop.NO
            while not (self.is_done or stop):
                stop = self.advance(reason())
                if progress and distributed.is_main():
                    progress(self.step, self.config.steps, self._note())
            if stop or (stop := max(distributed.gather_objects(reason()))):
                raise self._stopped(stop)
        seconds = time.perf_counter() - started
        return FitResult(self.step, first, seconds, self.best, self.skipped)

    def advance(self, reason: Stop = Stop.NO) -> Stop:
        """Take one step, and what is due after it.

        Args:
            reason: Why this process was asked to stop.
        Returns:
            Why all processes stop here, their state saved; NO where they go on.
        """
        self._update()
        self.step += 1
        stop = self._look(reason)
        if self._is_due(self.config.log_every):
            self._log_step()
        if self._is_due(self.config.validate_every):
            self._validate()
        if stop or self._is_due(self.config.checkpoint_every):
            self._save_last()
        return stop

    def _is_due(self, every: int) -> bool:
        return self.is_done or self.step % every == 0

    def _update(self) -> None:
        """One optimizer step."""
        config, module = self.config, self.stage.trainable
        module.train()
        if config.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        self.optimizers.set_factor(self._lr_factor())
        self.optimizers.zero_grad()
        loss = self._backward()
        grads = gradients(module)
        self.precision.unscale(grads)
        norm = clip(grads, config.grad_clip)
        is_finite = norm.isfinite()
        # A loss scale that is still large has to come down: such steps are not counted.
        self.watch.note(self.step, loss, norm, ~is_finite & (self.precision.scale <= 1))
        if self._look_every == 1:
            if is_finite:
                self.optimizers.step()
        else:
            without_gradient(grads, unless=is_finite)
            self.optimizers.step()
        self.precision.update(is_finite)
        if self.average:
            self.average.update()
        self.throughput.count()

    def _backward(self) -> Tensor:
        """Gradients of the mean over all micro-batches; returns this process' mean loss."""
        accumulate, progress = self.config.accumulate, self.step / self.config.steps
        total = torch.zeros((), device=self.device)
        for micro in range(accumulate):
            batch = self.stage.batch(self.step, micro)
            with self.parallel.averaging(micro == accumulate - 1):
                with self.precision.autocast():
                    terms = self.parallel.losses(batch, progress)
                loss = torch.stack([term.float() for term in terms.values()]).sum() / accumulate
                self.precision.scaled(loss).backward()
            total += loss.detach()
        return total

    def _lr_factor(self) -> float:
        return lr_factor(self.config.schedule, self.step, self.config.steps) * self.plateau.factor

    def _look(self, reason: Stop) -> Stop:
        """See whether training is sound and wanted, where that is due: processes see the same."""
        config, alone = self.config, distributed.world_size() == 1
        all_due = (self._look_every, config.log_every, config.validate_every)
        is_due = any(self._is_due(every) for every in (*all_due, config.checkpoint_every))
        if not (is_due or (alone and reason)):
            return Stop.NO
        numbers = self.watch.numbers()
        if not alone:
            numbers = torch.cat([numbers, numbers.new_tensor([float(reason)])])
        rows = distributed.gathered(numbers).tolist()
        self._seen = found = seen(rows)
        if found.bad_step >= 0:
            raise DivergedError(
                f"{self.stage.name}: loss is {found.bad_loss} at step {found.bad_step}; "
                f"{self._last_good()}",
                hint="lower the learning rate, or look at the data: ups data audit",
            )
        self._count_skipped(found)
        self._reached = self.stage.is_reached(found.loss)
        return reason if alone else Stop(int(max(row[-1] for row in rows)))

    def _count_skipped(self, found: Seen) -> None:
        """Tell of steps whose gradient was not finite; stop when there are too many."""
        if found.skipped == self.skipped:
            return
        self.skipped = found.skipped
        self._log(skipped=self.skipped)
        if self.skipped > self.config.max_skipped:
            raise DivergedError(
                f"{self.stage.name}: gradient norm is {found.norm} at step {self.step - 1}, after "
                f"{self.config.max_skipped} such steps were skipped; {self._last_good()}",
                hint="lower the learning rate, or raise stages.*.max_skipped",
            )

    def _last_good(self) -> str:
        good = [path for path in (self.last_path, self.best_path) if path.is_file()]
        return f"last good checkpoint: {good[0]}" if good else "no checkpoint was written yet"

    def _stopped(self, stop: Stop) -> AgreedError:
        where = f"at step {self.step} of {self.config.steps}, state saved"
        if stop is Stop.INTERRUPTED:
            run = runs.run_id(self.folder.parent)
            return InterruptedRunError(f"interrupted {where}", hint=f"ups train --resume {run}")
        return PreemptedRunError(
            f"asked to stop by a signal {where}",
            hint="ups train --resume auto, with the same --config and --set",
        )

    def _validate(self) -> None:
        """Measure the weights that would be used, and keep them if they are the best so far."""
        module, criterion = self.stage.trainable, self.stage.criterion
        module.eval()
        averaged = self.average.applied() if self.average else nullcontext()
        with self.throughput.paused(), averaged:
            with fixed_random_numbers(self.device):
                found = self.stage.validate()
            metrics = distributed.on_main(lambda: found)
            self._log(**metrics)
            self.plateau.note(metrics[criterion])
            if self.step == 0:
                self.best = metrics
                self._untrained = snapshot(own_tensors(module))
                return
            is_better = metrics[criterion] <= self.best[criterion]
            is_lost = self._untrained is None and not distributed.on_main(self.best_path.is_file)
            if is_better or is_lost:
                self.best, self._untrained = metrics, None
                self._save(self.best_path, self.step)
        if self._untrained is not None:
            with replaced(module, self._untrained):
                self._save(self.best_path, 0)
            self._untrained = None

    def _save(self, path: Path, step: int, training: dict[str, Any] | None = None) -> None:
        """Write a checkpoint, on the first process; the others wait for it."""

        def write() -> None:
            state = self.stage.checkpoint(step, self.best)
            state.training = training
            checkpoints.save(path, state)

        with whole_state(self.stage.trainable):
            distributed.on_main(write)

    def _save_last(self) -> None:
        self._save(
            self.last_path,
            self.step,
            {
                "trainable": gathered_state(self.stage.trainable.state_dict()),
                "optimizers": self.optimizers.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "untrained": gathered_state(self._untrained),
                "plateau": self.plateau.state_dict(),
                "precision": self.precision.state_dict(),
                "random": random_states(self.device),
                "stage": self.stage.state_dict(),
                "skipped": self.skipped,
                "finished": self.is_done,
            },
        )

    def restore(self) -> None:
        """Continue from `<stage>-last.pt`, on as many processes as there are now.

        Raises:
            CheckpointError: It cannot be read, or holds another version's training state.
        """
        saved = checkpoints.load(self.last_path)
        try:
            self._take_up(saved, saved.training or {})
        except KeyError as error:
            raise CheckpointError(f"{self.last_path}: training state without {error}") from error

    def _take_up(self, saved: Checkpoint, state: dict[str, Any]) -> None:
        module = self.stage.trainable
        load_weights(module, state["trainable"])
        self.optimizers.load_state_dict(state["optimizers"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if state["untrained"] is not None:
            own = module.state_dict()
            self._untrained = {n: spread_state(v, own[n]) for n, v in state["untrained"].items()}
        self.plateau.load_state_dict(state["plateau"])
        self.precision.load_state_dict(state["precision"])
        restore_random_states(state["random"], self.device)
        self.stage.load_state_dict(state["stage"])
        self.watch.set_skipped(state["skipped"])
        self.skipped, self._reached = state["skipped"], state["finished"]
        self.step, self.best = saved.step, saved.metrics

    def _log_step(self) -> None:
        assert self._seen is not None
        self._log(
            loss=self._seen.loss,
            grad_norm=self._seen.norm,
            lr_factor=self._lr_factor(),
            **self.throughput.read(),
        )

    def _log(self, **values: float | int) -> None:
        if distributed.is_main():
            for tracker in self.trackers:
                tracker.log({"stage": self.stage.name, "step": self.step, **values})

    def _note(self) -> str:
        loss = f"loss {self._seen.loss:.5f}" if self._seen else ""
        return f"{loss}  valid {self.best[self.stage.criterion]:.4f}"


def _check(config: TrainingConfig, name: str, device: torch.device) -> None:
    """What only the machine can tell about a stage's config."""
    number = distributed.world_size()
    if not distributed.all_equal_portions(config.batch_size, config.accumulate):
        raise ConfigError(
            f"stages.{name}.batch_size: {config.batch_size} is not a multiple of {number} "
            f"processes x accumulate {config.accumulate}",
            hint=f"--set stages.{name}.batch_size={number * config.accumulate}",
        )
    if config.cuda_graphs and device.type != "cuda":
        raise ConfigError(
            f"stages.{name}.cuda_graphs: needs a CUDA device, found {device}",
            hint=f"--set stages.{name}.cuda_graphs=false",
        )
