"""Which raw files a conversion reads, and what they are."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from ups import paths
from ups.errors import DataError, translated_os_errors
from ups.registry import DatasetCard

_SAMPLES, _SAMPLE_BYTES = 1024, 4096


def find_raw(card: DatasetCard, raw: Sequence[Path] = ()) -> list[Path]:
    """The dataset's raw files among the given files and folders, sorted by name.

    In a folder, files count whose names match the card's pattern or, without one, begin like the
    published ones. A NetCDF or Zarr dataset may be a folder itself.
    """
    places = list(raw) or [paths.raw_dir(card.key)]
    found: list[Path] = []
    for place in places:
        with translated_os_errors(place, "reading"):
            if _is_folder_of_files(place):
                os.scandir(place).close()  # rglob would pass over a folder that may not be read
                inside = sorted(_inside(place, raw_pattern(card)), key=lambda p: p.name)
                found += _without_parts_of_others(inside)
            elif place.exists() or raw:
                found.append(place)
    if not found:
        where = ", ".join(paths.display(place) for place in places)
        raise DataError(
            f"{card.key}: no raw file named {raw_pattern(card)} in {where}",
            hint=how_to_get(card),
        )
    return found


def raw_pattern(card: DatasetCard) -> str:
    """Glob of the names of a dataset's raw files."""
    if card.source.pattern:
        return card.source.pattern
    names = [file.name for file in card.source.files]
    names += [card.generator.file] if card.generator else []
    columns = zip(*names, strict=False)
    start = "".join(c[0] for c in itertools.takewhile(lambda c: len(set(c)) == 1, columns))
    return start.partition("{")[0] + "*"


def how_to_get(card: DatasetCard) -> str:
    """The command that gets raw files of a dataset."""
    if card.generator:
        return f"ups data generate {card.key}"
    if card.source.files:
        return f"ups data download {card.key}"
    return f"ups data info {card.key} says where the files come from; then: --raw FILE"


def identify(path: Path) -> tuple[int, str]:
    """Size in bytes and a fingerprint of a raw file or folder, without reading all of it."""
    digest, total = hashlib.sha256(), 0
    with translated_os_errors(path, "reading"):
        members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        samples = max(1, _SAMPLES // max(1, len(members)))
        for member in members:
            size = member.stat().st_size
            total += size
            if member != path:
                digest.update(f"{member.relative_to(path)}:{size}:".encode())
            with member.open("rb") as file:
                for place in np.linspace(0, max(0, size - _SAMPLE_BYTES), samples).astype(int):
                    file.seek(int(place))
                    digest.update(file.read(_SAMPLE_BYTES))
    return total, digest.hexdigest()[:16]


def is_generated(path: Path) -> bool:
    try:
        with h5py.File(path, "r") as file:
            return "generator" in file.attrs
    except OSError:
        return False


def without_duplicates(found: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The files whose content no earlier one has, and the names of the others.

    Sizes are compared first, then the files' SHA-256: public data does hold the same file twice.
    """
    sizes: dict[tuple[int, str], list[Path]] = {}
    kept, dropped = [], []
    for path in found:
        alike = sizes.setdefault(identify(path), [])
        if any(_same_content(path, other) for other in alike):
            dropped.append(path.name)
        else:
            alike.append(path)
            kept.append(path)
    return kept, tuple(dropped)


def _same_content(one: Path, other: Path) -> bool:
    if one.is_dir() or other.is_dir():
        return one.resolve() == other.resolve()
    return _sha256(one) == _sha256(other)


def _sha256(path: Path) -> str:
    with translated_os_errors(path, "reading"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_folder_of_files(place: Path) -> bool:
    return place.is_dir() and not _is_zarr(place)


def _is_zarr(place: Path) -> bool:
    return any((place / name).is_file() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def _without_parts_of_others(found: Sequence[Path]) -> list[Path]:
    """Leave out a file of first trajectories where the whole file, or more of it, is there."""
    most: dict[tuple[Path, str], tuple[float, Path]] = {}
    for path in found:
        match = re.search(r"\.first(\d+)(?=\.)", path.name)
        whole = path.name.replace(match[0], "") if match else path.name
        count = float(match[1]) if match else float("inf")
        key = (path.parent, whole)
        if key not in most or count > most[key][0]:
            most[key] = (count, path)
    return [path for _, path in most.values()]


def _inside(place: Path, pattern: str) -> Iterator[Path]:
    """Files, and Zarr folders, below a folder that match; partial and rejected ones never do."""
    for path in place.rglob(pattern):
        hidden = any(part.startswith(".") or part == "rejected"
                     for part in path.relative_to(place).parts)  # fmt: skip
        if not hidden and path.suffix != ".part" and (path.is_file() or _is_zarr(path)):
            yield path
