"""`ups data show`: what is drawn where, in which colours, and that it is the data."""

from __future__ import annotations

import stat
import sys

import h5py
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection, TriMesh
from PIL import Image
from point_samples import make_card, sample, write

from ups.data.conversion.plan import Recipe
from ups.data.conversion.points import convert_points
from ups.data.convert import convert
from ups.data.pictures import animation, chosen_frames, layout, show, spacetime, spread, style
from ups.data.pictures.frames import GridPainter
from ups.data.pictures.meshes import MeshPainter
from ups.data.pictures.particles import ParticlePainter
from ups.data.pictures.scene import Scene, pixels, quantities_of
from ups.data.pictures.slices import slice_painter
from ups.errors import DataError, MissingExtraError, UsageError
from ups.registry import load_card

SPACE = {"x": 12, "y": 8, "z": 6}
NAMES = {1: ("density", "pressure", "Vx"), 2: ("density", "pressure", "Vx", "Vy"),
         3: ("density", "pressure", "Vx", "Vy", "Vz")}  # fmt: skip
FILES = {2: "2D_CFD_Rand_M0.1_Eta0.01_Zeta0.01_periodic_128_Train.hdf5",
         3: "3D_CFD_Rand_M1.0_Eta1e-08_Zeta1e-08_periodic_Train.hdf5"}  # fmt: skip


@pytest.fixture
def flow(tmp_path):
    """flow(dims) -> Scene of a compressible flow: 4 trajectories, 9 frames.

    Density is 1 + 10 x + y (+ z / 10) + time; velocities are random with both signs.
    """

    def make(dims):
        axes = list(SPACE)[:dims]
        coords = [
            ((np.arange(n) + 0.5) / n).astype(np.float32) for n in list(SPACE.values())[:dims]
        ]
        grids = np.meshgrid(*coords, indexing="ij")
        random = np.random.default_rng(dims)
        shape = (4, 9, *(len(c) for c in coords))
        fields = {name: random.normal(size=shape).astype(np.float32) for name in NAMES[dims]}
        place = sum(weight * grid for weight, grid in zip((10, 1, 0.1), grids, strict=False))
        fields["density"][:] = 1 + place + np.linspace(0, 1, 9).reshape(1, -1, *[1] * dims)
        fields["density"] += 0.01 * np.arange(4).reshape(-1, *[1] * (dims + 1))
        fields["pressure"] = np.abs(fields["pressure"]) + 0.1
        path = tmp_path / FILES[dims]
        with h5py.File(path, "w") as file:
            for name, values in fields.items():
                file[name] = values
            for axis, values in zip(axes, coords, strict=True):
                file[f"{axis}-coordinate"] = values
            file["t-coordinate"] = np.linspace(0, 0.45, 10, dtype=np.float32)
        card = load_card(f"compressible_ns{dims}d")
        return Scene(convert(card, [path], version="tiny").store, card, 0)

    return make


@pytest.fixture
def points(tmp_path):
    """points(kind, trajectories, **changes of the card) -> Scene of the first one."""

    def make(kind, trajectories=None, **changes):
        card = make_card(kind, **changes)
        trajectories = trajectories or [sample(seed, kind) for seed in range(5)]
        raw = write(tmp_path / "a.h5", trajectories, card)
        return Scene(convert_points(card, [raw], recipe=Recipe()).store, card, 0)

    return make


@pytest.fixture
def static(tmp_path):
    """Scene of darcy2d: coefficient and solution."""
    random = np.random.default_rng(0)
    path = tmp_path / "2D_DarcyFlow_beta1.0_Train.hdf5"
    with h5py.File(path, "w") as file:
        file["nu"] = random.choice([0.1, 1.0], size=(10, 16, 16)).astype(np.float32)
        file["tensor"] = random.random((10, 1, 16, 16)).astype(np.float32)
        file["x-coordinate"] = file["y-coordinate"] = ((np.arange(16) + 0.5) / 16).astype("f4")
        file.attrs["beta"] = 1.0
    card = load_card("darcy2d")
    return Scene(convert(card, [path], version="tiny").store, card, 0)


def images(drawing):
    return [axes.images[0] for axes in drawing.figure.axes if axes.images]


