"""What uses the disk, what is safe to remove, and removing it."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

from ups import files, paths, runs
from ups.data.conversion.identity import is_generated
from ups.data.versions import (
    PARTS,
    STORES,
    parts_folder,
    pulled_record,
    version_of,
    version_paths,
)
from ups.errors import ConfigError, DataError, UsageError, translated_os_errors
from ups.registry import DatasetCard, dataset_keys, load_card

Kind = Literal["version", "raw", "unfinished", "rejected", "cache", "blocks"]
_LEFTOVER_AGE_S = 86400.0
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True)
class Item:
    """One thing on the disk.

    Attributes:
        modified: Seconds since the epoch.
        used_by: Runs that were trained on a version, and caches made from it.
        again: The command that brings it back; empty where nothing does.
    """

    kind: Kind
    dataset: str
    path: Path
    size_bytes: int
    modified: float
    used_by: tuple[str, ...] = ()
    again: str = ""

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.modified)


@dataclass(frozen=True)
class Pruning:
    """What to remove, and what was asked for but stays, with the reason."""

    remove: tuple[Item, ...]
    keep: tuple[tuple[Item, str], ...]


def parse_age(text: str) -> float:
    """Seconds of `30d`, `12h`, `2w`, `90min` or `45s`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d|w)", text.strip())
    if not match:
        raise UsageError(f"--older-than {text}: expected a number and s, min, h, d or w: 30d")
    return float(match[1]) * _UNITS[match[2]]


def disk_usage(datasets: Sequence[str] = ()) -> list[Item]:
    """Everything that datasets take on this machine, largest first."""
    wanted = list(datasets) or _datasets_here()
    users = _runs_by_version()
    items = [item for key in wanted for item in _of_dataset(key, users)]
    return sorted(items, key=lambda item: item.size_bytes, reverse=True)


def plan_pruning(
    items: Sequence[Item],
    *,
    older_than_s: float | None = None,
    keep_last: int | None = None,
    raw: bool = False,
    force: bool = False,
) -> Pruning:
    """Choose what to remove; nothing is touched.

    Unfinished conversions, generations and downloads and rejected files go when they are older than
    `older_than_s`, one day by default. Versions go only when `older_than_s` or `keep_last` is
    given: those older than the one and not among the newest `keep_last` of their dataset. What a
    run was trained on or a cache was made from stays without `force`; so does what nothing brings
    back. Raw files go by age, with `raw`; so does, without it, what was read in place.
    """
    remove: list[Item] = []
    keep: list[tuple[Item, str]] = []
    newest = _newest(items, keep_last or 0)
    for item in items:
        if not _is_asked_for(item, older_than_s, keep_last, raw, newest):
            continue
        reason = _why_not(item, force)
        if reason:
            keep.append((item, reason))
        else:
            remove.append(item)
    return Pruning(tuple(remove), tuple(keep))


def remove(item: Item) -> None:
    """Remove one thing; a version loses its name first, so that no reader finds half of it."""
    with files.exclusive(item.path, "removing it"), translated_os_errors(item.path, "removing"):
        hidden = item.path.with_name(f".{item.path.name}.removed")
        os.replace(item.path, hidden)
        shutil.rmtree(hidden) if hidden.is_dir() else hidden.unlink()
        for ending in ("part.json", "verified.json", "pulled.json"):
            item.path.with_name(f".{item.path.name}.{ending}").unlink(missing_ok=True)
    item.path.with_name(f".{item.path.name}.lock").unlink(missing_ok=True)


def _datasets_here() -> list[str]:
    found = [*(paths.home() / "data").glob("*"), *paths.blocks_dir().glob("*/*/*")]
    return sorted({path.name for path in found if path.is_dir()})


