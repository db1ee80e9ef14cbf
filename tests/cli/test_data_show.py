"""`ups data show`: what it prints, where it writes and the codes it leaves with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from ups.cli._app import UpsGroup
from ups.cli.data_show import show
from ups.data.convert import convert
from ups.registry import load_card

app = typer.Typer(cls=UpsGroup)
app.command("show")(show)
app.command("other")(lambda: None)  # with one command alone typer would drop its name


@pytest.fixture(autouse=True)
def waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """advection1d/tiny: 20 trajectories, 11 frames; the working directory is empty."""
    raw = tmp_path / "1D_Advection_Sols_beta1.0.hdf5"
    with h5py.File(raw, "w") as file:
        file["tensor"] = np.random.default_rng(0).normal(size=(20, 11, 32)).astype("f4")
        file["t-coordinate"] = np.arange(12, dtype="f4") * np.float32(0.05)
        file["x-coordinate"] = ((np.arange(32) + 0.5) / 32).astype("f4")
        file.attrs["beta"] = 1.0
    convert(load_card("advection1d"), [raw], version="tiny")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def ups(*words: str) -> Result:
    return CliRunner().invoke(app, ["show", *words])


def test_the_picture_is_named_after_what_it_shows(waves: Path) -> None:
    result = ups("advection1d", "--trajectory", "3")
    assert result.exit_code == 0, result.output
    assert [path.name for path in waves.iterdir()] == ["advection1d-tiny-3.png"]
    line = "show advection1d/tiny: trajectory 3, u, 6 of 11 frames -> advection1d-tiny-3.png"
    assert " ".join(result.stdout.split()) == line
    assert ups("advection1d", "--field", "u").exit_code == 0
    assert (waves / "advection1d-tiny-0-u.png").is_file()


@pytest.mark.parametrize(
    ("suffix", "start"),
    [
        ("png", b"\x89PNG"),
        ("pdf", b"%PDF"),
        ("svg", b"<?xml"),
        ("gif", b"GIF89a"),
        ("PNG", b"\x89PNG"),
    ],
)
def test_the_suffix_decides_what_is_written(waves: Path, suffix: str, start: bytes) -> None:
    out = waves / "new folder" / f"a.{suffix}"
    result = ups("advection1d", "--out", str(out), "--frames", "2", "--dpi", "40")
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(start)
    assert list(out.parent.iterdir()) == [out]


def test_json_says_what_was_drawn(waves: Path) -> None:
    result = ups("advection1d", "--json", "--frame", "-2", "--dpi", "40")
    assert json.loads(result.stdout) == {
        "path": "advection1d-tiny-0.png", "store": "advection1d/tiny", "trajectory": 0,
        "quantities": ["u"], "frames": [9], "num_frames": 11,
    }  # fmt: skip


def test_dots_per_inch_set_the_size(waves: Path) -> None:
    sizes = []
    for dpi in ("50", "100"):
        assert ups("advection1d", "--dpi", dpi).exit_code == 0
        with Image.open(waves / "advection1d-tiny-0.png") as picture:
            sizes.append(picture.width)
    assert sizes[1] == pytest.approx(2 * sizes[0], abs=12)  # margins are whole pixels


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["advection1d", "--trajectory", "20"], 2, "no trajectory 20"),
        (["advection1d", "--trajectory", "-1"], 2, "no trajectory -1"),
        (["advection1d", "--field", "uu"], 2, "no field 'uu' (did you mean 'u'?)"),
        (["advection1d", "--frame", "11"], 2, "no frame 11"),
        (["advection1d", "--frame", "-12"], 2, "no frame -12"),
        (["advection1d", "--frame", "1", "--frames", "2"], 2, "--frame 1: is one frame"),
        (["advection1d", "--frame", "1", "--out", "a.gif"], 2, "a .gif is several"),
        (["advection1d", "--frames", "0"], 2, "--frames 0: choose 1 to 24"),
        (["advection1d", "--frames", "25"], 2, "--frames 25: choose 1 to 24"),
        (["advection1d", "--frames", "101", "--out", "a.gif"], 2, "choose 1 to 100"),
        (["advection1d", "--out", "a.pgn"], 2, "'.pgn' (did you mean '.png'?)"),
        (["advection1d", "--out", "a"], 2, "no suffix"),
        (["advection1d", "--out", "folder.png"], 2, "is a folder"),
        (["advection1d", "--arrows"], 2, "--arrows: only particles"),
        (["advection1d", "--version", "tny"], 3, "no version 'tny' (did you mean 'tiny'?)"),
        (["burgers1d"], 3, "burgers1d: no converted version"),
        (["advecton1d"], 2, "unknown dataset (did you mean 'advection1d'?)"),
    ],
)
def test_a_wrong_wish_is_one_line_and_leaves_nothing(
    waves: Path, words: list[str], code: int, message: str
) -> None:
    (waves / "folder.png").mkdir()
    result = ups(*words)
    assert result.exit_code == code
    first, *hints = result.stderr.strip().splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert len(hints) <= 1
    assert result.stdout == ""
    assert [path.name for path in waves.iterdir()] == ["folder.png"]


def test_mp4_without_ffmpeg_exits_7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = ups("advection1d", "--out", "a.mp4")
    assert result.exit_code == 7
    assert "error: ffmpeg: not installed" in result.stderr
    assert "universal-physics-stack[video]" in result.stderr


def test_a_folder_that_may_not_be_written_is_one_line(waves: Path) -> None:
    (waves / "file").write_text("")
    result = ups("advection1d", "--out", "file/a.png", "--dpi", "40")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")


def test_matplotlib_is_imported_for_a_picture_only() -> None:
    code = (
        "import sys, ups.cli.main, ups.cli.data_show, ups.data.pictures;"
        "print(sorted({'matplotlib', 'PIL', 'torch', 'h5py'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
