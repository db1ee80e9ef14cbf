"""Batches in order, made ahead of time by worker processes.

A batch depends on its step alone, so workers share nothing: worker k makes batches k, k + n, ...,
each in a place of shared memory that was set aside before the first one. What arrives is a view
of that place, not a copy; the place is used again when the last array of the batch is gone. Memory
is therefore constant, and the same pages are written again and again. Workers need no torch.
"""

from __future__ import annotations

import copy
import mmap
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from multiprocessing import connection, reduction
from pathlib import Path
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from ups.data.reading.batches import Empty, WindowBatch
from ups.errors import ConfigError, DataError, UpsError, translated_os_errors

Array = npt.NDArray[Any]
StartMethod = Literal["fork", "spawn", "forkserver"]
_ALIGNMENT = 64
_SMALL_BYTES = 2**16
"""Room in a place for what is not counted as a batch's large arrays."""
_SPARE = 2
"""Batches that the consumer may hold as views; further ones are copied out for it."""


@runtime_checkable
class BatchSource(Protocol):
    """`Windows` or a `Mixture` of them."""

    def batch(self, step: int, batch_size: int, empty: Empty = ...) -> WindowBatch: ...

    def batch_bytes(self, batch_size: int) -> int: ...


def load_batches(
    source: BatchSource,
    batch_size: int,
    *,
    start_step: int = 0,
    num_steps: int | None = None,
    num_workers: int = 0,
    prefetch: int = 2,
    start_method: StartMethod | None = None,
) -> Generator[WindowBatch, None, None]:
    """Batches `start_step`, `start_step` + 1, ... of a source, endless unless `num_steps` is given.

    Order and values do not depend on the number of workers. Weights of a mixture that change
    while this runs take effect in the next call. Close the iterator, or let it end, to end the
    workers.

    Args:
        num_workers: Processes; 0 reads in this one.
        prefetch: Batches that each worker makes ahead.
        start_method: Of the processes; by default 'fork' on Linux where this process has a
            single Python thread, else 'spawn', which needs the usual `if __name__ == "__main__"`.
    Raises:
        ConfigError: A number that makes no sense.
        DataError: A worker was killed or has failed, or there is no memory to share.
        UpsError: Whatever the source raised in a worker.
    """
    least_of = {"batch_size": 1, "start_step": 0, "num_workers": 0, "prefetch": 1}
    for name, value in zip(least_of, (batch_size, start_step, num_workers, prefetch), strict=True):
        if value < (least := least_of[name]):
            raise ConfigError(f"loader: {name}: must be at least {least}, found {value}")
    frozen = copy.copy(source)  # a mixture's weights stay those of this moment
    end = None if num_steps is None else start_step + num_steps
    if num_workers == 0:
        return _in_this_process(frozen, batch_size, start_step, end)
    workers = num_workers if num_steps is None else max(1, min(num_workers, num_steps))
    return _in_workers(frozen, batch_size, start_step, end, workers, prefetch, start_method)


def _in_this_process(
    source: BatchSource, batch_size: int, step: int, end: int | None
) -> Generator[WindowBatch, None, None]:
    while end is None or step < end:
        yield source.batch(step, batch_size)
        step += 1


def _in_workers(
    source: BatchSource,
    batch_size: int,
    start: int,
    end: int | None,
    workers: int,
    prefetch: int,
    start_method: StartMethod | None,
) -> Generator[WindowBatch, None, None]:
    place_bytes = _aligned(source.batch_bytes(batch_size)) + _SMALL_BYTES
    places = Places(workers * prefetch + _SPARE, place_bytes)
    crew = _Crew(source, batch_size, places, workers, start_method)
    try:
        asked = step = start
        while end is None or step < end:
            while asked < step + workers * prefetch and (end is None or asked < end):
                crew.ask((asked - start) % workers, asked)
                asked += 1
            yield crew.take((step - start) % workers, step)
            step += 1
    finally:
        crew.end()


