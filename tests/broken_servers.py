"""Servers that fail in one way each, for as long as the block lasts; loopback only."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def blackhole() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def always(status: int, code: str, message: str) -> Iterator[str]:
    """Answers every request with one of S3's errors."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
        f"<Message>{message}</Message></Error>"
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Proxy:
    """Passes bytes between clients and a server, for as long as `allow` says.

    `allow(sent)` is asked before each run of the server's bytes goes to a client, with the number
    that this connection has passed on: 'pass' it, 'cut' the connection, or 'stall' for ever.
    """

    def __init__(self, target: tuple[str, int], allow: Callable[[int], str]) -> None:
        self._target, self._allow = target, allow
        self._server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: list[socket.socket] = [self._server]
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        self._over.set()
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()
        for one in self._open:
            one.close()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._server.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [client, server]
            self._start(self._carry, client, server, lambda sent: "pass")
            self._start(self._carry, server, client, self._allow)

    def _carry(
        self, source: socket.socket, sink: socket.socket, allow: Callable[[int], str]
    ) -> None:
        sent = 0
        with suppress(OSError):
            while chunk := source.recv(1 << 14):
                verdict = allow(sent)
                if verdict == "stall":
                    self._over.wait()
                if verdict != "pass":
                    break
                sink.sendall(chunk)
                sent += len(chunk)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(target: tuple[str, int], allow: Callable[[int], str]) -> Iterator[str]:
    """The endpoint of a `Proxy` before `target`."""
    made = Proxy(target, allow)
    try:
        yield made.endpoint
    finally:
        made.close()
