"""Fifty ways in which an artefact on a remote may be wrong: a pull finds each, and uses none."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from servers import rclone_s3
from transfer_samples import SHARD, arrived, contents, local_remote, sample

from ups.errors import RemoteError
from ups.transfer.artefacts import find
from ups.transfer.pull import pull
from ups.transfer.push import push
from ups.transfer.remotes import Remote, find_remote

NAME = "burgers1d/v1"
Damage = Callable[[Path, random.Random], str]
"""Changes an artefact in a folder; returns what the message must name."""


def objects(folder: Path) -> list[Path]:
    return sorted((folder / "objects").iterdir())


def manifest(folder: Path) -> Path:
    (found,) = folder.glob("manifest-*.json")
    return found


def flip(path: Path, dice: random.Random) -> None:
    with path.open("r+b") as file:
        at = dice.randrange(path.stat().st_size)
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ (1 << dice.randrange(8))]))


def flip_object(folder: Path, dice: random.Random) -> str:
    victim = dice.choice(objects(folder))
    flip(victim, dice)
    return victim.name


def truncate_object(folder: Path, dice: random.Random) -> str:
    victim = dice.choice(objects(folder))
    os.truncate(victim, dice.randrange(victim.stat().st_size))
    return victim.name


def append_to_object(folder: Path, dice: random.Random) -> str:
    victim = dice.choice(objects(folder))
    with victim.open("ab") as file:
        file.write(dice.randbytes(dice.randrange(1, 5000)))
    return victim.name


def delete_object(folder: Path, dice: random.Random) -> str:
    victim = dice.choice(objects(folder))
    victim.unlink()
    return victim.name


def swap_objects(folder: Path, dice: random.Random) -> str:
    one, other = dice.sample(objects(folder), 2)
    aside = folder / "aside"
    one.rename(aside)
    other.rename(one)
    aside.rename(other)
    return f"{one.name}|{other.name}"


def swap_blocks(folder: Path, dice: random.Random) -> str:
    """The same bytes and size in another order."""
    victim = dice.choice(objects(folder))
    content = victim.read_bytes()
    cut = dice.randrange(1024, len(content) - 1024)
    victim.write_bytes(content[cut:] + content[:cut])
    return victim.name


def zero_object(folder: Path, dice: random.Random) -> str:
    """What a disk without the data gives back."""
    victim = dice.choice(objects(folder))
    victim.write_bytes(bytes(victim.stat().st_size))
    return victim.name


def flip_manifest(folder: Path, dice: random.Random) -> str:
    content = bytearray(manifest(folder).read_bytes().rstrip())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    manifest(folder).write_bytes(content)
    return manifest(folder).name


def truncate_manifest(folder: Path, dice: random.Random) -> str:
    victim = manifest(folder)
    os.truncate(victim, dice.randrange(victim.stat().st_size - 2))
    return victim.name


def foreign_manifest(folder: Path, dice: random.Random) -> str:
    """Another version's manifest, under its own name or under the right one."""
    other = next(path for path in folder.parent.glob("*/manifest-*") if path.parent != folder)
    name = dice.choice([manifest(folder).name, other.name])
    manifest(folder).unlink()
    shutil.copy(other, folder / name)
    return name


def stale_manifest(folder: Path, dice: random.Random) -> str:
    """An older manifest that was renamed to be the newest."""
    stamp = f"2099{dice.randrange(10)}101T000000.000000Z"
    name = f"manifest-{stamp}-{manifest(folder).name[-13:]}"
    manifest(folder).rename(folder / name)
    return name


KINDS: tuple[tuple[Damage, int], ...] = (
    (flip_object, 12), (truncate_object, 6), (append_to_object, 4), (delete_object, 4),
    (swap_objects, 5), (swap_blocks, 4), (zero_object, 3), (flip_manifest, 4),
    (truncate_manifest, 3), (foreign_manifest, 3), (stale_manifest, 2),
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two versions under one name, pushed once."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(folder / "home"))
        for seed in (0, 1):
            made = sample(folder / str(seed), seed=seed)
            push(made, local_remote(folder / "remote"), shard_bytes=SHARD)
    return folder


def check(
    damage: Damage, seed: int, whole: Path, remote_folder: Path, into: Path, remote: Remote
) -> None:
    shutil.copytree(whole / "remote", remote_folder, dirs_exist_ok=True)
    sent = sample(whole / "1", seed=1)
    named = damage(remote_folder / sent.folder, random.Random(f"{damage.__name__} {seed}"))
    identity = sent.folder.rpartition("/")[2]
    with pytest.raises(RemoteError) as error:
        pull(find("data", NAME, remote, identity), into, remote)
    message = str(error.value)
    assert any(name in message for name in named.split("|")), message
    if not named.startswith("manifest-"):
        assert "it holds store.h5" in message or "it holds mesh.zarr/c/" in message
    assert "--repair" in (error.value.hint or "")
    _only_right_bytes(into, contents(sent))


def _only_right_bytes(into: Path, right: dict[str, bytes]) -> None:
    """What is in a file is right, or a hole."""
    for path, content in arrived(into).items():
        expected = right[path]
        wrong = [
            at
            for at in range(0, len(content), 50)
            if content[at : at + 50] not in (expected[at : at + 50], bytes(50)[: len(content) - at])
        ]
        assert not wrong, f"{path}: wrong bytes at {wrong[:3]}"


@pytest.mark.parametrize("damage", [damage for damage, _ in KINDS])
def test_each_kind_of_damage_is_seen(damage, whole, tmp_path):
    folder = tmp_path / "remote"
    check(damage, 0, whole, folder, tmp_path / "into", local_remote(folder))


@pytest.mark.slow
@pytest.mark.parametrize(("damage", "count"), KINDS)
def test_no_damage_of_fifty_goes_unseen(damage, count, whole, tmp_path):
    for seed in range(count):
        folder = tmp_path / f"remote{seed}"
        check(damage, seed, whole, folder, tmp_path / f"into{seed}", local_remote(folder))


@pytest.mark.slow
def test_damage_behind_a_real_server_is_seen_too(whole, tmp_path, monkeypatch):
    with rclone_s3(tmp_path / "s3") as server:
        server.environment(monkeypatch)
        for damage in (flip_object, swap_objects, zero_object):
            bucket = tmp_path / "s3" / server.bucket
            shutil.rmtree(bucket)
            server.look_again()
            check(damage, 0, whole, bucket, tmp_path / damage.__name__, find_remote("b2"))
