"""Moved trajectories in the cache: they decode to moved fields, and training draws from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import cached, operator_stage, small_experiment

from ups.config.base import validated
from ups.config.schema import Experiment
from ups.errors import ConfigError
from ups.training.building import build_codec, coded_task
from ups.training.latents import cache_identity
from ups.training.repeats import MovedTrajectories, moves_of
from ups.training.session import open_session


def opened(key, **changes):
    session = open_session(small_experiment(key, **changes))
    torch.manual_seed(0)
    (task,) = session.tasks
    return session, task, build_codec(session, task).eval()


def error_of(coded, batch, tokens):
    """Root mean square of decoded minus true fields."""
    truth = batch.fields if batch.fields.ndim == 3 else batch.fields[0]
    return np.sqrt(np.mean((decoded(coded, batch, tokens) - truth) ** 2))


def decoded(coded, batch, tokens):
    """Fields of all frames where the moved nodes or points are."""
    codec = coded.codec
    if batch.fields.ndim == 3:  # points: (time, node, channel)
        coords = torch.from_numpy(batch.coords)
        if coords.ndim == 2:
            return codec.decode_frames(tokens, coords).numpy()
        frames = [
            codec.decode_frames(one[None], at)[0] for one, at in zip(tokens, coords, strict=True)
        ]
        return torch.stack(frames).numpy()
    return codec.decode(tokens).numpy()


@pytest.mark.parametrize(
    ("key", "moves"),
    [("burgers1d", ("shift", "reflection")), ("reaction_diffusion2d", ("reflection", "rotation")),
     ("darcy2d", ("reflection", "rotation")),
     ("particles_advect", ("shift", "reflection", "rotation"))],
)  # fmt: skip
@torch.no_grad()
def test_moved_tokens_decode_to_moved_fields_as_well_as_unmoved_ones(small, key, moves):
    small(key)
    _, task, codec = opened(key)
    assert moves_of(task) == moves
    coded = coded_task(task, codec)
    moved = MovedTrajectories(task, coded, moves, seed=0)
    for row in task.store.split("train")[:4]:
        still, batch = moved._windows.read(row[None], np.array([0])), moved.read(int(row), 1)
        assert np.abs(batch.fields - still.fields).max() > 0.01  # it did move
        floor = error_of(coded, still, coded.encode(row[None], range(coded.num_frames))[0])
        assert error_of(coded, batch, moved.encode(row[None], 1)[0]) <= 1.5 * floor + 1e-6


def test_moves_follow_from_seed_repeat_and_row(small):
    small("burgers1d")
    _, task, codec = opened("burgers1d")
    coded = coded_task(task, codec)
    moved = MovedTrajectories(task, coded, moves_of(task), seed=0)
    rows = task.store.split("train")[:3]
    together = moved.encode(rows, 2)
    assert torch.equal(together[1], moved.encode(rows[1:2], 2)[0])
    assert not torch.equal(together, moved.encode(rows, 1))
    other = MovedTrajectories(task, coded, moves_of(task), seed=1)
    assert not torch.equal(together, other.encode(rows, 2))


@pytest.mark.parametrize("key", ["burgers1d", "darcy2d"])
def test_training_draws_from_all_repeats_and_the_first_is_the_plain_split(small, key):
    small(key)
    plain = operator_stage(key).mixture.tasks[0]
    stage = operator_stage(key, cache={"repeats": 3})
    (task,) = stage.mixture.tasks
    count = plain.num_trajectories("train")
    assert task.num_trajectories("train") == 3 * count
    assert task.num_trajectories("valid") == plain.num_trajectories("valid")
    assert len(task) == len(plain)
    rows, starts = np.arange(count), np.zeros(count, dtype=np.int64)
    assert torch.equal(
        task.windows("train", rows, starts, 1), plain.windows("train", rows, starts, 1)
    )
    again = task.given("train", rows + 2 * count)
    assert torch.equal(again.parameters, plain.given("train", rows).parameters)
    if key == "darcy2d":
        assert torch.equal(task.given("train", rows).context, plain.given("train", rows).context)
        assert not torch.equal(again.context, plain.given("train", rows).context)
    drawn = np.concatenate([stage.batch(step, 0).rows for step in range(30)])
    assert set(np.unique(drawn // count)) == {0, 1, 2}
    assert torch.isfinite(stage.losses(stage.batch(0, 0), 0.0)["forward"])


def test_repeats_are_part_of_the_identity(small):
    small("burgers1d")
    session, task, codec = opened("burgers1d", cache={"repeats": 2, "seed": 5})
    identity = cache_identity(task, codec, session.experiment.cache)
    assert (identity.repeats, identity.moves, identity.seed) == (2, "shift,reflection", 5)
    once = session.experiment.cache.model_copy(update={"repeats": 1})
    plain = cache_identity(task, codec, once)
    assert (plain.repeats, plain.moves, plain.seed) == (1, "", 0)


def test_a_card_without_symmetries_refuses_repeats(small):
    small("darcy2d_mesh")
    session, _, codec = opened("darcy2d_mesh", cache={"repeats": 2})
    with pytest.raises(ConfigError, match="the card of darcy2d_mesh names no symmetry") as caught:
        cached(session, {"darcy2d_mesh": codec})
    assert caught.value.hint == "--set cache.repeats=1"
    assert caught.value.exit_code == 2


def test_losses_of_fields_refuse_repeats(small):
    small("burgers1d")
    with pytest.raises(ConfigError, match=r"losses\.nrmse: needs fields, and cache\.repeats"):
        operator_stage(
            "burgers1d", cache={"repeats": 2}, stages={"operator": {"losses": {"nrmse": 1.0}}}
        )


def test_samples_are_moved_in_one_way_only():
    content = {"name": "x", "data": {"dataset": "burgers1d", "augment": ["shift"]},
               "cache": {"repeats": 2}}  # fmt: skip
    with pytest.raises(ConfigError, match=r"cache\.repeats: data\.augment encodes every sample"):
        validated(Experiment, content, "here")
