"""A stage small enough to run hundreds of steps in a second, with everything that can go wrong."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ups import files
from ups.checkpoint import Checkpoint
from ups.config.stages import TrainingConfig
from ups.errors import CheckpointError
from ups.training import loop
from ups.training.distributed import portion

WIDTH = 6


class Block(nn.Module):
    is_sharded_unit = True

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.tanh(self.hidden(x))


class Net(nn.Module):
    """Two blocks between a way in and a way out for each of two tasks."""

    def __init__(self):
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(2, WIDTH) for _ in range(2))
        self.blocks = nn.Sequential(Block(), Block())
        self.out = nn.Linear(WIDTH, 2)
        self.register_buffer("gain", torch.ones(1))

    def forward(self, x, task):
        return self.gain * self.out(self.blocks(self.embed[task](x)))


class ToyCheckpoint(Checkpoint):
    """What `ToyStage` leaves behind, saved by the test's own `save`."""

    def __init__(self, step, metrics, weights, training=None):
        self.step, self.metrics, self.weights, self.training = step, metrics, weights, training


class ToyStage:
    """Learn to rotate points, by two applications; odd steps belong to the other task."""

    name = "toy"
    criterion = "error"

    def __init__(
        self, *, noise=0.0, floor=0.0, stop_below=None, bad_steps=(), bad_gradients=(), **config
    ):
        defaults = {"steps": 12, "batch_size": 8, "log_every": 1, "validate_every": 3,
                    "checkpoint_every": 4, "schedule": {"warmup_steps": 2},
                    "optimizer": {"kind": "muon_hybrid", "lr": 2e-2}}  # fmt: skip
        self.config = TrainingConfig.model_validate(defaults | config)
        torch.manual_seed(0)
        self.trainable = Net()
        self.noise, self.floor, self.stop_below = noise, floor, stop_below
        self.bad_steps, self.bad_gradients = bad_steps, bad_gradients
        self.lowest = float("inf")
        self.errors = None

    def batch(self, step, micro):
        points = torch.randn(
            self.config.batch_size, 2, generator=torch.Generator().manual_seed(step)
        )
        return step, portion(points, micro, self.config.accumulate)

    def losses(self, batch, progress):
        step, points = batch
        moved = points + self.noise * torch.randn_like(points)
        for _ in range(2):
            moved = moved + self.trainable(moved, step % 2)
        loss = (moved - points.flip(1)).square().mean()
        if step in self.bad_steps:
            loss = loss * float("nan")
        if step in self.bad_gradients:
            loss = loss + (0 * loss).sqrt()
        return {"fit": loss, "size": 1e-3 * moved.square().mean()}

    def validate(self):
        if self.errors is not None:
            return {"error": next(self.errors)}
        points = torch.randn(32, 2, generator=torch.Generator().manual_seed(10**6))
        with torch.no_grad():
            moved = points + self.trainable(points + 0 * torch.rand(32, 2), 0)
        error = (moved - points.flip(1)).square().mean().item()
        return {"error": max(error, self.floor)}

    def checkpoint(self, step, metrics):
        return ToyCheckpoint(step, metrics, self.trainable.state_dict())

    def state_dict(self):
        return {"lowest": self.lowest}

    def load_state_dict(self, state):
        self.lowest = state["lowest"]

    def is_reached(self, loss):
        self.lowest = min(self.lowest, loss)
        return self.stop_below is not None and self.lowest < self.stop_below


class Records:
    """A tracker in memory."""

    def __init__(self):
        self.rows = []

    def log(self, record):
        self.rows.append(dict(record))

    def close(self):
        pass

    def of(self, key):
        return [row[key] for row in self.rows if key in row]


def save(path, checkpoint):
    content = {
        name: getattr(checkpoint, name) for name in ("step", "metrics", "weights", "training")
    }
    with files.atomic_path(path, CheckpointError) as temporary:
        torch.save(content, temporary)


def load(path, device="cpu"):
    return ToyCheckpoint(**torch.load(path, weights_only=True))


class ToyCheckpoints:
    """Stands for the module `ups.checkpoint` in the loop."""

    save, load = staticmethod(save), staticmethod(load)


def fit_of(folder, **options):
    """A fit of a `ToyStage` and what it logs; all options but `look_every` are the stage's."""
    looks = options.pop("look_every", None)
    records = Records()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stage = ToyStage(**options)
    return loop.Fit(stage, folder, [records], torch.device("cpu"), look_every=looks), records
