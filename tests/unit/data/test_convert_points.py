"""Raw meshes and particles -> point store: the same bytes whatever happens on the way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from point_samples import FRAMES, make_card, sample, write

from ups.data.conversion import point_plan
from ups.data.conversion.plan import Recipe
from ups.data.conversion.points import convert_points
from ups.data.convert import convert
from ups.data.points import PointStore
from ups.data.splits import EXCLUDED
from ups.data.versions import find_version, list_versions
from ups.errors import DataError, UsageError
from ups.files import sha256_file

KINDS = ("mesh", "particles")


@pytest.fixture
def raw(tmp_path):
    """raw(kind, seeds=range(8), name='a.h5', **options) -> (card, raw file, trajectories)."""

    def make(kind="mesh", seeds=range(8), name="a.h5", **options):
        card = make_card(kind)
        given = [sample(seed, kind) for seed in seeds]
        return card, write(tmp_path / "raw" / name, given, card, **options), given

    return make


def files_of(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256_file(path) for path in found}


@pytest.mark.parametrize("kind", KINDS)
def test_the_general_conversion_hands_over(raw, kind):
    card, path, given = raw(kind)
    made = convert(card, [path])
    assert not made.reused
    np.testing.assert_array_equal(made.store.fields(3), given[3].fields)
    assert convert(card, [path]).reused


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_trajectories_are_chosen(raw, kind):
    card, path, given = raw(kind)
    recipe = Recipe(stride_t=2, trajectories=(2, 7))
    store = convert_points(card, [path], recipe=recipe).store
    assert store.metadata.version == "t2-from2to7"
    assert store.metadata.dt == 1.0
    assert store.num_trajectories == 5
    np.testing.assert_array_equal(store.places, np.arange(2, 7))
    np.testing.assert_allclose(store.parameters[:, 0], 0.01 * np.arange(3, 8))
    for index, each in enumerate(given[2:7]):
        np.testing.assert_array_equal(store.fields(index), each.fields[::2])
        coords = each.coords[::2] if kind == "particles" else each.coords
        np.testing.assert_array_equal(store.coords(index), coords)
        assert store.digest(index) == store.digests[index].tobytes()


def test_a_limit_takes_the_first_of_each_file_and_one_frame_is_at_rest(raw):
    card, one, _ = raw("particles")
    _, two, other = raw("particles", range(10, 18), "b.h5")
    store = convert_points(card, [one, two], recipe=Recipe(limit=4, stride_t=FRAMES)).store
    assert store.num_trajectories == 8
    assert store.sources.tolist() == [0] * 4 + [1] * 4
    assert not store.moves(5)
    np.testing.assert_array_equal(store.coords(5), other[1].coords[0])
    assert store.edges(5).shape == store.edges(5, 0).shape
    assert store.metadata.dt is None


def test_equal_raw_files_count_once(raw):
    card, path, given = raw()
    copy = path.with_name("b.h5")
    shutil.copy(path, copy)
    store = convert_points(card, [path, copy], recipe=Recipe()).store
    assert store.num_trajectories == len(given)
    assert store.metadata.duplicates == ("b.h5",)


def _with_nan(given, where="fields"):
    values = getattr(given, where).copy()
    values[(2, 3) if where == "fields" else (3,)] = np.nan
    return replace(given, **{where: values})


@pytest.mark.parametrize(
    ("where", "message"), [("fields", "first at frame 2"), ("inputs", "in its inputs")]
)
def test_values_that_are_not_finite_stop_or_are_excluded(tmp_path, where, message):
    card = make_card()
    given = [sample(seed) for seed in range(8)]
    given[4] = _with_nan(given[4], where)
    path = write(tmp_path / "a.h5", given, card)
    with pytest.raises(DataError, match=f"trajectory 4: NaN or infinity {message}"):
        convert_points(card, [path], recipe=Recipe())
    assert [p.name for p in (tmp_path / "home" / "data" / card.key).iterdir()] == [
        ".full.zarr.lock"
    ]
    store = convert_points(card, [path], recipe=Recipe(exclude_invalid=True)).store
    assert store.metadata.excluded == (4,)
    assert store.splits[4] == EXCLUDED
    assert all(np.isfinite(values).all() for values in store.statistics.values())
    assert all(np.isfinite(values).all() for values in store.input_statistics.values())


def test_what_was_made_otherwise_is_not_replaced_unasked(raw):
    card, path, _ = raw()
    _, other, given = raw(seeds=range(20, 28), name="b.h5")
    convert_points(card, [path], recipe=Recipe())
    assert convert_points(card, [path], recipe=Recipe()).reused
    with pytest.raises(DataError, match="exists, made from other files"):
        convert_points(card, [other], recipe=Recipe())
    made = convert_points(card, [other], recipe=Recipe(), force=True)
    assert not made.reused
    np.testing.assert_array_equal(made.store.fields(0), given[0].fields)
    convert_points(card, [path], recipe=Recipe(), version="first")
    assert list_versions(card.key) == ["first", "full"]


def test_a_version_caught_between_its_names_comes_back(raw):
    card, path, _ = raw()
    store = convert_points(card, [path], recipe=Recipe()).store
    before = files_of(store.path)
    work = store.path.with_name(".full.converting")
    work.mkdir()
    store.path.rename(work / "replaced.zarr")
    assert convert_points(card, [path], recipe=Recipe()).reused
    assert files_of(find_version(card.key)) == before
    assert not work.exists()


def test_a_strided_grid_and_a_bad_name_are_usage_errors(raw):
    card, path, _ = raw()
    with pytest.raises(UsageError, match="--stride-x 2"):
        convert_points(card, [path], recipe=Recipe(stride_x=2))
    with pytest.raises(UsageError, match="--version"):
        convert_points(card, [path], recipe=Recipe(), version="../x")
    with pytest.raises(UsageError, match="--workers 0"):
        convert_points(card, [path], recipe=Recipe(), workers=0)


def test_files_of_other_times_are_refused(raw):
    card, path, _ = raw()
    _, other, _ = raw(seeds=range(9, 17), name="b.h5", times=np.arange(FRAMES) * 1.0)
    with pytest.raises(DataError, match=r"its times differ from those of a\.h5"):
        convert_points(card, [path, other], recipe=Recipe())


def test_tags_in_some_trajectories_only_are_refused(tmp_path):
    card = make_card()
    given = [sample(seed) for seed in range(8)]
    given[3] = replace(given[3], tags=None)
    path = write(tmp_path / "a.h5", given, card)
    with pytest.raises(DataError, match="trajectory 3"):
        convert_points(card, [path], recipe=Recipe())


def test_progress_counts_trajectories(raw, monkeypatch):
    monkeypatch.setattr(point_plan, "_MOST_IN_UNIT", 3)
    card, path, _ = raw()
    seen = []
    convert_points(card, [path], recipe=Recipe(), progress=lambda *now: seen.append(now))
    assert seen == [(3, 8), (6, 8), (8, 8)]


# A process of its own, small units, so that a kill meets it anywhere.
_CHILD = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from point_samples import make_card
from ups.data import sharded
from ups.data.conversion import point_plan
from ups.data.conversion import points as convert_points
from ups.data.conversion.plan import Recipe
if __name__ == "__main__":
    point_plan._MOST_IN_UNIT = 2
    sharded._CHUNK_BYTES, sharded._SHARD_BYTES = 1000, 4000
    print("begin", flush=True)
    made = convert_points.convert_points(
        make_card({kind!r}), [Path({raw!r})], recipe=Recipe(), workers={workers}
    )
"""


