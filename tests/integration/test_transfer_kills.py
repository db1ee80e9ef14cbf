"""Processes that push and pull are killed at random moments; no byte may be wrong afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import transfer_child
from servers import client, moto_s3, rclone_binary, rclone_s3
from transfer_samples import arrived, contents, local_remote

import ups
from ups import paths
from ups.errors import RemoteError
from ups.transfer.artefacts import list_artefacts
from ups.transfer.clean import clean
from ups.transfer.pull import find, pull
from ups.transfer.remotes import Remote, find_remote

FEW = {"rclone": 1, "folder": 1}
ALL = {"rclone": 30, "moto": 12, "folder": 8}
"""Kills of each kind, push and pull, on each server: 100 in all."""


class Reader(threading.Thread):
    """Lists and pulls whatever is there, all the time: it must see whole artefacts only."""

    def __init__(self, remote: Remote, folder: Path, sources: Path) -> None:
        super().__init__(daemon=True)
        self.remote, self.folder, self.sources = remote, folder, sources
        self.read: set[str] = set()
        self.wrong: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            for listing in list_artefacts("data", self.remote):
                if listing.name not in self.read:
                    self._read(listing.name)

    def _read(self, name: str) -> None:
        into = self.folder / name
        try:
            pull(find("data", name, self.remote), into, self.remote)
        except RemoteError as error:
            self.wrong.append(f"{name}: {error}")
        else:
            sent = transfer_child.source(self.sources, name.removeprefix("killed/"))
            if arrived(into) != contents(sent):
                self.wrong.append(f"{name}: other bytes")
        self.read.add(name)


class Bench:
    """Runs the child, kills it, and lets it run to its end."""

    def __init__(self, folder: Path, place: str, dice: random.Random) -> None:
        self.folder, self.place, self.dice = folder, place, dice
        self.usual = {"push": 2.0, "pull": 1.0}

    def start(self, doing: str, name: str) -> subprocess.Popen[bytes]:
        into, final = self.folder / "staging" / name, self.folder / "final" / name
        final.parent.mkdir(parents=True, exist_ok=True)
        command = [transfer_child.__file__, doing, name, self.folder / "sources", into, final]
        root = str(Path(ups.__file__).parent.parent)
        process = subprocess.Popen(
            [sys.executable, *map(str, command), self.place],
            env=dict(os.environ, PYTHONPATH=root), stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def finish(self, doing: str, name: str) -> None:
        with self.start(doing, name) as process:
            began = time.monotonic()
            assert process.wait(120) == 0
        self.usual[doing] = time.monotonic() - began

    def kill(self, doing: str, name: str) -> bool:
        """Start, and kill at a random moment; whether it was killed before its end."""
        with self.start(doing, name) as process:
            try:
                process.wait(self.dice.uniform(0, self.usual[doing]))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait() != 0


@contextmanager
def server_of(kind: str, folder: Path, monkeypatch) -> Iterator[str]:
    """Starts a server; gives the place to push to."""
    if kind == "folder":
        rclone_binary()
        yield str(folder / "remote")
        return
    with rclone_s3(folder / "s3") if kind == "rclone" else moto_s3() as server:
        server.environment(monkeypatch)
        yield "b2"
        listed = client(server).list_multipart_uploads(Bucket=server.bucket)
        assert not listed.get("Uploads"), "orphan uploads are left"


def kill_and_check(kind: str, count: int, folder: Path, monkeypatch) -> None:
    dice = random.Random(count)
    with server_of(kind, folder, monkeypatch) as place:
        remote = local_remote(Path(place)) if kind == "folder" else find_remote(place)
        bench = Bench(folder, place, dice)
        reader = Reader(transfer_child.slow(remote), folder / "reader", folder / "sources")
        reader.start()
        killed = {"push": 0, "pull": 0}
        for number in range(10 * count):
            name = f"n{number}"
            if killed["push"] < count:
                killed["push"] += bench.kill("push", name)
            bench.finish("push", name)
            killed["pull"] += bench.kill("pull", name) if killed["pull"] < count else 0
            _check_final(bench, name)
            if min(killed.values()) >= count:
                break
        reader.over.set()
        reader.join(30)
        assert killed == {"push": count, "pull": count}
        assert not reader.wrong
        assert reader.read
        clean(remote)
        assert clean(remote, dry_run=True).uploads == ()
        assert not [path for path in (paths.home() / "tmp").glob("push-*") if path.is_dir()]


def _check_final(bench: Bench, name: str) -> None:
    """Nothing is where a reader looks until all is; the rerun brings it, right."""
    final = bench.folder / "final" / name
    sent = contents(transfer_child.source(bench.folder / "sources", name))
    if final.exists():
        assert arrived(final) == sent
        return
    bench.finish("pull", name)
    assert arrived(final) == sent


@pytest.mark.parametrize("kind", list(FEW))
def test_a_killed_push_or_pull_is_mended_by_the_next_one(kind, tmp_path, monkeypatch):
    kill_and_check(kind, FEW[kind], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(ALL))
def test_a_hundred_kills(kind, tmp_path, monkeypatch):
    kill_and_check(kind, ALL[kind], tmp_path, monkeypatch)
