"""Damage raw files, stores, cards and configs at random; every one must fail in one clear line.

A case passes if the command ends with exit code 2 or 3, one `error:` line, no traceback and no new
version on the disk, or with 0 where the damage touched nothing that matters. A crash, a hang, a
traceback or a half-written version fails it.

python benchmarks/fuzz_inputs.py --cases 500 --seed 0
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

_LIMIT_S = 200
Mutation = Callable[[Path, random.Random], None]


@dataclass
class Base:
    """A sound input, and the command that reads it.

    Attributes:
        path: File or folder that is damaged; `command` reads it at that very place.
        versions: Folder in which no new version may appear when the command fails.
    """

    name: str
    path: Path
    command: list[str]
    versions: Path
    mutations: list[Mutation]


@dataclass
class Tally:
    """What became of the cases."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)


# Damage to bytes: any file.


def flip_bytes(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    region = len(data) if draw.random() < 0.3 else min(len(data), 8192)
    for _ in range(draw.choice([1, 3, 10, 100])):
        data[draw.randrange(region)] = draw.randrange(256)
    path.write_bytes(data)


def truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, int(path.stat().st_size * draw.random()))


def zero_a_range(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    start = draw.randrange(len(data))
    stop = min(len(data), start + draw.choice([8, 512, 65536]))
    data[start:stop] = bytes(stop - start)
    path.write_bytes(data)


# Damage to the structure of an HDF5 file, which stays a sound HDF5 file.


def _any_dataset(file: h5py.File, draw: random.Random) -> h5py.Dataset:
    found: list[str] = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return file[draw.choice(sorted(found))]


def _replace(file: h5py.File, dataset: h5py.Dataset, values: object) -> None:
    name = dataset.name
    del file[name]
    file[name] = values


def drop_dataset(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        del file[_any_dataset(file, draw).name]


def change_type(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        dataset = _any_dataset(file, draw)
        values = dataset[()]
        kinds = {
            "text": lambda: np.full(np.shape(values), b"text"),
            "int": lambda: np.zeros(np.shape(values), np.int16),
            "complex": lambda: np.zeros(np.shape(values), np.complex64),
            "pairs": lambda: np.zeros(np.shape(values), [("a", "f4"), ("b", "i4")]),
            "group": lambda: None,
        }
        kind = draw.choice(sorted(kinds))
        if kind == "group":
            name = dataset.name
            del file[name]
            file.create_group(name)
        else:
            _replace(file, dataset, kinds[kind]())


def change_shape(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        dataset = _any_dataset(file, draw)
        values = np.asarray(dataset[()])
        changes = [values[..., None], values.reshape(-1), values[:0] if values.ndim else values,
                   values.T, values[:1] if values.ndim else values, np.float32(3)]  # fmt: skip
        _replace(file, dataset, draw.choice(changes))


def spoil_values(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        dataset = _any_dataset(file, draw)
        values = np.array(dataset[()])
        if values.dtype.kind != "f" or not values.size:
            return
        flat = values.reshape(-1)
        flat[draw.randrange(flat.size)] = draw.choice([np.nan, np.inf, -np.inf, 1e38, -1e30])
        _replace(file, dataset, values)


def spoil_attributes(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        holders = [file, *(item for item in file.values() if len(item.attrs))]
        holder = draw.choice(holders)
        for name in list(holder.attrs):
            del holder.attrs[name]
            if draw.random() < 0.7:
                holder.attrs[name] = draw.choice(["text: [", b"\xff\xfe", np.zeros(3), np.nan, -1])


def link_to_nowhere(path: Path, draw: random.Random) -> None:
    with h5py.File(path, "r+") as file:
        name = _any_dataset(file, draw).name
        del file[name]
        file[name] = draw.choice([h5py.SoftLink("/nowhere"), h5py.ExternalLink("none.h5", "/x")])


# Damage to YAML text.


def edit_text(path: Path, draw: random.Random) -> None:
    lines = path.read_text().splitlines()
    for _ in range(draw.choice([1, 2, 5])):
        index = draw.randrange(len(lines))
        line = lines[index]
        lines[index] = draw.choice([
            "", line + ":", "  " + line, line.replace(":", ""), "\t" + line, line + " [",
            line[: len(line) // 2], line.replace("1", "x"), line.replace("0", "-9"),
            "!!python/object:os.system " + line, line + "\n" + line, "&a *a", "- " + line,
            line.upper(), line.replace("e", "\x00"), "? " + line, "nonsense: 1",
        ])  # fmt: skip
    path.write_text("\n".join(lines))


# Damage to a Zarr folder.


def damage_a_member(path: Path, draw: random.Random) -> None:
    members = sorted(p for p in path.rglob("*") if p.is_file())
    member = draw.choice(members)
    if not member.stat().st_size or draw.random() < 0.3:
        member.unlink()
    else:
        draw.choice([flip_bytes, truncate, zero_a_range])(member, draw)


BYTES: list[Mutation] = [flip_bytes, truncate, zero_a_range]
STRUCTURE: list[Mutation] = [
    drop_dataset, change_type, change_shape, spoil_values, spoil_attributes, link_to_nowhere,
]  # fmt: skip


def make_bases(home: Path) -> list[Base]:
    """Small sound inputs of every layout, made by the built-in generators and converted."""
    from ups.data.convert import convert
    from ups.data.generate import generate
    from ups.registry import load_card

    bases: list[Base] = []
    keys = ("burgers1d", "shallow_water2d", "allen_cahn2d", "darcy2d", "darcy2d_mesh",
            "particles_advect")  # fmt: skip
    for key in keys:
        card = load_card(key)
        static = card.time.step is None
        raw = generate(
            card, parameters=card.generator.parameters if card.generator else {},
            num_trajectories=4, seed=0, out_dir=home / "raw" / key,
            points=200 if "mesh" in key else 32,
            frames=None if static else 4,
        )  # fmt: skip
        versions = home / "data" / key
        command = ["data", "convert", key, "--raw", str(raw), "--force"]
        bases.append(Base(f"raw {key}", raw, command, versions, BYTES + STRUCTURE))
        store = convert(card, [raw], version="sound").store.path
        harm = [damage_a_member] if store.is_dir() else BYTES + STRUCTURE
        audit = ["data", "audit", key, "--version", "sound"]
        bases.append(Base(f"store {key}", store, audit, versions, harm))
    cards = home / "registry"
    cards.mkdir()
    for key in ("darcy2d", "granular_contacts", "compressible_ns1d"):
        text = _card_text(key).replace(f"key: {key}", f"key: own_{key}", 1)
        card_path = cards / f"own_{key}.yaml"
        card_path.write_text(text)
        command = ["data", "info", f"own_{key}"]
        bases.append(Base(f"card {key}", card_path, command, home / "data", [edit_text]))
    config = home / "own_config.yaml"
    config.write_text("extends: base.yaml\nname: own\nseed: 1\ndata:\n  dataset: burgers1d\n"
                      "codec:\n  patch: 8\n")  # fmt: skip
    command = ["config", "show", "--config", str(config)]
    bases.append(Base("config", config, command, home / "data", [edit_text]))
    return bases


def _card_text(key: str) -> str:
    from ups import paths

    return (paths.registry_dirs()[0] / f"{key}.yaml").read_text()


def run_case(base: Base, mutation: Mutation, seed: str, tally: Tally) -> None:
    """Damage a copy in place, run the command in a child process, judge, put things back."""
    keep = base.path.with_name(base.path.name + ".keep")
    _copy(base.path, keep)
    before = _versions(base.versions)
    try:
        with contextlib.suppress(OSError, RuntimeError, KeyError, ValueError, TypeError):
            mutation(base.path, random.Random(seed))
        code, text = _in_child(base.command)
        verdict = _judge(code, text, _versions(base.versions) - before)
    finally:
        _copy(keep, base.path)
        shutil.rmtree(keep) if keep.is_dir() else keep.unlink()
        for made in _versions(base.versions) - before:
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    tally.outcomes[verdict] += 1
    if not verdict.startswith("exit"):
        tally.failures.append(f"{base.name} {mutation.__name__} {seed}: {verdict}\n{text[-800:]}")


def _judge(code: int, text: str, new: set[Path]) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if "Traceback" in text:
        return "traceback"
    if code == 0:
        return "exit 0"
    if code not in (2, 3):
        return f"bad exit code {code}"
    if sum(line.startswith("error: ") for line in text.splitlines()) != 1:
        return "not one error line"
    return "left a version" if new else f"exit {code}"


def _in_child(command: list[str]) -> tuple[int, str]:
    """Exit code (negative for a signal) and output of a command, in a forked child."""
    with tempfile.TemporaryFile("w+") as out:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
            child = os.fork()
        if not child:
            code = 99
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
                signal.alarm(_LIMIT_S)
                code = _call(command)
            finally:
                os._exit(code)  # whatever happened, the parent's work is not the child's
        _, status = os.waitpid(child, 0)
        out.seek(0)
        return os.waitstatus_to_exitcode(status), out.read()


def _call(command: list[str]) -> int:
    from ups.cli.main import app

    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(1, "wb", 0)),
        io.TextIOWrapper(os.fdopen(2, "wb", 0), write_through=True),
    )
    try:
        app(command)
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else 0
    except BaseException:  # noqa: BLE001 - whatever escapes is the finding
        import traceback

        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _versions(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*")
            if p.suffix in (".h5", ".zarr") and not any(q.startswith(".") for q in p.parts)
            and "keep" not in p.name}  # fmt: skip


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def fuzz(home: Path, *, cases: int, seed: int) -> Tally:
    """Run `cases` cases; UPS_HOME of this process must be `home`."""
    draw, tally = random.Random(seed), Tally()
    bases = make_bases(home)
    for number in range(cases):
        base = bases[number % len(bases)]
        run_case(base, draw.choice(base.mutations), f"{seed}/{number}", tally)
    return tally


def main() -> None:
    from _common import scratch_home

    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with scratch_home() as home:
        begun = time.perf_counter()
        tally = fuzz(home, cases=options.cases, seed=options.seed)
    for failure in tally.failures:
        print(failure, "\n")
    counts = ", ".join(f"{verdict}: {n}" for verdict, n in sorted(tally.outcomes.items()))
    print(f"{options.cases} cases, seed {options.seed}: {counts}; "
          f"{time.perf_counter() - begun:.0f} s")  # fmt: skip
    sys.exit(bool(tally.failures))


if __name__ == "__main__":
    main()
