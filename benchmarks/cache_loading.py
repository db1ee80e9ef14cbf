"""Windows of cached tokens per second, by where the tokens are: one shard or many.

On the CPU: in memory against memory-mapped shards, their pages in the system's cache. On a GPU
also on the device; a batch counts when it has arrived there. Every way gives the same batches,
which is checked.

    python benchmarks/cache_loading.py [trajectories, 400 by default]
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from _common import scratch_home

BATCH, LENGTH, SECONDS, TURNS = 64, 5, 1.0, 5


def main(trajectories: int = 400) -> None:
    import torch

    from ups.training.residence import Residence

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with scratch_home() as home:
        for shards in (1, 8):
            task = _task(home, trajectories, shards)
            size, count = task.residence.size_bytes, task.residence.shards
            for name in devices:
                device = torch.device(name)
                ways = ("device", "memory", "stream") if name == "cuda" else ("memory", "stream")
                there = {
                    way: replace(task, device=device, residence=Residence(way, size, count))
                    for way in ways
                }
                _compare(name, count, size, there)


def _task(home: Any, trajectories: int, shards: int) -> Any:
    """A task with its cache: 512 points, 101 frames, tokens of float16."""
    from ups import convert, generate, load_card, paths
    from ups.config.schema import Experiment
    from ups.training.building import build_codec
    from ups.training.latents import build_task_cache, latent_tasks
    from ups.training.session import open_session

    card = load_card("burgers1d")
    if not paths.data_dir(card.key).exists():
        raw = generate(
            card, parameters={"nu": 0.1}, num_trajectories=trajectories, seed=0, out_dir=home,
            points=512,
        )  # fmt: skip
        convert(card, [raw])
    content: dict[str, Any] = {"name": "loading", "device": "cpu", "data": {"dataset": card.key}}
    session = open_session(Experiment.model_validate(content))
    (data,) = session.tasks
    frame = 2 * 512 * len(data.card.fields)
    wanted = len(data.store.split("train")) * data.store.num_frames * frame // shards + frame * 101
    content["cache"] = {"shard_bytes": wanted}
    session = open_session(Experiment.model_validate(content))
    codec = build_codec(session, data).eval()
    build_task_cache(data, codec, session.experiment.cache)
    return latent_tasks(session, {data.name: codec})[0]


def _compare(device: str, shards: int, size: int, tasks: dict[str, Any]) -> None:
    import torch

    rates: dict[str, list[float]] = {way: [] for way in tasks}
    first = [task.windows("train", *_draw(task, 0), LENGTH) for task in tasks.values()]
    assert all(torch.equal(first[0], other) for other in first)
    for _ in range(TURNS):
        for way, task in tasks.items():
            rates[way].append(_rate(task))
    told = ", ".join(
        f"{way} {np.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
        for way, found in rates.items()
    )
    print(f"{device}, {size / 1e6:.0f} MB in {shards} shards; windows per second: {told}")


def _rate(task: Any) -> float:
    """Windows per second, without drawing them."""
    import torch

    draws = [_draw(task, step) for step in range(50)]
    began, number = time.perf_counter(), 0
    while time.perf_counter() < began + SECONDS / 2:
        for draw in draws:
            task.windows("train", *draw, LENGTH)
        if task.device.type == "cuda":
            torch.cuda.synchronize()
        number += len(draws) * BATCH
    return number / (time.perf_counter() - began)


def _draw(task: Any, step: int) -> tuple[Any, Any]:
    from ups.data.windows import WindowSampler

    return WindowSampler(
        num_trajectories=task.num_trajectories("train"), num_frames=task.num_frames,
        length=LENGTH, batch_size=BATCH,
    ).draw(step)  # fmt: skip


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
