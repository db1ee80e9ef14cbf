"""Kill conversions at random moments; every rerun must end with the same bytes.

python benchmarks/kill_conversion.py --kills 200
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ups.files import sha256_file

_CONVERT = """
import sys
from pathlib import Path
from ups.data.conversion import plan
from ups.data.convert import Recipe, convert
from ups.registry import load_card
if __name__ == "__main__":
    plan._UNIT_BYTES = 2**20
    raw, workers, stride = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    recipe = Recipe(stride_t=stride)
    convert(load_card("advection1d"), [raw], recipe=recipe, version="v", workers=workers)
"""

_STRIDES = (1, 2)
"""Without a stride bytes are copied by threads, with one they are reduced by processes."""


@dataclass
class Outcome:
    """What came of it: kills that hit, reruns, and whether all results were alike."""

    kills: int
    runs: int
    identical: int


def make_raw(path: Path, trajectories: int) -> None:
    """A raw advection file of random numbers, 0.8 MB a trajectory."""
    values = np.random.default_rng(0).normal(size=(trajectories, 201, 1024)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["tensor"] = values
        file["t-coordinate"] = np.arange(202, dtype=np.float32) / 100
        file["x-coordinate"] = ((np.arange(1024) + 0.5) / 1024).astype(np.float32)
        file.attrs["beta"] = 1.0


def kill_and_compare(home: Path, *, kills: int, trajectories: int, seed: int = 0) -> Outcome:
    """Start, kill at a random moment, run to the end, compare; until `kills` kills have hit.

    UPS_HOME of this process must be `home`.
    """
    draw = random.Random(seed)
    raw, script = home / "1D_Advection_Sols_beta1.0.hdf5", home / "convert_once.py"
    home.mkdir(parents=True, exist_ok=True)
    make_raw(raw, trajectories)
    script.write_text(_CONVERT)
    target = home / "data/advection1d/v.h5"

    def start(stride: int) -> subprocess.Popen[bytes]:
        workers = str(draw.randint(1, 3))
        return subprocess.Popen([sys.executable, str(script), str(raw), workers, str(stride)])

    begun, expected = time.perf_counter(), {}
    for stride in _STRIDES:
        target.unlink(missing_ok=True)
        assert start(stride).wait() == 0
        expected[stride] = sha256_file(target)
    whole = (time.perf_counter() - begun) / len(_STRIDES)
    outcome = Outcome(0, 0, 0)
    while outcome.kills < kills:
        target.unlink(missing_ok=True)
        stride = draw.choice(_STRIDES)
        for _ in range(draw.randint(1, 3)):  # one interrupted conversion may be killed again
            process = start(stride)
            try:
                process.wait(draw.uniform(0.2 * whole, whole))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                outcome.kills += process.wait() == -signal.SIGKILL
        assert start(stride).wait() == 0
        outcome.runs += 1
        outcome.identical += sha256_file(target) == expected[stride]
        leftovers = [p.name for p in target.parent.iterdir() if "converting" in p.name]
        assert not leftovers, leftovers
    return outcome


def main() -> None:
    from _common import scratch_home

    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--trajectories", type=int, default=150)
    options = parser.parse_args()
    with scratch_home() as home:
        begun = time.perf_counter()
        found = kill_and_compare(home, kills=options.kills, trajectories=options.trajectories)
        print(
            f"{found.kills} kills; {found.identical} of {found.runs} conversions then ended with "
            f"the bytes of an uninterrupted one; {time.perf_counter() - begun:.0f} s"
        )


if __name__ == "__main__":
    main()
