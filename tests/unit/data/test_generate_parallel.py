"""Generation by several processes, killed, interrupted and continued: always the same bytes."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import psutil
import pytest

from ups import files
from ups.data.generate import generate, run
from ups.data.generate.job import Job
from ups.data.generate.pieces import Pieces
from ups.errors import DataError, UsageError
from ups.registry import load_card

SLOW = pytest.mark.slow  # each new process imports torch
SMALL = {
    "burgers1d": {"parameters": {"nu": 0.1}, "points": 32, "frames": 3, "num_trajectories": 7},
    "shallow_water2d": {"parameters": {}, "points": 16, "frames": 2, "num_trajectories": 5},
    "darcy2d_mesh": {"parameters": {"beta": 1.0}, "points": 150, "num_trajectories": 5},
}


def make(key: str, folder: Path, *, seed: int = 0, **options) -> Path:
    settings = {"batch_size": 2, "workers": 1} | SMALL[key] | options
    return generate(load_card(key), seed=seed, out_dir=folder, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """whole(key) -> the bytes of an uninterrupted generation in this process."""
    made: dict[str, bytes] = {}

    def of(key: str) -> bytes:
        if key not in made:
            made[key] = make(key, tmp_path_factory.mktemp("whole")).read_bytes()
        return made[key]

    return of


def stop_after(batches: int):
    """A progress callback that breaks generation off."""

    def told(done: int, total: int) -> None:
        nonlocal batches
        batches -= 1
        if batches == 0:
            raise KeyboardInterrupt

    return told


def work_folder(folder: Path) -> Path:
    (found,) = folder.glob(".*.generating")
    return found


def pieces_in(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.generating/*/*.npz"))


def only_hidden(folder: Path) -> bool:
    return all(path.name.startswith(".") for path in folder.iterdir())


@pytest.mark.parametrize(
    "key", [pytest.param("burgers1d", marks=SLOW), "shallow_water2d", "darcy2d_mesh"]
)
def test_two_workers_write_the_same_bytes_as_one(key, whole, tmp_path):
    path = make(key, tmp_path, workers=2)
    assert path.read_bytes() == whole(key)
    assert {entry.suffix for entry in tmp_path.iterdir() if entry != path} == {".lock"}


def test_a_file_holds_no_time_of_day_and_no_slack(whole, tmp_path):
    before = {key: whole(key) for key in SMALL}
    time.sleep(1.01)  # HDF5's clock counts seconds
    for key, content in before.items():
        path = make(key, tmp_path)
        assert path.read_bytes() == content
        values = []
        with h5py.File(path) as file:
            file.visititems(lambda _, item: values.append(getattr(item, "nbytes", 0)))  # noqa: B023
        around = 2**13 * (1 + SMALL[key]["num_trajectories"])
        assert len(content) < sum(values) + around  # what was reserved is given back


@pytest.mark.parametrize("key", SMALL)
def test_the_only_batch_goes_straight_into_the_file(key, tmp_path, monkeypatch):
    kept = make(key, tmp_path / "kept", num_trajectories=1).read_bytes()
    monkeypatch.setattr(Pieces, "save", lambda *_: pytest.fail("needs no piece"))
    assert make(key, tmp_path / "again", num_trajectories=1).read_bytes() == kept


@pytest.mark.parametrize("key", SMALL)
def test_an_interrupted_generation_continues_to_the_same_bytes(key, whole, tmp_path, monkeypatch):
    expected = whole(key)
    with pytest.raises(KeyboardInterrupt):
        make(key, tmp_path, progress=stop_after(2))
    assert only_hidden(tmp_path)
    assert len(pieces_in(tmp_path)) == 2
    solved, solve = [], Job.solve
    monkeypatch.setattr(Job, "solve", lambda job, b: solved.append(b) or solve(job, b))
    calls = []
    path = make(key, tmp_path, progress=lambda done, total: calls.append((done, total)))
    assert path.read_bytes() == expected
    total, per_batch = SMALL[key]["num_trajectories"], 1 if key == "darcy2d_mesh" else 2
    assert calls[0] == (2 * per_batch, total)
    assert calls[-1] == (total, total)
    assert min(batch.start for batch in solved) == 2 * per_batch
    assert len(solved) == len(calls) - 1
    assert not list(tmp_path.glob("*.generating"))


@pytest.mark.parametrize("key", SMALL)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_piece_is_solved_again(key, damage, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(key, tmp_path, progress=stop_after(3))
    piece = pieces_in(tmp_path)[1]
    content = bytearray(piece.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    piece.write_bytes({"flip": content, "cut": content[:-9], "empty": b""}[damage])
    assert make(key, tmp_path).read_bytes() == whole(key)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"num_trajectories": 6}, {"points": 48}, {"batch_size": 3}]
)
def test_another_request_starts_anew(change, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make("burgers1d", tmp_path / "a", progress=stop_after(2))
    before = {path.parent.name for path in pieces_in(tmp_path / "a")}
    with pytest.raises(KeyboardInterrupt):
        make("burgers1d", tmp_path / "a", progress=stop_after(1), **change)
    (piece,) = pieces_in(tmp_path / "a")
    assert piece.parent.name not in before
    changed = make("burgers1d", tmp_path / "a", **change)
    assert changed.read_bytes() == make("burgers1d", tmp_path / "b", **change).read_bytes()


def test_a_run_killed_between_its_last_two_steps_leaves_nothing_for_good(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Pieces, "remove", lambda _: None)
        path = make("burgers1d", tmp_path)
    assert pieces_in(tmp_path)
    before = path.stat().st_mtime_ns
    assert make("burgers1d", tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert not list(tmp_path.glob(".*.generating"))


KILLED = """
import os, signal, sys
from pathlib import Path
from ups.data.generate import generate
from ups.data.generate.pieces import Pieces
from ups.registry import load_card

