"""The loader: the same batches in the same order whatever the workers, in constant memory."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from window_samples import burgers, points

from ups.data.reading.loader import Places, _Room, load_batches
from ups.data.reading.mixing import Mixture
from ups.data.reading.symmetries import Augmentation
from ups.data.reading.windows import Windows
from ups.errors import ConfigError, DataError


@pytest.fixture
def mixture(tmp_path, write_raw):
    store, card = burgers(tmp_path, write_raw)
    _, meshes, mesh_card = points(tmp_path, "mesh")
    _, particles, particle_card = points(tmp_path, "particles")
    return Mixture(
        [
            Windows(store, card, horizon=3, augment=Augmentation(shift=True, noise=0.1)),
            Windows(meshes, mesh_card, seed=1),
            Windows(particles, particle_card, seed=2),
        ],
        seed=5,
    )


def content(batch):
    """A batch's values, out of reach of what holds them."""
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else None
        for name, value in vars(batch).items()
    } | {"task": batch.problem.task}


@pytest.mark.parametrize(("workers", "method"), [(1, "fork"), (3, "fork"), (2, "spawn"), (2, None)])
def test_order_and_values_do_not_depend_on_the_workers(mixture, workers, method):
    alone = [content(batch) for batch in load_batches(mixture, 4, start_step=7, num_steps=20)]
    assert len({each["task"] for each in alone}) == 3
    loader = load_batches(
        mixture, 4, start_step=7, num_steps=20, num_workers=workers, start_method=method
    )
    assert [content(batch) for batch in loader] == alone


def test_batches_that_are_kept_stay_as_they_are(mixture):
    expected = [content(batch) for batch in load_batches(mixture, 4, num_steps=30)]
    kept = list(load_batches(mixture, 4, num_steps=30, num_workers=2, prefetch=2))
    assert [content(batch) for batch in kept] == expected
    arrays = [batch.fields[:1] for batch in kept]
    copies = [array.copy() for array in arrays]
    del kept
    gc.collect()
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_places_are_used_again(mixture):
    """More batches than places arrive as views if each is dropped before the next."""
    seen = set()
    for batch in load_batches(mixture.tasks[0], 4, num_steps=40, num_workers=2):
        assert batch.fields.flags.writeable
        seen.add(batch.fields.ctypes.data)
        del batch
    assert len(seen) <= 2 * 2 + 2


def test_a_running_loader_keeps_its_weights(mixture):
    for workers in (0, 2):
        fresh = Mixture(mixture.tasks, seed=5)
        expected = [fresh.locate(step)[0] for step in range(20)]
        loader = load_batches(fresh, 2, num_steps=20, num_workers=workers)
        next(loader)
        fresh.renew(1, "custom", {fresh.names[0]: 1, fresh.names[1]: 0, fresh.names[2]: 0})
        rest = [fresh.names.index(batch.problem.task) for batch in loader]
        assert rest == expected[1:]


def test_early_ends_leave_no_process(mixture):
    before = _children()
    loader = load_batches(mixture, 4, num_workers=2, start_method="fork")
    next(loader)
    workers = _children() - before
    assert len(workers) == 2
    loader.close()
    assert not _children() & workers


def _children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(file.read().split())


class Fails:
    """A source whose batch 3 does what it is told."""

    def __init__(self, source, what):
        self.source, self.what = source, what

    def batch(self, step, batch_size, empty=np.empty):
        if step == 3:
            self.what()
        return self.source.batch(step, batch_size, empty)

    def batch_bytes(self, batch_size):
        return self.source.batch_bytes(batch_size)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(7)


def refuse():
    raise DataError("here: damaged", hint="try again")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (kill, r"worker 1 \(pid \d+\) was killed by SIGKILL before batch 3 was there"),
        (leave, "ended with exit code 7 before batch 3"),
        (refuse, "here: damaged"),
    ],
)
def test_a_lost_worker_is_one_clear_error(mixture, what, message):
    loader = load_batches(Fails(mixture, what), 4, num_workers=2, start_method="fork")
    for _ in range(3):
        next(loader)
    with pytest.raises(DataError, match=message) as caught:
        next(loader)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_idle_workers_that_are_killed_are_noticed(mixture):
    loader = load_batches(mixture, 4, num_workers=1, prefetch=1, start_method="fork")
    before = _children()
    next(loader)
    for child in _children() - before:
        os.kill(int(child), signal.SIGKILL)
    with pytest.raises(DataError, match="SIGKILL"):
        [next(loader) for _ in range(3)]