def rendered(drawing):
    canvas = FigureCanvasAgg(drawing.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def colour_at(drawing, axes, x, y):
    """The pixel at data coordinates."""
    picture = rendered(drawing)
    column, row = axes.transData.transform((x, y))
    return tuple(int(v) for v in picture[picture.shape[0] - 1 - int(row), int(column)])


# --- grids ------------------------------------------------------------------------------------


def test_x_runs_to_the_right_and_y_upwards(flow):
    scene = flow(2)
    drawing = layout.single(GridPainter(scene), quantities_of(scene, "density"), 3)
    (image,) = images(drawing)
    shown = np.asarray(image.get_array())
    np.testing.assert_array_equal(shown, scene.store.fields[0, 3, ..., 0].T)
    assert image.origin == "lower"
    np.testing.assert_allclose(image.get_extent(), (0, 1, 0, 1), atol=1e-6)
    axes = image.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
    bright, dark = (sum(colour_at(drawing, axes, x, 0.5)) for x in (0.97, 0.03))
    assert bright > dark + 200  # viridis: yellow where x is large, violet where it is small


def test_a_grid_of_the_globe_has_longitude_across(flow):
    scene = flow(2)
    names = ("latitude", "longitude")
    object.__setattr__(scene.store.metadata, "axes", names)
    pairs = zip(scene.card.discretisation.axes, names, strict=True)
    axes = tuple(axis.model_copy(update={"name": name}) for axis, name in pairs)
    grid = scene.card.discretisation.model_copy(update={"axes": axes})
    card = scene.card.model_copy(update={"discretisation": grid})
    scene = Scene(scene.store, card, 0)
    (image,) = images(layout.single(GridPainter(scene), quantities_of(scene, "density"), 0))
    np.testing.assert_array_equal(np.asarray(image.get_array()), scene.store.fields[0, 0, ..., 0])
    assert (image.axes.get_xlabel(), image.axes.get_ylabel()) == ("longitude", "latitude")


def test_a_field_has_one_scale_in_all_frames_and_signs_are_symmetric(flow):
    scene = flow(2)
    quantities = quantities_of(scene)
    drawing = layout.gallery(GridPainter(scene), quantities, (0, 4, 8))
    shown = images(drawing)
    assert len(shown) == 4 * 3
    for row, quantity in enumerate(quantities):
        scales = {(i.norm.vmin, i.norm.vmax, i.cmap.name) for i in shown[3 * row : 3 * row + 3]}
        ((low, high, colours),) = scales
        assert colours == ("RdBu_r" if quantity.name.startswith("v") else "viridis")
        assert (low == -high) is quantity.name.startswith("v")
    titles = [axes.get_title(loc="left") for axes in drawing.figure.axes]
    assert titles[:3] == ["t = 0", "t = 0.2", "t = 0.4"]
    assert [axes.get_ylabel() for axes in drawing.figure.axes[12:]] == ["density", "pressure",
                                                                        "vx", "vy"]  # fmt: skip


def test_the_heading_says_which_trajectory_and_parameters(flow):
    scene = flow(2)
    drawing = layout.gallery(GridPainter(scene), quantities_of(scene), (0, 8))
    texts = [text.get_text() for text in drawing.figure.texts]
    assert texts[0] == "Compressible Navier-Stokes equations, 2D"
    assert "trajectory 0 (test)" in texts[1]
    assert "M = 0.1" in texts[1]


def test_three_slices_go_through_the_middle(flow):
    scene = flow(3)
    painter = slice_painter(scene)
    drawing = layout.gallery(painter, quantities_of(scene, "density"), (0, 4))
    field = scene.store.fields[0, 4, ..., 0]
    expected = [field[:, :, 3].T, field[:, 4, :].T, field[6].T]
    for image, values in zip(images(drawing)[3:], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image.get_array()), values)
    titles = [image.axes.get_title(loc="left") for image in images(drawing)]
    assert titles[:3] == ["t = 0   z = 0.583", "y = 0.562", "x = 0.542"]
    everything = layout.gallery(painter, quantities_of(scene), (0, 4, 8))
    assert len(images(everything)) == 5 * 9


def test_a_static_problem_shows_what_is_given_beside_the_solution(static):
    drawing = layout.single(GridPainter(static), quantities_of(static), 0)
    given_, solution = images(drawing)
    np.testing.assert_array_equal(np.asarray(given_.get_array()), static.store.inputs[0, ..., 0].T)
    assert given_.axes.get_title(loc="left") == "given: nu"
    assert solution.axes.get_title(loc="left") == "solution: u"
    assert drawing.clock is None


