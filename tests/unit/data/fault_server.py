"""An HTTP server on the loopback that serves files and misbehaves as it is told."""

from __future__ import annotations

import functools
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h5py
import numpy as np
import yaml

from ups.registry import DatasetCard, load_card

ROOT = Path(__file__).resolve().parents[3]

_CHUNK = 16384
_HELD_SECONDS = 20.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong in one answer; bytes count from the start of its body.

    Attributes:
        drop: Close the connection after so many bytes.
        stall: Send nothing more after so many bytes, until the client leaves.
        flip: Invert the byte at this place of the file.
        status: Answer with this status and no file; `retry_after` goes with it.
        ignore_range: Send the whole file, whatever was asked.
        announce: Content-Length is wrong by so much.
        redirect: Send the client to this address.
        encoding: Call the body encoded.
        no_length: Leave Content-Length out and end with the connection.
        cut: With `no_length`: end so many bytes early.
        change: Replace the file by this content once the answer is over.
        no_validators: No ETag, no Last-Modified.
        shift: Content-Range starts so many bytes too late.
    """

    drop: int | None = None
    stall: int | None = None
    flip: int | None = None
    status: int | None = None
    retry_after: str | None = None
    ignore_range: bool = False
    announce: int = 0
    redirect: str | None = None
    encoding: str | None = None
    no_length: bool = False
    cut: int = 0
    change: bytes | None = None
    no_validators: bool = False
    shift: int = 0


@dataclass
class Asked:
    """One request and what was sent for it."""

    path: str
    headers: dict[str, str]
    fault: Fault | None
    sent: int = 0

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class FaultServer:
    """Files by path; `faults[path]` is used up from the front, `choose` is asked when it is empty.

    Probes (requests for the first byte only) have faults of their own: `probe_faults`.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    probe_faults: dict[str, list[Fault | None]] = field(default_factory=dict)
    choose: Callable[[str, int, int], Fault | None] = lambda path, start, stop: None
    log: list[Asked] = field(default_factory=list)
    always: Fault | None = None
    holding: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"

    def sent(self, path: str) -> int:
        """Bytes of body sent for a path, all answers together."""
        return sum(asked.sent for asked in self.log if asked.path == f"/{path}")

    def next_fault(self, path: str, start: int, stop: int, *, probe: bool) -> Fault | None:
        with self.lock:
            queue = (self.probe_faults if probe else self.faults).get(path)
            if queue:
                return queue.pop(0)
            return self.always or (None if probe else self.choose(path, start, stop))


@functools.lru_cache(maxsize=64)
def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        world: FaultServer = self.server.world
        path = urlsplit(self.path).path.lstrip("/")
        data = world.files.get(path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        start, stop = self._range(headers.get("range"), len(data or b""))
        probe = headers.get("range") == "bytes=0-0"
        fault = world.next_fault(path, start, stop, probe=probe)
        asked = Asked(f"/{path}", headers, fault)
        world.log.append(asked)
        if fault and fault.redirect:
            self._empty(302, Location=fault.redirect)
        elif fault and fault.status:
            extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._empty(fault.status, **extra)
        elif data is None:
            self._empty(404)
        else:
            with suppress(ConnectionError):
                self._file(world, path, data, asked, fault or Fault())

    def _range(self, text: str | None, size: int) -> tuple[int, int]:
        if text is None:
            return 0, size
        first, _, last = text.removeprefix("bytes=").partition("-")
        return int(first), min(size, int(last) + 1) if last else size

    def _empty(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _file(self, world: FaultServer, path: str, data: bytes, asked: Asked, fault: Fault) -> None:
        etag = _etag(data)
        wanted = asked.range
        if fault.ignore_range or asked.headers.get("if-range", etag) != etag:
            wanted = None
        start, stop = self._range(wanted, len(data))
        if wanted and start >= len(data):
            self._empty(416, Content_Range=f"bytes */{len(data)}")
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            told = f"bytes {start + fault.shift}-{stop - 1}/{len(data)}"
            self.send_header("Content-Range", told)
        if not fault.no_validators:
            self.send_header("ETag", etag)
        if fault.encoding:
            self.send_header("Content-Encoding", fault.encoding)
        if fault.no_length:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(max(0, stop - start + fault.announce)))
        self.end_headers()
        self._body(world, memoryview(data), start, stop, asked, fault)
        if fault.change is not None:
            world.files[path] = fault.change

    def _body(
        self,
        world: FaultServer,
        data: memoryview,
        start: int,
        stop: int,
        asked: Asked,
        fault: Fault,
    ) -> None:
        stop += min(0, fault.announce) - fault.cut
        ends = [start + n for n in (fault.drop, fault.stall) if n is not None]
        upto = min([stop, *ends])
        for at in range(start, upto, _CHUNK):
            piece = bytearray(data[at : min(at + _CHUNK, upto)])
            if fault.flip is not None and at <= fault.flip < at + len(piece):
                piece[fault.flip - at] ^= 0xFF
            self.wfile.write(piece)
            asked.sent += len(piece)
        if fault.stall is not None and upto < stop:
            self._hold(world)
        if upto < stop or fault.announce > 0:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _hold(self, world: FaultServer) -> None:
        """Wait, silent, until the client is gone."""
        world.holding.set()
        self.connection.settimeout(_HELD_SECONDS)
        with suppress(OSError):
            self.connection.recv(1)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle is what these tests are about."""


@contextmanager
def serving() -> Iterator[FaultServer]:
    """A server on a free port of the loopback, for the length of the block."""
    server = _Server(("127.0.0.1", 0), _Handler)
    world = FaultServer(address=f"http://127.0.0.1:{server.server_address[1]}")
    server.world = world  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        server.server_close()


def tiny_file(folder: Path, trajectories: int, *, seed: int = 0, points: int = 64) -> bytes:
    """An HDF5 file in PDEBench's layout `tensor`: random values, 11 frames."""
    path = folder / f"made-{seed}.hdf5"
    random = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["tensor"] = random.normal(size=(trajectories, 11, points)).astype(np.float32)
        file["t-coordinate"] = np.arange(12, dtype=np.float32) * np.float32(0.05)
        file["x-coordinate"] = ((np.arange(points) + 0.5) / points).astype(np.float32)
        file.attrs["beta"] = 0.1 * (seed + 1)
    data = path.read_bytes()
    path.unlink()
    return data


def write_card(
    home: Path,
    address: str,
    contents: Mapping[str, bytes],
    *,
    mirrors: Sequence[str] = (),
    sizes: bool = False,
    layout: str = "pdebench_tensor",
    trajectories: int = 20,
) -> DatasetCard:
    """Card `loopback1d` in UPS_HOME/registry: a file for each of `contents`, served there."""
    card = yaml.safe_load((ROOT / "registry" / "advection1d.yaml").read_text())
    card |= {"key": "loopback1d", "title": "Files of a test"}
    card.pop("generator", None)
    card["source"] |= {"mirrors": list(mirrors), "layout": layout}
    card["source"]["files"] = [
        {"name": name, "url": f"{address}/{name}", "md5": hashlib.md5(data).hexdigest(),
         "folder": "tree/", "trajectories": trajectories, "variant": {"initial": f"kind{index}"},
         "parameters": {"beta": round(0.1 * (index + 1), 3)},
         **({"size_bytes": len(data)} if sizes else {})}
        for index, (name, data) in enumerate(contents.items())
    ]  # fmt: skip
    folder = home / "registry"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "loopback1d.yaml").write_text(yaml.safe_dump(card))
    return load_card("loopback1d")
