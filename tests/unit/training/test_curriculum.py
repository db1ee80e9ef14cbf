"""Phases in steps and epochs, tasks that come and go, weights that follow the errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ups.config.stages import OperatorStageConfig
from ups.errors import ConfigError
from ups.training.curriculum import Curriculum, spans, steps_of
from ups.training.tasks import LatentTask, TaskMixture


class Named(LatentTask):
    """A task with a name and a size."""

    def __init__(self, name, size=10, weight=1.0):
        self.size = size
        self.data = SimpleNamespace(name=name, config=SimpleNamespace(weight=weight))

    def __len__(self):
        return self.size


def curriculum(*phases, rule="uniform", tasks=("a", "b", "c"), samples=100, seed=0):
    config = OperatorStageConfig(curriculum=phases, batch_size=8)
    named = [one if isinstance(one, Named) else Named(one) for one in tasks]
    return Curriculum(TaskMixture(named, seed=seed), spans(config, samples), rule)


def drawn(found, steps, start=0, validate=None):
    """Names and numbers of the batches, entered step by step."""
    names = []
    for step in range(start, steps):
        if validate and step % 4 == 0:
            found.validated(step, validate(step))
        found.enter(step)
        task, number = found.mixture.draw(step)
        names.append((task.name, number))
    return names


def test_a_length_is_steps_or_epochs_or_phases():
    assert steps_of(OperatorStageConfig(steps=7), 100) == 7
    assert steps_of(OperatorStageConfig(epochs=3, batch_size=8), 100) == 3 * 13
    phases = OperatorStageConfig(batch_size=8, curriculum=({"steps": 5}, {"epochs": 2}))
    assert steps_of(phases, 100) == 5 + 2 * 13
    assert [(span.start, span.end) for span in spans(phases, 100)] == [(0, 5), (5, 31)]


def test_tasks_come_and_go_with_their_phases():
    found = curriculum({"steps": 6, "tasks": ["a"]}, {"steps": 8, "tasks": ["b", "c"]})
    names = drawn(found, 20)
    assert {name for name, _ in names[:6]} == {"a"}
    assert {name for name, _ in names[6:14]} == {"b", "c"}
    assert {name for name, _ in names[14:]} == {"b", "c"}, "the last phase goes on"


def test_every_task_gives_its_own_batches_without_a_gap():
    found = curriculum({"steps": 5}, {"steps": 6, "tasks": ["a"]}, {"steps": 9})
    numbers = {}
    for name, number in drawn(found, 20):
        assert number == numbers.get(name, 0)
        numbers[name] = number + 1


def test_a_phase_may_weigh_its_tasks():
    found = curriculum(
        {"steps": 400, "mixing": "custom", "weights": {"a": 3, "b": 1}},
        {"steps": 400, "mixing": "size"},
        tasks=(Named("a", 10), Named("b", 30), Named("c", 40)),
    )
    names = [name for name, _ in drawn(found, 800)]
    assert abs(names[:400].count("a") - 300) < 4
    assert names[:400].count("c") == 0
    assert abs(names[400:].count("c") - 200) < 4


def test_inverse_nrmse_gives_batches_to_what_is_learned_already():
    """Weights are 1 / nRMSE: half the error, twice the batches."""
    found = curriculum(rule="inverse_nrmse", tasks=("a", "b"))
    found.validated(10, {"a": 0.1, "b": 0.2})
    names = [name for name, _ in drawn(found, 310, start=10)]
    assert abs(names.count("a") - 200) < 4


def test_tasks_out_of_a_phase_get_no_weight_from_their_errors():
    found = curriculum({"steps": 40, "tasks": ["a", "b"], "mixing": "inverse_nrmse"})
    names = drawn(found, 40, validate=lambda step: {"a": 0.1, "b": 0.2, "c": 0.01})
    assert {name for name, _ in names} == {"a", "b"}


def test_an_error_that_is_not_finite_leaves_the_weights_as_they_are():
    found = curriculum(rule="inverse_nrmse", tasks=("a", "b"))
    found.validated(4, {"a": 0.1, "b": 0.3})
    before = found.mixture.weights
    found.validated(8, {"a": float("nan"), "b": 0.3})
    assert found.mixture.weights == before


@pytest.mark.parametrize("stop", [3, 6, 7, 13])
def test_a_resumed_curriculum_draws_the_same_batches(stop):
    phases = ({"steps": 6, "tasks": ["a", "b"]}, {"steps": 20, "mixing": "inverse_nrmse"})

    def errors(step):
        return {"a": 0.1 + step / 10, "b": 0.5, "c": 0.3}

    whole = drawn(curriculum(*phases), 26, validate=errors)
    first = curriculum(*phases)
    assert drawn(first, stop, validate=errors) == whole[:stop]
    again = curriculum(*phases)
    again.load_state_dict(first.state_dict())
    assert drawn(again, 26, start=stop, validate=errors) == whole[stop:]


def test_an_unknown_task_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown task 'bb' \(did you mean 'b'\?\)") as caught:
        curriculum({"steps": 3, "tasks": ["bb"]}, tasks=("a", "b"))
    assert caught.value.hint == "tasks: a, b"
    with pytest.raises(ConfigError, match="unknown task 'z'"):
        curriculum({"steps": 3, "mixing": "custom", "weights": {"z": 1}})
