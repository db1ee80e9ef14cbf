"""What uses the disk, and that nothing in use or irreplaceable goes."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from ups import files
from ups.config.loading import load_experiment
from ups.data.convert import Recipe, convert
from ups.data.disk import disk_usage, parse_age, plan_pruning, remove
from ups.data.versions import list_versions
from ups.errors import UsageError
from ups.registry import load_card
from ups.runs import create_run

DAY = 86400.0


@pytest.fixture
def card():
    return load_card("advection1d")


@pytest.fixture
def raw(home, write_raw):
    values = np.random.default_rng(0).normal(size=(20, 9, 16)).astype(np.float32)
    folder = home / "data/advection1d/raw"
    return write_raw(folder / "1D_Advection_Sols_beta1.0.hdf5", values, {"beta": 1.0})


@pytest.fixture
def versions(card, raw):
    """Three versions, one, two and three days old: limit10 is the newest."""
    made = []
    for days, limit in ((3, 6), (2, 8), (1, 10)):
        path = convert(card, recipe=Recipe(limit=limit)).store.path
        _age(path, days)
        made.append(path)
    return made


def _age(path, days):
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def names(items):
    return sorted(item.path.name for item in items)


def test_everything_on_the_disk_is_counted_and_says_how_it_comes_back(versions, home):
    (home / "data/advection1d/.v.converting").mkdir()
    (home / "data/advection1d/raw/.x.hdf5.generating").mkdir()
    (home / "data/advection1d/rejected").mkdir()
    (home / "data/advection1d/rejected/x.bad-1").write_bytes(b"abc")
    found = {item.path.name: item for item in disk_usage()}
    assert found[versions[0].name].size_bytes == versions[0].stat().st_size
    assert found[versions[0].name].again == "ups data convert advection1d"
    assert found["1D_Advection_Sols_beta1.0.hdf5"].again == "ups data download advection1d"
    assert found[".v.converting"].kind == "unfinished"
    assert found[".x.hdf5.generating"].kind == "unfinished"
    assert found[".x.hdf5.generating"].again == "ups data generate advection1d"
    assert found["x.bad-1"].kind == "rejected"


def test_without_options_only_old_leftovers_go(versions, home):
    young, old = home / "data/advection1d/.a.converting", home / "data/advection1d/.b.converting"
    for folder, days in ((young, 0), (old, 2)):
        folder.mkdir()
        _age(folder, days)
    plan = plan_pruning(disk_usage())
    assert names(plan.remove) == [".b.converting"]


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"keep_last": 1}, [0, 1]),
        ({"keep_last": 3}, []),
        ({"older_than_s": 1.5 * DAY}, [0, 1]),
        ({"older_than_s": 2.5 * DAY, "keep_last": 1}, [0]),
        ({"older_than_s": 0.5 * DAY, "keep_last": 2}, [0]),
    ],
)
def test_versions_go_by_age_and_number(versions, options, gone):
    plan = plan_pruning(disk_usage(), **options)
    assert names(plan.remove) == sorted(versions[i].name for i in gone)


def test_what_a_run_was_trained_on_stays_without_force(versions):
    experiment = load_experiment(
        "base.yaml", ["data.dataset=advection1d", f"data.version={versions[0].stem}"]
    )
    create_run(experiment)
    plan = plan_pruning(disk_usage(), keep_last=0)
    assert names(plan.remove) == sorted(path.name for path in versions[1:])
    ((item, reason),) = plan.keep
    assert item.path == versions[0]
    assert "run " in reason
    assert len(plan_pruning(disk_usage(), keep_last=0, force=True).remove) == 3


def test_what_nothing_brings_back_stays_without_force(versions, raw):
    raw.unlink()
    plan = plan_pruning(disk_usage(), keep_last=0)
    assert not plan.remove
    assert {reason for _, reason in plan.keep} == {"nothing here brings it back"}


def test_what_another_process_holds_stays(versions):
    with files.exclusive(versions[0], "testing"):
        plan = plan_pruning(disk_usage(), keep_last=0)
        assert [(i.path, r) for i, r in plan.keep] == [(versions[0], "in use by another process")]


def test_a_lock_that_is_left_over_is_no_raw_file(versions, raw):
    raw.rename(raw.with_name(f".{raw.name}.lock"))
    assert not plan_pruning(disk_usage(), keep_last=0).remove


def test_a_generation_under_way_stays(home):
    work = home / "data/advection1d/raw/.x.hdf5.generating"
    work.mkdir(parents=True)
    _age(work, 2)
    with files.exclusive(work, "testing"):
        assert not plan_pruning(disk_usage()).remove
    (left,) = plan_pruning(disk_usage()).remove
    remove(left)
    assert list(work.parent.iterdir()) == []


def test_removed_things_are_gone_and_the_rest_is_there(versions, home):
    for item in plan_pruning(disk_usage(), keep_last=1).remove:
        remove(item)
    assert list_versions("advection1d") == [versions[2].stem]
    left = [p.name for p in (home / "data/advection1d").iterdir() if "removed" in p.name]
    assert left == []


def test_raw_files_go_only_when_asked_and_old(versions, raw):
    _age(raw, 9)
    assert raw.name not in names(plan_pruning(disk_usage(), older_than_s=5 * DAY).remove)
    assert raw.name in names(plan_pruning(disk_usage(), older_than_s=5 * DAY, raw=True).remove)


def test_ages_are_read_with_their_units():
    assert [parse_age(t) for t in ("45s", "90min", "12h", "30d", "2w")] == [
        45, 5400, 12 * 3600, 30 * DAY, 14 * DAY
    ]  # fmt: skip
    with pytest.raises(UsageError, match="expected a number and"):
        parse_age("soon")