def test_the_space_time_image_has_time_upwards(store):
    scene = Scene(store, load_card("advection1d"), 2)
    drawing = spacetime.space_time(scene, quantities_of(scene), (0, 5, 10))
    (image,) = images(drawing)
    np.testing.assert_array_equal(np.asarray(image.get_array()), store.fields[2, ..., 0])
    np.testing.assert_allclose(image.get_extent(), (0, 1, -0.025, 0.525), atol=1e-6)
    lines = [line for line in drawing.figure.axes[-1].lines if len(line.get_ydata()) > 2]
    for line, frame in zip(lines, (0, 5, 10), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), store.fields[2, frame, :, 0])


def test_only_the_frames_that_are_shown_are_read(flow, monkeypatch):
    scene, seen = flow(2), set()
    original = Scene.values

    def values(self, quantity, frame, place=...):
        seen.add(frame)
        return original(self, quantity, frame, place)

    monkeypatch.setattr(Scene, "values", values)
    layout.gallery(GridPainter(scene), quantities_of(scene), (0, 7))
    assert seen == {0, 7}


def test_a_vector_is_shown_as_its_length(flow):
    scene = flow(2)
    (speed,) = quantities_of(scene, "speed")
    vx, vy = np.moveaxis(scene.store.fields[0, 2, ..., 2:].astype(np.float64), -1, 0)
    np.testing.assert_allclose(scene.values(speed, 2), np.hypot(vx, vy))
    assert quantities_of(scene, "v") == (speed,)


def overwritten(scene, place, value):
    """The same trajectory after something has been written into its store."""
    with h5py.File(scene.store.path, "r+") as file:
        file["fields"][place] = value
    return Scene(type(scene.store)(scene.store.path), scene.card, scene.trajectory)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_grey_and_does_not_stretch_the_scale(flow, bad):
    scene = overwritten(flow(2), np.s_[0, :, 6, 4, 0], bad)
    drawing = layout.single(GridPainter(scene), quantities_of(scene, "density"), 0)
    (image,) = images(drawing)
    assert image.norm.vmax < 13
    assert colour_at(drawing, image.axes, 6.5 / 12, 4.5 / 8) == (153, 153, 153)


@pytest.mark.parametrize(
    ("value", "suffix"),
    [(0.0, ".png"), (5.0, ".png"), (-1e30, ".png"), (3e38, ".gif"), (np.nan, ".png"),
     (np.nan, ".gif")],
)  # fmt: skip
def test_constant_and_empty_fields_are_drawn_without_a_warning(flow, value, suffix, tmp_path):
    overwritten(flow(2), np.s_[..., 2], value)
    made = show("compressible_ns2d", field="vx", frames=2, out=tmp_path / f"a{suffix}", dpi=50)
    assert made.path.is_file()


def test_axes_that_are_not_evenly_spaced_keep_their_places():
    coords = np.array([0.0, 0.1, 0.2, 1.0])
    chosen, (low, high) = pixels(coords, 100)
    assert (low, high) == (pytest.approx(-0.05), pytest.approx(1.4))
    centres = low + (np.arange(100) + 0.5) * (high - low) / 100
    assert (
        np.abs(coords[chosen] - centres) <= np.abs(coords[:, None] - centres).min(0) + 1e-9
    ).all()


@given(points=st.integers(1, 3000))
def test_evenly_spaced_axes_are_thinned_to_what_can_be_seen(points):
    chosen, _ = pixels(np.linspace(0, 1, points), 1024)
    assert len(chosen) == min(points, 1024)
    assert (np.diff(chosen) >= 1).all()


# --- scales and text --------------------------------------------------------------------------


def test_a_few_extremes_do_not_make_the_rest_pale():
    values = np.random.default_rng(0).random(10_000)
    values[:3] = 1000.0
    scale = style.scale_of([values], signed=False)
    assert scale.high < 1.01
    assert scale.beyond == "max"


def test_a_wild_first_frame_does_not_make_the_others_pale():
    random = np.random.default_rng(0)
    frames = [random.normal(scale=size, size=1000) for size in (10.0, 1.0, 0.9, 0.8)]
    scale = style.scale_of(frames, signed=True)
    assert 2 < scale.high < 5
    assert (scale.low, scale.beyond, scale.colours) == (-scale.high, "both", "RdBu_r")


