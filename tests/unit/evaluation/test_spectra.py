"""Spectra: waves are found where they are, nothing is lost, bands say what is wrong."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch

from ups.evaluation.rollout import Batch
from ups.evaluation.spectra import SpectraObserver

TIMES = [0.1 * step for step in range(1, 6)]


def observer(periodic=(True,), lengths=(1.0,), fields=("u",)):
    return SpectraObserver(fields, periodic=periodic, lengths=lengths, times=TIMES)


def content_of(prediction, reference, **options):
    found = observer(**options)
    found.update(Batch(np.arange(len(prediction)), None, prediction, reference, 0.0))
    return found.result().content


def constant_in_time(values):
    return values[None, None, ..., None].expand(2, len(TIMES), *values.shape, 1)


def wave(points, number):
    x = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return torch.sin(2 * math.pi * number * x)


def spectrum(content, kind="reference", frame=0):
    return np.array(content["fields"]["u"][kind][frame])


@pytest.mark.parametrize("points", [32, 33])
def test_a_wave_is_found_at_its_number_with_its_energy(points):
    truth = constant_in_time(2 * wave(points, 5))
    content = content_of(0.5 * truth, truth)
    expected = np.zeros(len(content["wavenumbers"]))
    expected[5] = 0.5 * 2**2 / 2
    np.testing.assert_allclose(spectrum(content), expected, atol=1e-12)
    np.testing.assert_allclose(spectrum(content, "prediction"), expected / 4, atol=1e-12)
    np.testing.assert_allclose(spectrum(content, "error"), expected / 4, atol=1e-12)


def test_first_middle_and_last_frame_are_looked_at():
    content = content_of(*[torch.randn(2, 5, 16, 1)] * 2)
    assert content["steps"] == [1, 3, 5]
    assert content["times"] == pytest.approx([0.1, 0.3, 0.5])
    single = SpectraObserver(["u"], periodic=[True], lengths=[1.0], times=[0.0])
    assert single.frames == [0]


@pytest.mark.parametrize(
    ("space", "periodic"),
    [((15,), (True,)), ((16,), (False,)), ((12, 9), (True, True)), ((12, 10), (True, False)),
     ((9, 8), (False, True)), ((6, 5, 8), (True, False, True))],
)  # fmt: skip
def test_no_energy_is_lost(space, periodic):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(3, 5, *space, 1, generator=generator, dtype=torch.float64)
    lengths = (1.0, 2.0, 0.7)[: len(space)]
    content = content_of(truth + 0.1, truth, periodic=periodic, lengths=lengths)
    for number, frame in enumerate((0, 2, 4)):
        whole = 0.5 * truth[:, frame].square().mean().item()
        assert spectrum(content, frame=number).sum() == pytest.approx(whole)
        assert spectrum(content, "error", number).sum() == pytest.approx(0.5 * 0.1**2)
        assert spectrum(content, "error", number)[0] == pytest.approx(0.5 * 0.1**2)


def test_waves_are_counted_per_longest_side():
    """Four waves along a side half as long are eight per longest side; the diagonal is longer."""
    along = wave(32, 4)[None, :].expand(16, 32)
    content = content_of(*[constant_in_time(along)] * 2, periodic=(True, True), lengths=(2.0, 1.0))
    assert int(spectrum(content).argmax()) == 8
    diagonal = torch.sin(2 * math.pi * (3 * torch.arange(16)[:, None] + 4 * torch.arange(16)) / 16)
    content = content_of(
        *[constant_in_time(diagonal)] * 2, periodic=(True, True), lengths=(1.0, 1.0)
    )
    assert int(spectrum(content).argmax()) == 5
    assert content["complete_to"] == 8


def test_a_ramp_has_no_jump_where_its_axis_is_not_periodic():
    ramp = constant_in_time(torch.linspace(-1, 1, 64, dtype=torch.float64))
    open_ends = spectrum(content_of(ramp, ramp, periodic=(False,)))
    wrapped = spectrum(content_of(ramp, ramp))
    assert open_ends[20:32].sum() < 0.01 * wrapped[20:32].sum()


def test_bands_tell_a_smooth_prediction_from_a_shifted_one():
    truth = constant_in_time(wave(64, 2) + 0.3 * wave(64, 8) + 0.1 * wave(64, 20))
    smooth = constant_in_time(wave(64, 2))
    bands = content_of(smooth, truth)["bands"]["u"]
    assert bands["low"]["error"] == pytest.approx([0.0] * 3, abs=1e-9)
    assert bands["mid"]["error"] == pytest.approx([1.0] * 3)
    assert bands["high"]["energy"] == pytest.approx([0.0] * 3, abs=1e-9)
    shifted = truth.roll(3, 2)
    bands = content_of(shifted, truth)["bands"]["u"]
    assert bands["high"]["energy"] == pytest.approx([1.0] * 3)
    assert bands["high"]["error"][0] == pytest.approx(2 * math.sin(math.pi * 20 * 3 / 64))


def test_channels_are_kept_apart_and_shares_add_up():
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(5, 5, 16, 2, generator=generator)
    truth[..., 1] *= 10
    prediction = truth + 0.1 * torch.randn(5, 5, 16, 2, generator=generator)
    whole, first, second = (observer(fields=("u", "v")) for _ in range(3))
    for target, rows in ((whole, slice(0, 5)), (first, slice(0, 2)), (second, slice(2, 5))):
        batch = Batch(np.arange(5)[rows], None, prediction[rows], truth[rows], 0.0)
        target.update(batch)
    first.absorb(pickle.loads(pickle.dumps(second)))
    one, other = whole.result().content, first.result().content
    assert one["num_trajectories"] == other["num_trajectories"] == 5
    for name in ("u", "v"):
        for kind in ("prediction", "reference", "error"):
            np.testing.assert_allclose(one["fields"][name][kind], other["fields"][name][kind])
    assert sum(one["fields"]["v"]["reference"][0]) > 50 * sum(one["fields"]["u"]["reference"][0])
