"""Published figures: each with its source and its protocol, shown beside a table, never ranked.

A figure stands under a table when the protocols agree in everything that was published; otherwise
it is told in what they differ. Either way it is another group's number, on a test split that chose
their checkpoints too, and so it has no rank.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt, TypeAdapter, ValidationError

from ups import files
from ups.config.base import Config, read_yaml, validated
from ups.errors import CheckpointError, ConfigError, translated_os_errors
from ups.evaluation.protocol import Protocol

FOLDER = "references"
SHIPPED = Path(__file__).with_name("references.yaml")
_NOT_STATED = "not stated"


class PublishedProtocol(Config):
    """What a publication says about how it measured; None where it does not say.

    Attributes:
        variant: Parts of a version's name that say which data: ['nu0.01'].
        step: Time between predicted frames, in the card's unit.
        trajectories: In the test split.
    """

    dataset: str
    variant: tuple[str, ...] = ()
    resolution: tuple[PositiveInt, ...] | None = None
    step: float | None = None
    history: int | None = None
    horizon: PositiveInt | None = None
    trajectories: PositiveInt | None = None
    mode: str = "rollout"
    selected_on: str = _NOT_STATED

    def describe(self) -> str:
        """One line of words."""
        data = self.dataset + (f" ({', '.join(self.variant)})" if self.variant else "")
        grid = "grid " + ("x".join(map(str, self.resolution)) if self.resolution else _NOT_STATED)
        frames = "frames " + _NOT_STATED
        if self.history == 0:
            frames = "steady"
        elif self.history is not None and self.horizon is not None:
            frames = f"{self.history} -> {self.horizon} frames"
        elif self.history is not None:
            frames = f"{self.history} -> 1 frame" if self.mode == "one-step" else (
                f"{self.history} frames given")  # fmt: skip
        step = f" of {self.step:g}" if self.step else ""
        return f"{data}, {grid}, {frames}{step}, {self.selection}"

    @property
    def selection(self) -> str:
        """Which split chose the checkpoint, in words."""
        stated = self.selected_on != _NOT_STATED
        return f"checkpoint selected on {self.selected_on}" if stated else "selection not stated"


class Reference(Config):
    """One published number.

    Attributes:
        source: Who says so: authors, title, year.
        url: Where; empty where the source has none.
        cost: What training took, as published.
        revision: Of this record; among records of the same figure the highest one is shown.
    """

    kind: Literal["reference"] = "reference"
    model: str
    value: float
    metric: str = "nrmse"
    statistic: str = "mean"
    protocol: PublishedProtocol
    source: str
    url: str = ""
    cost: str = ""
    note: str = ""
    revision: PositiveInt = 1

    @property
    def id(self) -> str:
        """The first 16 hex digits of the sha256 of the content, the name of its file."""
        return files.sha256_json(self.model_dump(mode="json"))[:16]

    @property
    def key(self) -> tuple[str, ...]:
        """What a corrected record has in common with the one that it corrects."""
        about = json.dumps(self.protocol.model_dump(mode="json"), sort_keys=True)
        return self.model, self.metric, self.statistic, about, self.source


@dataclass(frozen=True)
class Beside:
    """A published figure next to a table.

    Attributes:
        differences: In what its protocol differs from the table's, as far as it is stated; empty
            where it does not.
    """

    reference: Reference
    differences: tuple[str, ...]


class _Source(Config):
    cite: str
    url: str = ""


class _Figure(Config):
    model: str
    value: float
    source: str
    cost: str = ""
    note: str = ""


class _Block(Config):
    protocol: PublishedProtocol
    metric: str = "nrmse"
    statistic: str = "mean"
    figures: tuple[_Figure, ...]


class _File(Config):
    """A file of references: sources by a short name, and figures under each protocol."""

    revision: PositiveInt = 1
    sources: dict[str, _Source]
    published: tuple[_Block, ...]


def read_file(path: Path = SHIPPED) -> list[Reference]:
    """The figures of a YAML file.

    Raises:
        ConfigError: It says something that it may not say, or a source is missing.
    """
    content = validated(_File, read_yaml(path), str(path))
    found = []
    for block in content.published:
        for one in block.figures:
            if one.source not in content.sources:
                raise ConfigError(
                    f"{path}: {one.model}: source '{one.source}' is not one of "
                    f"{', '.join(content.sources)}"
                )
            source = content.sources[one.source]
            found.append(Reference(
                model=one.model, value=one.value, metric=block.metric, statistic=block.statistic,
                protocol=block.protocol, source=source.cite, url=source.url, cost=one.cost,
                note=one.note, revision=content.revision,
            ))  # fmt: skip
    return found


def import_references(folder: Path, path: Path = SHIPPED) -> tuple[int, int]:
    """Put the figures of a YAML file on the leaderboard in `folder`.

    Returns:
        How many are new, and how many were there.
    """
    new = known = 0
    for one in read_file(path):
        target = folder / FOLDER / f"{one.id}.json"
        if target.exists():
            load(target)
            known += 1
        else:
            files.write_json(target, one.model_dump(mode="json"), CheckpointError)
            new += 1
    return new, known


def load(path: Path) -> Reference:
    """Read one published figure.

    Raises:
        CheckpointError: The content does not match the name, or is none.
    """
    with translated_os_errors(path, "reading", CheckpointError):
        raw = path.read_bytes()
    try:
        found = TypeAdapter(Reference).validate_json(raw)
    except ValidationError as error:
        raise _damaged(path, "not a published figure") from error
    if found.id != path.stem:
        raise _damaged(path, f"the content does not match the name (it gives '{found.id}')")
    return found


def load_all(folder: Path) -> list[Reference]:
    """The published figures of a leaderboard, corrected ones left out.

    Raises:
        CheckpointError: One is damaged.
    """
    latest: dict[tuple[str, ...], Reference] = {}
    for path in sorted((folder / FOLDER).glob("*.json")):
        one = load(path)
        if one.key not in latest or latest[one.key].revision < one.revision:
            latest[one.key] = one
    return sorted(latest.values(), key=lambda one: (one.protocol.dataset, one.value))


def beside(protocol: Protocol, references: Iterable[Reference]) -> list[Beside]:
    """The published figures of the same dataset and variant, best agreement first."""
    parts = set(protocol.version.split("-"))
    found = [
        Beside(one, tuple(_differences(one.protocol, protocol)))
        for one in references
        if one.protocol.dataset == protocol.dataset and set(one.protocol.variant) <= parts
    ]
    return sorted(found, key=lambda one: (len(one.differences), one.reference.value))


def _differences(theirs: PublishedProtocol, ours: Protocol) -> Iterable[str]:
    step = None if ours.dt is None else float(f"{ours.dt * ours.stride:.6g}")
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("grid", theirs.resolution, ours.resolution),
        ("time step", theirs.step, step),
        ("frames given", theirs.history, ours.history),
        ("frames predicted", theirs.horizon, ours.horizon),
        ("test trajectories", theirs.trajectories, ours.num_trajectories),
    )
    silent = [name for name, published, here in pairs if published is None and here is not None]
    for name, published, here in pairs:
        if name not in silent and published != here:
            yield f"{name} {_shown(published)}, here {_shown(here)}"
    if theirs.mode != ours.mode:
        yield f"{theirs.mode}, here {ours.mode}"
    if ours.split != "test":
        yield f"split test, here {ours.split}"
    if silent:
        yield f"{', '.join(silent)}: {_NOT_STATED}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "none" if value is None else f"{value:g}"


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}", hint="delete it, then: ups leaderboard import-references"
    )