@given(
    low=st.floats(-(2.0**126), 2.0**126, width=32), high=st.floats(-(2.0**126), 2.0**126, width=32)
)
def test_every_scale_rises(low, high):
    scale = style.scale_of([np.array([low, high], np.float32)], signed=True)
    assert scale.low < scale.high
    assert np.isfinite([scale.low, scale.high]).all()


def test_numbers_and_units_read_as_in_a_paper():
    assert [style.number(v) for v in (0.01, 1e-8, 2.5e-7, -3.0)] == [
        "0.01",
        "10⁻⁸",
        "2.5×10⁻⁷",
        "−3",
    ]
    assert style.with_unit("geopotential", "m^2/s^2") == "geopotential (m²/s²)"
    assert style.with_unit("rate", "m s^-1") == "rate (m s⁻¹)"
    assert style.with_unit("u", "1") == "u"
    assert style.symbol("σ_ω") == r"$\mathrm{σ}_{\mathrm{ω}}$"
    assert style.symbol("cost$") == r"cost\$"


# --- meshes and particles ---------------------------------------------------------------------


def ring():
    """A square with a square hole, as eight triangles, in five copies that differ in values."""
    coords = np.array([[0, 0], [3, 0], [3, 3], [0, 3], [1, 1], [2, 1], [2, 2], [1, 2]]) / 3
    cells = [[i, (i + 1) % 4, 4 + i] for i in range(4)]
    cells += [[(i + 1) % 4, 4 + (i + 1) % 4, 4 + i] for i in range(4)]
    made = [sample(seed, nodes=8) for seed in range(5)]
    return [
        type(each)(coords.astype("f4"), each.fields, each.inputs, np.array(cells, np.int32),
                   np.zeros(8, np.uint8)) for each in made
    ]  # fmt: skip


def test_holes_of_a_mesh_stay_white_and_cells_are_coloured(points):
    scene = points("mesh", ring())
    drawing = layout.single(MeshPainter(scene), quantities_of(scene, "u"), 0)
    axes = drawing.figure.axes[0]
    assert colour_at(drawing, axes, 0.5, 0.5) == (255, 255, 255)
    for x, y in ((0.5, 0.2), (0.17, 0.45), (0.8, 0.52), (0.55, 0.8)):
        assert min(colour_at(drawing, axes, x, y)) < 250
    mesh = next(c for c in axes.collections if isinstance(c, TriMesh))
    np.testing.assert_allclose(mesh.get_array(), scene.store.fields(0)[0, :, 0])
    (lines,) = axes.lines
    assert np.isnan(lines.get_xdata()).sum() == 16  # 8 triangles around a ring share 8 sides


def test_a_fine_mesh_has_no_lines(points, monkeypatch):
    monkeypatch.setattr("ups.data.pictures.meshes._MOST_CELLS_WITH_LINES", 8)
    scene = points("mesh", ring())
    drawing = layout.single(MeshPainter(scene), quantities_of(scene, "u"), 0)
    assert not drawing.figure.axes[0].lines


def test_an_update_of_a_mesh_shows_the_other_frame(points):
    scene = points("mesh")
    drawing = layout.single(MeshPainter(scene), quantities_of(scene, "u"), 0, range(6))
    drawing.change(4, "t = 2")
    mesh = next(c for c in drawing.figure.axes[0].collections if isinstance(c, TriMesh))
    np.testing.assert_allclose(mesh.get_array(), scene.store.fields(0)[4, :, 0])
    assert drawing.clock.get_text() == "t = 2"


def test_a_mesh_that_moves_is_drawn_where_it_is(points, monkeypatch):
    scene = points("mesh", ring())
    original = Scene.positions
    monkeypatch.setattr(Scene, "moves", True)
    monkeypatch.setattr(Scene, "positions", lambda self, i: original(self, i) / (1 + i))
    drawing = layout.single(MeshPainter(scene), quantities_of(scene, "u"), 0, (0, 1))
    axes = drawing.figure.axes[0]
    assert colour_at(drawing, axes, 0.9, 0.9) != (255, 255, 255)
    drawing.change(1, "")
    assert len(axes.collections) == len(axes.lines) == 1
    assert colour_at(drawing, axes, 0.9, 0.9) == (255, 255, 255)
    assert colour_at(drawing, axes, 0.45, 0.45) != (255, 255, 255)


