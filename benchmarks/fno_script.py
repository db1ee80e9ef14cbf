"""`ups train --model fno` beside a script of its own that uses neuraloperator and torch alone.

Quickstart-size Burgers at nu = 0.01: 1280 trajectories, 256 points, 41 frames. The script shares
with ups the numbers in the file and what is written down here: splits by position, loss (relative
L2 of each state), residual prediction, unrolling 1, 2, 4, early frames drawn more often, batches
of 32, Muon for the matrices of the 1x1 convolutions and AdamW for the rest at 8e-3, 100 steps of
warm-up, cosine; and what the operator is told: the state, the parameter on [-1, 1], the logarithm
of the time step over the usual one, here a constant and zero (--bare: the state alone; initial
weights of the first layer are then larger). Everything else is its own: a plain loop, reading by
hand, the library's FNO as it is but for its last layer, which starts at zero. Both take as many
steps and choose the best of as many validations.

    python benchmarks/fno_script.py --home /tmp/fno_script [--steps 1200] [--seeds 0 1] [--bare]

Bar: the nRMSE of ups' row, mean over seeds, is within 10 % of the script's.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

NU, POINTS, FRAMES, TRAJECTORIES = 0.01, 256, 41, 1280
BATCH, LR, WARM_UP, VALIDATIONS = 32, 8e-3, 100, 6
UNROLL = ((0.0, 1), (0.3, 2), (0.6, 4))
BAR = 1.1
SCALED_NU = 2 * math.log(NU / 0.001) / math.log(4.0 / 0.001) - 1
"""nu on [-1, 1], logarithmically over the card's range."""


def make_data(home: Path) -> Path:
    """The raw file and its converted version, made by ups unless they are there."""
    os.environ["UPS_HOME"] = str(home)
    from ups import convert, generate, load_card
    from ups.data.versions import list_versions

    card = load_card("burgers1d")
    folder = home / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    if "quickstart" not in list_versions("burgers1d"):
        raw = generate(
            card, parameters={"nu": NU}, num_trajectories=TRAJECTORIES, seed=0, out_dir=folder,
            points=POINTS, frames=FRAMES,
        )  # fmt: skip
        convert(card, [raw], version="quickstart")
    return next(folder.glob("*.hdf5"))


