"""Pages in a real browser: headless Chromium, spoken to through a pipe (`--remote-debugging-pipe`).

The DevTools protocol needs no driver and no package: messages are JSON, each ended by a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PHONE, DESKTOP = 390, 1280
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE = 60.0
_LONGEST = 30_000
_START = """
import os, sys
ends = [os.dup(int(end)) for end in sys.argv[1:3]]
for place, end in enumerate(ends, 3):
    os.dup2(end, place)
    os.set_inheritable(place, True)
os.execv(sys.argv[3], sys.argv[3:])
"""


@dataclass
class Page:
    """What a browser found on a page.

    Attributes:
        console: Warnings, errors and uncaught exceptions, one line each; good pages have none.
        requests: Addresses asked for beside the page itself and `data:`; good pages have none.
        screenshot: PNG of the whole page.
        text: What a reader sees.
        overflow: Pixels by which the page is wider than the window; good pages have 0.
        result: Of `script`.
    """

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    screenshot: bytes = b""
    text: str = ""
    overflow: int = 0
    result: Any = None


def find_browser() -> str:
    """The path of a Chromium; skips the test where there is none."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium: apt-get install chromium")


def open_page(
    path: Path,
    width: int = DESKTOP,
    *,
    script: str | None = None,
    media: str = "",
    features: Mapping[str, str] | None = None,
    settle_s: float = 0.3,
) -> Page:
    """Load a file, run a script in it, and look.

    Args:
        width: Of the window in CSS pixels; below 600 a phone is mimicked.
        script: JavaScript evaluated after loading (a promise is awaited), before the screenshot.
        media: 'print' for the print style sheet.
        features: Media features, such as {'prefers-reduced-motion': 'reduce'}.
        settle_s: How long the page may go on asking and complaining before it is looked at.
    """
    with tempfile.TemporaryDirectory(prefix="ups-browser-", ignore_cleanup_errors=True) as profile:
        browser = _Browser(find_browser(), profile)
        try:
            return _look(browser, path.resolve(), width, script, media, features or {}, settle_s)
        finally:
            browser.close()


def _look(
    browser: _Browser,
    path: Path,
    width: int,
    script: str | None,
    media: str,
    features: Mapping[str, str],
    settle_s: float,
) -> Page:
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.session = session
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable")
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=844, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip
    listed = [{"name": name, "value": value} for name, value in features.items()]
    browser.call("Emulation.setEmulatedMedia", media=media, features=listed)
    browser.call("Page.navigate", url=path.as_uri())
    browser.wait_for("Page.loadEventFired")
    page = Page()
    if script is not None:
        page.result = browser.value(script)
    browser.listen(settle_s)
    page.text = browser.value("document.body.innerText")
    page.overflow = max(browser.value("document.documentElement.scrollWidth") - width, 0)
    page.screenshot = _screenshot(browser, width)
    page.console = [line for event in browser.events if (line := _complaint(event))]
    asked = [_address(event) for event in browser.events]
    inside = ("data:", "about:", "blob:")
    page.requests = [
        url for url in asked if url and not url.startswith(inside) and url != path.as_uri()
    ]
    return page


def _screenshot(browser: _Browser, width: int) -> bytes:
    height = browser.value("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": min(height, _LONGEST), "scale": 1}
    shot = browser.call(
        "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
    )
    return base64.b64decode(shot["data"])


def _complaint(event: Mapping[str, Any]) -> str:
    method, content = event["method"], event.get("params", {})
    if method == "Runtime.exceptionThrown":
        details = content["exceptionDetails"]
        return f"exception: {details.get('exception', {}).get('description', details['text'])}"
    if method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
        said = " ".join(str(part.get("value", part.get("description"))) for part in content["args"])
        return f"{content['type']}: {said}"
    if method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
        return f"{content['entry']['level']}: {content['entry']['text']}"
    return ""


def _address(event: Mapping[str, Any]) -> str:
    if event["method"] != "Network.requestWillBeSent":
        return ""
    return str(event["params"]["request"]["url"])


class _Browser:
    """A Chromium and the two pipes to it."""

    def __init__(self, binary: str, profile: str) -> None:
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest, self._last = b"", 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; events that come meanwhile are kept."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self._send(json.dumps(message).encode() + b"\0")
        until = time.monotonic() + _PATIENCE
        while True:
            answer = self._next(until)
            if answer is None:
                raise TimeoutError(f"the browser does not answer {method}")
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def value(self, script: str) -> Any:
        """What a script evaluates to."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return found["result"].get("value")

    def wait_for(self, method: str) -> None:
        until = time.monotonic() + _PATIENCE
        while not any(event["method"] == method for event in self.events):
            if self._next(until) is None:
                raise TimeoutError(f"the browser never said {method}")

    def listen(self, seconds: float) -> None:
        """Collect what happens by itself."""
        until = time.monotonic() + seconds
        while self._next(until) is not None:
            pass

    def close(self) -> None:
        """End the browser and its helpers at once: there is nothing in its profile to keep."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for end in (self._in, self._out):
            os.close(end)

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._out, data) :]

    def _next(self, until: float) -> dict[str, Any] | None:
        """The next message, kept if it is an event; None when the time is up."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(until - time.monotonic(), 0))
            if not ready:
                return None
            part = os.read(self._in, 1 << 20)
            if not part:
                raise ConnectionError("the browser has ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message
