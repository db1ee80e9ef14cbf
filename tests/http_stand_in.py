"""An HTTP server on loopback that plays a cloud's API and remembers what it was asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    key: str
    body: Any


class StandIn:
    """Routes are (method, regular expression of the whole path) -> handler(request, *groups).

    Attributes:
        key: The only API key that is accepted, where a route asks for one.
        requests: All, oldest first.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., Answer], bool]] = []

    def route(
        self, method: str, path: str, handler: Callable[..., Answer], *, is_open: bool = False
    ) -> None:
        self._routes.append((method, re.compile(path), handler, is_open))

    def asked(self, method: str, path: str) -> list[Request]:
        """Requests with that method whose path is matched."""
        return [each for each in list(self.requests)
                if each.method == method and re.fullmatch(path, each.path)]  # fmt: skip

    def answer(self, request: Request) -> Answer:
        with self.lock:
            self.requests.append(request)
            for method, pattern, handler, is_open in self._routes:
                if method == request.method and (found := pattern.fullmatch(request.path)):
                    if not is_open and request.key != self.key:
                        return 401, {"error": "Invalid API token", "success": False}
                    return handler(request, *found.groups())
        return 404, {"error": f"no such path {request.path}"}

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve on a free port of loopback; yields the base URL."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            parts = urlsplit(self.path)
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            body = json.loads(raw) if raw else None
            request = Request(self.command, parts.path, parse_qs(parts.query), key, body)
            status, content = stand_in.answer(request)
            data = b"" if content is None else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
