"""Time the Burgers generator: `python benchmarks/generate_burgers1d.py --help`."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from ups.data.generate import generate
from ups.registry import load_card


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--nu", type=float, default=0.01)
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=201)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--out-dir", type=Path, help="Where to write; a temporary folder if unset.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out_dir) as folder:
        start = time.perf_counter()
        path = generate(
            load_card("burgers1d"),
            parameters={"nu": options.nu},
            num_trajectories=options.trajectories,
            seed=0,
            out_dir=Path(folder),
            points=options.points,
            frames=options.frames,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
        )
        seconds = time.perf_counter() - start
        size = path.stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"{options.trajectories} trajectories, {options.points} points x {options.frames} frames, "
        f"nu={options.nu}, {options.dtype} on {options.device}: {seconds:.1f} s, "
        f"{options.trajectories / seconds:.0f} trajectories/s, {size:.0f} MiB written, "
        f"peak RSS {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
