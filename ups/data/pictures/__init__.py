"""Pictures of data: `ups data show`. Matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ups.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from ups.data.pictures.scene import Quantity, Scene
    from ups.data.pictures.sheet import Drawing, Painter

STILLS = (".png", ".pdf", ".svg")
MOVING = (".gif", ".mp4")
DEFAULT_FRAMES = 6
DEFAULT_SLICED_FRAMES = 3
MOST_FRAMES = 24
MOST_MOVING_FRAMES = 100


@dataclass(frozen=True)
class Picture:
    """What was drawn, and where it is.

    Attributes:
        frames: Numbers of the frames that it shows.
        num_frames: Frames of the whole trajectory.
    """

    path: Path
    store: str
    trajectory: int
    quantities: tuple[str, ...]
    frames: tuple[int, ...]
    num_frames: int


def show(
    dataset: str,
    version: str = "latest",
    *,
    trajectory: int = 0,
    field: str | None = None,
    frames: int | None = None,
    frame: int | None = None,
    out: Path | None = None,
    fps: int = 10,
    dpi: int | None = None,
    arrows: bool = False,
) -> Picture:
    """Draw one trajectory of a converted dataset.

    1D: space across, time upwards, and profiles. 2D: frames beside one another. 3D: three slices
    through the middle. Meshes: colours on the triangulation. Particles: circles. A static problem:
    what is given beside the solution. GIF and MP4 move.

    Args:
        field: A field, an input, or a vector such as `velocity`, shown as its length.
        frames: How many, evenly spaced; by default 6, in 3D 3, in moving pictures up to 100.
        frame: The number of the only one.
        out: .png, .pdf, .svg, .gif or .mp4; by default a PNG in the working directory.
        fps: Frames per second of a moving picture.
        dpi: Pixels per inch; by default 130, of moving pictures 100.
        arrows: Draw the velocity of particles.

    Raises:
        UsageError: No such trajectory, field or frame; `out` ends in something else.
        DataError: The dataset is not converted, or damaged.
        MissingExtraError: An MP4 is wanted and ffmpeg is not there.
    """
    from ups.data.pictures import scene as scenes
    from ups.data.versions import open_store
    from ups.registry import load_card

    if out is not None:
        check_suffix(out)
    card = load_card(dataset)
    scene = scenes.Scene(open_store(dataset, version), card, trajectory)
    return draw(
        scene, out or Path(_file_name(scene, field)),
        field=field, frames=frames, frame=frame, fps=fps, dpi=dpi, arrows=arrows,
    )  # fmt: skip


def draw(
    scene: Scene,
    path: Path,
    *,
    field: str | None = None,
    frames: int | None = None,
    frame: int | None = None,
    fps: int = 10,
    dpi: int | None = None,
    arrows: bool = False,
) -> Picture:
    """Draw a scene; arguments and errors as in `show`."""
    from ups.data.pictures import scene as scenes
    from ups.data.pictures import style

    quantities = scenes.quantities_of(scene, field)
    chosen = chosen_frames(scene, path, frames, frame)
    with style.house():
        if path.suffix.lower() in MOVING:
            _move(scene, quantities, chosen, path, fps=fps, dpi=dpi, arrows=arrows)
        else:
            drawing = _still(scene, quantities, chosen, frame is not None, arrows)
            style.save(drawing.figure, path, dpi)
    names = tuple(quantity.name for quantity in quantities)
    return Picture(path, scene.store.name, scene.trajectory, names, chosen, scene.store.num_frames)


def check_suffix(path: Path) -> None:
    """Refuse what is no picture that can be written."""
    known = (*STILLS, *MOVING)
    if path.suffix.lower() not in known:
        found = f"'{path.suffix}'" if path.suffix else "no suffix"
        raise UsageError(
            f"--out {path}: {found}{did_you_mean(path.suffix.lower(), known)}",
            hint=f"end it in one of {', '.join(known)}",
        )
    if path.is_dir():
        raise UsageError(f"--out {path}: is a folder", hint=f"--out {path / 'picture.png'}")


def chosen_frames(
    scene: Scene, path: Path, count: int | None, single: int | None
) -> tuple[int, ...]:
    """Numbers of the frames to draw, rising, the first and the last among them.

    Raises:
        UsageError: There is no such frame, or more are wanted than fit.
    """
    total, moving = scene.store.num_frames, path.suffix.lower() in MOVING
    name = scene.store.name
    if single is not None:
        if count is not None or moving:
            other = "--frames" if count is not None else f"a {path.suffix}"
            raise UsageError(f"--frame {single}: is one frame, {other} is several")
        if not -total <= single < total:
            raise UsageError(f"{name}: no frame {single}", hint=f"choose 0 to {total - 1}")
        return (single % total,)
    if moving and scene.static:
        raise UsageError(f"{name}: a static problem does not move", hint="--out with .png")
    most = MOST_MOVING_FRAMES if moving else MOST_FRAMES
    if count is not None and not 1 <= count <= most:
        raise UsageError(f"--frames {count}: choose 1 to {most}")
    usual = DEFAULT_SLICED_FRAMES if _dims(scene) == 3 and _on_grid(scene) else DEFAULT_FRAMES
    return spread(total, count or (most if moving else usual))


def spread(total: int, count: int) -> tuple[int, ...]:
    """At most `count` of `total` numbers, evenly spaced from the first to the last."""
    if count == 1 or total == 1:
        return (0,)
    count = min(count, total)
    return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))


def _file_name(scene: Scene, field: str | None) -> str:
    meta = scene.store.metadata
    parts = [meta.dataset, meta.version, str(scene.trajectory), *([field] if field else [])]
    return "-".join(parts) + ".png"


def _dims(scene: Scene) -> int:
    return len(scene.store.metadata.axes)


def _on_grid(scene: Scene) -> bool:
    from ups.data.store import TrajectoryStore

    return isinstance(scene.store, TrajectoryStore)


def _still(
    scene: Scene, quantities: Sequence[Quantity], frames: Sequence[int], single: bool, arrows: bool
) -> Drawing:
    from ups.data.pictures import layout, spacetime

    single = single or len(frames) == 1
    if _on_grid(scene) and _dims(scene) == 1:
        _no_arrows(scene, arrows)
        if single:
            return spacetime.profile(scene, quantities, frames[0])
        return spacetime.space_time(scene, quantities, frames)
    painter = _painter(scene, arrows)
    if single:
        return layout.single(painter, quantities, frames[0])
    return layout.gallery(painter, quantities, frames)


def _move(
    scene: Scene,
    quantities: Sequence[Quantity],
    frames: Sequence[int],
    path: Path,
    *,
    fps: int,
    dpi: int | None,
    arrows: bool,
) -> None:
    from ups.data.pictures import animation, layout, spacetime

    if path.suffix.lower() == ".mp4":
        animation.find_ffmpeg()  # before any work
    if _on_grid(scene) and _dims(scene) == 1:
        _no_arrows(scene, arrows)
        drawing = spacetime.profile(scene, quantities, frames[0], frames)
    else:
        drawing = layout.single(_painter(scene, arrows), quantities, frames[0], frames)
    animation.write_animation(drawing, scene, frames, path, fps=fps, dpi=dpi)


def _painter(scene: Scene, arrows: bool) -> Painter:
    from ups.data.pictures.frames import GridPainter
    from ups.data.pictures.meshes import MeshPainter
    from ups.data.pictures.particles import ParticlePainter
    from ups.data.pictures.slices import slice_painter

    kind: Any = getattr(scene.store, "kind", "grid")
    if kind == "particles" or (kind == "mesh" and _dims(scene) == 3):
        return ParticlePainter(scene, arrows=arrows)
    _no_arrows(scene, arrows)
    if kind == "mesh":
        return MeshPainter(scene)
    return slice_painter(scene) if _dims(scene) == 3 else GridPainter(scene)


def _no_arrows(scene: Scene, arrows: bool) -> None:
    if arrows:
        raise UsageError(f"{scene.store.name}: --arrows: only particles have arrows")
