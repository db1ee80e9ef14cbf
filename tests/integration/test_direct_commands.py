"""Commands that read a remote in place: a look, an evaluation, caches, without copies."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_commands import ups
from tiny_runs import SMALL

from ups import add_entry, paths, runs
from ups.cache.format import LatentCache, list_caches
from ups.cache.remote import CacheInPlace, all_caches_on
from ups.errors import RemoteError, UsageError
from ups.pipeline.judge import Request, judge
from ups.transfer.blocks import block_folders
from ups.transfer.direct import reading_in_place
from ups.transfer.remotes import find_remote


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run in `home`, without data, and all that it was made from on `shelf`."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "shelf").mkdir()
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(SMALL | {"name": "tiny", "data": {"dataset": "advection1d"}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPS_HOME", str(folder / "home"))
        patch.setenv("WANDB_MODE", "offline")
        ups("data", "generate", "advection1d", "--num-trajectories", "20", "--points", "32",
            "--frames", "9", "--param", "beta=0.4")  # fmt: skip
        ups("data", "convert", "advection1d")
        ups("train", "--config", str(config))
        ups("data", "push", "advection1d", "--to", str(folder / "shelf"))
        ups("cache", "push", "advection1d", "--to", str(folder / "shelf"))
        shutil.rmtree(paths.data_dir("advection1d"))
    return folder


@pytest.fixture
def shelf(made: Path, home: Path, tmp_path: Path) -> str:
    """The folder as a remote, and the run in this test's own UPS_HOME."""
    shutil.copytree(made / "home", home)
    shutil.copytree(made / "shelf", tmp_path / "shelf")
    return str(tmp_path / "shelf")


def objects(shelf: str, kind: str) -> list[Path]:
    return sorted(Path(shelf, kind).rglob("objects/*"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_remote_is_looked_at_and_evaluated_on_in_place(shelf, tmp_path):
    assert "no converted version" in ups("data", "show", "advection1d", code=3).stderr

    told = ups("data", "info", "advection1d", "--from", shelf).stdout
    assert "train 16" in told
    assert "20 trajectories (train 16, valid 2, test 2)" in told
    (row,) = json.loads(ups("data", "info", "advection1d", "--from", shelf, "--json").stdout)
    assert (row["trajectories"], row["splits"]["test"]) == (20, 2)

    picture = str(tmp_path / "one.png")
    shown = ups("data", "show", "advection1d", "--trajectory", "3", "--out", picture,
                "--from", shelf)  # fmt: skip
    assert Path(picture).stat().st_size > 1000
    assert "in place" in shown.stderr
    assert "1.2 kB in 1 requests" in shown.stderr  # 9 frames of 32 points
    kept = json.loads(ups("data", "du", "--json").stdout)
    assert {(item["kind"], item["dataset"]) for item in kept} == {
        ("blocks", "advection1d"), ("cache", "advection1d")
    }  # fmt: skip

    run = runs.find_run(None)
    for path in run.glob("report*.json"):
        path.unlink()
    look = ups("eval", "--from", shelf, "--limit", "1")
    assert "first 1 of 2 trajectories" in look.stdout
    assert "1.2 kB in 1 requests" in look.stderr
    assert "not evaluated yet" in ups("leaderboard", "add", code=4).stderr
    with reading_in_place(find_remote(shelf)):
        whole = judge(run, Request(brief=True))[0].report.to_dict()
    assert "limit" not in whole["sections"]
    assert whole["protocol"]["num_trajectories"] == 2
    few = json.loads((run / "report.own-first1.json").read_text())
    assert few["sections"]["limit"] == {"first": 1, "of": 2}
    assert few["protocol"]["id"] != whole["protocol"]["id"]
    assert few["rows"][0]["per_trajectory"]["nrmse"][0] == pytest.approx(
        whole["rows"][0]["per_trajectory"]["nrmse"][0], rel=1e-5
    )
    assert not paths.data_dir("advection1d").exists()

    ups("leaderboard", "add")
    entries = [json.loads(path.read_text()) for path in paths.leaderboard_dir().glob("*.json")]
    assert entries
    assert all(entry["protocol"]["num_trajectories"] == 2 for entry in entries)
    with pytest.raises(UsageError, match="first 1 of 2"):
        add_entry(run / "report.own-first1.json", paths.leaderboard_dir())

    gc.collect()  # what this process still has open is not removed
    assert "removed" in ups("data", "prune", "--older-than", "0s").stdout
    assert not block_folders()


def test_wrong_bytes_and_missing_versions_end_with_6(shelf, tmp_path):
    ups("data", "info", "advection1d", "--from", shelf)
    for path in objects(shelf, "data"):
        flip(path, path.stat().st_size // 3)
    failed = ups("data", "show", "advection1d", "--out", str(tmp_path / "x.png"), "--from", shelf,
                 code=6)  # fmt: skip
    assert "trajectory 0 of advection1d/" in failed.stderr
    assert "--repair" in failed.stderr
    assert "burgers1d" in ups("data", "info", "burgers1d", "--from", shelf, code=6).stderr
    assert "there is no remote" in ups("data", "info", "x", "--from", "b9", code=6).stderr


def test_caches_on_a_remote_are_listed_verified_and_read_in_place(shelf):
    (folder,) = list_caches()
    here = LatentCache(folder)
    told = ups("cache", "list", "--from", shelf).stdout
    assert "advection1d/" in told
    assert "train,valid" in told
    (row,) = json.loads(ups("cache", "list", "advection1d", "--from", shelf, "--json").stdout)
    assert row["fingerprint"] == here.manifest.identity.fingerprint
    assert "none of burgers1d" in ups("cache", "list", "burgers1d", "--from", shelf).stdout
    assert ups("cache", "verify", "--from", shelf).stdout.startswith("ok")

    remote = find_remote(shelf)
    (found,) = all_caches_on(remote)
    there = CacheInPlace(found, remote)
    valid = np.concatenate(here.tokens("valid").arrays)
    np.testing.assert_array_equal(there.first("valid", 1), valid[:1])
    assert there.reader.bytes_read < sum(path.stat().st_size for path in objects(shelf, "cache"))
    before = there.reader.requests
    np.testing.assert_array_equal(np.concatenate(there.tokens("valid").arrays), valid)
    assert there.reader.requests == before

    shards = here.tokens("train").arrays[0].tobytes()
    (target,) = [path for path in objects(shelf, "cache") if shards in path.read_bytes()]
    flip(target, target.read_bytes().index(shards) + 5)
    with pytest.raises(RemoteError, match=f"{target.name}.*another sha256"):
        there.tokens("train")
    assert target.name in ups("cache", "verify", "--from", shelf, code=6).stdout


def test_a_damaged_list_of_shards_is_not_believed(shelf):
    remote = find_remote(shelf)
    (found,) = all_caches_on(remote)
    for path in objects(shelf, "cache"):
        content = path.read_bytes()
        if b'"ups-latents' in content:
            path.write_bytes(content.replace(b'"trajectories": ', b'"trajectories":9'))
    with pytest.raises(RemoteError, match=r"manifest.json of advection1d.* another sha256"):
        CacheInPlace(found, remote)
