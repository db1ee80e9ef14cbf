"""Mixtures: proportions from the first steps on, every batch at its place, resumed exactly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from window_samples import burgers, points

from ups.data.reading.mixing import Mixture, count_below, reversed_bits, weights_by
from ups.data.reading.windows import Windows
from ups.errors import ConfigError

WHOLE = 2**60


@pytest.fixture
def tasks(tmp_path, write_raw):
    """a: 10 windows for each of 16 trajectories; b: 3 for each; c: particles."""
    store, card = burgers(tmp_path, write_raw)
    _, particles, point_card = points(tmp_path, "particles")
    return [
        Windows(store, card, horizon=2, name="a", seed=1),
        Windows(store, card, horizon=9, name="b", seed=2),
        Windows(particles, point_card, name="c", seed=3),
    ]


def order(mixture, steps):
    return [mixture.locate(step) for step in range(steps)]


@given(st.integers(0, 700), st.integers(0, WHOLE), st.integers(0, WHOLE - 1))
def test_counting_points_is_counting_them_one_by_one(steps, bound, key):
    one_by_one = sum((reversed_bits(n) ^ key) < bound for n in range(steps))
    assert count_below(steps, bound, key) == one_by_one


def test_counting_far_out_costs_nothing():
    assert count_below(10**15, WHOLE // 2, 12345) == pytest.approx(5 * 10**14, abs=30)


@pytest.mark.parametrize(
    "weights", [{"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 0.901, "b": 0.09, "c": 0.009},
                {"a": 5.0, "b": 0.0, "c": 3.0}],
)  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_proportions_hold_from_the_first_steps_on(tasks, weights, seed):
    mixture, total = Mixture(tasks, weights, seed=seed), sum(weights.values())
    seen = dict.fromkeys("abc", 0)
    for step in range(600):
        assert mixture.counts(step) == seen
        for name, count in seen.items():
            expected = step * weights[name] / total
            assert abs(count - expected) <= math.log2(step + 2) / 3 + 2, (step, name)
        task, number = mixture.locate(step)
        name = mixture.names[task]
        assert number == seen[name], "each task's batches come in order without a gap"
        seen[name] += 1
    assert all((seen[name] > 0) == (weight > 0) for name, weight in weights.items())


def test_the_order_depends_on_the_seed(tasks):
    assert order(Mixture(tasks, seed=1), 50) == order(Mixture(tasks, seed=1), 50)
    assert order(Mixture(tasks, seed=1), 50) != order(Mixture(tasks, seed=2), 50)


def test_a_batch_is_the_tasks_own_next_one(tasks):
    mixture = Mixture(tasks, seed=4, batch_sizes={"c": 2})
    kinds = set()
    for step in range(12):
        task, number = mixture.locate(step)
        batch = mixture.batch(step, 5)
        size = 2 if mixture.names[task] == "c" else 5
        expected = tasks[task].batch(number, size)
        assert len(batch) == size
        assert batch.problem.task == mixture.names[task]
        np.testing.assert_array_equal(batch.fields, expected.fields)
        kinds.add(batch.problem.kind)
    assert kinds == {"grid", "particles"}
    assert mixture.batch_bytes(5) == max(
        tasks[0].batch_bytes(5), tasks[1].batch_bytes(5), tasks[2].batch_bytes(2)
    )


def test_weights_by_rule(tasks):
    assert weights_by("uniform", tasks) == (1 / 3,) * 3
    sizes = [len(task) for task in tasks]
    assert sizes[0] != sizes[1]
    assert weights_by("size", tasks) == pytest.approx([size / sum(sizes) for size in sizes])
    assert weights_by("custom", tasks, {"a": 1, "b": 0, "c": 3}) == (0.25, 0, 0.75)
    found = weights_by("inverse_nrmse", tasks, {"a": 0.1, "b": 0.2, "c": 0.4})
    assert found == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@pytest.mark.parametrize(
    ("rule", "values", "what"),
    [
        ("custom", {"a": 1.0, "b": 1.0}, "no value for c"),
        ("custom", {"a": 1.0, "b": 1.0, "d": 1.0}, "unknown task 'd'"),
        ("custom", {"a": 0.0, "b": 0.0, "c": 0.0}, "all of them are zero"),
        ("custom", {"a": -1.0, "b": 1.0, "c": 1.0}, "a: -1.0 cannot be used"),
        ("inverse_nrmse", {"a": 0.0, "b": 1.0, "c": 1.0}, "a: 0.0 cannot be used"),
        ("inverse_nrmse", {"a": math.nan, "b": 1.0, "c": 1.0}, "a: nan cannot be used"),
        ("inverse_nrmse", None, "no value for a, b, c"),
    ],
)
def test_weights_that_cannot_be_used_are_named(tasks, rule, values, what):
    with pytest.raises(ConfigError, match=what):
        weights_by(rule, tasks, values)


def test_renewed_weights_leave_the_past_alone_and_no_gap(tasks):
    mixture = Mixture(tasks, seed=1)
    before = order(mixture, 300)
    mixture.renew(100, "inverse_nrmse", {"a": 0.1, "b": 1.0, "c": 1.0})
    mixture.renew(200, "inverse_nrmse", {"a": 1.0, "b": 1.0, "c": 0.1})
    after = order(mixture, 300)
    assert after[:100] == before[:100]
    seen = [0, 0, 0]
    for task, number in after:
        assert number == seen[task]
        seen[task] += 1
    shares = np.bincount([task for task, _ in after[200:]], minlength=3) / 100
    np.testing.assert_allclose(shares, [1 / 12, 1 / 12, 10 / 12], atol=0.04)
    with pytest.raises(ConfigError, match="before 200"):
        mixture.renew(199, "uniform")
    mixture.renew(200, "uniform")
    assert [phase.start for phase in mixture.phases] == [0, 100, 200]


def test_a_resumed_mixture_goes_on_at_the_exact_sample(tasks):
    mixture = Mixture(tasks, "size", seed=7)
    mixture.renew(40, "inverse_nrmse", {"a": 0.3, "b": 0.1, "c": 0.2})
    state = json.loads(json.dumps(mixture.state_dict()))
    assert len(json.dumps(state)) < 600
    resumed = Mixture(tasks, seed=7)
    resumed.load_state_dict(state)
    for step in (0, 39, 40, 41, 77, 10**6):
        assert resumed.locate(step) == mixture.locate(step)
        one, other = resumed.batch(step, 3), mixture.batch(step, 3)
        np.testing.assert_array_equal(one.fields, other.fields)
        np.testing.assert_array_equal(one.starts, other.starts)
    for options in ({"seed": 8}, {"seed": 7, "tasks": tasks[:2]}):
        other = Mixture(options.pop("tasks", tasks), **options)
        with pytest.raises(ConfigError, match="the state has"):
            other.load_state_dict(state)


def test_tasks_need_names_of_their_own(tasks):
    with pytest.raises(ConfigError, match="distinct names, found a, a"):
        Mixture([tasks[0], tasks[0]])
    with pytest.raises(ConfigError, match="found none"):
        Mixture([])
    with pytest.raises(ConfigError, match="batch_sizes: x"):
        Mixture(tasks, batch_sizes={"x": 3})
    with pytest.raises(ValueError, match="negative"):
        Mixture(tasks).locate(-1)
