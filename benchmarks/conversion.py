"""Conversion of a 4 GB scalar file against `cp` of the same bytes on the same disk.

python benchmarks/conversion.py [--gigabytes 4] [--repeats 3] [--workers 2]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
from _common import scratch_home

_TRAJECTORY = (201, 1024)


def make_raw(path: Path, gigabytes: float) -> None:
    """A published-looking advection file of random numbers."""
    count = int(gigabytes * 1e9 / (4 * _TRAJECTORY[0] * _TRAJECTORY[1]))
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        tensor = file.create_dataset("tensor", (count, *_TRAJECTORY), np.float32)
        for start in range(0, count, 100):
            stop = min(start + 100, count)
            tensor[start:stop] = random.random((stop - start, *_TRAJECTORY), np.float32)
        file["t-coordinate"] = np.arange(202, dtype=np.float32) / 100
        file["x-coordinate"] = ((np.arange(1024) + 0.5) / 1024).astype(np.float32)
        file.attrs["beta"] = 1.0


def timed(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak memory in MiB of the command and its children (shared pages split)."""
    peak, done = [0], threading.Event()

    def watch(process: psutil.Process) -> None:
        while not done.wait(0.05):
            with contextlib.suppress(psutil.Error):  # it may end at any moment
                every = [process, *process.children(recursive=True)]
                peak[0] = max(peak[0], sum(one.memory_full_info().uss for one in every))

    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid),))
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    assert code == 0, command
    return seconds, peak[0] / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with scratch_home() as home:
        raw, copy = home / "1D_Advection_Sols_beta1.0.hdf5", home / "copy"
        make_raw(raw, options.gigabytes)
        convert = [sys.executable, "-m", "ups", "data", "convert", "advection1d", "--raw", str(raw),
                   "--version", "v", "--workers", str(options.workers)]  # fmt: skip
        rows = []
        for _ in range(options.repeats):
            os.sync()
            plain, _ = timed(["cp", str(raw), str(copy)])
            copy.unlink()
            os.sync()
            flushed, _ = timed(["sh", "-c", f"cp {raw} {copy} && sync {copy}"])
            copy.unlink()
            os.sync()
            ours, memory = timed(convert)
            (home / "data/advection1d/v.h5").unlink()
            rows.append((plain, flushed, ours, memory))
            print(f"cp {plain:.1f} s, cp + sync {flushed:.1f} s, convert (syncs) {ours:.1f} s, "
                  f"peak {memory:.0f} MiB", flush=True)  # fmt: skip
        for name, column in (("cp", 0), ("cp + sync", 1)):
            ratios = [row[column] / row[2] for row in rows]
            print(f"throughput of conversion / {name}: {statistics.median(ratios):.2f} "
                  f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


if __name__ == "__main__":
    main()
