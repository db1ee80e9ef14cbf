"""The browser of the tests notices what a page does wrong."""

from __future__ import annotations

from pathlib import Path

import browser

_BAD = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,"></head><body>hello <img src="http://127.0.0.1:3999/x.png">
<div style="width: 600px">wide</div><script>console.error("bad");
setTimeout(() => { throw new Error("late") }, 20)</script></body></html>"""
_GOOD = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
</head><body>fine<p id="p">1</p></body></html>"""


def test_errors_requests_and_overflow_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(_BAD, encoding="utf-8")
    page = browser.open_page(path, browser.PHONE)
    assert "error: bad" in page.console
    assert any("late" in line for line in page.console)
    assert page.requests == ["http://127.0.0.1:3999/x.png"]
    assert page.overflow > 200


def test_a_good_page_has_nothing_to_say_and_scripts_run_in_it(tmp_path: Path) -> None:
    path = tmp_path / "good.html"
    path.write_text(_GOOD, encoding="utf-8")
    page = browser.open_page(
        path, script="document.getElementById('p').innerText = 'two'; 1 + 1",
        features={"prefers-reduced-motion": "reduce"},
    )  # fmt: skip
    assert (page.console, page.requests, page.overflow, page.result) == ([], [], 0, 2)
    assert "fine" in page.text
    assert "two" in page.text
    assert page.screenshot.startswith(b"\x89PNG")
