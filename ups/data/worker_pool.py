"""Work on many things in processes of their own, which never outlive this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from ups.errors import DataError, UpsError

T = TypeVar("T")
MOST_WORKERS = 8
_PARTING_SECONDS = 5.0


class WorkerError(DataError):
    """A worker process ended without a word: the system killed it, perhaps for its memory."""


def cores() -> int:
    """Cores that this process may use, at most as many as there are ever workers by default."""
    if hasattr(os, "sched_getaffinity"):
        return min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    return min(MOST_WORKERS, os.cpu_count() or 1)


def in_processes(
    make: Callable[[], Callable[[T], object]], things: Sequence[T], workers: int, *, where: Path
) -> Generator[T, None, None]:
    """Call `make` once in each of `workers` new processes, and what it returns on each thing.

    Close the iterator (`contextlib.closing`) so that no process is left when the caller fails.
    Whatever ends it early, Ctrl-C included, kills the processes at once: what they write must be
    of use, or harmless, wherever it breaks off. They die with this process, too.

    Args:
        make: Is pickled, as the things are: a module's function, or `functools.partial` of one.
        where: What is written, for the message.
    Yields:
        Each thing when it is done, in any order.
    Raises:
        WorkerError: A process was killed.
        BaseException: The first that the work raised.
    """
    todo = iter(things)
    crew: list[_Worker[T]] = []
    try:
        for thing in islice(todo, workers):
            crew.append(_Worker(make, where))
            crew[-1].give(thing)
        busy = {worker.pipe: worker for worker in crew}
        while busy:
            for pipe in cast("list[Connection]", wait(list(busy))):
                worker = busy[pipe]
                finished = worker.finished()
                following = list(islice(todo, 1))
                if following:
                    worker.give(following[0])
                else:
                    busy.pop(pipe).dismiss()
                yield finished
    finally:
        for worker in crew:
            worker.end()


class _Worker(Generic[T]):
    """One process, seen from here: it works on one thing at a time."""

    def __init__(self, make: Callable[[], Callable[[T], object]], where: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._where = where
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        with _interrupts_held_back():
            self._process.start()
        theirs.close()  # so that the pipe ends with the process

    def give(self, thing: T) -> None:
        self._thing = thing
        try:
            self.pipe.send(thing)
        except OSError as error:
            raise self._death() from error

    def finished(self) -> T:
        """What it worked on; raises what the work raised."""
        try:
            failure = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error
        if failure is not None:
            raise failure
        return self._thing

    def dismiss(self) -> None:
        """Let it end by itself, now that nothing is left to do."""
        self.pipe.close()

    def end(self) -> None:
        """Wait for one that was dismissed, kill one that was not."""
        if self.pipe.closed:
            self._process.join(_PARTING_SECONDS)
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _death(self) -> WorkerError:
        return WorkerError(
            f"{self._where}: a worker process was killed, perhaps for want of memory",
            hint="run the same command again with fewer --workers; it continues",
        )


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start a process in the block: it never sees Ctrl-C, not while it still imports either."""
    resource_tracker.ensure_running()  # its own start, inside the block, would let interrupts in
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, make: Callable[[], Callable[[Any], object]]) -> None:
    """A worker's life: None for each thing that went well, else what was raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and says so once
    threading.Thread(target=_die_with_parent, daemon=True).start()
    work: Callable[[Any], object] | None = None
    while True:
        try:
            thing = pipe.recv()
        except (EOFError, OSError):  # nothing is left to do, or nobody is left to do it for
            return
        try:
            work = work or make()
            work(thing)
        except BaseException as error:  # noqa: BLE001 (raised again in the parent)
            if not isinstance(error, UpsError):
                error.add_note(traceback.format_exc())
            answer: BaseException | None = error
        else:
            answer = None
        try:
            pipe.send(answer)
        except OSError:
            return


def _die_with_parent() -> None:
    """A worker whose parent was killed must not write on into what the next run continues."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