def _of_dataset(key: str, users: dict[tuple[str, str], list[str]]) -> Iterator[Item]:
    folder = paths.data_dir(key)
    card = load_card(key) if key in dataset_keys() else None
    caches = [p for p in (paths.caches_dir() / key).glob("*/*") if p.is_dir()]
    has_raw = any(path.is_file() for path in paths.raw_dir(key).glob("[!.]*"))
    versions = version_paths(key)
    for path in versions:
        name = version_of(path)
        used = [*users.get((key, name), []),
                *(f"cache {c.name}" for c in caches if c.parent.name == name)]  # fmt: skip
        parts = parts_folder(path)
        pulled = parts is not None or pulled_record(path).is_file()
        again = f"ups data {'pull' if pulled else 'convert'} {key}" if pulled or has_raw else ""
        yield _item("version", key, parts or path, tuple(used), again)
    for path in set(folder.glob(f"[!.]*{PARTS}")) - {parts_folder(path) for path in versions}:
        yield _item("unfinished", key, path, again=f"ups data pull {key}")
    for path in [*folder.glob(".*.converting"), *folder.glob("*.shards")]:
        yield _item("unfinished", key, path, again=f"ups data convert {key}")
    for path in sorted(paths.raw_dir(key).glob("*")):
        if path.name.startswith("."):
            if path.suffix == ".part":
                yield _item("unfinished", key, path, again=f"ups data download {key}")
            elif path.suffix == ".generating":
                yield _item("unfinished", key, path, again=f"ups data generate {key}")
        else:
            yield _item("raw", key, path, again=_how_again(card, path))
    for path in sorted((folder / "rejected").glob("*")):
        yield _item("rejected", key, path, again=f"ups data download {key}")
    for path in caches:
        yield _item("cache", key, path, again=f"ups cache build {key}")
    for path in sorted(paths.blocks_dir().glob(f"*/*/{key}/**/{files.IN_USE}")):
        again = f"ups data show {key} --from REMOTE"
        yield replace(_item("blocks", key, path.parent, again=again), modified=path.stat().st_mtime)


def _item(kind: Kind, key: str, path: Path, used_by: tuple[str, ...] = (), again: str = "") -> Item:
    inside = path.rglob("*") if path.is_dir() else [path]
    size = sum(_size_on_disk(p) for p in inside if p.is_file())
    return Item(kind, key, path, size, path.stat().st_mtime, used_by, again)


def _size_on_disk(path: Path) -> int:
    """Bytes; of a store of which only some is here, without its holes."""
    found, is_block = path.stat(), paths.blocks_dir() in path.parents
    return (
        min(found.st_size, found.st_blocks * 512)
        if path.name in STORES or is_block
        else found.st_size
    )


def _how_again(card: DatasetCard | None, path: Path) -> str:
    if card is None:
        return ""
    if is_generated(path):
        return f"ups data generate {card.key}"
    return f"ups data download {card.key}" if card.source.file(path.name) else ""


def _runs_by_version() -> dict[tuple[str, str], list[str]]:
    """Which runs were trained on which version, by dataset and version."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in runs.list_runs():
        try:
            content = yaml.safe_load((run / runs.CONFIG).read_text(encoding="utf-8"))
            key = (str(content["data"]["dataset"]), str(content["data"]["version"]))
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{run / runs.CONFIG}: cannot tell which data this run uses: {error}",
                hint="mend or remove that run",
            ) from error
        found.setdefault(key, []).append(f"run {runs.run_id(run)}")
    return found


def _newest(items: Sequence[Item], count: int) -> set[Path]:
    chosen: set[Path] = set()
    for key in {item.dataset for item in items}:
        versions = [i for i in items if i.dataset == key and i.kind == "version"]
        chosen |= {i.path for i in sorted(versions, key=lambda i: -i.modified)[:count]}
    return chosen


def _is_asked_for(
    item: Item,
    older_than_s: float | None,
    keep_last: int | None,
    raw: bool,
    newest: set[Path],
) -> bool:
    if item.kind in ("unfinished", "rejected"):
        return item.age_s >= (_LEFTOVER_AGE_S if older_than_s is None else older_than_s)
    if item.kind == "blocks":
        return older_than_s is not None and item.age_s >= older_than_s
    if item.kind == "raw":
        return raw and older_than_s is not None and item.age_s >= older_than_s
    if item.kind == "version" and (older_than_s is not None or keep_last is not None):
        return item.age_s >= (older_than_s or 0) and item.path not in newest
    return False


def _why_not(item: Item, force: bool) -> str:
    """Why a thing stays although it was asked for; empty if it may go."""
    if _is_locked(item.path) or (item.kind == "blocks" and _is_read(item.path)):
        return "in use by another process"
    if item.used_by and not force:
        more = f" and {len(item.used_by) - 1} more" if len(item.used_by) > 1 else ""
        return f"{item.used_by[0]}{more} refers to it"
    if not item.again and not force:
        return "nothing here brings it back"
    return ""


def _is_read(folder: Path) -> bool:
    with files.unused(folder) as unused:
        return not unused


def _is_locked(path: Path) -> bool:
    """Whether another process holds the lock of what is at `path`, or of what becomes of it."""
    name = path.name
    if name.endswith(".converting"):
        stem = name.removeprefix(".").removesuffix(".converting")
        targets = [path.with_name(stem + suffix) for suffix in (".h5", ".zarr")]
    elif name.endswith(".part"):
        targets = [path.with_name(name.removeprefix(".").removesuffix(".part"))]
    else:
        targets = [path]
    for target in targets:
        if not target.with_name(f".{target.name}.lock").exists():
            continue
        try:
            with files.exclusive(target, "looking whether it is in use"):
                pass
        except DataError:
            return True
    return False
