"""Raw files -> store: the same values, once, whole or not at all, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from pathlib import Path

import h5py
import numpy as np
import pytest

from ups.data.audit import audit
from ups.data.convert import Recipe, convert, convert_shard, find_raw, merge_shards
from ups.data.splits import EXCLUDED
from ups.data.store import TrajectoryStore, find_store, list_versions, store_path
from ups.errors import DataError, UsageError
from ups.files import sha256_file
from ups.registry import load_card


@pytest.fixture
def card():
    return load_card("advection1d")


@pytest.fixture
def make(tmp_path, write_raw):
    """make(tensor, beta=1.0) -> a raw file."""

    def write(tensor, beta=1.0, **options):
        name = f"1D_Advection_Sols_beta{beta:g}.hdf5"
        return write_raw(tmp_path / "raw" / name, tensor, {"beta": beta}, **options)

    return write


@pytest.fixture
def tensor():
    return np.random.default_rng(1).normal(size=(20, 9, 16)).astype(np.float32)


@pytest.mark.parametrize(("stride_t", "stride_x"), [(1, 1), (2, 1), (1, 4), (4, 2), (3, 3)])
def test_values_times_and_coordinates_are_every_nth_of_the_raw_ones(
    card, make, tensor, stride_t, stride_x
):
    recipe = Recipe(stride_t=stride_t, stride_x=stride_x)
    store = convert(card, [make(tensor)], recipe=recipe).store
    np.testing.assert_array_equal(store.fields[..., 0], tensor[:, ::stride_t, ::stride_x])
    np.testing.assert_allclose(store.time, 0.05 * np.arange(9)[::stride_t], rtol=1e-6)
    np.testing.assert_allclose(store.coords[0], ((np.arange(16) + 0.5) / 16)[::stride_x])
    assert store.metadata.dt == pytest.approx(0.05 * stride_t, rel=1e-6)
    assert store.metadata.bounds == ((0.0, 1.0),)
    assert store.metadata.periodic == (True,)
    assert (store.parameters == 1.0).all()


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (Recipe(), "beta1"),
        (Recipe(stride_x=4, stride_t=2), "beta1-x4-t2"),
        (Recipe(limit=12), "beta1-n12"),
        (Recipe(stride_x=2, limit=12), "beta1-x2-n12"),
    ],
)
def test_the_version_is_named_by_parameter_strides_and_limit(card, make, tensor, recipe, name):
    assert convert(card, [make(tensor)], recipe=recipe).store.metadata.version == name


def test_a_limit_takes_the_first_trajectories_of_each_file(card, make, tensor):
    files = [make(tensor), make(tensor + 10, beta=2.0)]
    store = convert(card, files, recipe=Recipe(limit=11)).store
    np.testing.assert_array_equal(
        store.fields[..., 0], np.concatenate([tensor[:11], tensor[:11] + 10])
    )
    assert store.metadata.version == "beta1_2-n11"
    np.testing.assert_array_equal(store.parameters[:, 0], [1.0] * 11 + [2.0] * 11)


@pytest.mark.parametrize("option", ["limit", "stride_x", "stride_t"])
def test_a_recipe_of_zero_is_a_usage_error(option):
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}: must be at least 1"):
        Recipe(**{option: 0})


@pytest.mark.parametrize("version", ["../escape", "a/b", ".hidden", "", "latest"])
def test_a_version_whose_name_would_mislead_is_a_usage_error(card, make, tensor, version):
    with pytest.raises(UsageError, match="expected letters, digits"):
        convert(card, [make(tensor)], version=version)


def test_initial_conditions_shared_by_two_files_are_in_one_split(card, make, tensor):
    store = convert(card, [make(tensor), make(2 * tensor, beta=4.0)]).store
    for group in range(20):
        assert len(set(store.splits[store.groups == group].tolist())) == 1
    assert store.split("test").tolist() == [0, 1, 20, 21]


def test_statistics_are_those_of_the_training_split_alone(card, make, tensor):
    before = convert(card, [make(tensor)], version="before").store
    changed = tensor.copy()
    changed[before.split("test")] *= 100
    changed[before.split("valid")] += 7
    after = convert(card, [make(changed)], version="after").store
    training = tensor[before.split("train")].astype(np.float64)
    for store in (before, after):
        assert store.statistics["mean"][0] == pytest.approx(training.mean(), abs=1e-9)
        assert store.statistics["std"][0] == pytest.approx(training.std())
        assert store.statistics["rms"][0] == pytest.approx(np.sqrt((training**2).mean()))
        assert store.statistics["max"][0] == training.max()


def test_converting_again_reuses_what_is_there(card, make, tensor):
    raw = make(tensor)
    first = convert(card, [raw])
    stamp = first.store.path.stat().st_mtime_ns
    second = convert(card, [raw])
    assert (first.reused, second.reused) == (False, True)
    assert second.store.path.stat().st_mtime_ns == stamp


def test_a_changed_raw_file_is_refused_and_replaces_only_when_forced(card, make, tensor):
    store = convert(card, [make(tensor)]).store
    before = sha256_file(store.path)
    raw = make(tensor + 1)
    with pytest.raises(DataError, match="'beta1' exists, made from other files") as caught:
        convert(card, [raw])
    assert "--force" in caught.value.hint
    assert sha256_file(store.path) == before
    replaced = convert(card, [raw], force=True)
    assert not replaced.reused
    np.testing.assert_array_equal(replaced.store.fields[..., 0], tensor + 1)


def test_another_recipe_under_the_same_name_is_refused(card, make, tensor):
    raw = make(tensor)
    convert(card, [raw], version="mine")
    with pytest.raises(DataError, match="another recipe"):
        convert(card, [raw], version="mine", recipe=Recipe(stride_x=2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_invalid_value_stops_and_names_file_trajectory_and_frame(card, make, tensor, value):
    tensor[13, 6:, 3] = value
    raw = make(tensor)
    with pytest.raises(DataError, match=f"^{raw}: trajectory 13: .* at frame 6$") as caught:
        convert(card, [raw], recipe=Recipe(stride_t=2))
    assert "--exclude-invalid" in caught.value.hint
    assert list_versions("advection1d") == []


def test_an_invalid_trajectory_can_be_kept_out_of_every_split(card, make, tensor):
    clean = convert(card, [make(tensor)], version="clean").store
    bad = [0, int(clean.split("train")[0]), int(clean.split("valid")[0])]
    spoilt = tensor.copy()
    spoilt[bad, 2] = np.nan
    raw = make(spoilt)
    recipe = Recipe(exclude_invalid=True)
    store = convert(card, [raw], recipe=recipe, version="spoilt").store
    assert store.metadata.excluded == tuple(sorted(bad))
    assert (store.splits[bad] == EXCLUDED).all()
    for name in ("train", "valid", "test"):
        assert set(store.split(name)) == set(clean.split(name)) - set(bad)
    training = tensor[store.split("train")].astype(np.float64)
    assert store.statistics["mean"][0] == pytest.approx(training.mean(), abs=1e-9)
    assert convert(card, [raw], recipe=recipe, version="spoilt").reused


def test_a_file_without_a_training_trajectory_left_is_refused(card, make, tensor):
    with pytest.raises(DataError, match="no training trajectory"):
        convert(card, [make(np.full_like(tensor, np.nan))], recipe=Recipe(exclude_invalid=True))
    assert list_versions("advection1d") == []


def test_files_on_different_grids_or_times_are_refused(card, make, tensor):
    first = make(tensor)
    for other in (make(tensor[:, :, ::2], beta=2.0), make(tensor, beta=4.0, dt=0.1)):
        with pytest.raises(DataError, match=f"^{other}: its grid or its times differ"):
            convert(card, [first, other])


def test_uneven_time_steps_are_refused(card, make, tensor):
    raw = make(tensor)
    with h5py.File(raw, "a") as file:
        file["t-coordinate"][3] = 0.16
    with pytest.raises(DataError, match="time steps vary"):
        convert(card, [raw])


def test_raw_files_are_found_in_the_datasets_folder_by_their_names(card, home, write_raw, tensor):
    folder = home / "data" / "advection1d" / "raw"
    for beta in (4, 1):
        write_raw(folder / f"1D_Advection_Sols_beta{beta}.hdf5", tensor, {"beta": beta})
    (folder / "notes.txt").write_text("")
    (folder / ".1D_Advection_Sols_beta7.hdf5.12.partial").write_text("")
    assert [path.name[-10:] for path in find_raw(card)] == ["beta1.hdf5", "beta4.hdf5"]


def test_first_trajectories_do_not_count_beside_the_whole_file(card, home, write_raw, tensor):
    folder = home / "data/advection1d/raw"
    for name in ("beta1.0.first4", "beta1.0.first9", "beta1.0", "beta2.0.first4", "beta2.0.first9"):
        write_raw(folder / f"1D_Advection_Sols_{name}.hdf5", tensor, {"beta": float(name[4:7])})
    found = [path.name.removeprefix("1D_Advection_Sols_") for path in find_raw(card)]
    assert found == ["beta1.0.hdf5", "beta2.0.first9.hdf5"]


def test_without_raw_files_the_hint_makes_some(card):
    with pytest.raises(DataError, match="no raw file named 1D_Advection_Sols_beta") as caught:
        convert(card)
    assert caught.value.hint == "ups data generate advection1d"


def test_the_newest_version_is_the_latest(card, make, tensor):
    raw = make(tensor)
    for age, version in enumerate(["b", "a", "c"]):
        convert(card, [raw], version=version)
        os.utime(store_path("advection1d", version), ns=(0, age))
    assert list_versions("advection1d") == ["c", "a", "b"]
    assert TrajectoryStore.open("advection1d").metadata.version == "c"
    with pytest.raises(DataError, match=r"no version 'bb'.*did you mean 'b'"):
        find_store("advection1d", "bb")


def test_a_store_knows_when_it_is_not_one(card, make, tensor):
    with pytest.raises(DataError, match="not a trajectory store"):
        TrajectoryStore(make(tensor))


def test_an_unknown_split_offers_the_nearest(store):
    with pytest.raises(DataError, match="did you mean 'train'"):
        store.split("trian")


def test_values_cannot_be_written_through_the_memory_map(store):
    with pytest.raises(ValueError, match="read-only"):
        store.fields[0] = 0


def test_conversions_killed_at_any_moment_continue_to_the_same_bytes(home):
    """A few kills; benchmarks/kill_conversion.py makes 200."""
    path = Path(__file__).resolve().parents[3] / "benchmarks/kill_conversion.py"
    module = types.ModuleType("kill_conversion")
    sys.modules["kill_conversion"] = module  # dataclasses look their module up
    exec(compile(path.read_text(), str(path), "exec"), vars(module))
    found = module.kill_and_compare(home, kills=3, trajectories=60)
    assert found.kills >= 3
    assert found.identical == found.runs


def _small_units(monkeypatch, trajectories, tensor):
    monkeypatch.setattr("ups.data.conversion.plan._UNIT_BYTES", trajectories * tensor[0].nbytes)


def test_finished_units_are_kept_and_damaged_ones_are_done_again(
    card, make, tensor, home, monkeypatch
):
    _small_units(monkeypatch, 5, tensor)
    raw, done = make(tensor), []

    def stop_at_ten(now, total):
        if now == 10:
            raise KeyboardInterrupt

    path = convert(card, [raw], version="v").store.path
    whole = sha256_file(path)
    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        convert(card, [raw], version="v", progress=stop_at_ten)
    folder = home / "data/advection1d/.v.converting"
    assert len(list((folder / "units").iterdir())) == 2
    with (folder / "values").open("r+b") as values:
        values.seek(4096)  # inside the first unit
        values.write(b"damage")
    convert(card, [raw], version="v", progress=lambda now, _: done.append(now))
    assert done == [10, 15, 20]  # one unit kept, three made
    assert not folder.exists()
    assert sha256_file(home / "data/advection1d/v.h5") == whole


def test_any_number_of_workers_gives_the_same_bytes(card, make, tensor, monkeypatch):
    _small_units(monkeypatch, 3, tensor)
    raw, hashes = make(tensor), set()
    for workers in (1, 2, 3):
        made = convert(card, [raw], version="v", force=True, workers=workers)
        hashes.add(sha256_file(made.store.path))
    assert len(hashes) == 1


def test_an_invalid_value_met_by_a_worker_is_one_error_and_leaves_nothing(
    card, make, tensor, home, monkeypatch
):
    _small_units(monkeypatch, 3, tensor)
    tensor[13, 4, 2] = np.nan
    with pytest.raises(DataError, match="trajectory 13: NaN or infinity first at frame 4"):
        convert(card, [make(tensor)], workers=2)
    assert [p.name for p in (home / "data/advection1d").iterdir() if "lock" not in p.name] == []


def test_shards_merge_to_what_one_machine_makes(card, make, tensor, home, monkeypatch):
    _small_units(monkeypatch, 3, tensor)
    raw = make(tensor)
    expected = sha256_file(convert(card, [raw], version="v").store.path)
    (home / "data/advection1d/v.h5").unlink()
    parts = [convert_shard(card, [raw], shard=(i, 3), version="v") for i in (3, 1, 2)]
    assert sum(part.num_trajectories for part in parts) == 20
    merged = merge_shards(card, [raw], count=3, version="v")
    assert sha256_file(merged.store.path) == expected
    assert not any(part.folder.exists() for part in parts)


def test_a_merge_names_the_shard_that_is_missing_unfinished_or_damaged(
    card, make, tensor, home, monkeypatch
):
    _small_units(monkeypatch, 3, tensor)
    raw = make(tensor)
    first = convert_shard(card, [raw], shard=(1, 2), version="v")
    with pytest.raises(DataError, match="shard 2/2 is not there") as caught:
        merge_shards(card, [raw], count=2, version="v")
    assert "--shard 2/2" in (caught.value.hint or "")
    second = convert_shard(card, [raw], shard=(2, 2), version="v")
    record = sorted((second.folder / "units").iterdir())[0]
    kept = record.read_bytes()
    record.unlink()
    with pytest.raises(DataError, match="shard 2/2 is not finished"):
        merge_shards(card, [raw], count=2, version="v")
    record.write_bytes(kept)
    with (first.folder / "values").open("r+b") as values:
        values.seek(100)
        values.write(b"damage")
    with pytest.raises(DataError, match="damaged: trajectories 0 to 2"):
        merge_shards(card, [raw], count=2, version="v")
    assert list_versions("advection1d") == []


@pytest.mark.parametrize("shard", [(0, 2), (3, 2), (1, 0)])
def test_a_shard_out_of_range_is_a_usage_error(card, make, tensor, shard):
    with pytest.raises(UsageError, match="expected I/N"):
        convert_shard(card, [make(tensor)], shard=shard)


def test_a_range_of_trajectories_keeps_their_places(card, make, tensor):
    store = convert(card, [make(tensor)], recipe=Recipe(trajectories=(4, 12))).store
    assert store.metadata.version == "beta1-from4to12"
    np.testing.assert_array_equal(store.places, np.arange(4, 12))
    np.testing.assert_array_equal(store.groups, np.arange(4, 12))
    np.testing.assert_array_equal(store.fields[..., 0], tensor[4:12])


def test_a_single_trajectory_can_be_converted_for_judging_alone(card, make, tensor):
    raw = make(tensor[:1])
    with pytest.raises(DataError, match="too few") as caught:
        convert(card, [raw])
    assert "--test-only" in (caught.value.hint or "")
    store = convert(card, [raw], recipe=Recipe(test_only=True)).store
    assert store.metadata.version == "beta1-test"
    np.testing.assert_array_equal(store.split("test"), [0])
    assert len(store.split("train")) == 0
    np.testing.assert_allclose(store.statistics["mean"], tensor[:1].mean(), rtol=1e-5)
    assert [f for f in audit(store, card) if f.verdict == "fail"] == []


def test_a_raw_file_that_is_there_twice_counts_once(card, make, tensor):
    raw = make(tensor)
    again = raw.with_name("1D_Advection_Sols_beta1_copy.hdf5")
    again.write_bytes(raw.read_bytes())
    store = convert(card, [raw, again]).store
    assert store.num_trajectories == 20
    assert store.metadata.duplicates == (again.name,)


def test_the_same_conversion_a_second_later_has_the_same_bytes(card, make, tensor):
    raw = make(tensor)
    hashes = set()
    for _ in range(2):
        hashes.add(sha256_file(convert(card, [raw], force=True).store.path))
        time.sleep(1.01)  # HDF5 would note the second
    assert len(hashes) == 1


def test_two_conversions_of_one_version_are_told_of_each_other(card, make, tensor):
    raw = make(tensor)

    def again(done, total):
        convert(card, [raw])

    with pytest.raises(DataError, match=rf"another process \(pid {os.getpid()}\) is converting"):
        convert(card, [raw], progress=again)
    assert list_versions("advection1d") == []


def peak_mebibytes(raw):
    """Highest resident size of a process that converts `raw`."""
    code = (
        "import sys, resource; from pathlib import Path; from ups.data.convert import convert; "
        "from ups.registry import load_card; "
        "convert(load_card('advection1d'), [Path(sys.argv[1])], force=True, version='v'); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    result = subprocess.run([sys.executable, "-c", code, raw], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return int(result.stdout) / scale


def test_memory_does_not_grow_with_the_input(make):
    """40 MB and 250 MB of raw data pass through the same blocks of 32 MiB."""
    frame = np.linspace(0, 1, 1024, dtype=np.float32)
    peaks = []
    for trajectories in (50, 300):
        raw = make(np.zeros((3, 200, 1024), np.float32))
        with h5py.File(raw, "a") as file:
            del file["tensor"]
            shape = (trajectories, 200, 1024)
            values = file.create_dataset("tensor", shape, np.float32)
            for index in range(0, trajectories, 50):
                values[index : index + 50] = frame
        peaks.append(peak_mebibytes(raw))
    assert peaks[1] < peaks[0] + 40, peaks
