"""What the benchmarks share: a scratch home, generated data, paired timing."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_home() -> Iterator[Path]:
    """A UPS_HOME that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="ups-benchmark-") as folder:
        os.environ["UPS_HOME"] = folder
        yield Path(folder)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def paired(ours: Callable[[], object], theirs: Callable[[], object], repeats: int = 7) -> str:
    """Time both in turn; the ratio is theirs / ours pair by pair, so 1 means as fast.

    The first pair warms up and is not counted.
    """
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats + 1)][1:]
    ratios = sorted(b / a for a, b in pairs)
    one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return (
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}); "
        f"ours {one * 1e3:.1f} ms, bare {other * 1e3:.1f} ms"
    )
