"""A training step of the operator stage against the same model on tensors already in memory.

Both take forward, backward, clipping and the optimizers' step; ours also draws windows, gathers
them from the cache, checks the loss, logs and counts.

    python benchmarks/training_step.py
"""

from __future__ import annotations

import torch
from _common import paired, scratch_home

STEPS = 20


def main() -> None:
    with scratch_home() as home:
        from ups import convert, generate, load_card, load_experiment, open_session
        from ups.training import latents
        from ups.training import run as training
        from ups.training.loop import Fit
        from ups.training.losses import relative_l2
        from ups.training.optim import build_optimizer
        from ups.training.tracking import JsonLines

        card = load_card("burgers1d")
        raw = generate(
            card, parameters={"nu": 0.1}, num_trajectories=300, seed=0, out_dir=home,
            points=256, frames=41,
        )  # fmt: skip
        convert(card, [raw])
        experiment = load_experiment(None, [
            "stages.codec.steps=1", f"stages.operator.steps={STEPS * 100}",
            "stages.operator.unroll=[{start: 0, steps: 1}]",
            "stages.operator.validate_every=1000000", "stages.operator.checkpoint_every=1000000",
        ])  # fmt: skip
        session = open_session(experiment)
        codec = training.train(experiment, ["codec"]) / "checkpoints" / "codec.pt"
        latents.build_codec_cache(session, codec)
        stage = training._operator_stage(session, codec)
        fit = Fit(stage, home, [JsonLines(home / "metrics.jsonl")], session.device)
        batches = [stage.batch(step, 0) for step in range(STEPS)]
        model = training._operator_stage(session, codec)
        optimizers = build_optimizer(model.trainable, model.config.optimizer)

        def ours() -> None:
            for _ in range(STEPS):
                fit._update()
                fit.step += 1
                if fit.step % fit.config.log_every == 0:
                    fit._log(loss=0.0)

        def bare() -> None:
            for windows, parameters in batches:
                optimizers.zero_grad()
                prediction = model.surrogate.step(windows[:, 0], parameters)
                relative_l2(prediction, windows[:, 1]).backward()
                torch.nn.utils.clip_grad_norm_(model.trainable.parameters(), 1.0)
                for member in optimizers.members:
                    member.step()

        print(
            f"{STEPS} steps of batch {stage.config.batch_size}, {torch.get_num_threads()} threads"
        )
        print("training step / bare step:", paired(ours, bare))


if __name__ == "__main__":
    main()
