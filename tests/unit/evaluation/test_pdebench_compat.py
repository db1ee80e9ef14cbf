"""PDEBench's reduction: its factor, its batches, whatever the evaluation's own are."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from ups.evaluation.accumulator import MetricAccumulator
from ups.evaluation.pdebench_compat import (
    BATCH_SIZES,
    PdebenchCompatObserver,
    pdebench_observers,
)
from ups.evaluation.rollout import Batch
from ups.registry import load_card

MEMBERS = 100 + np.arange(40)


def fields(space=(32,), count=40):
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, *space, 2)
    return (torch.randn(shape, generator=generator) + offset for offset in (0.5, 0.0))


def seen(size, cuts, pair=None):
    prediction, reference = pair or fields()
    observer = PdebenchCompatObserver(MEMBERS, size)
    for low, high in itertools.pairwise(cuts):
        batch = Batch(MEMBERS[low:high], None, prediction[low:high], reference[low:high], 0.0)
        observer.update(batch)
    return observer


@pytest.mark.parametrize("cuts", [(0, 40), (0, 7, 8, 31, 40), tuple(range(41))])
def test_the_evaluations_own_batches_do_not_matter(cuts):
    expected = seen(10, (0, 10, 20, 30, 40)).result().content
    found = seen(10, cuts).result().content
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)
    assert found["num_batches"] == expected["num_batches"] == 4


def test_processes_may_meet_inside_a_batch():
    prediction, reference = fields()
    parts = []
    for low, high in ((0, 13), (13, 40)):
        observer = PdebenchCompatObserver(MEMBERS, 10)
        observer.update(
            Batch(MEMBERS[low:high], None, prediction[low:high], reference[low:high], 0.0)
        )
        parts.append(pickle.loads(pickle.dumps(observer)))
    parts[0].absorb(parts[1])
    whole = seen(10, (0, 40)).result().content["metrics"]
    assert parts[0].result().content["metrics"] == pytest.approx(whole, rel=1e-6)


def test_the_mean_is_too_large_by_n_over_n_minus_one():
    """With equal batches RMSE, nRMSE and BD are ours times N / (N - 1), the maximum is not."""
    prediction, reference = fields()
    ours = MetricAccumulator()
    ours.update(prediction, reference)
    metrics = ours.result().reduced
    content = seen(10, (0, 40), (prediction, reference)).result().content
    for theirs, name in (("RMSE", "rmse"), ("nRMSE", "nrmse"), ("BD", "brmse")):
        assert content["mean"][theirs] == pytest.approx(metrics[name]["mean"], rel=1e-5)
        assert content["metrics"][theirs] == pytest.approx(4 / 3 * metrics[name]["mean"], rel=1e-5)
    assert content["mean"]["Max"] < metrics["max_error"]["max"]
    assert content["divisor"] == 3


def test_larger_batches_have_larger_maxima_but_the_same_mean_error():
    small, large = (seen(size, (0, 40)).result().content["mean"] for size in (5, 20))
    assert large["Max"] > small["Max"]
    assert large["nRMSE"] == pytest.approx(small["nRMSE"])


def test_with_one_batch_pdebench_divides_by_zero_and_we_say_so():
    content = seen(50, (0, 40)).result().content
    assert all(math.isnan(value) for value in content["metrics"].values())
    assert all(math.isfinite(v) for v in content["mean"].values())


def test_the_tasks_of_pdebench_have_its_batch_sizes_and_others_no_section(store):
    """20 batches of 1000 or 100 test trajectories; 1D CFD 10, 2D CFD 50, 3D CFD 2."""
    assert BATCH_SIZES["burgers1d"] == BATCH_SIZES["darcy2d"] == 1000 // 20
    assert BATCH_SIZES["shallow_water2d"] == BATCH_SIZES["reaction_diffusion2d"] == 100 // 20
    assert BATCH_SIZES["compressible_ns1d"] == 1000 // 10
    assert BATCH_SIZES["compressible_ns2d"] == 1000 // 50
    assert BATCH_SIZES["compressible_ns3d"] == 10 // 2
    assert all(load_card(key).source.name == "PDEBench" for key in BATCH_SIZES)
    (observer,) = pdebench_observers(load_card("advection1d"), store, MEMBERS)
    assert isinstance(observer, PdebenchCompatObserver)
    assert observer.batch_size == 50
    assert pdebench_observers(load_card("allen_cahn2d"), store, MEMBERS) == []
