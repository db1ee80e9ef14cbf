"""Conversion throughput against a plain copy of the same raw file.

python benchmarks/conversion.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

from _common import paired, scratch_home

TRAJECTORIES = 500


def main() -> None:
    with scratch_home() as home:
        from ups import convert, generate, load_card

        card = load_card("burgers1d")
        raw = generate(
            card, parameters={"nu": 0.1}, num_trajectories=TRAJECTORIES, seed=0, out_dir=home
        )
        size = raw.stat().st_size

        def ours() -> None:
            convert(card, [raw], version="benchmark", force=True)
            (home / "data/burgers1d/benchmark.h5").unlink()

        def copy() -> None:
            with raw.open("rb") as source, Path(home / "copy").open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
                target.flush()
                import os

                os.fsync(target.fileno())

        print(f"raw file {size / 1e6:.0f} MB, copy is flushed to disk as conversion is")
        print("conversion / copy:", paired(ours, copy, repeats=5))


if __name__ == "__main__":
    main()