def test_quadrilaterals_are_filled_and_their_diagonals_are_not_drawn(points, monkeypatch):
    scene = points("mesh", ring())
    monkeypatch.setattr(Scene, "cells", lambda self: np.array([[0, 1, 5, 4], [1, 2, 6, 5]]))
    drawing = layout.single(MeshPainter(scene), quantities_of(scene, "u"), 0)
    axes = drawing.figure.axes[0]
    assert np.isnan(axes.lines[0].get_xdata()).sum() == 7
    assert colour_at(drawing, axes, 0.5, 0.15) != (255, 255, 255)
    assert colour_at(drawing, axes, 0.15, 0.5) == (255, 255, 255)


def test_cells_that_name_missing_nodes_are_refused(points, monkeypatch):
    scene = points("mesh")
    monkeypatch.setattr(Scene, "cells", lambda self: np.array([[0, 1, 999]]))
    with pytest.raises(DataError, match="cells name nodes beyond"):
        MeshPainter(scene)


BOX = [{"name": n, "bounds": (0.0, 1.0), "boundary": "wall"} for n in "xyz"]
SPHERES = {
    "discretisation": {"kind": "particles", "axes": BOX, "nodes": (1, 40), "neighbour_radius": 0.3},
    "fields": [{"name": f"velocity_{n}", "description": n, "component": n} for n in "xyz"],
    "inputs": [{"name": "radius", "description": "radius", "positive": True}],
}


def spheres():
    random = np.random.default_rng(0)
    made = []
    for _ in range(5):
        coords = random.random((6, 20, 3)).astype("f4")
        radii = random.uniform(0.01, 0.1, (20, 1)).astype("f4")
        made.append(type(sample(0))(coords, random.normal(size=(6, 20, 3)).astype("f4"), radii))
    return made


def circles(drawing):
    return next(c for c in drawing.figure.axes[0].collections if isinstance(c, EllipseCollection))


def test_spheres_are_to_scale_and_the_near_ones_are_drawn_last(points):
    given_ = spheres()
    scene = points("particles", given_, **SPHERES)
    painter = ParticlePainter(scene)
    (speed,) = quantities_of(scene)
    assert speed.label == "|velocity|"
    drawing = layout.single(painter, (speed,), 2)
    drawn = circles(drawing)
    depth = (scene.positions(2) @ painter._camera.T)[:, 2]
    order = np.argsort(depth)
    np.testing.assert_allclose(drawn.get_widths(), 2 * given_[0].inputs[order, 0])
    expected = (scene.positions(2) @ painter._camera.T)[order, :2]
    np.testing.assert_allclose(drawn.get_offsets(), expected)


def test_a_circle_is_as_wide_as_its_radius_says(points):
    def disc(seed):
        return type(sample(0))(
            np.full((6, 1, 2), 0.5, "f4"),
            np.full((6, 1, 2), 1 + seed, "f4"),
            np.full((1, 1), 0.25, "f4"),
        )

    radius = [{"name": "radius", "description": "radius", "positive": True}]
    scene = points("particles", [disc(seed) for seed in range(5)], inputs=radius)
    drawing = layout.single(ParticlePainter(scene), quantities_of(scene, "u"), 0)
    axes = drawing.figure.axes[0]
    white = (255, 255, 255)
    for across, up in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        inside, outside = (
            colour_at(drawing, axes, 0.5 + r * across, 0.5 + r * up) for r in (0.24, 0.26)
        )
        assert inside != white
        assert outside == white


def test_the_camera_keeps_lengths(points):
    painter = ParticlePainter(points("particles", spheres(), **SPHERES))
    np.testing.assert_allclose(painter._camera @ painter._camera.T, np.eye(3), atol=1e-12)


def test_particles_are_where_they_are_and_lost_ones_are_left_out(points, monkeypatch):
    scene = points("particles")
    original = Scene.positions

    def positions(self, frame):
        places = original(self, frame)
        places[0] = np.nan
        return places

    monkeypatch.setattr(Scene, "positions", positions)
    drawing = layout.single(ParticlePainter(scene), quantities_of(scene, "u"), 0, (0, 3))
    drawing.change(3, "t")
    np.testing.assert_allclose(circles(drawing).get_offsets(), scene.store.coords(0)[3, 1:])


def test_arrows_point_along_the_velocity(points):
    scene = points("particles", spheres(), **SPHERES)
    painter = ParticlePainter(scene, arrows=True)
    drawing = layout.single(painter, quantities_of(scene), 1)
    quiver = next(c for c in drawing.figure.axes[0].collections if hasattr(c, "set_UVC"))
    expected = scene.store.fields(0)[1] @ painter._camera.T
    np.testing.assert_allclose(np.c_[quiver.U, quiver.V], expected[:, :2], rtol=1e-5)


