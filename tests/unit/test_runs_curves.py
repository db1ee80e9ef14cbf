"""Curves of several runs as a picture."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ups.evaluation.reporting.run_curves import _running_mean, plot_runs
from ups.runs.history import Curve


def line(metric, count=200, rate=3.0):
    steps = tuple(range(0, 20 * count, 20))
    values = tuple(np.exp(-rate * np.linspace(0, 1, count)).tolist())
    return Curve(metric, steps, values, tuple(60.0 * i for i in range(count)))


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures = []
    saved = Figure.savefig

    def keep(figure, *args, **options):
        figures.append(figure)
        return saved(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_each_metric_has_a_panel_and_each_run_a_line_and_a_name(tmp_path, drawn):
    curves = {"one": [line("operator/loss", 20), line("operator/nrmse", 5)],
              "two": [line("operator/loss", 20)]}  # fmt: skip
    path = plot_runs(tmp_path / "p.png", curves)
    (figure,) = drawn
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in panels] == ["operator/loss", "operator/nrmse"]
    with_data = [[l for l in axes.lines if len(l.get_xdata()) > 1] for axes in panels]  # noqa: E741
    assert [len(lines) for lines in with_data] == [2, 1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    assert all(axes.get_yscale() == "log" for axes in panels)
    with Image.open(path) as picture:
        assert 600 < picture.width < 2000
        assert len(picture.convert("RGB").getcolors(2**20)) > 20


def test_values_that_are_not_positive_have_a_linear_axis(tmp_path, drawn):
    curve = Curve("operator/drift", (0, 1, 2), (-1.0, float("nan"), 1.0), (0.0, 1.0, 2.0))
    plot_runs(tmp_path / "p.png", {"one": [curve]})
    assert drawn[0].axes[0].get_yscale() == "linear"


def test_over_time_the_axis_is_in_minutes_from_the_first_record(tmp_path, drawn):
    plot_runs(tmp_path / "p.png", {"one": [line("operator/loss", 10)]}, over="time", log_x=True)
    axes = drawn[0].axes[0]
    assert axes.lines[0].get_xdata().tolist() == list(range(10))
    assert axes.get_xscale() == "log"


def test_a_metric_that_was_never_finite_is_drawn_empty(tmp_path):
    curve = Curve("operator/loss", (0, 1), (float("nan"),) * 2, (0.0, 1.0))
    assert plot_runs(tmp_path / "p.png", {"one": [curve]}).is_file()


def test_nothing_to_plot_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no curves"):
        plot_runs(tmp_path / "p.png", {"one": []})


def test_the_running_mean_is_geometric_for_positive_values_and_skips_gaps():
    mean = _running_mean(np.array([1.0, 100.0, np.nan, 100.0]), 2)
    assert mean == pytest.approx([1.0, 10.0, 100.0, 100.0])
    assert _running_mean(np.array([-1.0, 1.0, 3.0]), 2) == pytest.approx([-1.0, 0.0, 2.0])
