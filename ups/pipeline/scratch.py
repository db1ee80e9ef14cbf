"""A home of its own for a training whose cost is measured."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ups import paths
from ups.errors import DataError, translated_os_errors

_SHARED = ("data", "leaderboard")
_OWN_FILES = ("registry", "configs")


@contextmanager
def own_caches(*, keep_runs: bool) -> Iterator[None]:
    """For the block, UPS_HOME has no latent cache; what is made of it is thrown away.

    A training that finds the cache of another one takes less time than it would alone: in the
    block, each makes its own. Data, cards and configs are those of the home around it.

    Args:
        keep_runs: Runs are made in the home around it; else they are thrown away too.
    """
    outer = paths.home()
    with translated_os_errors(outer, "making a scratch folder", DataError):
        outer.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=".scratch-", dir=outer)
    with made as folder:
        _link(outer, Path(folder), keep_runs)
        before = os.environ.get("UPS_HOME")
        os.environ["UPS_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["UPS_HOME"]
            else:
                os.environ["UPS_HOME"] = before


def _link(outer: Path, inner: Path, keep_runs: bool) -> None:
    names = list(_SHARED)
    if paths.checkout() != outer:  # a checkout's own are found from everywhere
        names += _OWN_FILES
    if keep_runs:
        paths.runs_dir().mkdir(parents=True, exist_ok=True)
        names.append("runs")
    for name in names:
        if (outer / name).is_dir():
            (inner / name).symlink_to(outer / name, target_is_directory=True)
