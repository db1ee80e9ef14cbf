"""Building a cache against the bare forward pass of the encoder over the same frames.

For the default codec (a fixed orthonormal transform, so the forward pass itself is nearly free) and
for one that compresses twofold with learned local networks.

    python benchmarks/cache_build.py
"""

from __future__ import annotations

import shutil

import numpy as np
from _common import paired, scratch_home


def main() -> None:
    with scratch_home() as home:
        from ups import TrajectoryStore, convert, generate, load_card
        from ups.cache.build import build_cache
        from ups.cache.format import identity_of
        from ups.codec.coded import CodedGrid
        from ups.codec.grid import GridCodec
        from ups.config.models import GridCodecConfig
        from ups.training.building import grid_geometry
        from ups.training.latents import encoders_of

        card = load_card("burgers1d")
        raw = generate(
            card, parameters={"nu": 0.1}, num_trajectories=300, seed=0, out_dir=home, points=512
        )
        convert(card, [raw])
        store = TrajectoryStore.open("burgers1d")
        members = np.concatenate([store.split("train"), store.split("valid")])
        learned = GridCodecConfig(encoder="learned", coefficients=4)
        for name, config in (("default codec", GridCodecConfig()), ("learned, 2x", learned)):
            codec = GridCodec(config, grid_geometry(store, card)).eval()
            identity = identity_of(
                store, codec=codec.label, fingerprint=codec.fingerprint(), dtype="float16",
                tokens=codec.num_tokens, dim=codec.latent_dim,
            )  # fmt: skip
            encode, _ = encoders_of(CodedGrid(store, codec), "float16")

            def ours() -> None:
                build_cache(store, encode, identity)  # noqa: B023
                shutil.rmtree(identity.folder)  # noqa: B023

            def bare() -> None:
                for start in range(0, len(members), 5):
                    encode(members[start : start + 5])  # noqa: B023

            print(f"{name}: build / forward:", paired(ours, bare, repeats=5))


if __name__ == "__main__":
    main()
