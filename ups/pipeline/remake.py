"""Data made again from the record that a leaderboard entry keeps of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from ups import files, paths
from ups.config.base import validated
from ups.data.conversion.identity import identify
from ups.data.conversion.sources import find_raw
from ups.data.convert import Recipe, convert
from ups.data.download.run import download
from ups.data.generate import Request, generate_request
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.data.versions import list_versions, open_store
from ups.errors import DataError
from ups.evaluation.gates import Gate
from ups.evaluation.provenance import RawRecord, VersionRecord
from ups.pipeline.parts import Teller
from ups.registry import DatasetCard, dataset_keys, load_card

Store = TrajectoryStore | PointStore
_FOLDER = "reproduced"
_SLACK = 0.01
"""Data of the same recipe from other hardware: share of the RMS by which statistics may differ."""


@dataclass(frozen=True)
class Remade:
    """A version that was made again.

    Attributes:
        is_exact: Every value and the division into splits are those of the record.
        gate: Whether it can stand for the recorded one, and why.
    """

    store: Store
    is_exact: bool
    gate: Gate


def remake(task: str, record: VersionRecord, raw: Sequence[Path], teller: Teller) -> Remade:
    """The recorded version: found here, else from raw files generated or downloaded again.

    A version of that name with other values is left alone; the new one gets another name.

    Args:
        raw: Where raw files are that can be neither generated nor downloaded.
    Raises:
        DataError: A raw file cannot be had.
    """
    store = _found(record)
    reused = store is not None
    if store is None:
        card = card_of(record)
        made = [_raw_file(card, one, raw, teller) for one in record.files]
        recipe = Recipe(
            stride_x=record.recipe.stride_x,
            stride_t=record.recipe.stride_t,
            exclude_invalid=record.recipe.exclude_invalid,
            trajectories=record.recipe.trajectories,
            test_only=record.recipe.test_only,
        )
        store = convert(
            card, made, recipe=recipe, version=_free_name(record), progress=teller.bar("convert")
        ).store
    gate = _compared(task, record, store)
    teller.tell("data", store, reused=reused)
    return Remade(store, _is_exact(record, store), gate)


def how_to_remake(record: VersionRecord) -> list[str]:
    """What `remake` would do, a line each."""
    found = _found(record)
    if found is not None:
        return [f"there: {found.name}, with the recorded values"]
    lines = []
    for one in record.files:
        match one.origin:
            case "generated":
                lines.append(f"generate {one.name}: {one.made['generator']}, "
                             f"seed {one.made['request']['seed']}")  # fmt: skip
            case "published":
                lines.append(f"download {one.url} ({one.name}, MD5 {one.md5})")
            case _:
                lines.append(f"take {one.name} from --raw: it is neither generated nor published")
    return [*lines, f"convert to {record.dataset}/{_free_name(record)}"]


def card_of(record: VersionRecord) -> DatasetCard:
    """The card of a dataset; one that the entry brought along is kept in UPS_HOME/registry."""
    if record.card is not None and record.dataset not in dataset_keys():
        validated(DatasetCard, record.card, f"{record.dataset}: the card in the entry")
        text = yaml.safe_dump(record.card, sort_keys=False, allow_unicode=True)
        files.write_text(paths.home() / "registry" / f"{record.dataset}.yaml", text)
    return load_card(record.dataset)


def _found(record: VersionRecord) -> Store | None:
    """The recorded version, if it is on this machine with the recorded values."""
    here = list_versions(record.dataset)
    for name in (record.version, _other_name(record)):
        if name in here and _is_exact(record, store := open_store(record.dataset, name)):
            return store
    return None


def _free_name(record: VersionRecord) -> str:
    taken = record.version in list_versions(record.dataset)
    return _other_name(record) if taken else record.version


def _other_name(record: VersionRecord) -> str:
    return f"{record.version}-{record.data_sha256[:8]}"


def _is_exact(record: VersionRecord, store: Store) -> bool:
    meta = store.metadata
    return (meta.data_sha256, meta.split_hash) == (record.data_sha256, record.split_hash)


def _raw_file(card: DatasetCard, one: RawRecord, raw: Sequence[Path], teller: Teller) -> Path:
    match one.origin:
        case "generated":
            return _generated(card, one, teller)
        case "published":
            return _downloaded(card, one, teller)
        case _:
            return _given(card, one, raw)


def _generated(card: DatasetCard, one: RawRecord, teller: Teller) -> Path:
    request = Request.read(one.made["request"], card)
    folder = paths.data_dir(card.key) / _FOLDER / files.sha256_json(one.made)[:12]
    path = generate_request(
        card, request, out_dir=folder, batch_size=one.made.get("batch_size"),
        progress=teller.bar("generate"),
    )  # fmt: skip
    teller.tell("generate", path, reused=False)
    return path


def _downloaded(card: DatasetCard, one: RawRecord, teller: Teller) -> Path:
    """The published file, or as many of its first trajectories as there were."""
    file = card.source.file(one.name)
    if file is None or file.md5 != one.md5:
        raise DataError(
            f"{one.name}: the card of {card.key} does not list it with MD5 {one.md5} any more",
            hint=f"fetch it from {one.url} and pass it with --raw",
        )
    source = card.source.model_copy(update={"files": (file,)})
    first = one.name.removeprefix(Path(file.name).stem).removeprefix(".first").partition(".")[0]
    (outcome,) = download(
        card.model_copy(update={"source": source}),
        trajectories=int(first) if one.name != file.name else None,
    )
    teller.tell("download", [outcome.path], reused=not outcome.received)
    return outcome.path


def _given(card: DatasetCard, one: RawRecord, raw: Sequence[Path]) -> Path:
    """A raw file from `--raw`, recognised by name and content."""
    found = find_raw(card, raw) if raw else []
    for path in found:
        if path.name == one.name and identify(path) == (one.size_bytes, one.fingerprint):
            return path
    raise DataError(
        f"{one.name}: {card.key} cannot be generated or downloaded, and "
        + ("none of the given files is it" if found else "the file was not given"),
        hint=f"--raw PATH of the file with {one.size_bytes} bytes, fingerprint {one.fingerprint}",
    )


def _compared(task: str, record: VersionRecord, store: Store) -> Gate:
    """Whether the values are the recorded ones, or those of the same recipe on other hardware."""
    name, meta = f"data: {task}", store.metadata
    if _is_exact(record, store):
        return Gate(name=name, kind="data", passed=True,
                    detail=f"sha256 {meta.data_sha256[:12]} and splits as recorded")  # fmt: skip
    if meta.split_hash != record.split_hash:
        return Gate(name=name, kind="data", passed=False,
                    detail="another division into train, valid and test than recorded")  # fmt: skip
    differs = f"sha256 {meta.data_sha256[:12]}, recorded {record.data_sha256[:12]}"
    worst = _furthest(record, store)
    if any(one.origin != "generated" for one in record.files):
        return Gate(name=name, kind="data", passed=False, detail=differs)
    return Gate(
        name=name, kind="data", passed=worst <= _SLACK, value=worst, limit=_SLACK,
        detail=f"{differs}; same recipe, statistics within {worst:.1e} of the RMS (at most "
        f"{_SLACK:g}): last bits depend on hardware and libraries",
    )  # fmt: skip


def _furthest(record: VersionRecord, store: Store) -> float:
    """Largest difference of a field's mean, deviation or RMS from the record, over its RMS."""
    worst = 0.0
    for index, field in enumerate(store.metadata.fields):
        known = record.statistics.get(field, {})
        scale = abs(known.get("rms", 0.0)) or 1.0
        for name, value in known.items():
            gap = abs(float(store.statistics[name][index]) - value) / scale
            worst = max(worst, gap if math.isfinite(gap) else 1e9)
    return worst
