"""Metrics against loops, closed forms and what must not change them."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from ups.evaluation import metrics
from ups.evaluation.accumulator import MetricAccumulator, Metrics

SPACES = [(9,), (40,), (6, 8), (7, 5), (4, 6, 8), (5, 4, 3)]
EXTENTS = (2.0, 0.5, 3.0)


def fields(space, *, batch=3, time=4, channels=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, time, *space, channels)
    prediction = torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5
    return prediction, torch.randn(shape, generator=generator, dtype=torch.float64) - 0.2


def per_frame(prediction, reference, of):
    """Apply `of(p, y)` to the space array of every sample, frame and channel."""
    p, y = prediction.numpy(), reference.numpy()
    out = np.empty((p.shape[0], p.shape[1], p.shape[-1]))
    for b, t, c in np.ndindex(*out.shape):
        out[b, t, c] = of(p[b, t, ..., c], y[b, t, ..., c])
    return torch.from_numpy(out)


def loop_mean(values):
    values = list(values)
    return sum(values) / len(values)


def loop_rmse(p, y):
    return math.sqrt(loop_mean((p[i] - y[i]) ** 2 for i in np.ndindex(*p.shape)))


def loop_nrmse(p, y):
    size = math.sqrt(loop_mean(y[i] ** 2 for i in np.ndindex(*y.shape)))
    return loop_rmse(p, y) / (size + 1e-7)


def loop_vrmse(p, y):
    mean = loop_mean(y[i] for i in np.ndindex(*y.shape))
    variance = loop_mean((y[i] - mean) ** 2 for i in np.ndindex(*y.shape))
    return math.sqrt(loop_rmse(p, y) ** 2 / (variance + 1e-7))


def loop_max(p, y):
    return max(abs(p[i] - y[i]) for i in np.ndindex(*p.shape))


def loop_boundary(p, y):
    square = (p - y) ** 2
    total, points = 0.0, 0
    for axis, size in enumerate(p.shape):
        for index in np.ndindex(*p.shape):
            if index[axis] in (0, size - 1):
                total += square[index]
                points += 1
    return math.sqrt(total / points)


def loop_correlation(p, y):
    return np.corrcoef(p.ravel(), y.ravel())[0, 1]


def loop_mean_error(p, y):
    return loop_mean(p[i] for i in np.ndindex(*p.shape)) - loop_mean(
        y[i] for i in np.ndindex(*y.shape)
    )


PER_FRAME = {
    metrics.rmse: loop_rmse,
    metrics.nrmse: loop_nrmse,
    metrics.vrmse: loop_vrmse,
    metrics.max_error: loop_max,
    metrics.brmse: loop_boundary,
    metrics.correlation: loop_correlation,
    metrics.mean_error: loop_mean_error,
}


def fourier_coefficient(values, wave):
    """One coefficient of the transform, summed point by point."""
    total = 0j
    for index in np.ndindex(*values.shape):
        phase = sum(k * i / n for k, i, n in zip(wave, index, values.shape, strict=True))
        total += values[index] * np.exp(-2j * np.pi * phase)
    return total


def loop_shells(p, y):
    space = p.shape
    if len(space) == 1:
        shells = np.zeros(space[0] // 2 + 1)
        for k in range(len(shells)):
            shells[k] = abs(fourier_coefficient(p - y, (k,))) ** 2
        return shells
    shells = np.zeros(min(n // 2 for n in space))
    for wave in itertools.product(*(range(n // 2) for n in space)):
        shell = math.floor(math.sqrt(sum(k * k for k in wave)))
        if shell < len(shells):
            shells[shell] += abs(fourier_coefficient(p - y, wave)) ** 2
    return shells


def loop_frmse(prediction, reference, extents):
    p, y = prediction.numpy(), reference.numpy()
    batch, time, *space, channels = p.shape
    scale = math.prod(extents) / math.prod(space)
    out = {name: np.empty((time, channels)) for name in metrics.BANDS}
    for t, c in np.ndindex(time, channels):
        energy = loop_mean(loop_shells(p[b, t, ..., c], y[b, t, ..., c]) for b in range(batch))
        error = np.sqrt(energy) * scale
        for name, (low, high) in metrics.BANDS.items():
            inside = error[low:high]
            out[name][t, c] = loop_mean(inside) if len(inside) else math.nan
    return out


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("metric", PER_FRAME, ids=lambda metric: metric.__name__)
def test_metric_equals_a_loop_over_the_points(metric, space):
    prediction, reference = fields(space)
    found = metric(prediction, reference)
    assert found.shape == (3, 4, 2)
    torch.testing.assert_close(found, per_frame(prediction, reference, PER_FRAME[metric]))


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_relative_l2_equals_a_loop_over_space_and_time(space):
    prediction, reference = fields(space)
    found = metrics.relative_l2(prediction, reference, eps=0.0)
    p, y = prediction.numpy(), reference.numpy()
    for b, c in np.ndindex(3, 2):
        error = sum((p[b, ..., c][i] - y[b, ..., c][i]) ** 2 for i in np.ndindex(4, *space))
        size = sum(y[b, ..., c][i] ** 2 for i in np.ndindex(4, *space))
        assert found[b, c].item() == pytest.approx(math.sqrt(error / size), rel=1e-12)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_crmse_equals_a_loop_over_the_batch(space):
    prediction, reference = fields(space)
    single = per_frame(prediction, reference, loop_mean_error)
    found = metrics.crmse(prediction, reference)
    assert found.shape == (4, 2)
    for t, c in np.ndindex(4, 2):
        expected = math.sqrt(loop_mean(float(single[b, t, c]) ** 2 for b in range(3)))
        assert found[t, c].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_frmse_equals_transforms_summed_point_by_point(space):
    prediction, reference = fields(space, batch=2, time=2)
    extents = EXTENTS[: len(space)]
    found = metrics.frmse(prediction, reference, extents)
    for band, expected in loop_frmse(prediction, reference, extents).items():
        np.testing.assert_allclose(found[band].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_an_error_in_one_wave_lands_in_its_band_only():
    x = torch.arange(64, dtype=torch.float64) / 64
    reference = torch.zeros(1, 1, 64, 1, dtype=torch.float64)
    for wave, band, shells in [(3, "low", 4), (11, "mid", 8), (12, "high", 21), (32, "high", 21)]:
        error = torch.cos(2 * torch.pi * wave * x)[None, None, :, None]
        found = {name: float(v) for name, v in metrics.frmse(error, reference, [2.0]).items()}
        amplitude = 1.0 if wave == 32 else 0.5
        expected = {name: 0.0 for name in metrics.BANDS} | {band: 2.0 * amplitude / shells}
        assert found == pytest.approx(expected, abs=1e-12)


def test_prediction_k_times_the_reference_has_nrmse_k_minus_one():
    _, reference = fields((16,))
    for metric in (metrics.nrmse, metrics.relative_l2):
        error = metric(1.25 * reference, reference, eps=0.0)
        torch.testing.assert_close(error, torch.full_like(error, 0.25))


def test_predicting_the_spatial_mean_has_vrmse_one():
    _, reference = fields((8, 8))
    mean = reference.mean((2, 3), keepdim=True).expand_as(reference)
    error = metrics.vrmse(mean, reference, eps=0.0)
    torch.testing.assert_close(error, torch.ones_like(error))


def test_a_perfect_prediction_has_no_error_and_is_correlated_to_the_end():
    _, reference = fields((6, 8))
    for metric in PER_FRAME:
        expected = 1.0 if metric is metrics.correlation else 0.0
        found = metric(reference.clone(), reference)
        torch.testing.assert_close(found, torch.full_like(found, expected))
    assert metrics.correlation_time(reference, reference, dt=0.5).unique().tolist() == [2.0]


def test_a_constant_offset_is_rmse_crmse_brmse_and_maximum_at_once():
    _, reference = fields((5, 4, 3))
    prediction = reference + 0.3
    for metric in (metrics.rmse, metrics.crmse, metrics.brmse, metrics.max_error):
        found = metric(prediction, reference)
        torch.testing.assert_close(found, torch.full_like(found, 0.3))
    found = metrics.frmse(prediction, reference)["low"]
    torch.testing.assert_close(found, torch.full_like(found, 0.3))  # the grid has one shell


def test_a_reference_of_zeros_gives_large_numbers_not_nan():
    zeros = torch.zeros(2, 3, 8, 1)
    accumulator = MetricAccumulator()
    accumulator.update(zeros + 1, zeros)
    found = accumulator.result()
    assert found.headline == pytest.approx(1e7)
    assert all(math.isfinite(value) for value in found.reduced["vrmse"].values())


def test_correlation_time_counts_frames_until_the_first_loss():
    reference = torch.randn(1, 5, 32, 1, generator=torch.Generator().manual_seed(1))
    prediction = reference.clone()
    prediction[:, 2] = -reference[:, 2]
    assert metrics.correlation_time(prediction, reference, dt=0.1).item() == pytest.approx(0.2)
    assert metrics.correlation_time(-reference, reference).item() == 0.0


def test_correlation_of_flat_and_infinite_fields_is_a_number():
    flat = torch.full((1, 1, 16, 1), 0.1)
    wavy = torch.sin(torch.arange(16.0)).reshape(1, 1, 16, 1)
    assert metrics.correlation(flat, flat * 3).item() == 1.0
    assert metrics.correlation(flat, wavy).item() == 0.0
    assert metrics.correlation(wavy * math.inf, wavy).item() == 0.0


@pytest.mark.parametrize("metric", [*PER_FRAME, metrics.relative_l2, metrics.shell_energy])
def test_shapes_that_would_broadcast_are_refused(metric):
    with pytest.raises((ValueError, TypeCheckError)):  # the second under --jaxtyping-packages
        metric(torch.zeros(2, 3, 8, 1), torch.zeros(2, 3, 1, 1))


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 2**16), dims=st.integers(1, 3))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_relative_metrics_do_not_depend_on_units(scale, seed, dims):
    prediction, reference = fields((6, 4, 5)[:dims], seed=seed)
    for metric in (metrics.nrmse, metrics.vrmse, metrics.relative_l2):
        original = metric(prediction, reference, eps=0.0)
        torch.testing.assert_close(
            metric(scale * prediction, scale * reference, eps=0.0), original, rtol=1e-9, atol=0.0
        )


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**16))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_the_default_eps_hardly_moves_a_field_of_ordinary_size(scale, seed):
    prediction, reference = fields((16,), seed=seed)
    original = metrics.nrmse(prediction, reference)
    scaled = metrics.nrmse(scale * prediction, scale * reference)
    torch.testing.assert_close(scaled, original, rtol=1e-3, atol=0.0)


def accumulated(prediction, reference, sizes, **options) -> Metrics:
    accumulator = MetricAccumulator(**options)
    for p, y in zip(prediction.split(sizes), reference.split(sizes), strict=True):
        accumulator.update(p, y)
    return accumulator.result()


@given(data=st.data(), dims=st.integers(1, 3))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_metrics_do_not_depend_on_how_the_split_is_cut_into_batches(data, dims):
    total = 11
    sizes = []
    while sum(sizes) < total:
        sizes.append(data.draw(st.integers(1, total - sum(sizes))))
    prediction, reference = fields((10, 6, 8)[:dims], batch=total)
    options = {"dt": 0.1, "extents": EXTENTS[:dims], "channels": ["u", "v"]}
    once = accumulated(prediction, reference, [total], **options).to_dict()
    cut = accumulated(prediction, reference, sizes, **options).to_dict()
    assert_same_numbers(cut, once)


def assert_same_numbers(found, expected):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_same_numbers(found[key], expected[key])
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_same_numbers(one, other)
    elif expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_result_reduces_as_it_says():
    prediction, reference = fields((10, 6), batch=7)
    found = accumulated(prediction, reference, [3, 4], channels=["u", "v"], dt=0.1)
    nrmse = per_frame(prediction, reference, loop_nrmse).numpy()
    each = nrmse.mean((1, 2))
    assert found.num_trajectories == 7
    assert found.headline == pytest.approx(nrmse.mean())
    np.testing.assert_allclose(found.per_trajectory["nrmse"].numpy(), each)
    assert found.reduced["nrmse"] == pytest.approx(
        {
            "mean": each.mean(),
            "median": np.median(each),
            "p90": np.quantile(each, 0.9),
            "max": each.max(),
        }
    )
    np.testing.assert_allclose(found.per_step["nrmse"].numpy(), nrmse.mean((0, 2)))
    band = np.quantile(nrmse.mean(2), 0.9, axis=0)
    np.testing.assert_allclose(found.per_step["nrmse_p90"].numpy(), band)
    by_channel = dict(zip("uv", nrmse.mean((0, 1)), strict=True))
    assert found.per_channel["nrmse"] == pytest.approx(by_channel)
    largest = (prediction - reference).abs().amax((0, 1, 2, 3)).tolist()
    assert found.per_channel["max_error"] == pytest.approx(dict(zip("uv", largest, strict=True)))
    assert found.reduced["max_error"]["max"] == pytest.approx(max(largest))
    assert found.reduced["crmse"]["mean"] == pytest.approx(
        metrics.crmse(prediction, reference).mean().item()
    )
    assert found.trajectory_at(1.0) == each.argmax()
    assert found.per_trajectory["nrmse"][found.trajectory_at(0.5)] == pytest.approx(np.median(each))


def test_float32_fields_are_accumulated_in_float64():
    generator = torch.Generator().manual_seed(0)
    reference = 1000 + torch.rand(4, 2, 64, 1, generator=generator)
    prediction = reference + 0.01 * torch.rand(reference.shape, generator=generator)
    single = accumulated(prediction, reference, [2, 2])
    double = accumulated(prediction.double(), reference.double(), [4])
    assert_same_numbers(single.to_dict(), double.to_dict())
    assert single.nrmse.dtype == torch.float64
    assert all(metric(prediction, reference).dtype == torch.float64 for metric in PER_FRAME)


def test_a_diverged_prediction_becomes_null_in_valid_json():
    _, reference = fields((8,), batch=2)
    prediction = reference.clone()
    prediction[0, 1:] = math.inf
    prediction[0, 2:] = math.nan
    found = accumulated(prediction, reference, [1, 1])
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["metrics"]["nrmse"]["mean"] is None
    assert content["per_step"]["nrmse"][0] == 0.0
    assert content["per_step"]["nrmse"][1] is None
    assert content["per_trajectory"]["nrmse"] == [None, 0.0]
    assert found.trajectory_at(1.0) == 0


def test_accumulator_refuses_what_it_cannot_add_up():
    batch = torch.zeros(2, 3, 8, 1)
    with pytest.raises(ValueError, match="no trajectory"):
        MetricAccumulator().result()
    with pytest.raises(ValueError, match="1 channels"):
        MetricAccumulator(channels=["u", "v"]).update(batch, batch)
    with pytest.raises(ValueError, match="space axes"):
        MetricAccumulator(extents=[1.0, 1.0]).update(batch, batch)
    accumulator = MetricAccumulator()
    accumulator.update(batch, batch)
    with pytest.raises(ValueError, match="after batches"):
        accumulator.update(batch[:, :2], batch[:, :2])