def main():
    key, settings, folder, moment, count = eval(sys.argv[1])
    left = [count]
    def tick(*_):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    load = Pieces.load
    if moment == "writing":
        Pieces.load = lambda self, batch: (tick(), load(self, batch))[1]
    told = tick if moment == "solving" else None
    generate(load_card(key), seed=0, out_dir=Path(folder), progress=told, **settings)

if __name__ == "__main__":
    main()
"""


def start(key: str, folder: Path, moment: str, count: int, workers: int) -> subprocess.Popen[bytes]:
    """Generate in another process; it kills itself at a moment of solving or writing."""
    script = folder.parent / "killed.py"
    script.write_text(KILLED)
    settings = {"batch_size": 2, "workers": workers} | SMALL[key]
    argument = repr((key, settings, str(folder), moment, count))
    return subprocess.Popen([sys.executable, str(script), argument], stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("key", "moments"),
    [
        pytest.param("burgers1d", [("solving", 1, 2), ("writing", 3, 1)], marks=SLOW),
        ("darcy2d_mesh", [("solving", 2, 2), ("writing", 4, 1)]),
        ("shallow_water2d", [("writing", 2, 1)]),
    ],
)
def test_killed_at_chosen_moments_it_continues_to_the_same_bytes(key, moments, whole, tmp_path):
    folder = tmp_path / "out"
    for moment, count, workers in moments:
        process = start(key, folder, moment, count, workers)
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, stderr
        assert only_hidden(folder)
        assert pieces_in(folder)
    assert make(key, folder).read_bytes() == whole(key)
    assert not list(folder.glob(".*.generating"))


@SLOW
@pytest.mark.parametrize("key", SMALL)
def test_killed_at_any_moment_it_continues_to_the_same_bytes(key, tmp_path):
    """SIGKILL of the parent alone, at random times; its workers must be gone with it."""
    settings = {"num_trajectories": 60 if key == "darcy2d_mesh" else 40}
    expected = make(key, tmp_path / "whole", **settings).read_bytes()
    folder, moments = tmp_path / "out", random.Random(0)
    code = KILLED.replace("seed=0", "seed=0, force=True")
    (tmp_path / "killed.py").write_text(code)
    everything = {"batch_size": 2, "workers": 2} | SMALL[key] | settings
    argument = repr((key, everything, str(folder), "never", 0))
    for _ in range(8):
        process = subprocess.Popen([sys.executable, str(tmp_path / "killed.py"), argument])
        while not list(folder.glob(".*.generating")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 4))
        process.kill()
        process.wait()
    assert make(key, folder, force=True, **settings).read_bytes() == expected


def workers_of_this_process() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_a_worker_killed_by_the_system_is_one_error_and_loses_little(whole, tmp_path):
    def kill_one(done: int, total: int) -> None:
        for worker in workers_of_this_process():
            worker.kill()

    with pytest.raises(DataError, match="worker process was killed") as caught:
        make("burgers1d", tmp_path, workers=2, progress=kill_one)
    assert "it continues" in str(caught.value.hint)
    assert workers_of_this_process() == []
    assert pieces_in(tmp_path)
    assert make("burgers1d", tmp_path).read_bytes() == whole("burgers1d")


def test_a_solution_that_fails_in_a_worker_is_one_error_and_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="do not fit") as caught:
        generate(load_card("granular_contacts"), parameters={}, num_trajectories=2, seed=0,
                 out_dir=tmp_path, points=100_000, frames=2, workers=2)  # fmt: skip
    assert caught.value.hint
    assert workers_of_this_process() == []
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".lock"]


def ups(*arguments: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ups", "data", "generate", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


MESHES = ["darcy2d_mesh", "--points", "400", "--num-trajectories", "400", "--workers", "2"]


@pytest.mark.parametrize("wanted", [0, pytest.param(1, marks=SLOW)], ids=["starting", "solving"])
def test_ctrl_c_ends_all_processes_without_a_word_from_the_workers(wanted, tmp_path):
    process = ups(
        *MESHES, "--out", str(tmp_path), start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a CI may ignore it
    )  # fmt: skip
    with process:
        while not list(tmp_path.glob(".*.generating/*/" + "*.npz" * wanted)):
            assert process.poll() is None
            time.sleep(0.01)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "interrupted\n")
    assert only_hidden(tmp_path)
    assert bool(pieces_in(tmp_path)) == bool(wanted)
    psutil.wait_procs(family, timeout=10)
    assert not any(child.is_running() for child in family)


@pytest.mark.parametrize(("limit", "kept"), [(2**12, 0), (2**19, 3)], ids=["pieces", "file"])
def test_a_full_disk_is_one_line_and_what_is_done_is_kept(limit, kept, tmp_path):
    arguments = ["darcy2d_mesh", "--points", "300", "--num-trajectories", "3"]
    process = ups(
        *arguments, "--out", str(tmp_path), "--workers", "2" if kept else "1",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # cut-off modules spoil later imports
    )  # fmt: skip
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stderr
    error, hint = stderr.splitlines()
    assert error.startswith("error: ")
    assert "writing failed: the file-size limit is reached" in error
    assert hint.startswith("hint: free some space")
    assert stdout == ""
    assert only_hidden(tmp_path)
    assert len(pieces_in(tmp_path)) == kept
    assert bool(list(tmp_path.glob(".*.generating"))) == bool(kept)


def test_too_little_space_is_said_before_it_is_used_up(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: usage._replace(free=5000))
    with pytest.raises(DataError, match=r"needs 0\.0 GB more while it is made, and 0\.0 GB") as e:
        make("burgers1d", tmp_path)
    assert "--out FOLDER" in str(e.value.hint)
    assert len(pieces_in(tmp_path)) == 2


def test_two_at_once_are_kept_apart(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make("burgers1d", tmp_path, progress=stop_after(1))
    with (
        files.exclusive(work_folder(tmp_path), "testing"),
        pytest.raises(DataError, match=r"another process .* is generating burgers1d"),
    ):
        make("burgers1d", tmp_path)


def test_without_a_number_short_work_is_done_here_and_long_work_by_all_cores(
    whole, tmp_path, monkeypatch
):
    asked, saved, save = [], [], Pieces.save
    monkeypatch.setattr(Pieces, "save", lambda p, b, a: saved.append(b) or save(p, b, a))

    def noted(make, things, workers, *, where):
        asked.append((len(things), workers))
        work = make()
        for thing in things:
            work(thing)
            yield thing

    monkeypatch.setattr(run, "in_processes", noted)
    monkeypatch.setattr(run, "cores", lambda: 3)
    short = make("burgers1d", tmp_path / "short", workers=None)
    assert asked == []
    assert saved == [range(0, 2)]
    monkeypatch.setattr(run, "_SHORT_SECONDS", 0.0)
    long = make("burgers1d", tmp_path / "long", workers=None)
    assert asked == [(3, 3)]  # the first of four batches told how long they take
    assert short.read_bytes() == long.read_bytes() == whole("burgers1d")


def test_a_bad_number_of_workers_is_named(tmp_path):
    with pytest.raises(UsageError, match="workers=0 must be at least 1"):
        make("burgers1d", tmp_path, workers=0)
    assert list(tmp_path.iterdir()) == []
