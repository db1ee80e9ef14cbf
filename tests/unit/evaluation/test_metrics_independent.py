"""Every metric of a report against a straight implementation in numpy, sample by sample.

Written from the definitions, with nothing of `ups` in it: loops over trajectories, frames and
channels, in float64, on random arrays in one, two and three dimensions.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from ups.evaluation.accumulator import MetricAccumulator
from ups.evaluation.pdebench_compat import PdebenchCompatObserver
from ups.evaluation.rollout import Batch

SPACES = {"1D": (30,), "2D": (28, 26), "3D": (26, 26, 28)}
EXTENTS = (2.0, 0.5, 3.0)
COUNT, FRAMES, CHANNELS = 7, 3, 2
EPS, DT = 1e-7, 0.25
LIMITS = {"low": (0, 4), "mid": (4, 12), "high": (12, 10**9)}
EXACT = {"rel": 1e-6, "abs": 0}


@pytest.fixture(scope="module", params=SPACES)
def arrays(request):
    """Prediction and reference, (trajectory, time, *space, channel); some well correlated."""
    space = SPACES[request.param]
    random = np.random.default_rng(len(space))
    reference = random.normal(0.3, 1.0, (COUNT, FRAMES, *space, CHANNELS))
    reference *= np.array([1.0, 5.0])
    noise = np.linspace(0.3, 1.5, COUNT).reshape(-1, *[1] * (len(space) + 2))
    prediction = 0.9 * reference + noise * random.normal(0.05, 1.0, reference.shape)
    return prediction, reference


def samples(arrays):
    """The space array of each trajectory, frame and channel, with its place."""
    prediction, reference = arrays
    for b, t, c in np.ndindex(COUNT, FRAMES, CHANNELS):
        yield (b, t, c), prediction[b, t, ..., c], reference[b, t, ..., c]


def table(arrays, of):
    found = np.empty((COUNT, FRAMES, CHANNELS))
    for place, p, y in samples(arrays):
        found[place] = of(p, y)
    return found


def rms(values):
    return math.sqrt(np.mean(values**2))


def edges(p, y):
    """Root of the mean square error over the points of all faces, corners once for each."""
    square, total, points = (p - y) ** 2, 0.0, 0
    for axis in range(p.ndim):
        for end in (0, -1):
            face = np.take(square, end, axis=axis)
            total += face.sum()
            points += face.size
    return math.sqrt(total / points)


def pearson(p, y):
    a, b = p - p.mean(), y - y.mean()
    return (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())


def shells(p, y):
    """Squared spectrum of the error in integer shells, of the positive quadrant or octant."""
    if p.ndim == 1:
        return np.abs(np.fft.rfft(p) - np.fft.rfft(y)) ** 2
    square = np.abs(np.fft.fftn(p) - np.fft.fftn(y)) ** 2
    halves = [n // 2 for n in p.shape]
    found = np.zeros(min(halves))
    for wave in itertools.product(*map(range, halves)):
        shell = math.floor(math.sqrt(sum(k * k for k in wave)))
        if shell < len(found):
            found[shell] += square[wave]
    return found


def bands(energies, space, volume):
    """Means over each band's shells of the root of the batch mean, energies (trajectory, shell)."""
    error = np.sqrt(np.mean(energies, 0)) / math.prod(space) * volume
    return {name: np.mean(error[low:high]) for name, (low, high) in LIMITS.items()}


def by_band(arrays, rows, volume):
    """Each band's (time, channel), of some trajectories as one batch."""
    prediction, reference = arrays
    found = {name: np.empty((FRAMES, CHANNELS)) for name in LIMITS}
    for t, c in np.ndindex(FRAMES, CHANNELS):
        energy = [shells(prediction[b, t, ..., c], reference[b, t, ..., c]) for b in rows]
        for name, value in bands(np.array(energy), prediction.shape[2:-1], volume).items():
            found[name][t, c] = value
    return found


def accumulated(arrays):
    space = arrays[0].shape[2:-1]
    sums = MetricAccumulator(dt=DT, extents=EXTENTS[: len(space)], channels=["a", "b"])
    for rows in (slice(0, 4), slice(4, 5), slice(5, 7)):
        sums.update(*(torch.from_numpy(one[rows]) for one in arrays))
    return sums.result()


def relative_l2(arrays):
    prediction, reference = arrays
    found = np.empty((COUNT, CHANNELS))
    for b, c in np.ndindex(COUNT, CHANNELS):
        error = rms(prediction[b, ..., c] - reference[b, ..., c])
        found[b, c] = error / (rms(reference[b, ..., c]) + EPS)
    return found


def correlation_time(arrays):
    """Time until the first frame below 0.8."""
    correlation = table(arrays, pearson)
    found = np.empty((COUNT, CHANNELS))
    for b, c in np.ndindex(COUNT, CHANNELS):
        below = np.flatnonzero(correlation[b, :, c] < 0.8)
        found[b, c] = DT * (below[0] if len(below) else FRAMES)
    return found


PER_FRAME = {
    "nrmse": lambda p, y: rms(p - y) / (rms(y) + EPS),
    "rmse": lambda p, y: rms(p - y),
    "vrmse": lambda p, y: math.sqrt(np.mean((p - y) ** 2) / (y.var() + EPS)),
    "max_error": lambda p, y: np.abs(p - y).max(),
    "brmse": edges,
}
PER_SAMPLE = {"relative_l2": relative_l2, "correlation_time": correlation_time}
NAMES = [*PER_FRAME, *PER_SAMPLE]