class Places:
    """Equal pieces of anonymous shared memory, which go to other processes by descriptor.

    Nothing of it outlives the processes that hold it, however they end.
    """

    def __init__(self, count: int, place_bytes: int) -> None:
        self.count, self.place_bytes = count, -(-place_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._descriptor = _anonymous_file(count * self.place_bytes)
        weakref.finalize(self, os.close, self._descriptor)
        self._map()

    def _map(self) -> None:
        self._memory = mmap.mmap(self._descriptor, self.count * self.place_bytes)
        self._bytes: Array = np.frombuffer(self._memory, np.uint8)

    def __getitem__(self, index: int) -> Array:
        """The bytes of one place."""
        return self._bytes[index * self.place_bytes : (index + 1) * self.place_bytes]

    def __getstate__(self) -> tuple[int, int, Any]:
        return self.count, self.place_bytes, reduction.DupFd(self._descriptor)

    def __setstate__(self, state: tuple[int, int, Any]) -> None:
        self.count, self.place_bytes, duplicate = state
        self._descriptor = duplicate.detach()
        weakref.finalize(self, os.close, self._descriptor)
        self._map()


def _anonymous_file(size: int) -> int:
    """A descriptor of so many bytes that have no name."""
    with translated_os_errors(Path(tempfile.gettempdir()), "setting memory aside for batches"):
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("ups-batches")
        else:
            descriptor, name = tempfile.mkstemp(prefix="ups-batches")
            os.unlink(name)
        os.truncate(descriptor, size)
    return descriptor


class _Room:
    """Makes arrays in a place, one after the other, and elsewhere when it is full."""

    def __init__(self, place: Array) -> None:
        self._place, self._used = place, 0
        self._address = place.ctypes.data

    def __call__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if self._used + size > len(self._place):
            return np.empty(shape, kind)
        part = self._place[self._used : self._used + size]
        self._used += _aligned(size)
        return part.view(kind).reshape(shape)

    def locate(self, values: memoryview) -> tuple[int, int] | bytes:
        """Where in the place some bytes are, moved there if need be; themselves if it is full."""
        if not values.nbytes:
            return b""
        given = np.frombuffer(values, np.uint8)
        offset = given.ctypes.data - self._address
        if 0 <= offset < len(self._place):
            return offset, len(given)
        if self._used + len(given) > len(self._place):
            return values.tobytes()
        moved = self((len(given),), np.uint8)
        moved[...] = given
        return moved.ctypes.data - self._address, len(given)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class _Lease:
    """A place in use: arrays made from it keep it, and it is given back when they are gone."""

    def __init__(self, place: Array, index: int, given_back: deque[int]) -> None:
        self._place = place
        self.__array_interface__ = {
            "data": (place.ctypes.data, False), "shape": place.shape, "typestr": "|u1",
            "version": 3,
        }  # fmt: skip
        weakref.finalize(self, given_back.append, index).atexit = False


class _Crew:
    """Worker processes, each at the other end of a pipe of its own.

    A worker that is killed leaves no lock behind that the others could wait for.
    """

    def __init__(
        self,
        source: BatchSource,
        batch_size: int,
        places: Places,
        workers: int,
        start_method: StartMethod | None,
    ) -> None:
        self._places = places
        self._free: deque[int] = deque(range(places.count))
        context: Any = multiprocessing.get_context(start_method or _default_method())
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        self._in_use: dict[int, int] = {}
        try:
            for _ in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_work, args=(source, batch_size, places, theirs), daemon=True
                )
                self._pipes.append(ours)
                self._processes.append(process)
                with warnings.catch_warnings():
                    # About threads of libraries, which workers do not use.
                    warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
                    process.start()
                theirs.close()
        except OSError as error:
            self.end()
            raise DataError(
                f"loader: worker {len(self._processes)} could not be started: {error}",
                hint="use fewer workers",
            ) from error

    def ask(self, worker: int, step: int) -> None:
        place = self._free.popleft()
        self._in_use[step] = place
        with suppress(OSError):  # a lost worker is told of where its first missing batch is due
            self._pipes[worker].send((step, place))

    def take(self, worker: int, step: int) -> WindowBatch:
        """The batch that was asked for, as soon as it is there."""
        pipe, process = self._pipes[worker], self._processes[worker]
        ready = connection.wait([pipe, process.sentinel])
        try:
            if pipe not in ready and not pipe.poll():  # its last words may have come meanwhile
                raise EOFError
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            raise self._lost(worker, step) from error
        if isinstance(answer, UpsError):
            raise answer
        return self._unpacked(self._in_use.pop(step), *answer)

    def _unpacked(
        self, index: int, content: bytes, parts: list[tuple[int, int] | bytes]
    ) -> WindowBatch:
        place = self._places[index]
        waiting = len(self._in_use)
        if self._places.count - len(self._free) - waiting > _SPARE:
            whole = place.copy()  # the consumer keeps batches: the place is needed again
            self._free.append(index)
        else:
            whole = np.asarray(_Lease(place, index, self._free))
        buffers = [
            bytearray(part) if isinstance(part, bytes) else whole[part[0] : part[0] + part[1]]
            for part in parts
        ]
        return cast(WindowBatch, pickle.loads(content, buffers=buffers))

    def _lost(self, worker: int, step: int) -> DataError:
        process = self._processes[worker]
        process.join(5)
        code = process.exitcode
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            hint = "if memory ran out: fewer workers, a smaller batch or a shorter window"
        else:
            how, hint = f"ended with exit code {code}", "its own message is above"
        return DataError(
            f"loader: worker {worker} (pid {process.pid}) {how} before batch {step} was there",
            hint=hint,
        )

    def end(self) -> None:
        """Stop all workers; they hold nothing that needs to be put in order."""
        for process in self._processes:
            if process.pid is not None:
                process.kill()
        for process in self._processes:
            if process.pid is not None:
                process.join()
                process.close()
        for pipe in self._pipes:
            pipe.close()


def _default_method() -> StartMethod:
    can_fork = hasattr(os, "memfd_create") and "fork" in multiprocessing.get_all_start_methods()
    return "fork" if can_fork and threading.active_count() == 1 else "spawn"


def _work(source: BatchSource, batch_size: int, places: Places, pipe: Any) -> None:
    """In a worker: make the batches asked for until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the consumer's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None
    while pipe in connection.wait([pipe, parent.sentinel]):
        try:
            step, index = pipe.recv()
        except (EOFError, OSError):
            return
        answer = _answer(source, step, batch_size, places[index])
        try:
            pipe.send(answer)
        except OSError:
            return


def _answer(source: BatchSource, step: int, batch_size: int, place: Array) -> Any:
    """A batch as pickle and the places of its arrays, or the error that is in the way."""
    room, outside = _Room(place), list[pickle.PickleBuffer]()
    try:
        batch = source.batch(step, batch_size, room)
    except UpsError as error:
        return error
    content = pickle.dumps(batch, protocol=5, buffer_callback=outside.append)
    return content, [room.locate(buffer.raw()) for buffer in outside]
