"""Window loading from store and cache against random reads of a plain numpy memory map.

The bare read copies the same windows, one slice each, out of an `.npy` file of the same bytes.

    python benchmarks/windows.py
"""

from __future__ import annotations

import numpy as np
from _common import paired, scratch_home

BATCH, LENGTH, BATCHES = 64, 5, 100


def main() -> None:
    with scratch_home() as home:
        from ups import TrajectoryStore, convert, generate, load_card
        from ups.data.windows import Shards, WindowSampler, gather

        card = load_card("burgers1d")
        raw = generate(card, parameters={"nu": 0.1}, num_trajectories=400, seed=0, out_dir=home)
        convert(card, [raw])
        store = TrajectoryStore.open("burgers1d")
        plain = _plain(home / "plain.npy", np.asarray(store.fields))
        tokens = np.asarray(store.fields[..., 0], dtype=np.float16)
        tokens = tokens.reshape(*tokens.shape[:2], 128, 8)
        halves = np.array_split(np.arange(len(tokens)), 2)
        shards = Shards(
            [_plain(home / f"shard{i}.npy", tokens[half]) for i, half in enumerate(halves)]
        )
        plain_tokens = _plain(home / "tokens.npy", tokens)
        sampler = WindowSampler(
            num_trajectories=len(tokens), num_frames=tokens.shape[1], length=LENGTH,
            batch_size=BATCH,
        )  # fmt: skip
        draws = [sampler.draw(step) for step in range(BATCHES)]

        def bare(array: np.ndarray) -> list[np.ndarray]:
            return [
                np.stack([array[t, s : s + LENGTH] for t, s in zip(*draw, strict=True)])
                for draw in draws
            ]

        print(
            "store / memmap:",
            paired(lambda: [gather(store.fields, *draw, LENGTH) for draw in draws],
                   lambda: bare(plain)),
        )  # fmt: skip
        print(
            "cache / memmap:",
            paired(lambda: [shards.gather(*draw, LENGTH) for draw in draws],
                   lambda: bare(plain_tokens)),
        )  # fmt: skip
        print(
            "with drawing  :",
            paired(lambda: [gather(store.fields, *sampler.draw(step), LENGTH)
                            for step in range(BATCHES)], lambda: bare(plain)),
        )  # fmt: skip


def _plain(path: object, values: np.ndarray) -> np.ndarray:
    np.save(path, values)
    return np.load(path, mmap_mode="r")


if __name__ == "__main__":
    main()