def values_of(arrays, name):
    return table(arrays, PER_FRAME[name]) if name in PER_FRAME else PER_SAMPLE[name](arrays)


def over_trajectories(name, values):
    """One number for each trajectory: the mean over frames and channels, or the maximum."""
    flat = values.reshape(COUNT, -1)
    return flat.max(1) if name == "max_error" else flat.mean(1)


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_and_its_reductions(arrays, name):
    found, values = accumulated(arrays), values_of(arrays, name)
    each = over_trajectories(name, values)
    assert found.per_trajectory[name].tolist() == pytest.approx(each.tolist(), **EXACT)
    low = name == "correlation_time"
    expected = {
        "mean": each.mean(), "median": np.median(each),
        "p10" if low else "p90": np.quantile(each, 0.1 if low else 0.9),
        "min" if low else "max": each.min() if low else each.max(),
    }  # fmt: skip
    assert found.reduced[name] == pytest.approx(expected, **EXACT)
    channels = values.reshape(-1, CHANNELS)
    of_channel = channels.max(0) if name == "max_error" else channels.mean(0)
    assert list(found.per_channel[name].values()) == pytest.approx(of_channel.tolist(), **EXACT)


def test_what_needs_the_whole_split(arrays):
    found = accumulated(arrays)
    means = table(arrays, lambda p, y: p.mean() - y.mean())
    volume = math.prod(EXTENTS[: arrays[0].ndim - 3])
    spectrum = by_band(arrays, range(COUNT), volume)
    expected = {"crmse": np.sqrt((means**2).mean(0))}
    expected |= {f"frmse_{name}": value for name, value in spectrum.items()}
    for name, value in expected.items():
        assert found.reduced[name]["mean"] == pytest.approx(value.mean(), **EXACT)
        per_channel = list(found.per_channel[name].values())
        assert per_channel == pytest.approx(value.mean(0).tolist(), **EXACT)
    crmse = expected["crmse"].mean(1)
    assert found.per_step["crmse"].tolist() == pytest.approx(crmse.tolist(), **EXACT)


def test_curves_over_time(arrays):
    found = accumulated(arrays)
    nrmse = table(arrays, PER_FRAME["nrmse"])
    curves = nrmse.mean(2)
    expected = {
        "nrmse": curves.mean(0),
        "nrmse_median": np.quantile(curves, 0.5, 0),
        "nrmse_p10": np.quantile(curves, 0.1, 0),
        "nrmse_p90": np.quantile(curves, 0.9, 0),
        "vrmse": table(arrays, PER_FRAME["vrmse"]).mean((0, 2)),
        "correlation": table(arrays, pearson).mean((0, 2)),
    }
    for name, curve in expected.items():
        assert found.per_step[name].tolist() == pytest.approx(curve.tolist(), **EXACT)
    assert found.nrmse.numpy() == pytest.approx(nrmse, **EXACT)


def test_no_metric_is_left_out(arrays):
    found = accumulated(arrays)
    whole = {"crmse", "frmse_low", "frmse_mid", "frmse_high"}
    assert set(found.reduced) == {*NAMES, *whole}
    assert set(found.per_trajectory) == set(NAMES)


def pdebench(arrays, size):
    """PDEBench's figures: each batch by itself, added up, divided by the last batch's index."""
    prediction, reference = arrays
    totals: dict[str, float] = {}
    starts = range(0, COUNT, size)
    for start in starts:
        rows = range(start, min(start + size, COUNT))
        p, y = prediction[list(rows)], reference[list(rows)]
        per_frame = {name: np.zeros((FRAMES, CHANNELS)) for name in ("RMSE", "nRMSE", "CSV", "BD")}
        largest = np.zeros((FRAMES, CHANNELS))
        for t, c in np.ndindex(FRAMES, CHANNELS):
            pairs = [(p[b, t, ..., c], y[b, t, ..., c]) for b in range(len(rows))]
            per_frame["RMSE"][t, c] = np.mean([rms(one - two) for one, two in pairs])
            per_frame["nRMSE"][t, c] = np.mean([rms(one - two) / rms(two) for one, two in pairs])
            drift = [one.mean() - two.mean() for one, two in pairs]
            per_frame["CSV"][t, c] = math.sqrt(np.mean(np.square(drift)))
            per_frame["BD"][t, c] = np.mean([edges(one, two) for one, two in pairs])
            largest[t, c] = max(np.abs(one - two).max() for one, two in pairs)
        per_frame |= {"Max": largest}
        per_frame |= {f"F_{k}": v for k, v in by_band(arrays, rows, 1.0).items()}
        for name, value in per_frame.items():
            totals[name] = totals.get(name, 0.0) + value.mean()
    return {name: total / (len(starts) - 1) for name, total in totals.items()}


@pytest.mark.parametrize("size", [2, 3])
def test_pdebenchs_own_reduction(arrays, size):
    members = 5 + 2 * np.arange(COUNT)
    observer = PdebenchCompatObserver(members, size)
    for rows in (slice(0, 3), slice(3, 7)):
        prediction, reference = (torch.from_numpy(one[rows]) for one in arrays)
        observer.update(Batch(members[rows], None, prediction, reference, 0.0))
    content = observer.result().content
    batches = math.ceil(COUNT / size)
    assert (content["batch_size"], content["num_batches"]) == (size, batches)
    assert content["metrics"] == pytest.approx(pdebench(arrays, size), **EXACT)
