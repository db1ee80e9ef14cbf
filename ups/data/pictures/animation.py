"""Moving pictures: frame after frame into a GIF, or into an MP4 through ffmpeg."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ups.data.pictures.scene import Scene
from ups.data.pictures.sheet import Drawing
from ups.data.pictures.style import Array
from ups.errors import DataError, MissingExtraError
from ups.files import atomic_path

_DPI = 100
_COLOURS, _SCALE_COLOURS = 256, 120
_PAPER = 249  # what is brighter is taken for white, so that the paper stays it


def write_animation(
    drawing: Drawing,
    scene: Scene,
    frames: Sequence[int],
    path: Path,
    *,
    fps: int,
    dpi: int | None = None,
) -> None:
    """Draw `frames` one after the other; memory holds one or two of them.

    Raises:
        MissingExtraError: For MP4, ffmpeg is not installed.
        DataError: ffmpeg fails.
    """
    drawing.figure.set_dpi(dpi or _DPI)
    images = _images(drawing, scene, frames)
    if path.suffix.lower() == ".gif":
        few = (frames[0], frames[len(frames) // 2], frames[-1])
        _write_gif(images, _palette(drawing, _images(drawing, scene, few)), path, fps)
    else:
        _write_mp4(images, path, fps, find_ffmpeg())


def find_ffmpeg() -> str:
    """The ffmpeg on the path, or the one that the package imageio-ffmpeg brings.

    Raises:
        MissingExtraError: There is neither.
    """
    if found := shutil.which("ffmpeg"):
        return found
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        return str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    raise MissingExtraError(
        "ffmpeg: not installed, and MP4 needs it; GIF does not",
        hint="pip install 'universal-physics-stack[video]', or choose --out with .gif",
    )


def _images(drawing: Drawing, scene: Scene, frames: Sequence[int]) -> Iterator[Array]:
    """(height, width, 3) uint8, all of one even size: what lies around the first is cut off."""
    canvas = FigureCanvasAgg(drawing.figure)
    window: tuple[slice, slice] | None = None
    for frame in frames:
        drawing.change(frame, scene.time_text(frame))
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        window = window or _window(pixels)
        yield np.ascontiguousarray(pixels[window])


def _window(pixels: Array) -> tuple[slice, slice]:
    """The part that is not white, with a margin; even sides, as video wants them."""
    marked: Array = np.any(pixels < 255, axis=-1)
    parts = []
    for axis in (0, 1):
        inside = np.flatnonzero(marked.any(axis=1 - axis))
        low, high = max(int(inside[0]) - 8, 0), min(int(inside[-1]) + 9, marked.shape[axis])
        parts.append(slice(low, high - (high - low) % 2))
    return parts[0], parts[1]


def _palette(drawing: Drawing, images: Iterable[Array]) -> Image.Image:
    """The colours of a GIF: white, the colour scales, and what represents all else that is found.

    Counting how often colours occur would spend the palette on the paper and on grey letters.
    """
    found = np.unique(np.concatenate([_codes(image) for image in images]))
    shades = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=-1).astype(np.uint8)
    ink = shades[(shades < _PAPER).any(axis=1)]
    maps = {scale.colours: scale.map for scale in drawing.scales}
    steps = np.linspace(0, 1, _SCALE_COLOURS // max(len(maps), 1))
    scales = [(255 * each(steps)[:, :3]).round().astype(np.uint8) for each in maps.values()]
    fixed = np.concatenate([np.full((1, 3), 255, np.uint8), *scales])
    rest = Image.fromarray(ink[None]).quantize(_COLOURS - len(fixed), kmeans=1).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*fixed.ravel().tolist(), *rest][: 3 * _COLOURS])
    return palette


def _codes(image: Array) -> Array:
    red, green, blue = np.moveaxis(image.astype(np.uint32), -1, 0)
    return np.unique(red << 16 | green << 8 | blue)


def _write_gif(images: Iterator[Array], palette: Image.Image, path: Path, fps: int) -> None:
    reduced = (_reduced(Image.fromarray(image), palette) for image in images)
    with atomic_path(path) as temporary:
        next(reduced).save(
            temporary, format="GIF", save_all=True, append_images=reduced, loop=0, optimize=False,
            duration=round(1000 / fps), disposal=1,
        )  # fmt: skip


def _reduced(image: Image.Image, palette: Image.Image) -> Image.Image:
    return image.quantize(palette=palette, dither=Image.Dither.NONE)


def _write_mp4(images: Iterator[Array], path: Path, fps: int, ffmpeg: str) -> None:
    first = next(images)
    height, width = first.shape[:2]
    with atomic_path(path) as temporary:
        command = [
            ffmpeg, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
            "-s", f"{width}x{height}", "-r", str(fps), "-i", "-", "-an", "-c:v", "libx264",
            "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4",
            str(temporary),
        ]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        code, complaint = _feed(process, first, images)
        if code:
            said = complaint.decode(errors="replace").strip().splitlines()
            raise DataError(
                f"{path}: ffmpeg failed: {said[-1] if said else f'exit code {code}'}",
                hint="choose --out with .gif",
            )


def _feed(process: Any, first: Array, images: Iterator[Array]) -> tuple[int, bytes]:
    """Send all frames; returns ffmpeg's exit code and what it complained of."""
    try:
        process.stdin.write(first.tobytes())
        for image in images:
            process.stdin.write(image.tobytes())
    except BrokenPipeError:  # it has stopped; its exit code and words say why
        pass
    except BaseException:
        process.kill()
        process.wait()
        raise
    _, complaint = process.communicate()
    return process.returncode, complaint
