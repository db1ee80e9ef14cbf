"""How soon training starts on a machine that has nothing: the bar is 1.2 of the transfer time.

    python benchmarks/cache_travel.py [--megabytes 500]

Two homes in a temporary folder, `rclone serve s3` on loopback between them. The first one makes a
cache of random fields by an untrained codec and pushes it. Then, in new processes, on empty homes:
`ups cache pull` alone, and `ups train --stage operator --cache-from`. What a training run does
besides, imports and setting up, is measured by the same command once everything is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
POINTS, FRAMES = 256, 41
TRAINING = {"steps": 2, "batch_size": 4, "log_every": 1, "validate_every": 2}
CONFIG = {
    "name": "travel", "device": "cpu", "threads": 1,
    "data": {"dataset": "advection1d"},
    "codec": {"kind": "grid", "patch_size": 8, "width": 8, "depth": 1, "gate": 1},
    "cache": {"dtype": "float32", "residence": "stream"},
    "operator": {"mixer": "attention", "width": 16, "depth": 1, "heads": 2},
    "stages": {"codec": TRAINING, "operator": TRAINING | {"unroll": [{"start": 0, "steps": 1}]}},
    "tracking": {"wandb": "disabled"},
}  # fmt: skip


def ups(home: Path, *arguments: str) -> float:
    """Run a command in a process of its own; seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "ups", *arguments]
    done = subprocess.run(
        command, env={**os.environ, "UPS_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"ups {' '.join(arguments)}: {done.stderr}")
    return time.perf_counter() - began


def seconds_to_first_step(home: Path, began: float) -> float:
    """From a moment to the first record of the newest run's operator."""
    path = max((home / "runs").rglob("metrics.jsonl"), key=lambda one: one.stat().st_mtime_ns)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return float(min(one["time"] for one in records if one["stage"] == "operator")) - began


def first_machine(home: Path, config: Path, megabytes: int) -> None:
    """Data, codec and a cache of about so many megabytes, pushed to `b2`."""
    count = max(20, int(megabytes * 1e6 / (4 * POINTS * FRAMES) / 0.8))
    ups(home, "data", "generate", "advection1d", "--num-trajectories", str(count), "--points",
        str(POINTS), "--frames", str(FRAMES), "--param", "beta=0.4")  # fmt: skip
    ups(home, "data", "convert", "advection1d")
    ups(home, "train", "--config", str(config), "--stage", "codec")
    ups(home, "train", "--config", str(config), "--stage", "operator")
    print(f"push                          {ups(home, 'cache', 'push', 'advection1d'):8.1f} s")


def measure(folder: Path, config: Path) -> None:
    train = ("train", "--config", str(config), "--stage", "operator")
    idle = ups(folder / "first", "cache", "pull", "advection1d")
    pulled, trained = folder / "pulled", folder / "trained"
    transfer = ups(pulled, "cache", "pull", "advection1d") - idle
    size = sum(path.stat().st_blocks * 512 for path in pulled.rglob("*") if path.is_file())
    shutil.rmtree(pulled)
    began = time.time()
    ups(trained, *train, "--cache-from", "b2")
    start = seconds_to_first_step(trained, began)
    began = time.time()
    ups(trained, *train)
    setup = seconds_to_first_step(trained, began)
    print(f"pulled                        {size / 1e6:8.0f} MB")
    print(f"ups cache pull, nothing to do {idle:8.1f} s")
    print(f"transfer                      {transfer:8.1f} s  {size / 1e6 / transfer:.0f} MB/s")
    print(f"first step, everything here   {setup:8.1f} s  imports, set-up")
    print(f"first step, nothing here      {start:8.1f} s")
    print(f"(nothing - everything) / transfer {(start - setup) / transfer:4.2f}    bar 1.2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500, help="of tokens, about")
    asked = parser.parse_args()
    from servers import rclone_s3

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "travel.yaml"
        config.write_text(yaml.safe_dump(CONFIG))
        with rclone_s3(folder / "s3") as server:
            os.environ |= {
                "B2_KEY_ID": server.key, "B2_APP_KEY": server.secret, "B2_BUCKET": server.bucket,
                "B2_S3_ENDPOINT": server.endpoint, "B2_S3_REGION": server.region,
            }  # fmt: skip
            first_machine(folder / "first", config, asked.megabytes)
            measure(folder, config)


if __name__ == "__main__":
    main()
