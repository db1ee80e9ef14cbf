"""Ctrl-C and preemption: a flag that is read between steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType

_SAME_S = 1.0


class Stop(IntEnum):
    """Why a run is asked to stop; of several processes' reasons the largest holds."""

    NO = 0
    PREEMPTED = 1
    INTERRUPTED = 2


_REASONS = {
    signal.SIGINT: Stop.INTERRUPTED,
    signal.SIGTERM: Stop.PREEMPTED,
    signal.SIGUSR1: Stop.PREEMPTED,
}


@contextmanager
def stop_signals() -> Iterator[Callable[[], Stop]]:
    """Note the first SIGINT, SIGTERM or SIGUSR1 for the block; yields what tells the reason.

    A second signal does what it did before the block, usually ending the process at once. What
    follows within a second is taken for the same one: a launcher passes signals on that Slurm or a
    terminal have sent to every process already.
    """
    reason, noticed = Stop.NO, 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal reason, noticed
        if reason is Stop.NO:
            reason, noticed = _REASONS[signal.Signals(number)], time.monotonic()
        elif time.monotonic() > noticed + _SAME_S:
            restore()
            signal.raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: Stop.NO
        return
    before = {number: signal.signal(number, note) for number in _REASONS}
    try:
        yield lambda: reason
    finally:
        restore()
