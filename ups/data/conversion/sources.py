"""Which raw files a conversion reads. Imports nothing heavy: it is asked before anything else."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ups import paths
from ups.errors import DataError, translated_os_errors
from ups.registry import DatasetCard


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