def test_arrows_need_a_velocity(points):
    with pytest.raises(UsageError, match="no velocity"):
        ParticlePainter(points("particles"), arrows=True)


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf", ".gif"])
def test_the_same_picture_has_the_same_bytes_whatever_the_settings(store, tmp_path, suffix):
    def bytes_of(name):
        made = show("advection1d", out=tmp_path / f"{name}{suffix}", frames=3, dpi=50)
        return made.path.read_bytes()

    first = bytes_of("a")
    with matplotlib.rc_context({"font.size": 30, "image.cmap": "jet", "axes.grid": True}):
        before = dict(matplotlib.rcParams)
        assert bytes_of("b") == first
        assert dict(matplotlib.rcParams) == before


def test_an_animation_has_its_frames_and_speed(flow, tmp_path):
    flow(2)
    made = show("compressible_ns2d", out=tmp_path / "a.gif", fps=5, field="density")
    assert made.frames == tuple(range(9))
    with Image.open(made.path) as film:
        assert (film.n_frames, film.info["duration"]) == (9, 200)
        first = np.asarray(film.convert("RGB"))
        film.seek(8)
        assert (np.asarray(film.convert("RGB")) != first).any()
        assert tuple(first[0, 0]) == (255, 255, 255)


FAKE = """#!{python}
import sys
open(sys.argv[-1], "wb").write(sys.stdin.buffer.read() + " ".join(sys.argv).encode())
"""


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """ffmpeg(text): a program of that name which comes first on the path."""

    def make(text):
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    return make


def test_mp4_sends_every_frame_to_ffmpeg(store, tmp_path, ffmpeg):
    ffmpeg(FAKE.format(python=sys.executable))
    made = show("advection1d", out=tmp_path / "a.mp4", frames=4, fps=7)
    content = made.path.read_bytes()
    words = content[content.rindex(b"/bin/ffmpeg") :].split()
    width, height = map(int, words[words.index(b"-s") + 1].split(b"x"))
    assert width % 2 == height % 2 == 0
    assert words[words.index(b"-r") + 1] == b"7"
    assert 0 <= len(content) - 4 * 3 * width * height < 1000


def test_a_failing_ffmpeg_is_quoted_and_leaves_nothing(store, tmp_path, ffmpeg):
    ffmpeg("#!/bin/sh\necho 'Unknown encoder libx264' >&2\nexit 3\n")
    with pytest.raises(DataError, match="ffmpeg failed: Unknown encoder libx264"):
        show("advection1d", out=tmp_path / "a.mp4")
    assert not [path for path in tmp_path.iterdir() if "a.mp4" in path.name]


def test_without_ffmpeg_nothing_is_drawn(store, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="ffmpeg: not installed") as error:
        show("advection1d", out=tmp_path / "a.mp4")
    assert ".gif" in error.value.hint
    assert not list(tmp_path.glob("*.mp4"))


def test_the_package_brings_ffmpeg_where_the_path_has_none(tmp_path, monkeypatch):
    (tmp_path / "imageio_ffmpeg.py").write_text("def get_ffmpeg_exe():\n    return '/there'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert animation.find_ffmpeg() == "/there"
    monkeypatch.delitem(sys.modules, "imageio_ffmpeg")


@given(total=st.integers(1, 2000), count=st.integers(1, 200))
def test_frames_are_spread_from_the_first_to_the_last(total, count):
    frames = spread(total, count)
    assert frames[0] == 0
    assert len(set(frames)) == len(frames) == (1 if count == 1 else min(total, count))
    assert list(frames) == sorted(frames)
    if len(frames) > 1:
        assert frames[-1] == total - 1
        gaps = np.diff(frames)
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("name", "count", "single", "expected"),
    [
        ("a.png", None, None, (0, 2, 4, 6, 8, 10)),
        ("a.png", 3, None, (0, 5, 10)),
        ("a.png", None, -1, (10,)),
        ("a.gif", None, None, tuple(range(11))),
        ("a.gif", 2, None, (0, 10)),
    ],
)
def test_chosen_frames(store, tmp_path, name, count, single, expected):
    scene = Scene(store, load_card("advection1d"), 0)
    assert chosen_frames(scene, tmp_path / name, count, single) == expected
