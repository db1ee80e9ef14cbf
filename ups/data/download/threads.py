"""Work on many things side by side, in threads that never hold up an interrupt."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from ups.errors import DataError, UpsError

T = TypeVar("T")
R = TypeVar("R")
_PARTING_SECONDS = 2.0


def each(
    things: Sequence[T], work: Callable[[T], R], threads: int, stop: Callable[[], object]
) -> list[R | UpsError]:
    """Call `work` on each thing, at most `threads` at a time.

    An `UpsError` of one thing lets the others go on; any other exception stops all and is raised.

    Args:
        stop: Tells work that is under way to end.

    Returns:
        What `work` returned or raised, in the order of `things`.
    """
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, R | BaseException]] = queue.SimpleQueue()
    for index in range(len(things)):
        todo.put(index)
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            try:
                index = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((index, work(things[index])))
            except BaseException as error:  # noqa: BLE001 (handed to the caller's thread)
                done.put((index, error))

    # Daemons: one that waits for a silent server must not keep the process after Ctrl-C.
    crew = [threading.Thread(target=run, daemon=True) for _ in range(min(threads, len(things)))]
    for thread in crew:
        thread.start()
    results: dict[int, R | UpsError] = {}
    try:
        while len(results) < len(things):
            index, result = done.get()
            if isinstance(result, BaseException) and not isinstance(result, UpsError):
                raise result
            results[index] = result
    except BaseException:
        over.set()
        stop()
        for thread in crew:
            thread.join(_PARTING_SECONDS)
        raise
    return [results[index] for index in range(len(things))]


def raise_failures(results: Sequence[object], where: str) -> None:
    """Raise the only failure among `results`, or one line about all of them."""
    failures = [result for result in results if isinstance(result, UpsError)]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        shown = "; ".join(str(failure) for failure in failures[:3])
        more = "; ..." if len(failures) > 3 else ""
        raise DataError(
            f"{where}: {len(failures)} of {len(results)} files failed: {shown}{more}",
            hint="run the same command again: what is complete stays, what is partial goes on",
        )
