"""Push and pull of large shards and of many small files, against a bare `rclone copy` of the same.

python benchmarks/transfer.py [--size-mb 2000] [--shards 8] [--files 10000] [--repeats 3]

The server is `rclone serve s3` on loopback. The bare copy has the same server, options and number
of transfers, and verifies nothing; the pull hashes every byte. Runs alternate, the best of each
counts: the machine's other work only ever adds time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from _common import scratch_home, seconds

from ups.transfer.packing import LocalPiece
from ups.transfer.pull import find, pull
from ups.transfer.push import Source, push
from ups.transfer.rclone_process import child_environment, find_binary
from ups.transfer.remotes import Remote, find_remote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers import rclone_s3

MEGABYTE = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, default=2000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with scratch_home() as home, rclone_s3(home / "server") as server:
        os.environ |= {
            "B2_KEY_ID": server.key, "B2_APP_KEY": server.secret, "B2_BUCKET": server.bucket,
            "B2_S3_ENDPOINT": server.endpoint, "B2_S3_REGION": server.region,
        }  # fmt: skip
        remote = find_remote("b2")
        print(f"{'':34}{'ups':>9}{'bare':>9}{'ratio':>8}")
        if options.shards:
            size = options.size_mb * MEGABYTE // options.shards
            folder = make_files(home / "shards", options.shards, size)
            compare(
                f"{options.size_mb} MB in {options.shards} files", folder, remote, options.repeats
            )
        if options.files:
            folder = make_files(home / "small", options.files, 10_000)
            compare(f"{options.files} files of 10 kB", folder, remote, options.repeats)


def make_files(folder: Path, count: int, size: int) -> Path:
    dice = random.Random(count)
    for index in range(count):
        path = folder / f"{index // 1000}" / f"shard{index:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.randbytes(size))
    return folder


def compare(what: str, folder: Path, remote: Remote, repeats: int) -> None:
    """Print best times of both directions, ours and bare."""
    local = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    pieces = [
        LocalPiece(path, str(path.relative_to(folder)), path.stat().st_size) for path in local
    ]
    into = folder.with_name("into")
    times: dict[str, list[float]] = {}

    def timed(name: str, run: Callable[[], object]) -> None:
        times.setdefault(name, []).append(seconds(run))

    for _ in range(repeats):
        source = Source("data", f"speed/{folder.name}", {}, pieces)
        timed("push bare", lambda: bare(f"{folder}/", f"{remote.path('bare')}/", remote))
        timed("push ups", lambda source=source: push(source, remote))
        timed("pull bare", lambda: bare(f"{remote.path('bare')}/", f"{into}/", remote))
        shutil.rmtree(into)
        timed(
            "pull ups", lambda source=source: pull(find("data", source.name, remote), into, remote)
        )
        timed("again", lambda source=source: pull(find("data", source.name, remote), into, remote))
        shutil.rmtree(into)
        for place in ("bare", "data"):
            remote.rclone().purge(remote.path(place))
    for doing in ("push", "pull"):
        ours, other = min(times[f"{doing} ups"]), min(times[f"{doing} bare"])
        print(f"{doing} {what:29}{ours:7.2f} s{other:7.2f} s{ours / other:8.2f}")
    print(f"pull again, nothing to fetch      {min(times['again']):7.2f} s")


def bare(source: str, target: str, remote: Remote) -> None:
    command = [str(find_binary()), "copy", "--config=", "--transfers=4", "--", source, target]
    subprocess.run(command, check=True, env=child_environment(remote.rclone().environment))


if __name__ == "__main__":
    main()
