"""Windows encoded on the spot: unmoved they are the cached ones, else those of moved fields."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import operator_stage

from ups.errors import ConfigError


def fresh_of(stage):
    (task,) = stage.mixture.tasks
    return task, stage._fresh[task.name]


class Unmoved(np.random.Generator):
    """A source of random numbers by which no axis is mirrored and nothing is shifted."""

    def random(self, size=None):
        return 0.999 if size is None else np.full(size, 0.999)

    def integers(self, low, high=None, size=None):
        return 0 if size is None else np.zeros(size, dtype=np.int64)


def test_unmoved_windows_are_the_cached_ones(small, monkeypatch):
    small("burgers1d")
    stage = operator_stage("burgers1d", data={"augment": ["reflection"]})
    task, fresh = fresh_of(stage)
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Unmoved(np.random.PCG64(0)))
    rows, starts = np.array([0, 3, 5]), np.array([0, 2, 1])
    tokens, given, fields = fresh.read(rows, starts, 4, 1, 0, 0)
    expected = task.windows("train", rows, starts, 4)
    torch.testing.assert_close(tokens, expected, rtol=2e-3, atol=2e-3)  # the cache is float16
    assert torch.equal(given.parameters, task.given("train", rows).parameters)
    members = task.members("train")[rows]
    stored = np.stack(
        [task.data.store.fields[m, s : s + 4] for m, s in zip(members, starts, strict=True)]
    )
    np.testing.assert_array_equal(fields.numpy(), stored)


@pytest.mark.parametrize("key", ["burgers1d", "reaction_diffusion2d"])
def test_moved_windows_are_the_encoded_mirror_images(small, key):
    small(key)
    stage = operator_stage(key, data={"augment": ["reflection"]})
    task, fresh = fresh_of(stage)
    store, codec = task.data.store, task.coded.codec
    rows, starts = np.arange(6), np.zeros(6, dtype=np.int64)
    tokens, _, fields = fresh.read(rows, starts, 3, 1, 1, 0)
    moved = 0
    axes = range(1, 1 + len(store.space))
    sets = [[a for a in axes if chosen >> (a - 1) & 1] for chosen in range(2 ** len(store.space))]
    for row, found in zip(rows, fields, strict=True):
        stored = torch.tensor(store.fields[task.members("train")[row]][:3])
        sign = -1 if key == "burgers1d" else 1
        images = {
            tuple(one): stored.flip(one) * (sign if one else 1) for one in sets
        }  # u -> -u(-x): the velocity of Burgers' equation turns with its axis
        same = [one for one, image in images.items() if torch.equal(found, image)]
        assert same, "no mirror image"
        moved += bool(same[0])
    assert moved
    with torch.no_grad():
        expected = codec.encode(fields.flatten(0, 1)).unflatten(0, (6, 3))
    torch.testing.assert_close(tokens, expected)


def test_a_batch_depends_on_its_step_alone(small):
    small("reaction_diffusion2d")
    stage, again = (
        operator_stage("reaction_diffusion2d", data={"augment": ["reflection", "rotation"]})
        for _ in range(2)
    )
    stage.batch(0, 0)
    assert torch.equal(stage.batch(1, 0).tokens, again.batch(1, 0).tokens)
    assert not torch.equal(stage.batch(1, 0).tokens, stage.batch(2, 0).tokens)


def test_history_and_stride_stay_inside_the_trajectory(small):
    small("burgers1d")
    stage = operator_stage(
        "burgers1d", operator={"history": 2}, data={"augment": ["shift"]},
        stages={"operator": {"max_stride": 2}},
    )  # fmt: skip
    for step in range(6):
        batch = stage.batch(step, 0)
        assert (batch.frames[:, 0] - 2 * batch.stride).min() >= 0
        assert batch.fields.shape[:2] == (4, 4)
        losses = stage.losses(batch, 0.0)
        assert torch.isfinite(losses["forward"])


def test_steady_problems_are_moved_with_their_coefficients(small):
    small("darcy2d")
    stage = operator_stage("darcy2d", data={"augment": ["reflection", "rotation"]})
    task, fresh = fresh_of(stage)
    rows = np.arange(4)
    tokens, given, fields = fresh.read(rows, np.zeros_like(rows), 1, 1, 3, 0)
    assert tokens.shape[:2] == (4, 1)
    assert fields.shape[1] == 1
    assert not torch.equal(given.context, task.given("train", rows).context.float())
    assert torch.isfinite(stage.losses(stage.batch(0, 0), 0.0)["forward"])


@pytest.mark.parametrize(
    ("key", "augment", "why"),
    [("advection1d", "reflection", "its card has none of reflection"),
     ("particles_advect", "shift", "is not on a grid")],
)  # fmt: skip
def test_what_cannot_be_augmented_says_why(small, key, augment, why):
    small(key)
    with pytest.raises(ConfigError, match=f"data.augment: {key}: {why}"):
        operator_stage(key, data={"augment": [augment]})
