"""Query points: repeatable, unbiased, resumable."""

from __future__ import annotations

import pytest
import torch

from ups.training.queries import QuerySampler, cells_of


def sampler(kind="error", num_queries=32, **options):
    return QuerySampler(cells_of((8, 6), 2), num_queries, kind=kind, seed=3, **options)


def field():
    """Values over an 8 x 6 grid, large in one corner."""
    values = torch.linspace(0.5, 1, 48)
    values[:2] = 20
    return values


def informed(**options):
    found = sampler(**options)
    found.update(torch.arange(48), field())
    return found


def test_blocks_of_a_grid_are_numbered_and_may_be_cut():
    assert cells_of((4,), 2).tolist() == [0, 0, 1, 1]
    assert cells_of((3, 4), 2).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("kind", ["uniform", "error"])
def test_draws_depend_on_seed_step_and_stream_alone(kind):
    one, other = sampler(kind), sampler(kind)
    other.sample(1)
    assert one.sample(7).points.tolist() == other.sample(7).points.tolist()
    drawn = {
        tuple(one.sample(step, stream).points.tolist()) for step in range(5) for stream in (0, 1)
    }
    assert len(drawn) == 10


def test_uniform_points_do_not_repeat_and_weigh_alike():
    queries = sampler("uniform").sample(0)
    assert len(set(queries.points.tolist())) == 32
    torch.testing.assert_close(queries.weights, torch.full((32,), 1 / 32))
    everything = sampler("uniform", 1000).sample(5)
    assert everything.points.tolist() == list(range(48))


def test_before_any_error_is_known_all_cells_are_alike():
    torch.testing.assert_close(sampler().probabilities(), torch.full((12,), 1 / 12).double())


def test_large_errors_are_drawn_more_often_and_no_cell_is_lost():
    chances = informed().probabilities()
    assert chances.sum().item() == pytest.approx(1)
    assert chances[0] > 0.4
    assert chances.min() >= 0.25 / 12 - 1e-12


def test_weighted_sums_are_unbiased_and_vary_less_where_errors_are_known():
    values = field()

    def estimates(which):
        drawn = (which.sample(step) for step in range(1000))
        return torch.stack([(q.weights * values[q.points]).sum() for q in drawn])

    known, blind = estimates(informed(num_queries=8)), estimates(sampler(num_queries=8))
    exact = values.mean().item()
    assert known.mean().item() == pytest.approx(exact, abs=4 * known.std().item() / 1000**0.5)
    assert known.std() < 0.5 * blind.std()


def test_averages_move_by_the_decay_and_stay_where_nothing_was_drawn():
    found = sampler(decay=0.75)
    found.update(torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    found.update(torch.tensor([0]), torch.tensor([6.0]))
    errors = found.state_dict()["errors"]
    assert errors[0].item() == pytest.approx(0.75 * 2 + 0.25 * 6)
    assert found.state_dict()["visited"].tolist() == [True] + [False] * 11


def test_errors_that_are_not_finite_are_ignored():
    found = sampler()
    found.update(torch.tensor([0, 5]), torch.tensor([torch.nan, 2.0]))
    assert found.probabilities().isfinite().all()
    assert not found.state_dict()["visited"][0]


def test_zero_errors_everywhere_leave_the_draw_uniform():
    found = sampler()
    found.update(torch.arange(48), torch.zeros(48))
    torch.testing.assert_close(found.probabilities(), torch.full((12,), 1 / 12).double())


def test_a_resumed_sampler_draws_what_the_first_one_would():
    first, second = informed(), sampler()
    second.load_state_dict(first.state_dict())
    assert second.sample(9).points.tolist() == first.sample(9).points.tolist()
    with pytest.raises(ValueError, match="errors of 12 cells, and there are 2"):
        QuerySampler(cells_of((4,), 2), 2).load_state_dict(first.state_dict())
