"""The page of a real run of every kind of data, in a real browser, on a phone and on a desk."""

from __future__ import annotations

import browser
import numpy as np
import pytest
from tiny_runs import small_experiment
from typer.testing import CliRunner

from ups.cli.main import app
from ups.evaluation.report import report_files
from ups.evaluation.reporting import charts
from ups.evaluation.reporting.examples import examples_path, load_examples
from ups.pipeline.judge import Request, judge
from ups.training import run as training

TASKS = ("burgers1d", "darcy2d_mesh", "particles_advect")


@pytest.fixture
def run(small, monkeypatch):
    monkeypatch.setattr(charts, "DPI", 60)
    small(*TASKS)
    found = training.train(small_experiment(*TASKS))
    judged = judge(found, Request(protocols=("own",)))
    assert judged[0].page == found / "report.html"
    return found


def test_the_page_loads_alone_without_complaint_and_fits_a_phone(run):
    kinds = {"burgers1d": (1, "grid"), "darcy2d_mesh": (2, "mesh"),
             "particles_advect": (2, "particles")}  # fmt: skip
    for task, (dims, kind) in kinds.items():
        kept = load_examples(examples_path(run, task))
        assert (kept.setting.kind, len(kept.setting.bounds)) == (kind, dims)
        assert kept.shown[0].title.startswith("median")
        assert np.isfinite(kept.shown[0].reference[0]).all()
    assert len(report_files(run)) == len(TASKS)

    phone = browser.open_page(run / "report.html", browser.PHONE)
    assert (phone.console, phone.requests, phone.overflow) == ([], [], 0)
    for task in TASKS:
        assert task in phone.text
    slide = """
        const film = document.querySelector('.film'), slider = film.querySelector('input');
        film.querySelector('button').click();
        slider.value = 2; slider.dispatchEvent(new Event('input'));
        [film.querySelector('output').textContent,
         film.querySelector('.frame').style.backgroundPosition,
         film.querySelector('button').getAttribute('aria-label')]"""
    desk = browser.open_page(
        run / "report.html", script=slide, features={"prefers-reduced-motion": "reduce"}
    )
    assert (desk.console, desk.requests, desk.overflow) == ([], [], 0)
    clock, place, button = desk.result
    assert clock.startswith("t = ")
    assert float(place.split()[1].rstrip("%")) > 0
    assert button == "play", "moving the slider stops the film"
    paper = browser.open_page(run / "report.html", media="print", script=(
        "getComputedStyle(document.querySelector('.film')).display"
    ))  # fmt: skip
    assert paper.result == "none", "nothing moves on paper"

    done = CliRunner().invoke(app, ["report", str(run), "--pdf", "--out", str(run / "x.html")])
    assert done.exit_code == 0, done.output
    assert (run / "x.pdf").read_bytes().startswith(b"%PDF")
    assert (run / "x.html").stat().st_size > 100_000
