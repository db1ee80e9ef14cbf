"""What a raw file is, whatever it is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ups.errors import translated_os_errors

_SAMPLES, _SAMPLE_BYTES = 1024, 4096
_MADE = "generator_"


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


def how_made(path: Path) -> dict[str, Any]:
    """What `ups data generate` wrote into a raw file about its making; empty for any other file.

    Returns:
        'generator': version of ups and solver; 'request': `Request` as plain values, with seed,
        points, times and parameters; and, on which the last bits depend, 'device', 'batch_size'
        and 'libraries' (absent in files of earlier versions).
    """
    try:
        with h5py.File(path, "r") as file:
            found = {
                name.removeprefix(_MADE): value.item() if isinstance(value, np.generic) else value
                for name, value in file.attrs.items()
                if name.startswith(_MADE) and name != f"{_MADE}seed"  # the request holds it
            }
            if found:
                found["generator"] = str(file.attrs["generator"])
                found["request"] = json.loads(found["request"])
            return found
    except (OSError, KeyError, ValueError):
        return {}


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
