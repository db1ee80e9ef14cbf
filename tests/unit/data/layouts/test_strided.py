"""Strided reads: equal to numpy's, in small pieces, without chunks nobody wants."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ups.data.layouts import strided

SHAPE = (4, 11, 9)
VALUES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
STORAGE = {
    "contiguous": {},
    "chunked": {"chunks": (2, 5, 9)},
    "compressed": {"chunks": (1, 4, 5), "compression": "lzf"},
}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    with h5py.File(tmp_path_factory.mktemp("strided") / "a.h5", "w") as file:
        yield {name: file.create_dataset(name, data=VALUES, **how) for name, how in STORAGE.items()}


def part_of(length):
    bound = st.none() | st.integers(0, length + 2)
    return st.builds(slice, bound, bound, st.none() | st.integers(1, length + 2))


@pytest.mark.parametrize("storage", STORAGE)
@given(
    selection=st.tuples(*map(part_of, SHAPE)),
    piece=st.sampled_from([4, 100, 800, 2**22]),
    run=st.sampled_from([1, 36, 4096]),
)
def test_any_selection_in_pieces_of_any_size_is_numpys(arrays, storage, selection, piece, run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "_PIECE_BYTES", piece)
        patch.setattr(strided, "_LONG_RUN_BYTES", run)
        expected = VALUES[selection]
        out = np.full(expected.shape, np.nan, np.float32)
        strided.fill(out, arrays[storage], selection)
    np.testing.assert_array_equal(out, expected)


def test_no_piece_is_read_from_more_bytes_than_allowed(arrays, monkeypatch):
    monkeypatch.setattr(strided, "_PIECE_BYTES", 200)
    read = []
    original = strided._read

    def spy(dataset, wanted, steps):
        spans = [(w[-1] - w[0]) // s + 1 for w, s in zip(wanted, steps, strict=True)]
        read.append(4 * int(np.prod(spans)))
        return original(dataset, wanted, steps)

    monkeypatch.setattr(strided, "_read", spy)
    everything = (slice(None), slice(None, None, 2), slice(None, None, 3))
    list(strided.pieces(arrays["contiguous"], everything))
    assert len(read) > 1
    assert max(read) <= 200


def test_pieces_of_a_chunked_array_end_with_its_chunks(arrays, monkeypatch):
    monkeypatch.setattr(strided, "_PIECE_BYTES", 4 * 3 * 11 * 9)
    everything = (slice(None),) * 3
    starts = [place[0].start for place, _ in strided.pieces(arrays["chunked"], everything)]
    assert len(starts) > 1
    assert all(start % 2 == 0 for start in starts)


def test_a_step_over_whole_chunks_leaves_them_unread(arrays):
    every_fifth = (slice(0, 1), slice(None, None, 5), slice(None))
    places = [place for place, _ in strided.pieces(arrays["compressed"], every_fifth)]
    assert [place[1] for place in places] == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_what_does_not_fit_float32_becomes_infinity_quietly(tmp_path):
    with h5py.File(tmp_path / "wide.h5", "w") as file:
        file["wide"] = np.array([1.0, 1e300])
        out = np.empty(2, np.float32)
        strided.fill(out, file["wide"], (slice(None),))
    assert out.tolist() == [1.0, np.inf]