def read(raw: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test trajectories (trajectory, frame, point), in units of the RMS.

    The first tenth is tested; of the rest the first tenth, rounded, validates.
    """
    with h5py.File(raw) as file:
        values = torch.from_numpy(file["tensor"][:]).float()
    tenth = len(values) // 10
    rest = values[tenth:]
    held = round(len(rest) / 10)
    train, valid, test = rest[held:], rest[:held], values[:tenth]
    rms = train.double().square().mean().sqrt().float()
    return train / rms, valid / rms, test / rms


class Stepper(nn.Module):
    """u -> u + s FNO(u, nu, log dt): the library's operator, and the typical size of a step."""

    def __init__(self, train: Tensor, bare: bool) -> None:
        super().__init__()
        with warnings.catch_warnings():
            from neuralop.models import FNO
        self.fno = FNO(
            n_modes=(30,), in_channels=1 if bare else 3, out_channels=1, hidden_channels=32,
            n_layers=4, positional_embedding=None,
        )  # fmt: skip
        last = self.fno.projection.fcs[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.size = float((train[:, 1:] - train[:, :-1]).square().mean().sqrt())
        self.told = () if bare else (SCALED_NU, 0.0)

    def forward(self, u: Tensor) -> Tensor:
        channels = torch.stack([u, *(torch.full_like(u, value) for value in self.told)], 1)
        return u + self.size * self.fno(channels)[:, 0]


class MatrixMuon:
    """Muon for weights (out, in, 1), which are matrices but for their last axis.

    Momentum 0.95 with Nesterov's step, five steps of the quintic iteration, and an update whose
    RMS is 0.2, as AdamW's is about.
    """

    def __init__(self, weights: list[nn.Parameter]) -> None:
        self.weights = weights
        self.moments = [torch.zeros_like(weight) for weight in weights]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for weight, moment in zip(self.weights, self.moments, strict=True):
            assert weight.grad is not None
            moment.lerp_(weight.grad, 0.05)
            update = orthogonal(weight.grad.lerp(moment, 0.95)[..., 0])
            weight.mul_(1 - 1e-5 * lr)
            weight.sub_(0.2 * lr * math.sqrt(max(update.shape)) * update[..., None])


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of the singular value decomposition (Jordan et al. 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def train_script(train: Tensor, valid: Tensor, steps: int, seed: int, bare: bool) -> Stepper:
    """A plain loop; the weights that validated best."""
    torch.manual_seed(seed)
    model = Stepper(train, bare)
    hidden, rest = [], []
    for name, weight in model.named_parameters():
        is_matrix = weight.ndim == 3 and weight.shape[-1] == 1 and not weight.is_complex()
        is_end = "lifting.fcs.0" in name or "projection.fcs.1" in name
        is_gate = weight.shape[0] == 1
        (hidden if is_matrix and not is_end and not is_gate else rest).append(weight)
    muon = MatrixMuon(hidden)
    adamw = torch.optim.AdamW(rest, lr=LR, betas=(0.9, 0.98), weight_decay=1e-5)
    random, best, state = np.random.default_rng(seed), math.inf, {}
    for step in range(steps):
        lr = (
            LR
            * min(1, (step + 1) / warm_up(steps))
            * (0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2)
        )
        loss = unrolled_loss(model, *windows(train, step / steps, random))
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.param_groups[0]["lr"] = lr
        adamw.step()
        muon.step(lr)
        if (step + 1) % max(steps // VALIDATIONS, 1) == 0 or step == steps - 1:
            error = nrmse(model, valid[:64]).mean().item()
            if error < best:
                best, state = error, {k: v.clone() for k, v in model.state_dict().items()
                                      if isinstance(v, Tensor)}  # fmt: skip
    model.load_state_dict(state, strict=False)
    return model


def warm_up(steps: int) -> int:
    return min(WARM_UP, max(steps // 10, 1))


def windows(train: Tensor, progress: float, random: Any) -> tuple[Tensor, Tensor]:
    """Present states (batch, point) and the next ones (batch, step, point), early ones oftener."""
    ahead = [steps for start, steps in UNROLL if progress >= start][-1]
    rows = random.integers(len(train), size=BATCH)
    first = ((FRAMES - ahead) * random.random(BATCH) ** 2).astype(int)
    frames = torch.from_numpy(first[:, None] + np.arange(ahead + 1))
    found = train[torch.from_numpy(rows)[:, None], frames]
    return found[:, 0], found[:, 1:]


def unrolled_loss(model: nn.Module, now: Tensor, after: Tensor) -> Tensor:
    """Relative L2 of each predicted state, mean over samples and steps."""
    losses = []
    for target in after.unbind(1):
        now = model(now)
        losses.append(((now - target).norm(dim=1) / target.norm(dim=1)).mean())
    return torch.stack(losses).mean()


@torch.no_grad()
def nrmse(model: nn.Module, trajectories: Tensor) -> Tensor:
    """Rolled out from the first frame to the end: error of each trajectory."""
    now, found = trajectories[:, 0], []
    for target in trajectories[:, 1:].unbind(1):
        now = model(now)
        found.append((now - target).norm(dim=1) / (target.norm(dim=1) + 1e-7))
    return torch.stack(found, 1).mean(1)


def train_ups(steps: int, seed: int) -> dict[str, Any]:
    """The row of `ups train --model fno --config quickstart` at the same steps."""
    from ups.config.schema import EvaluationConfig
    from ups.evaluation.context import open_context
    from ups.evaluation.evaluate import evaluate
    from ups.training.baselines import load_baseline
    from ups.training.run import train

    every = max(steps // VALIDATIONS, 1)
    experiment = load_baseline("fno", "quickstart", [
        "device=cpu", f"seed={seed}", f"stages.operator.steps={steps}",
        f"stages.operator.schedule.warmup_steps={warm_up(steps)}",
        f"stages.operator.validate_every={every}", f"stages.operator.checkpoint_every={steps}",
    ])  # fmt: skip
    began = time.process_time()
    run = train(experiment)
    seconds = time.process_time() - began
    row = evaluate(open_context(run, settings=EvaluationConfig(history=1))).report.rows[0]
    return {"mean": row.value("nrmse"), "median": row.value("nrmse", "median"), "cpu_s": seconds}


def run_script(raw: Path, steps: int, seed: int, bare: bool) -> dict[str, Any]:
    train, valid, test = read(raw)
    began = time.process_time()
    model = train_script(train, valid, steps, seed, bare)
    seconds = time.process_time() - began
    errors = nrmse(model, test)
    return {"mean": errors.mean().item(), "median": errors.median().item(), "cpu_s": seconds}


def lines(rows: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    for name, found in rows.items():
        means = {key: statistics.mean(one[key] for one in found) for key in found[0]}
        yield f"{name:8}" + "".join(f"  {key} {value:.4g}" for key, value in means.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--home", type=Path, required=True, help="data and runs, kept")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--bare", action="store_true", help="tell the script the state alone")
    given = parser.parse_args()
    torch.set_num_threads(1)
    raw = make_data(given.home.resolve())
    rows: dict[str, list[dict[str, Any]]] = {"script": [], "ups": []}
    for seed in given.seeds:
        rows["script"].append(run_script(raw, given.steps, seed, given.bare))
        rows["ups"].append(train_ups(given.steps, seed))
        print(json.dumps({"seed": seed, **{name: found[-1] for name, found in rows.items()}}))
    print("\n".join(lines(rows)))
    ours, theirs = (
        statistics.mean(one["mean"] for one in rows[name]) for name in ("ups", "script")
    )
    verdict = "met" if ours <= BAR * theirs else "missed"
    print(f"ups / script {ours / theirs:.3f}; bar {BAR:g} or less: {verdict}")


if __name__ == "__main__":
    main()
