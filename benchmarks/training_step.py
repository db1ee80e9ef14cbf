"""A training step of the operator stage against the same model on tensors already in memory.

Both take forward, backward, clipping and the optimizers' step; ours also draws windows, gathers
them from the cache, checks loss and gradient, logs and counts.

    python benchmarks/training_step.py
"""

from __future__ import annotations

import torch
from _common import paired, scratch_home

STEPS = 20


def main() -> None:
    torch.set_num_threads(1)
    with scratch_home() as home:
        from ups import convert, generate, load_card, load_experiment, open_session
        from ups.training import run as training
        from ups.training.latents import build_caches
        from ups.training.loop import Fit
        from ups.training.losses import relative_l2
        from ups.training.optim import build_optimizer
        from ups.training.stages.build import Foundation, build_stage
        from ups.training.tracking import JsonLines

        card = load_card("burgers1d")
        raw = generate(
            card, parameters={"nu": 0.1}, num_trajectories=300, seed=0, out_dir=home,
            points=256, frames=41,
        )  # fmt: skip
        convert(card, [raw])
        experiment = load_experiment(None, [
            "threads=1", "device=cpu",
            "stages.codec.steps=1", f"stages.operator.steps={STEPS * 100}",
            "stages.operator.unroll=[{start: 0, steps: 1}]",
            "stages.operator.validate_every=1000000", "stages.operator.checkpoint_every=1000000",
        ])  # fmt: skip
        session = open_session(experiment)
        codec = training.train(experiment, ["codec"]) / "checkpoints" / "codec.pt"
        build_caches(session, codec)
        base = Foundation({"codec": codec}, has_caches=True)
        stage = build_stage(session, "operator", base)
        fit = Fit(stage, home, [JsonLines(home / "metrics.jsonl")], session.device)
        batches = [stage.batch(step, 0) for step in range(STEPS)]
        model = build_stage(session, "operator", base).trainable
        optimizers = build_optimizer(model, stage.config.optimizer)

        def ours() -> None:
            for _ in range(STEPS):
                fit.advance()

        def bare() -> None:
            for windows in batches:
                optimizers.zero_grad()
                prediction = model(windows.tokens[:, :-1], windows.given, windows.task.name)
                relative_l2(prediction, windows.tokens[:, -1]).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizers.step()

        print(
            f"{STEPS} steps of batch {stage.config.batch_size}, {torch.get_num_threads()} threads"
        )
        print("training step / bare step:", paired(ours, bare))


if __name__ == "__main__":
    main()
