"""A look at a few trajectories on a remote, in place, against pulling the whole version.

python benchmarks/direct.py [--trajectories 1000] [--look 4] [--repeats 3]

The server is `rclone serve s3` on loopback, behind a proxy which counts what it sends. That server
answers ranges with 200, for which rclone reads in place of obstore; in the rows 'as S3' the proxy
makes that 206, as S3 itself answers. The best time of each counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from _common import scratch_home, seconds

from ups import load_card, paths
from ups.data.convert import convert
from ups.data.versions import open_store
from ups.transfer.dataset_pieces import source_of
from ups.transfer.direct import open_in_place
from ups.transfer.pull import find, pull
from ups.transfer.push import push
from ups.transfer.remotes import find_remote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers import host_and_port, rclone_s3

KEY, VERSION, FRAMES, POINTS = "advection1d", "many", 101, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=1000)
    parser.add_argument("--look", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with scratch_home() as home, rclone_s3(home / "server") as server:
        proxy = CountingProxy(*host_and_port(server))
        os.environ |= {
            "B2_KEY_ID": server.key, "B2_APP_KEY": server.secret, "B2_BUCKET": server.bucket,
            "B2_S3_ENDPOINT": proxy.endpoint, "B2_S3_REGION": server.region,
        }  # fmt: skip
        path = make_version(options.trajectories)
        push(source_of(path), find_remote("b2"))
        rows = np.linspace(0, options.trajectories - 1, options.look).round().astype(int)
        wanted = np.asarray(open_store(KEY, VERSION).fields[rows])

        def look() -> None:
            np.testing.assert_array_equal(
                open_in_place(KEY, VERSION, find_remote("b2")).fields[rows], wanted
            )

        def pull_all() -> None:
            remote = find_remote("b2")
            pull(find("data", f"{KEY}/{VERSION}", remote), home / "pulled", remote)

        print(f"{options.look} of {options.trajectories} trajectories, "
              f"{path.stat().st_size / 1e6:.0f} MB")  # fmt: skip
        print(f"{'':34}{'seconds':>9}{'MB sent':>10}{'requests':>10}")
        for as_s3 in (False, True):
            proxy.as_s3 = as_s3
            kind = "in place, as S3" if as_s3 else "in place"
            measure(f"{kind}: first look", look, proxy, paths.blocks_dir(), options.repeats)
            measure(f"{kind}: second look", look, proxy, None, options.repeats)
            shutil.rmtree(paths.blocks_dir())
        measure("pull of all", pull_all, proxy, home / "pulled", options.repeats)


def measure(
    label: str, run: Callable[[], None], proxy: CountingProxy, fresh: Path | None, repeats: int
) -> None:
    """Print the best of several runs; `fresh` is removed before each."""
    best = float("inf")
    for _ in range(repeats):
        if fresh is not None:
            shutil.rmtree(fresh, ignore_errors=True)
        proxy.sent = proxy.requests = 0
        best = min(best, seconds(run))
    print(f"{label:34}{best:9.2f}{proxy.sent / 1e6:10.2f}{proxy.requests:10d}")


def make_version(count: int) -> Path:
    """Random sums of waves, converted."""
    random = np.random.default_rng(0)
    raw = paths.raw_dir(KEY) / "1D_Advection_Sols_beta0.4.hdf5"
    raw.parent.mkdir(parents=True)
    with h5py.File(raw, "w") as file:
        file["tensor"] = random.normal(size=(count, FRAMES, POINTS)).astype(np.float32)
        file["t-coordinate"] = np.arange(FRAMES + 1, dtype=np.float32) * np.float32(0.05)
        file["x-coordinate"] = ((np.arange(POINTS) + 0.5) / POINTS).astype(np.float32)
        file.attrs["beta"] = 0.4
    return convert(load_card(KEY), [raw], version=VERSION).store.path


class CountingProxy:
    """A port that passes everything on to a server, and counts.

    Attributes:
        as_s3: Ranges are answered with 206.
        sent: Bytes from the server.
        requests: Answers of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self.as_s3 = False
        self.sent = self.requests = 0
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(self._server)
            threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        while chunk := _received(source):
            target.sendall(chunk)
        _end(target)

    def _answer(self, source: socket.socket, target: socket.socket) -> None:
        while chunk := _received(source):
            self.sent += len(chunk)
            self.requests += chunk.startswith(b"HTTP/1.1 ")
            if self.as_s3 and chunk.startswith(b"HTTP/1.1 200 OK") and _has_range(chunk):
                chunk = chunk.replace(b"200 OK", b"206 Partial Content", 1)
            target.sendall(chunk)
        _end(target)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(2**18)
    except ConnectionError:
        return b""


def _has_range(chunk: bytes) -> bool:
    return b"content-range:" in chunk.partition(b"\r\n\r\n")[0].lower()


def _end(target: socket.socket) -> None:
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


if __name__ == "__main__":
    main()
