"""The data of a task: found on this machine, else generated or downloaded, and converted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ups import paths
from ups.config.schema import TaskConfig
from ups.data.conversion.sources import find_raw, how_to_get
from ups.data.download.run import download
from ups.data.generate import generate
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.data.versions import list_versions, open_store
from ups.errors import DataError
from ups.pipeline.parts import Teller, convert_and_audit
from ups.registry import DatasetCard, load_card

Store = TrajectoryStore | PointStore
_LATEST = "latest"
_TRAJECTORIES = 512


@dataclass(frozen=True)
class DataSource:
    """Where data come from that are not on this machine.

    Attributes:
        how: 'auto' takes the raw files that are there; without any it generates where the card
            has a generator, and downloads otherwise.
        trajectories: To generate (512 by default), or the first ones of each published file.
        points, frames, seed: Of what is generated; as published by default.
        variant: NAME=VALUE of the published files that are wanted.
    """

    how: Literal["auto", "generate", "download"] = "auto"
    trajectories: int | None = None
    points: int | None = None
    frames: int | None = None
    seed: int = 0
    variant: tuple[str, ...] = ()


def found_here(task: TaskConfig) -> Store | None:
    """The version that a task names, if it has been converted; of 'latest' the newest one."""
    versions = list_versions(task.dataset)
    if not versions or task.version not in (_LATEST, *versions):
        return None
    return open_store(task.dataset, task.version)


def provide(task: TaskConfig, source: DataSource, teller: Teller, *, again: bool = False) -> Store:
    """The data of a task, made if need be, and audited when they are made.

    Args:
        again: Convert even if the version is there.
    Raises:
        DataError: There is no way to get them, or they are not sound.
    """
    store = None if again else found_here(task)
    if store is not None:
        teller.tell("data", store, reused=True)
        return store
    card = load_card(task.dataset)
    raw = _raw_files(card, source, teller)
    version = None if task.version == _LATEST else task.version
    return convert_and_audit(card, raw, teller, version=version, force=again).store


def way_to_get(card: DatasetCard, source: DataSource) -> str:
    """How `provide` would get raw files: 'raw files', 'generate' or 'download'.

    Raises:
        DataError: Neither is possible.
    """
    possible = {"generate": card.generator is not None, "download": bool(card.source.files)}
    if source.how != "auto":
        if not possible[source.how]:
            raise DataError(f"{card.key}: cannot {source.how} it", hint=how_to_get(card))
        return source.how
    if _has_raw(card):
        return "raw files"
    for how, is_possible in possible.items():
        if is_possible:
            return how
    raise DataError(f"{card.key}: no raw files here", hint=how_to_get(card))


def _has_raw(card: DatasetCard) -> bool:
    folder = paths.raw_dir(card.key)
    if not folder.is_dir():
        return False
    try:
        return bool(find_raw(card))
    except DataError:
        return False


def _raw_files(card: DatasetCard, source: DataSource, teller: Teller) -> Sequence[Path]:
    """Raw files to convert; empty means all in the dataset's raw folder."""
    match way_to_get(card, source):
        case "generate":
            return [_generated(card, source, teller)]
        case "download":
            found = download(card, variant=source.variant, trajectories=source.trajectories)
            fetched = any(one.received for one in found)
            teller.tell("download", [one.path for one in found], reused=not fetched)
            return [one.path for one in found]
        case _:
            return ()


def _generated(card: DatasetCard, source: DataSource, teller: Teller) -> Path:
    assert card.generator is not None
    ticks, bar = [0], teller.bar("generate")

    def made(done: int, total: int) -> None:
        ticks.append(done)
        if bar:
            bar(done, total)

    path = generate(
        card,
        parameters=card.generator.parameters,
        num_trajectories=source.trajectories or _TRAJECTORIES,
        seed=source.seed,
        out_dir=paths.raw_dir(card.key),
        points=source.points,
        frames=source.frames,
        progress=made,
    )
    teller.tell("generate", path, reused=len(ticks) == 1)
    return path
