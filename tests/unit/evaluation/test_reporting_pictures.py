"""Pictures and films show the fields that they were given, on scales that do not lie."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from ups.errors import CheckpointError
from ups.evaluation.reporting import charts
from ups.evaluation.reporting.examples import Examples, Setting, Shown, View
from ups.evaluation.reporting.films import film_of
from ups.evaluation.reporting.plates import Panel, draw_inputs, draw_plate

AXES = ("x", "y", "z")


def examples(space, *, kind="grid", frames=5, seed=0, noise=0.1, steady=False, dims=None):
    """Three trajectories of one field with both signs."""
    random = np.random.default_rng(seed)
    dims = dims or len(space)
    views = {1: (View((0,)),), 2: (View((0, 1)),), 3: (View((0, 1)), View((0, 2)), View((1, 2)))}
    planes = 3 if dims == 3 and kind == "grid" else 1
    shown = []
    for index, label in enumerate(("median", "worst", "best")):
        shape = (frames, *(space[:2] if planes == 3 else space))
        truth = tuple(random.standard_normal((*shape, 1)) for _ in range(planes))
        coords = triangles = None
        if kind != "grid":
            axis = np.linspace(0, 1, int(math.sqrt(space[0])))
            coords = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
            n = len(axis)
            corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
            triangles = (
                np.stack([corner, corner + n, corner + n + 1], 1) if kind == "mesh" else None
            )
        shown.append(Shown(
            title=f"{label} trajectory ({index}): nRMSE 0.1",
            trajectory=index,
            times=0.1 * np.arange(1, frames + 1),
            reference=truth,
            prediction=tuple(one + noise * random.standard_normal(one.shape) for one in truth),
            inputs=tuple(one[0] for one in truth) if steady else (),
            coords=coords,
            triangles=triangles,
        ))  # fmt: skip
    setting = Setting(
        kind=kind, fields=("u",), labels=("u (m/s)",), signed=(True,), axes=AXES[:dims],
        bounds=((0.0, 1.0),) * dims, periodic=(False,) * dims, time="" if steady else "time t (s)",
        views=views[dims] if kind == "grid" else views[2], inputs=("a",) if steady else (),
    )  # fmt: skip
    return Examples(setting, tuple(shown))


CASES = {
    "1d": ((32,), "grid", None), "2d": ((12, 8), "grid", None), "3d": ((8, 8, 8), "grid", None),
    "mesh": ((25,), "mesh", 2), "particles": ((25,), "particles", 2),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """What is tested is not how sharp pictures are."""
    monkeypatch.setattr(charts, "DPI", 50)


def with_prediction(shown, factor):
    return Shown(**{**vars(shown), "prediction": tuple(p * factor for p in shown.prediction)})


def made(name, **changes):
    space, kind, dims = CASES[name]
    return examples(space, kind=kind, dims=dims, **changes)


@pytest.mark.parametrize("name", CASES)
def test_plates_show_their_fields_and_survive_a_rollout_that_blew_up(tmp_path, name):
    good = made(name)
    first = imread(draw_plate(tmp_path / "a.png", good, 0, 0))
    blown = with_prediction(good.shown[0], np.inf)
    second = imread(draw_plate(tmp_path / "b.png", Examples(good.setting, (blown,)), 0, 0))
    assert first.shape[1] == 230, "as wide as all pictures are"
    assert len(np.unique(first[..., 0])) > 50
    assert first.shape == second.shape
    assert np.abs(first - second).mean() > 0.005


def test_the_same_fields_give_the_same_picture_and_flat_ones_none_that_fails(tmp_path):
    good = made("1d")
    one, same = (draw_plate(tmp_path / name, good, 0, 0) for name in ("a.png", "b.png"))
    assert one.read_bytes() == same.read_bytes()
    flat = good.shown[0]
    ones = tuple(part * 0 + 1 for part in flat.reference)
    flat = Shown(**{**vars(flat), "reference": ones, "prediction": ones})
    path = draw_plate(tmp_path / "c.png", Examples(good.setting, (flat,)), 0, 0)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("name", ["1d", "mesh"])
def test_steady_problems_have_one_row_what_is_given_and_no_film(tmp_path, name):
    steady, moving = made(name, steady=True, frames=1), made(name)
    one, several = (imread(draw_plate(tmp_path / "a.png", each, 0, 0)) for each in (steady, moving))
    assert one.shape[0] < several.shape[0]
    assert draw_inputs(tmp_path / "b.png", steady, 0, 0).stat().st_size > 500
    assert film_of(steady, 0, 0) is None


def test_the_colour_scale_is_that_of_the_truth_whatever_was_predicted():
    good = made("2d")
    median = good.shown[0]
    blown = with_prediction(median, 1e9)
    ours, theirs = (Panel(good.setting, shown, 0, 0) for shown in (median, blown))
    assert (ours.scale().low, ours.scale().high) == (theirs.scale().low, theirs.scale().high)
    assert theirs.scale().beyond == "both"
    truth = ours.scale().high - ours.scale().low
    assert theirs.error_scale().high == pytest.approx(truth), "at most the range of the truth"
    expected = np.quantile(np.abs(ours.error), 0.998)
    assert ours.error_scale().high == pytest.approx(expected)
    assert ours.error_scale().low == -ours.error_scale().high


def sheet(screen):
    """The frames of a screen, (time, row, column, colour)."""
    kind, _, data = screen.sheet.partition(",")
    assert kind == "data:image/webp;base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    return pixels.reshape(-1, screen.shape[1], *pixels.shape[1:])


@pytest.mark.parametrize("name", CASES)
def test_films_have_a_frame_for_each_time(name):
    film = film_of(made(name), 0, 0)
    assert film is not None
    assert film.times == ("t = 0.1 s", "t = 0.2 s", "t = 0.3 s", "t = 0.4 s", "t = 0.5 s")
    assert len(film.screens) == (2 if name == "1d" else 3)
    for screen in film.screens:
        frames = sheet(screen)
        assert len(frames) == 5
        assert np.abs(frames[0].astype(float) - frames[4]).mean() > 1


def test_the_first_axis_of_a_film_goes_across_and_the_second_upwards():
    found = made("2d")
    bright = np.full((5, 12, 8, 1), -1.0)
    bright[:, -1, -1] = 1.0  # last in x and in y: the upper right corner
    shown = Shown(**{**vars(found.shown[0]), "reference": (bright,), "prediction": (bright,)})
    film = film_of(Examples(found.setting, (shown,)), 0, 0)
    assert film is not None
    frame = sheet(film.screens[0])[0].astype(int)
    assert frame.shape[:2] == (8, 12)
    redness = frame[..., 0] - frame[..., 2]
    assert np.unravel_index(redness.argmax(), redness.shape) == (0, 11)


def test_lines_take_bands_levels_and_numbers_that_are_none(tmp_path):
    times = [0.1, 0.2, 0.3]
    lines = {"model": (times, [0.1, None, 0.3]), "persistence": (times, [1.0, 2.0, math.nan])}
    plain = charts.line_chart(tmp_path / "a.png", lines, across="t", up="nRMSE")
    full = charts.line_chart(
        tmp_path / "b.png", lines, across="t", up="nRMSE", levels={"one step": 0.05},
        bands={"model": ([0.05, 0.05, 0.1], [0.2, 0.3, 0.6])}, ends={"end": 0.2},
    )  # fmt: skip
    assert imread(plain).shape == imread(full).shape
    assert np.abs(imread(plain) - imread(full)).mean() > 0.01
    nothing = {"model": (times, [None, None, None])}
    assert charts.line_chart(tmp_path / "c.png", nothing, across="t", up="").stat().st_size > 500


def test_losses_have_a_picture_for_each_stage(tmp_path):
    codec = [{"stage": "codec", "step": s, "loss": 1.0 / s} for s in range(1, 200)]
    checks = [{"stage": "codec", "step": s, "valid_nrmse": 0.5 / s} for s in (50, 100)]
    negative = [{"stage": "operator", "step": s, "loss": 1.0 - s, "lr": 1} for s in range(1, 5)]
    nan = [{"stage": "late", "step": 1, "loss": 1.0, "valid_crps": math.nan}]
    found = charts.loss_charts(tmp_path, codec + checks + negative + nan)
    assert [stage for stage, _ in found] == ["codec", "operator", "late"]
    assert all(path.stat().st_size > 1000 for _, path in found)


def test_a_failed_picture_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        charts.bar_chart(tmp_path / "a.png", [1.0, 2.0], across="", up="")
    assert list(tmp_path.iterdir()) == []
