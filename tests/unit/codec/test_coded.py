"""A store seen through a codec: the same questions for grids, meshes and moving particles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ups.codec.coded import CodedGrid, CodedPoints, CodedStore, coded, frames_of
from ups.codec.grid import GridCodec
from ups.codec.points import PointCodec, point_geometry
from ups.config.models import GridCodecConfig, PointCodecConfig
from ups.data.versions import open_store
from ups.errors import DataError
from ups.registry import load_card
from ups.training.building import grid_geometry

SMALL_POINTS = PointCodecConfig(
    anchors=(6, 6), learned=False, width=8, supernodes=8, geometry=True
)  # fmt: skip


def seen(key, velocity=True):
    """The dataset through an untrained codec in physical units."""
    store, card = open_store(key), load_card(key)
    if card.discretisation.kind == "grid":
        return coded(store, GridCodec(GridCodecConfig(patch_size=8), grid_geometry(store, card)))
    codec = PointCodec(SMALL_POINTS, point_geometry(store)).eval()
    return coded(store, codec, velocity=card.discretisation.velocity if velocity else ())


@pytest.mark.parametrize(
    ("key", "kind", "nodes"),
    [
        ("burgers1d", CodedGrid, (32,)),
        ("darcy2d", CodedGrid, (16, 16)),
        ("darcy2d_mesh", CodedPoints, None),
        ("particles_advect", CodedPoints, None),
    ],
)
def test_every_discretisation_answers_alike(small, key, kind, nodes):
    small(key)
    store = seen(key)
    assert isinstance(store, kind)
    assert isinstance(store, CodedStore)
    members, frames = np.array([3, 0, 5]), range(min(3, store.num_frames))
    tokens = store.encode(members, frames)
    assert tokens.shape == (3, len(frames), store.codec.num_tokens, store.codec.latent_dim)
    truth = store.reference(members, frames)
    fields = store.decode(tokens, members, frames)
    for mine, true in zip(fields, truth, strict=True):
        assert mine.shape == true.shape
        assert mine.shape[0] == len(frames)
        assert nodes is None or mine.shape[1:-1] == nodes
        assert torch.isfinite(mine).all()
    context = store.context(members)
    if store.codec.context_dim:
        assert context.shape == (3, store.codec.num_tokens, store.codec.context_dim)
    else:
        assert context is None


@pytest.mark.parametrize("key", ["burgers1d", "particles_advect", "darcy2d_mesh"])
def test_each_trajectory_and_frame_has_its_own_tokens(small, key):
    """The same whether asked for alone or together, in any order."""
    small(key)
    store = seen(key)
    frames = [0, 2, 4] if store.num_frames > 4 else [0]
    members = np.array([4, 1])
    together = store.encode(members, frames)
    for row, member in enumerate(members):
        for column, frame in enumerate(frames):
            alone = store.encode(np.array([member]), [frame])[0, 0]
            torch.testing.assert_close(together[row, column], alone, rtol=1e-4, atol=1e-5)


def test_a_grid_decodes_to_what_it_encoded(small):
    small("burgers1d")
    store = seen("burgers1d")
    members, frames = np.array([2, 7]), range(1, 6, 2)
    fields = store.decode(store.encode(members, frames), members, frames)
    for mine, true, row in zip(fields, store.reference(members, frames), members, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(true, store.store.fields[row][1:6:2])


@pytest.mark.parametrize("frames", [[0, 1, 2], [0, 2, 4], [3], [4, 1, 2]])
def test_frames_come_in_the_order_asked_for(small, frames):
    small("burgers1d")
    store = seen("burgers1d")
    (found,) = store.reference(np.array([6]), frames)
    np.testing.assert_array_equal(found, store.store.fields[6][frames])


def test_predicted_velocities_carry_nodes_around_the_period(small, monkeypatch):
    """In a uniform flow from the second step on; the last channel tells where each node is."""
    small("particles_advect")
    usual = seen("particles_advect")
    store = CodedPoints(usual.store, usual.codec, velocity=("velocity_x", "velocity_y"))

    def uniform(tokens, coords, sample):
        values = torch.zeros(len(coords), store.store.num_fields)
        values[:, store._velocity[0]], values[:, store._velocity[1]] = 0.5, -0.25
        values[:, -1] = coords[:, 0]
        return values

    monkeypatch.setattr(usual.codec, "decode", uniform)
    member, frames = np.array([1]), [1, 2, 3, 4]
    (found,) = store.decode(torch.zeros(1, 4, 36, usual.codec.latent_dim), member, frames)
    time = store.store.time
    start = torch.tensor(store.store.coords(1, slice(0, 1))[0])[:, 0]
    speed = torch.tensor(store.store.fields(1, slice(0, 1))[0])[:, store._velocity[0]]
    first = start + (time[1] - time[0]) * (speed + 0.5) / 2
    for index, frame in enumerate(frames):
        expected = torch.remainder(first + 0.5 * float(time[frame] - time[1]), 1.0)
        difference = (found[index, :, -1] - expected + 0.5) % 1 - 0.5
        assert difference.abs().max() < 1e-5


def test_nodes_that_move_for_unknown_reasons_are_refused(small):
    small("particles_advect")
    store = seen("particles_advect", velocity=False)
    members = np.array([0])
    tokens = store.encode(members, [0])
    with pytest.raises(DataError, match="does not say which fields move them"):
        store.decode(tokens, members, [0])


def test_frames_for_fitting_are_spread_over_the_split(small):
    small("burgers1d")
    store = open_store("burgers1d")
    every = range(store.num_frames)
    parts = list(frames_of(store, "train", every, 12, batch_size=5))
    assert [len(part) for part in parts] == [5, 5, 2]
    rows = store.fields[store.split("train")].reshape(-1, 32, 1)
    (places,) = zip(*(np.nonzero((rows == frame.numpy()).all((1, 2)))[0][:1]
                      for part in parts for frame in part), strict=True)  # fmt: skip
    assert (places[0], places[-1]) == (0, len(rows) - 1)
    assert (np.diff(places) > 0).all()
    assert sum(map(len, frames_of(store, "train", every, 10**6))) == len(rows)
    (late,) = frames_of(store, "train", range(6, 9), 10**6)
    np.testing.assert_array_equal(
        late, store.fields[store.split("train")][:, 6:].reshape(late.shape)
    )