@pytest.mark.parametrize(
    "options", [{"num_workers": -1}, {"prefetch": 0}, {"start_step": -1}, {"batch_size": 0}]
)
def test_numbers_that_make_no_sense_are_refused(mixture, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        load_batches(mixture, **({"batch_size": 2} | options))


def test_workers_need_no_fork_where_threads_run(mixture):
    wait = threading.Event()
    thread = threading.Thread(target=wait.wait)
    thread.start()
    try:
        found = [content(b) for b in load_batches(mixture, 2, num_steps=3, num_workers=1)]
    finally:
        wait.set()
        thread.join()
    assert found == [content(b) for b in load_batches(mixture, 2, num_steps=3)]


def test_a_full_place_sends_the_rest_by_value():
    place = Places(2, 4096)[1]
    room = _Room(place)
    first, large = room((10,), np.float32), room((5000,), np.float64)
    first[:], large[:] = 1, 2
    assert np.shares_memory(first, place)
    assert not np.shares_memory(large, place)
    assert isinstance(room.locate(pickle.PickleBuffer(large).raw()), bytes)
    offset, size = room.locate(pickle.PickleBuffer(first).raw())
    assert size == 40
    assert room.locate(pickle.PickleBuffer(np.empty(0)).raw()) == b""
    moved, _ = room.locate(pickle.PickleBuffer(np.arange(3)).raw())
    assert moved > offset


SCRIPT = """
    import sys, numpy as np
    from ups.data.reading import mapped_pages
    from ups.data.reading.loader import load_batches
    from ups.data.store import TrajectoryStore
    from ups.data.reading.windows import Windows
    from ups.registry import load_card
    from pathlib import Path

    mapped_pages.MOST_BYTES = 4 * 2**20

    def rss(pid="self"):
        with open(f"/proc/{pid}/status") as file:
            return next(int(l.split()[1]) for l in file if l.startswith("VmRSS")) / 1024

    def children():
        import os
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return file.read().split()

    if __name__ == "__main__":
        store = TrajectoryStore(Path(sys.argv[1]))
        windows = Windows(store, load_card("burgers1d"), horizon=19)
        loader = load_batches(windows, 16, num_workers=2, start_method=sys.argv[2])
        for _ in range(30):
            next(loader)
        before = [rss(), *map(rss, children())]
        for _ in range(150):
            next(loader)
        after = [rss(), *map(rss, children())]
        print(max(b - a for a, b in zip(before, after, strict=True)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux' /proc")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_memory_does_not_grow(tmp_path, write_raw, method):
    """Some 400 MB go through two workers; parent and workers keep what they had."""
    store, _ = burgers(tmp_path, write_raw, count=64, frames=100, points=2048)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    result = subprocess.run(
        [sys.executable, str(script), str(store.path), method],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(result.stdout) < 8


ORPHANS = """
    import os, sys
    from pathlib import Path
    from ups.data.reading.loader import load_batches
    from ups.data.store import TrajectoryStore
    from ups.data.reading.windows import Windows
    from ups.registry import load_card

    if __name__ == "__main__":
        windows = Windows(TrajectoryStore(Path(sys.argv[1])), load_card("burgers1d"))
        loader = load_batches(windows, 4, num_workers=3, start_method=sys.argv[2])
        next(loader)
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            print(file.read(), flush=True)
        os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux' /proc")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_end_with_a_killed_consumer(tmp_path, write_raw, method):
    store, _ = burgers(tmp_path, write_raw)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(ORPHANS))
    process = subprocess.Popen(
        [sys.executable, str(script), str(store.path), method], stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate(timeout=60)  # returns when no worker holds the pipe any more
    assert process.returncode == -signal.SIGKILL
    assert len(output.split()) >= 3
