"""The part of a page that shows fields: still, moving, and what was given."""

from __future__ import annotations

from pathlib import Path

from ups.evaluation.reporting.examples import Examples
from ups.evaluation.reporting.films import film_of
from ups.evaluation.reporting.markup import Picture, gallery, moving, paragraph, part
from ups.evaluation.reporting.plates import draw_inputs, draw_plate

_MOST_FIELDS = 6
_OF_NODES = {
    "grid": "",
    "mesh": " Colours are interpolated on the mesh.",
    "particles": " Particles are drawn where they truly are, whatever was predicted.",
}


def fields_part(examples: Examples, folder: Path, prefix: str, *, films: bool) -> str:
    """Every field of the kept trajectories; the median one also in motion."""
    setting = examples.setting
    if not examples.shown:
        return ""
    unseen = "problems" if setting.is_steady else "trajectories"
    said = (
        f"Unseen {unseen}: the median one, the worst and the best. Truth and prediction share a "
        "colour scale; a pointed end of a scale has values beyond it." + _OF_NODES[setting.kind]
    )
    bodies = [paragraph(said, "note"), gallery(_given(examples, folder))]
    for channel, name in enumerate(setting.fields[:_MOST_FIELDS]):
        film = film_of(examples, 0, channel) if films else None
        shown = [gallery(_stills(examples, channel, folder))]
        if film is not None:
            shown.insert(0, moving(film, _capital(examples.shown[0].title)))
        bodies.append(part(f"{prefix}field-{name}", setting.labels[channel], *shown, level=4))
    left_out = setting.fields[_MOST_FIELDS:]
    if left_out:
        bodies.append(paragraph(f"Not drawn: {', '.join(left_out)}.", "note"))
    return part(f"{prefix}fields", "Fields", *bodies, level=3)


def _stills(examples: Examples, channel: int, folder: Path) -> list[Picture]:
    name, found = examples.setting.fields[channel], []
    for which, shown in enumerate(examples.shown):
        for view, plane in enumerate(examples.setting.views):
            if view and which:
                continue  # of the others one plane
            kind = shown.title.split(" ", 1)[0]
            suffix = f"_{view}" if len(examples.setting.views) > 1 else ""
            path = draw_plate(folder / f"fields_{name}_{kind}{suffix}.png", examples, which,
                              channel, view)  # fmt: skip
            where = f", {plane.note}" if plane.note else ""
            found.append(Picture(path, _capital(shown.title) + where))
    return found


def _given(examples: Examples, folder: Path) -> list[Picture]:
    """What each of the steady problems is given."""
    found = []
    for which, shown in enumerate(examples.shown):
        kind = shown.title.split(" ", 1)[0]
        for channel, label in enumerate(examples.setting.inputs):
            path = draw_inputs(folder / f"given_{channel}_{kind}.png", examples, which, channel)
            found.append(Picture(path, f"Given {label}: {shown.title.partition(':')[0]}"))
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
