"""When a term counts, and that one that does not is not even evaluated."""

from __future__ import annotations

import pytest
import torch

from ups.config.stages import LossesConfig, Term
from ups.errors import ConfigError
from ups.training.losses import check_available, term_weight, wanted, weighted


@pytest.mark.parametrize(
    ("progress", "weight"),
    [(0.0, 0.0), (0.19, 0.0), (0.2, 0.0), (0.3, 1.0), (0.4, 2.0), (1.0, 2.0)],
)
def test_weight_starts_and_ramps(progress, weight):
    term = Term(weight=2.0, start=0.2, ramp=0.2)
    assert term_weight(term, progress) == pytest.approx(weight)


def test_without_a_ramp_the_weight_is_there_at_once():
    assert term_weight(Term(weight=3.0), 0.0) == 3.0
    assert term_weight(Term(weight=3.0, start=0.5), 0.5) == 3.0


def test_terms_that_do_not_count_are_not_evaluated():
    def never():
        raise AssertionError("evaluated")

    config = LossesConfig.model_validate({"forward": 2.0, "decoded": {"weight": 1, "start": 0.5}})
    terms = {"forward": torch.tensor(3.0), "decoded": never, "nrmse": never}
    assert {k: v.item() for k, v in weighted(terms, config, 0.4).items()} == {"forward": 6.0}
    terms["decoded"] = lambda: torch.tensor(0.25)
    assert weighted(terms, config, 0.5)["decoded"].item() == 0.25


def test_a_term_of_no_config_is_a_programming_error():
    with pytest.raises(ValueError, match=r"\['magic'\] are no loss terms"):
        weighted({"magic": torch.ones(())}, LossesConfig(), 0.0)
    with pytest.raises(ValueError, match="rollout"):
        weighted({"rollout": torch.ones(())}, LossesConfig(), 0.0)


def test_a_wanted_term_that_no_task_can_evaluate_is_refused():
    config = LossesConfig.model_validate({"divergence": 0.1})
    assert wanted(config) == {"forward", "divergence"}
    check_available(config, {"burgers": {"forward"}, "flow": {"forward", "divergence"}})
    with pytest.raises(ConfigError, match="none of the tasks burgers can evaluate") as e:
        check_available(config, {"burgers": {"forward"}})
    assert str(e.value).startswith("losses.divergence: ")
    assert e.value.hint == "--set stages.operator.losses.divergence=0"
