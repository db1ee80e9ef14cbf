"""Search on rollouts whose best continuation is known; what physics says of frames."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ups.errors import UsageError
from ups.evaluation.rewards import Problem, Rewards, Term, roughness
from ups.evaluation.search import Plan, Search
from ups.models.flow import seeded
from ups.models.layout import Given, TokenLayout
from ups.models.surrogate import Surrogate
from ups.physics.grids import UniformGrid
from ups.physics.measures import Measures
from ups.registry import load_card

LAYOUT = TokenLayout(
    anchors=(1,), periodic=(True,), latent_dim=1, num_fields=1, separable=True, points_per_token=1,
    conserved=(False,), num_parameters=0, dt=0.1,
)  # fmt: skip
GIVEN = Given(torch.zeros(1, 0), torch.ones(1))


class Grows(nn.Module):
    """The operator: a state of one number, times a factor."""

    history = 1

    def __init__(self, factor):
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, history, given, task):
        assert len(given) == len(history)
        self.calls += len(history)
        return self.factor * history[:, -1]


class Draws(nn.Module):
    """The residual model: adds `step`, or noise where there is none; four evaluations each."""

    def __init__(self, step=None):
        super().__init__()
        self.step, self.calls = step, 0
        self.config = SimpleNamespace(sampling_steps=4)

    def port(self, task):
        return SimpleNamespace(gain=torch.zeros(()), spread=torch.ones(()))

    def correction(self, prediction, previous, given, task, generator=None):
        if generator is None:
            return torch.zeros_like(prediction)
        self.calls += 4 * len(prediction)
        if self.step is not None:
            return torch.full_like(prediction, self.step)
        return torch.randn(prediction.shape, generator=generator)


def search(score, *, factor=1.0, step=None, seed=0, **plan):
    surrogate = Surrogate(nn.Identity(), Grows(factor), "toy", LAYOUT, (), 0.1,
                          residual=Draws(step))  # fmt: skip
    return Search(surrogate, lambda tokens: tokens, score, Plan(**plan), seeded(seed))


def run(found, steps, start=0.0):
    return found.run(torch.full((1, 1, 1, 1), start), GIVEN, steps)


def by_last(table):
    """A score that looks a state up, rounded, of the last frame."""
    return lambda window: torch.tensor([table[round(x)] for x in window[:, -1].flatten().tolist()])


def by_new(table, seen=1):
    """Likewise, the sum over all frames behind the first `seen`."""

    def score(window):
        frames = window[:, seen:].flatten(1).tolist()
        return torch.tensor([sum(table[round(x)] for x in row) for row in frames])

    return score


def test_a_search_has_no_way_to_see_the_truth():
    """What it is handed: models, a decoder, a score of frames, given tokens."""
    names = {*inspect.signature(Search).parameters, *inspect.signature(Search.run).parameters}
    assert names == {"self", "surrogate", "decode", "score", "plan", "generator",
                     "history", "given", "steps"}  # fmt: skip
    for method in (Rewards.penalties, Rewards.score):
        assert set(inspect.signature(method).parameters) == {"self", "given", "window", "problem"}


def test_where_nothing_speaks_for_another_candidate_the_point_forecast_stays():
    found = run(search(lambda w: torch.zeros(len(w)), factor=0.9, candidates=5, beam=3), 4, 1.0)
    assert found.choices == (0, 0, 0, 0)
    torch.testing.assert_close(found.tokens.flatten(), 0.9 ** torch.arange(1, 5))


def test_one_step_takes_the_best_of_the_draws():
    drawn = torch.randn(9, 1, 1, generator=seeded(3)).flatten()
    found = run(search(lambda w: -w[:, -1].flatten(), candidates=10, beam=1, look_ahead=0,
                       seed=3), 1)  # fmt: skip
    assert found.tokens.item() == drawn.max().item()
    assert found.choices == (int(drawn.argmax()) + 1,)


TRAP = {0: 0.0, 1: 1.0, 2: -10.0, 3: 0.0, 4: 0.0}


def test_a_beam_keeps_what_pays_later():
    """One step to 1 costs 1, the second one to 2 earns 10; who is greedy stays at 0."""
    greedy = run(search(by_last(TRAP), step=1.0, candidates=2, beam=1, look_ahead=0), 2)
    wide = run(search(by_last(TRAP), step=1.0, candidates=2, beam=2, look_ahead=0), 2)
    assert (greedy.choices, greedy.score) == ((0, 0), 0.0)
    assert (wide.choices, wide.score) == ((1, 1), -9.0)
    assert wide.tokens.flatten().tolist() == [1, 2]


@pytest.mark.parametrize(("look_ahead", "choice"), [(0, 0), (1, 1)])
def test_looking_ahead_sees_where_a_candidate_leads(look_ahead, choice):
    """States double: from 1 the point forecast reaches 2."""
    found = run(search(by_new(TRAP), factor=2.0, step=1.0, candidates=2, beam=1,
                       look_ahead=look_ahead), 1)  # fmt: skip
    assert found.choices == (choice,)


@pytest.mark.parametrize("look_ahead", [0, 2])
def test_evaluations_are_counted_as_they_are_made_and_keep_to_the_budget(look_ahead):
    for budget in (*range(6, 130, 9), None):
        one = search(lambda w: w[:, -1].flatten().abs(), candidates=3, beam=2,
                     look_ahead=look_ahead, budget=budget)  # fmt: skip
        found = run(one, 6, 1.0)
        made = one.surrogate.operator.calls + one.surrogate.residual.calls
        assert found.evaluations == made
        assert len(found.tokens) == len(found.choices) == 6
        assert budget is None or made <= budget
        assert found.stopped == ("end" if budget is None else found.stopped)
    tight = run(search(lambda w: w[:, -1].flatten(), budget=6), 6)
    assert (tight.stopped, tight.evaluations) == ("budget", 6)


def test_a_budget_below_the_rollout_itself_is_refused():
    with pytest.raises(UsageError, match="--budget 5: the rollout alone takes 6") as refused:
        run(search(lambda w: w[:, -1].flatten(), budget=5), 6)
    assert refused.value.exit_code == 2


def test_patience_ends_a_search_that_changes_nothing():
    found = run(search(lambda w: torch.zeros(len(w)), candidates=3, patience=2, look_ahead=0), 6)
    assert found.stopped == "patience"
    assert found.evaluations == (1 + 8) + 2 * (1 + 8) + 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"candidates": 1}, "--candidates 1: must be at least 2"),
        ({"beam": 0}, "--beam 0: must be at least 1"),
        ({"look_ahead": -1}, "--look-ahead -1: must be at least 0"),
        ({"budget": 0}, "--budget 0: must be at least 1"),
        ({"patience": -1}, "--patience -1: must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(change, says):
    with pytest.raises(UsageError, match=says):
        Plan(**change)


def waves(modes, shift=0.0, points=32):
    x = (torch.arange(points) + 0.5) / points
    return sum(torch.sin(2 * torch.pi * k * (x - shift)) for k in modes)[:, None]


def test_a_zigzag_is_rough_and_a_long_wave_is_not():
    zigzag = ((-1.0) ** torch.arange(32))[None, None, :, None]
    assert roughness(zigzag).item() == pytest.approx(2, rel=1e-3)
    assert roughness(waves([1])[None, None]).item() < 0.25
    assert roughness(torch.ones(1, 2, 32, 1)).item() < 1e-3


def rewards(*names):
    card = load_card("advection1d")
    measures = Measures(card, UniformGrid.cells([1 / 32], [("periodic", "periodic")]))
    assert {"conservation", "boundary", "pde_residual"} <= measures.available
    return Rewards(measures, {}, {3: {name: Term(1e-3, 1e-2) for name in names}})


def frames(beta, offset=0.0):
    """Three frames of an advected wave, 0.01 apart; the mean grows by `offset` a frame."""
    states = [waves([1, 2], 0.01 * beta * step) + step * offset for step in range(3)]
    return torch.stack(states)


def test_penalties_know_the_equation_and_the_conserved_mean():
    problem = Problem(0.01, torch.tensor([[1.0]], dtype=torch.float64), None)
    judge = rewards("conservation", "pde_residual")
    window = torch.stack([frames(1.0), frames(1.5), frames(1.0, 0.1)])
    found = judge.penalties(frames(1.0)[0], window, problem)
    residual, drift = found["pde_residual"], found["conservation"]
    assert residual[0] < 0.01
    assert residual[1] > 0.1
    assert drift[:2].amax() < 1e-5
    assert drift[2] > 0.05
    score = judge.score(frames(1.0)[0], window, problem)
    assert score[0] < 0.5 < score[1:].amin()


def test_conservation_is_held_against_the_given_state_not_the_window():
    problem = Problem(0.01, torch.tensor([[1.0]], dtype=torch.float64), None)
    found = rewards("conservation").penalties(frames(1.0)[0], frames(1.0)[None] + 1, problem)
    assert found["conservation"].item() > 0.5


def test_penalties_below_what_true_data_show_count_nothing_and_blown_up_frames_lose():
    problem = Problem(0.01, torch.tensor([[1.0]], dtype=torch.float64), None)
    window = torch.stack([frames(1.0), torch.full((3, 32, 1), float("nan"))])
    score = rewards("conservation").score(frames(1.0)[0], window, problem)
    assert score.tolist() == [0.0, float("inf")]
