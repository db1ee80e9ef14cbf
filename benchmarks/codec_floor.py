"""What a grid codec reconstructs at each compression: cosines, principal components, learned.

Reconstruction error (nRMSE, mean over validation frames and fields) of the linear skip of both
bases, and of the learned decoder on top of the principal components after so many CPU seconds.

    python benchmarks/codec_floor.py reaction_diffusion2d --patch 8 --seconds 18 --first-frame 10
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from ups.codec.grid import GridCodec, GridGeometry
from ups.config.models import GridCodecConfig
from ups.config.stages import MuonConfig
from ups.data.store import TrajectoryStore
from ups.data.windows import gather
from ups.evaluation.metrics import nrmse
from ups.training.losses import relative_l2
from ups.training.optim import build_optimizer, clip, gradients

BATCH = 16
RATIOS = (1, 2, 4, 8, 16)


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    store = TrajectoryStore.open(options.dataset, options.version)
    print(f"{store.name}: nRMSE of reconstruction, patches of {options.patch} points per axis")
    print("compression       dct       pca   learned")
    for ratio in RATIOS:
        cosines, components = (codec_of(store, options, basis, ratio) for basis in ("dct", "pca"))
        found = [error_of(codec.linear, store, options) for codec in (cosines, components)]
        if not components.is_invertible:
            train(components, store, options)
            found.append(error_of(lambda x, c=components: c.decode(c.encode(x)), store, options))
        print(f"{cosines.compression:10.1f}x " + "".join(f"{value:10.5f}" for value in found))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--version", default="latest")
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--encoder", default="linear")
    parser.add_argument("--seconds", type=float, default=18.0)
    parser.add_argument("--first-frame", type=int, default=0)
    return parser.parse_args()


def codec_of(
    store: TrajectoryStore, options: argparse.Namespace, basis: str, ratio: int
) -> GridCodec:
    torch.manual_seed(0)
    geometry = GridGeometry(
        space=store.space,
        origin=tuple(float(coord[0]) for coord in store.coords),
        spacing=tuple(float(coord[1] - coord[0]) for coord in store.coords),
        periodic=store.metadata.periodic,
        fields=store.metadata.fields,
    )
    config = GridCodecConfig(
        patch_size=options.patch, basis=basis, compression=ratio, width=options.width,
        depth=options.depth, encoder=options.encoder if ratio > 1 else "linear",
    )  # fmt: skip
    codec = GridCodec(config, geometry)
    codec.set_normalisation(store.statistics["mean"], store.statistics["std"])
    codec.fit(frames(store, options, "train"))
    return codec


def frames(
    store: TrajectoryStore, options: argparse.Namespace, split: str
) -> Iterator[torch.Tensor]:
    """About 512 frames of a split, evenly spread."""
    members = store.split(split)
    times = store.num_frames - options.first_frame
    total = len(members) * times
    chosen = np.unique(np.linspace(0, total - 1, min(512, total)).astype(int))
    for part in np.array_split(chosen, math.ceil(len(chosen) / 64)):
        rows, starts = np.divmod(part, times)
        found = gather(store.fields, members[rows], starts + options.first_frame, 1)
        yield torch.from_numpy(found[:, 0])


@torch.no_grad()
def error_of(
    reconstruct: Callable[[torch.Tensor], torch.Tensor],
    store: TrajectoryStore,
    options: argparse.Namespace,
) -> float:
    errors = [
        nrmse(reconstruct(fields)[:, None], fields[:, None])
        for fields in frames(store, options, "valid")
    ]
    return torch.cat(errors).mean().item()


def train(codec: GridCodec, store: TrajectoryStore, options: argparse.Namespace) -> None:
    """Relative L2 on the grid, cosine schedule over the CPU seconds."""
    random = np.random.default_rng(0)
    members = store.split("train")
    optimizer = build_optimizer(codec, MuonConfig())
    start, step = time.process_time(), 0
    while (share := (time.process_time() - start) / options.seconds) < 1:
        rows = random.choice(members, BATCH)
        times = random.integers(options.first_frame, store.num_frames, BATCH)
        fields = torch.from_numpy(gather(store.fields, rows, times, 1)[:, 0])
        optimizer.set_factor(min(1, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share)))
        optimizer.zero_grad()
        relative_l2(codec.decode(codec.encode(fields)), fields).backward()
        clip(gradients(codec), 1.0)
        for member in optimizer.members:
            member.step()
        step += 1


if __name__ == "__main__":
    main()
