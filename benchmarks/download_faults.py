"""Fifty downloads from a server that misbehaves at random: nothing wrong may ever be accepted.

Each run fetches three files over four connections while the server drops connections, flips bytes,
stalls, is busy, forgets ranges, lies about lengths, redirects and changes files midway; every tenth
run the downloading process is also killed with SIGKILL in the middle. A run whose command gives up
is repeated as a user would: the repeats are counted.

    python benchmarks/download_faults.py [--runs 50] [--megabytes 8] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from _common import scratch_home

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "data"))
from fault_server import Fault, FaultServer, serving, tiny_file, write_card

CHANCE = 0.7  # of a fault, for each request
MOST_REPEATS = 8
CODE = """
from ups.data.download.run import download
from ups.data.download.http import Http, Patience
from ups.registry import load_card
patience = Patience(attempts=12, first_wait=0.005, longest_wait=0.05, stall=0.25, connect=5)
try:
    with Http(patience) as http:
        done = download(load_card("loopback1d"), http=http)
        print(sum(outcome.received for outcome in done))
except Exception as error:
    raise SystemExit(f"{type(error).__name__}: {error}")
"""


class Mischief:
    """Chooses what goes wrong with a request, and counts it."""

    def __init__(self, seed: int, server: FaultServer, original: dict[str, bytes]) -> None:
        self.draw = random.Random(seed)
        self.server, self.original = server, original
        self.counts: Counter[str] = Counter()
        self.flipped: set[str] = set()
        # These are served in an old version at first, which changes during the first answer.
        self.stale = {name for name in original if self.draw.random() < 0.3}

    def __call__(self, path: str, start: int, stop: int) -> Fault | None:
        path = path.removeprefix("away/")
        size = max(1, stop - start)
        if path in self.stale:
            self.stale.remove(path)
            self.counts["changes midway"] += 1
            return Fault(drop=self.draw.randrange(size), change=self.original[path])
        if self.draw.random() > CHANCE:
            return None
        kind, fault = self.draw.choice(self._kinds(path, start, size))
        self.counts[kind] += 1
        if fault.flip is not None:
            self.flipped.add(path)
        return fault

    def _kinds(self, path: str, start: int, size: int) -> list[tuple[str, Fault]]:
        draw = self.draw
        part = draw.randrange(size)
        kinds = [
            ("drop", Fault(drop=part)),
            ("drop", Fault(drop=part, no_validators=True)),
            ("stall", Fault(stall=part)),
            ("busy", Fault(status=draw.choice([429, 500, 502, 503, 504]))),
            ("busy, Retry-After", Fault(status=draw.choice([429, 503]), retry_after="0")),
            ("no ranges", Fault(ignore_range=True, drop=part)),
            ("length too large", Fault(announce=draw.randrange(1, 5000))),
            ("length too small", Fault(announce=-draw.randrange(1, min(size, 5000) + 1))),
            ("no length, cut", Fault(no_length=True, cut=part)),
            ("another range", Fault(shift=1 + part) if start else Fault(drop=part)),
            ("redirect", Fault(redirect=self.server.url(f"away/{path}"))),
        ]
        if path not in self.flipped:  # one of the two rounds a file has
            kinds.append(("wrong byte", Fault(flip=start + part)))
        return kinds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--megabytes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    totals: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    begin = time.perf_counter()
    for seed in range(options.seed, options.seed + options.runs):
        with scratch_home() as home, serving() as server:
            figures, injected = one_run(seed, home, server, options.megabytes)
        totals.update(figures)
        faults.update(injected)
    seconds = time.perf_counter() - begin
    report(options.runs, totals, faults, seconds)


def one_run(
    seed: int, home: Path, server: FaultServer, megabytes: float
) -> tuple[Counter[str], Counter[str]]:
    """Download three files under faults; exits where one is not whole in the end."""
    rows = int(megabytes / 3 * 1e6 / (11 * 1024 * 4))
    contents = {f"{i}.hdf5": tiny_file(home.parent, rows, seed=3 * seed + i, points=1024)
                for i in range(3)}  # fmt: skip
    contents = {f"1D_Advection_{name}": data for name, data in contents.items()}
    mischief = Mischief(seed, server, contents)
    for name, data in contents.items():
        server.files[name] = server.files[f"away/{name}"] = data
    for name in mischief.stale:
        server.files[name] = contents[name][::-1]
    server.choose = mischief
    write_card(home, server.address, contents, trajectories=rows)
    figures = Counter(runs=1, size=sum(len(data) for data in contents.values()))
    for attempt in range(MOST_REPEATS):
        kill_after = mischief.draw.uniform(0.3, 0.8) if seed % 10 == 0 and attempt == 0 else None
        error = fetch(kill_after, figures)
        check_nothing_wrong(home, contents)
        if error is None:
            break
        figures["repeats" if kill_after is None else "kills"] += 1
    raw = home / "data/loopback1d/raw"
    for name, data in contents.items():
        if not (raw / name).is_file() or (raw / name).read_bytes() != data:
            sys.exit(f"seed {seed}: {name} is not whole: {error}")
    figures["sent"] = sum(asked.sent for asked in server.log)
    figures["requests"] = len(server.log)
    figures["rejected"] = len(list((home / "data/loopback1d").glob("rejected/*")))
    return figures, mischief.counts


def fetch(kill_after: float | None, figures: Counter[str]) -> str | None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    timer = threading.Timer(kill_after or 1e6, process.send_signal, [signal.SIGKILL])
    timer.daemon = True
    timer.start()
    _, errors = process.communicate()
    timer.cancel()
    return None if process.returncode == 0 else errors.strip() or f"exit {process.returncode}"


def check_nothing_wrong(home: Path, contents: dict[str, bytes]) -> None:
    """Whatever has a file's name has its bytes, at any time."""
    for name, data in contents.items():
        path = home / "data/loopback1d/raw" / name
        if path.exists() and hashlib.md5(path.read_bytes()).digest() != hashlib.md5(data).digest():
            sys.exit(f"{name}: WRONG BYTES ACCEPTED")


def report(runs: int, totals: Counter[str], faults: Counter[str], seconds: float) -> None:
    print(f"{runs} runs of 3 files, {totals['size'] / runs / 1e6:.1f} MB each run: "
          "every file whole and verified, nothing wrong accepted")  # fmt: skip
    print(f"time {seconds:.0f} s, {seconds / runs:.2f} s a run; {totals['requests']} requests")
    print(f"faults {sum(faults.values())}: "
          + ", ".join(f"{kind} {n}" for kind, n in faults.most_common()))  # fmt: skip
    more = totals["sent"] - totals["size"]
    print(f"bytes sent beyond the files {more / 1e6:.1f} MB of {totals['size'] / 1e6:.1f} MB "
          f"({more / totals['size']:.0%}); rejected files {totals['rejected']}")  # fmt: skip
    print(f"kills {totals['kills']}; commands repeated {totals['repeats']}")


if __name__ == "__main__":
    main()
