"""The audit finds what was broken on purpose, and nothing in what was not."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ups.data.audit import audit, worst
from ups.data.convert import Recipe, convert
from ups.data.store import TrajectoryStore
from ups.registry import load_card


@pytest.fixture
def card():
    return load_card("advection1d")


@pytest.fixture
def converted(tmp_path, advected, write_raw, card):
    """converted(change, **options) -> store of 20 advected trajectories, changed before."""

    def make(change=lambda tensor: None, **recipe):
        tensor = advected(20, 11, 32, 1.0, 0)
        change(tensor)
        raw = write_raw(tmp_path / "raw.hdf5", tensor, {"beta": 1.0})
        return convert(card, [raw], recipe=Recipe(**recipe), version="v", force=True).store

    return make


def verdicts(store, card):
    return {finding.check: finding for finding in audit(store, card)}


def failed(store, card):
    return {name for name, finding in verdicts(store, card).items() if finding.verdict == "fail"}


def test_a_sound_version_has_nothing_worse_than_a_note(converted, card):
    findings = audit(converted(), card)
    assert worst(findings) == "note"
    assert {f.check for f in findings if f.verdict == "note"} == {"known issue"}


def test_a_flipped_byte_is_found(converted, card):
    path = converted().path
    with h5py.File(path) as file:
        place = file["fields"].id.get_offset() + 4321
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    assert "bytes" in failed(TrajectoryStore(path), card)


@pytest.mark.parametrize(
    ("key", "check", "detail"),
    [
        ("split", "split record", "do not match their recorded hash"),
        ("group", "split record", "do not match their recorded hash"),
        ("statistics/rms", "statistics", "stored rms is off"),
        ("statistics/max", "statistics", "stored max is off"),
    ],
)
def test_a_tampered_record_is_found(converted, card, key, check, detail):
    path = converted().path
    with h5py.File(path, "a") as file:
        values = file[key][()]
        values[0] += 1
        file[key][...] = values
    found = verdicts(TrajectoryStore(path), card)[check]
    assert found.verdict == "fail"
    assert detail in found.detail


def test_a_split_that_the_cards_rule_would_not_make_is_found(converted, card):
    other = card.model_copy(update={"splits": card.splits.model_copy(update={"seed": 5})})
    found = verdicts(converted(), other)["split record"]
    assert (found.verdict, found.detail) == ("fail", "the splits differ from the card's rule")


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_an_initial_state_in_two_splits_is_found(converted, card, noise):
    trained = int(converted().split("train")[3])

    def repeat(tensor):
        tensor[0] = tensor[trained] * (1 + noise)

    found = verdicts(converted(repeat), card)["leaks"]
    assert found.verdict == "fail"
    assert f"trajectory {trained} (train) and 0 (test) start from the same state" in found.detail


def test_merely_similar_initial_states_are_no_leak(converted, card):
    trained = int(converted().split("train")[3])

    def resemble(tensor):
        tensor[0] = tensor[trained] * 1.01

    assert "leaks" not in failed(converted(resemble), card)


def test_a_constant_field_is_found(converted, card):
    def freeze(tensor):
        tensor[5] = 0.25

    found = verdicts(converted(freeze), card)["constant"]
    assert (found.verdict, found.detail) == ("fail", "a field never changes in trajectory 5")


def test_frames_of_zeros_are_found(converted, card):
    def fail_run(tensor):
        tensor[7, 4:] = 0

    assert "zero frames" in failed(converted(fail_run), card)


def test_invalid_values_are_no_failure_once_excluded(converted, card):
    def spoil(tensor):
        tensor[7, 4, 2] = np.nan
        tensor[9, 4, 2] = np.inf

    found = verdicts(converted(spoil, exclude_invalid=True), card)
    assert found["finite"].verdict == "warn"
    assert "trajectories 7, 9, excluded" in found["finite"].detail
    assert {name for name, finding in found.items() if finding.verdict == "fail"} == set()
    assert found["conservation"].verdict == "ok"


def test_invalid_values_in_a_split_are_found(converted, card):
    def spoil(tensor):
        tensor[7, 4, 2] = np.nan

    path = converted(spoil, exclude_invalid=True).path
    with h5py.File(path, "a") as file:
        file["split"][7] = 1
        text = file["metadata"][()].tobytes().replace(b'"excluded": [7]', b'"excluded": []')
        del file["metadata"]
        file["metadata"] = np.frombuffer(text, np.uint8)
    assert "finite" in failed(TrajectoryStore(path), card)


def test_a_mean_that_drifts_is_found(converted, card):
    def drift(tensor):
        tensor[3] += np.linspace(0, 0.3, 11)[:, None]

    assert verdicts(converted(drift), card)["conservation"].verdict == "warn"


def test_a_parameter_outside_the_cards_range_is_found(converted, card):
    narrow = card.parameters[0].model_copy(update={"range": (2.0, 7.0)})
    other = card.model_copy(update={"parameters": (narrow,)})
    assert verdicts(converted(), other)["parameters"].verdict == "warn"


def test_the_damaged_trajectory_is_named(converted, card):
    path = converted().path
    with h5py.File(path, "a") as file:
        file["fields"][13, 2] += 1
    assert "trajectory 13" in verdicts(TrajectoryStore(path), card)["bytes"].detail


@pytest.mark.parametrize(("copy", "verdict"), [((3, 4), "note"), ((0, 12), "fail")])
def test_equal_trajectories_are_a_note_in_one_split_and_a_failure_across_two(
    converted, card, copy, verdict
):
    def repeat(tensor):
        tensor[copy[0]] = tensor[copy[1]]

    store = converted(repeat)
    splits = store.splits[list(copy)]
    assert (splits[0] == splits[1]) == (verdict == "note"), splits
    assert verdicts(store, card)["duplicates"].verdict == verdict


def test_copies_of_test_trajectories_are_left_out_where_content_divides(converted, card):
    def repeat(tensor):
        tensor[12] = tensor[0]

    by_content = card.splits.model_copy(update={"kept_apart_by": "content"})
    card = card.model_copy(update={"splits": by_content})
    tensor_store = converted(repeat)  # made by the card's own rule
    assert "duplicates" in failed(tensor_store, card)
    raw = tensor_store.path.parents[3] / "raw.hdf5"
    store = convert(card, [raw], version="content").store
    found = verdicts(store, card)
    assert found["duplicates"].verdict == "note"
    assert "1 left out" in found["duplicates"].detail
    assert {f.verdict for f in found.values()} <= {"ok", "note"}


@pytest.mark.parametrize("key", ["time", "coords/x"])
def test_coordinates_that_turn_back_are_found(converted, card, key):
    path = converted().path
    with h5py.File(path, "a") as file:
        file[key][3] = file[key][5]
    assert "coordinates" in failed(TrajectoryStore(path), card)


def test_a_field_that_must_be_positive_and_is_not_is_found(converted, card):
    positive = card.fields[0].model_copy(update={"positive": True})
    other = card.model_copy(update={"fields": (positive,)})
    assert "positivity" in failed(converted(), other)


def test_states_shared_between_files_are_noted_and_kept_in_one_split(
    tmp_path, advected, write_raw, card
):
    raws = []
    for beta in (1.0, 2.0):
        name = tmp_path / f"1D_Advection_Sols_beta{beta}.hdf5"
        raws.append(write_raw(name, advected(20, 11, 32, beta, 0), {"beta": beta}))
    found = verdicts(convert(card, raws, version="both").store, card)
    assert found["between files"].verdict == "note"
    assert "20 trajectories" in found["between files"].detail
    assert found["leaks"].verdict == "ok"


def test_pdebenchs_own_file_passes(shared_pdebench):
    card = load_card("burgers1d")
    raw = shared_pdebench / "1D_Burgers_Sols_Nu0.001.hdf5"
    findings = audit(convert(card, [raw]).store, card)
    assert [finding for finding in findings if finding.verdict == "fail"] == []