def run_child(script, home, *, kill_after=None):
    """Convert in another process; True if it was killed on the way."""
    environment = {**os.environ, "UPS_HOME": str(home)}
    child = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "begin\n"
    try:
        _, error = child.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.communicate()
        return True
    assert child.returncode == 0, error
    return False


def child_script(tmp_path, kind, raw, workers):
    script = tmp_path / f"child{workers}.py"
    here = str(Path(__file__).parent)
    script.write_text(_CHILD.format(here=here, kind=kind, raw=str(raw), workers=workers))
    return script


def test_kills_and_workers_do_not_show_in_the_result(tmp_path, raw):
    card, path, _ = raw("particles", range(24))
    whole = tmp_path / "whole"
    script = child_script(tmp_path, "particles", path, 1)
    begin = time.perf_counter()
    run_child(script, whole)
    took = time.perf_counter() - begin
    expected = files_of(whole / "data" / card.key / "full.zarr")
    broken, kills = tmp_path / "broken", 0
    for share in (0.15, 0.35, 0.55):
        kills += run_child(script, broken, kill_after=share * took)
    assert kills >= 1
    run_child(child_script(tmp_path, "particles", path, 2), broken)
    assert files_of(broken / "data" / card.key / "full.zarr") == expected
    assert sorted(p.name for p in (broken / "data" / card.key).iterdir()) == [
        ".full.zarr.lock",
        "full.zarr",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_many_kills(tmp_path, raw, kind, workers):
    card, path, _ = raw(kind, range(24))
    script = child_script(tmp_path, kind, path, workers)
    begin = time.perf_counter()
    run_child(script, tmp_path / "whole")
    took = time.perf_counter() - begin
    expected = files_of(tmp_path / "whole" / "data" / card.key / "full.zarr")
    rng, kills = np.random.default_rng(0), 0
    for attempt in range(12):
        home = tmp_path / f"broken{attempt % 3}"
        kills += run_child(script, home, kill_after=float(rng.uniform(0.0, took)))
        if attempt >= 9:
            run_child(script, home)
            assert files_of(home / "data" / card.key / "full.zarr") == expected
    assert kills >= 4


def test_a_unit_that_was_cut_off_is_done_again(raw, monkeypatch):
    card, path, _ = raw()
    expected = files_of(convert_points(card, [path], recipe=Recipe(), version="a").store.path)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ups.data.conversion.points.lay_out", stop)
        with pytest.raises(KeyboardInterrupt):
            convert_points(card, [path], recipe=Recipe(), version="b")
    work = find_version(card.key).with_name(".b.converting")
    rows = work / "units" / "000000" / "fields.bin"
    rows.write_bytes(rows.read_bytes()[:-8])
    found = convert_points(card, [path], recipe=Recipe(), version="b").store
    assert not work.exists()
    differing = {name for name, value in files_of(found.path).items() if value != expected[name]}
    assert differing == {"zarr.json"}  # holds the version's name
    assert PointStore(found.path).mapped


_FULL = """
import resource, signal, sys
sys.path.insert(0, {here!r})
from pathlib import Path
from point_samples import make_card
from ups.data.conversion.points import convert_points
from ups.data.conversion.plan import Recipe
from ups.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.dont_write_bytecode = True  # a cut-off module would spoil later imports
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    convert_points(make_card(), [Path({raw!r})], recipe=Recipe())
except DataError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize("limit", [3000, 9000])
def test_a_full_disk_is_one_line_and_no_store(tmp_path, raw, limit):
    card, path, _ = raw()
    code = _FULL.format(here=str(Path(__file__).parent), raw=str(path), limit=limit)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "UPS_HOME": str(tmp_path / "full")},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("\n") == 1
    assert "file-size limit" in done.stdout
    assert not list((tmp_path / "full" / "data" / card.key).glob("*.zarr"))
