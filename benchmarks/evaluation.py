"""Judging 1000 trajectories of 256 points and 41 frames, against the bare rollout.

Bare: encode the first frame, step and decode, the truth not even read. Ours: the same and every
metric, observer, example, interval and the report. Bar: at most twice as long. An untrained
operator of the default size; its numbers do not change the work.

    python benchmarks/evaluation.py
"""

from __future__ import annotations

import torch
from _common import paired, scratch_home

TRAJECTORIES, POINTS, FRAMES = 1000, 256, 41


def main() -> None:
    torch.set_num_threads(1)
    with scratch_home() as home:
        from ups import convert, generate, load_card, load_experiment, train
        from ups.config.schema import EvaluationConfig
        from ups.evaluation.context import open_context
        from ups.evaluation.evaluate import evaluate
        from ups.evaluation.sections import observers_for

        card = load_card("burgers1d")
        raw = {
            seed: generate(
                card, parameters={"nu": 0.1}, num_trajectories=number, seed=seed,
                out_dir=home / str(seed), points=POINTS, frames=FRAMES, workers=1,
            )
            for seed, number in ((0, 40), (1, TRAJECTORIES))
        }  # fmt: skip
        convert(card, [raw[1]], version="many", workers=1)
        convert(card, [raw[0]], version="few", workers=1)
        run = train(load_experiment(None, [
            "data.version=few", "threads=1", "device=cpu", "stages.codec.steps=1",
            "stages.operator.steps=1",
        ]))  # fmt: skip
        context = open_context(run, version="many", settings=EvaluationConfig(split="all"))

        def ours() -> None:
            evaluate(context, observers=observers_for(context))

        def bare() -> None:
            for _ in context.predict(context.members):
                pass

        print(f"judging / bare rollout of {TRAJECTORIES}: {paired(ours, bare, 5)}")


if __name__ == "__main__":
    main()
