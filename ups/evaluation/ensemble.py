"""Scores of ensembles: how good a predicted distribution is, from its members alone.

Members come first: (member, *rest). Everything is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Members = Float[Tensor, "member *rest"]
Reference = Float[Tensor, "*values"]

LEVELS = tuple(step / 20 for step in range(1, 20))
"""Probabilities at which a predicted distribution is held against the truth: 0.05, ... 0.95."""


def crps_ensemble(members: Members, reference: Reference) -> Float64[Tensor, "*values"]:
    """Continuous ranked probability score, mean |x - y| - mean |x - x'| / 2, for each value.

    The fair form: the second mean is over pairs of different members, so that its expectation does
    not depend on how many there are. In the unit of the values; 0 is perfect, and for an ensemble
    of equal members it is the absolute error.

    Raises:
        ValueError: Fewer than two members, or shapes that do not match.
    Source:
        Gneiting and Raftery 2007, doi:10.1198/016214506000001437; Ferro 2014,
        doi:10.1002/qj.2270 (fair).
    """
    number = _checked(members, reference)
    values, truth = members.double(), reference.double()
    error = (values - truth).abs().mean(0)
    # Sum over pairs i < j of |x_i - x_j|: the k-th smallest (from 0) counts 2 k + 1 - number times.
    rank = 2 * torch.arange(number, device=values.device, dtype=torch.float64) + 1 - number
    pairs = torch.einsum("m,m...->...", rank, values.sort(0).values)
    return error - pairs / (number * (number - 1))


def ensemble_variance(members: Members) -> Float64[Tensor, "*rest"]:
    """Unbiased variance over the members, for each value."""
    return members.double().var(0, correction=1)


def squared_error_of_mean(members: Members, reference: Reference) -> Float64[Tensor, "*values"]:
    """(mean over members - truth)^2, for each value."""
    _checked(members, reference)
    return (members.double().mean(0) - reference.double()).square()


def spread_skill(members: Members, reference: Reference) -> float:
    """Spread over skill, over all values given: 1 where the ensemble is as wide as it errs.

    sqrt((n + 1) / n * mean variance) / RMS error of the ensemble mean, n members. Below 1 the
    ensemble is too sure.

    Source:
        Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1.
    """
    number = _checked(members, reference)
    variance = ensemble_variance(members).mean().item()
    return ratio_of(variance, squared_error_of_mean(members, reference).mean().item(), number)


def ratio_of(variance: float, squared_error: float, members: int) -> float:
    """`spread_skill` from means already at hand; infinite where there is no error at all."""
    spread = math.sqrt((members + 1) / members * variance)
    return spread / math.sqrt(squared_error) if squared_error > 0 else math.inf


def widened(members: Members, factor: Float[Tensor, "*broadcast"] | float) -> Members:
    """Members whose deviation from their mean is `factor` times as large; the mean stays."""
    mean = members.mean(0)
    return mean + factor * (members - mean)


def rank_histogram(
    members: Float[Tensor, "member *group point"], reference: Float[Tensor, "*group point"]
) -> Float64[Tensor, "*group rank"]:
    """How often the truth has each rank among the members, 0 to number of members.

    Shares over the last axis that add up to 1. All alike where truth and members are drawn alike;
    a heap at both ends says that the ensemble is too narrow, in the middle too wide, at one end
    that it is biased. A truth that equals members counts in equal parts for all its ranks. NaN
    where a member is not finite.

    Source:
        Hamill 2001, doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2.
    """
    number = _checked(members, reference)
    below, upto = (members < reference).sum(0), (members <= reference).sum(0)
    share = 1 / (upto - below + 1).double()
    edges = share.new_zeros(*reference.shape[:-1], number + 2)
    edges = edges.scatter_add(-1, below, share).scatter_add(-1, upto + 1, -share)
    counts = edges.cumsum(-1)[..., :-1].clamp_min(0) / reference.shape[-1]
    is_finite = members.isfinite().all(0).all(-1)
    return counts.masked_fill(~is_finite[..., None], math.nan)


def reliability(
    histogram: Float64[Tensor, "*group rank"], levels: Sequence[float] = LEVELS
) -> Float64[Tensor, "*group level"]:
    """How often the truth lies below each quantile of the ensemble.

    The k-th of n members stands for the quantile k / (n + 1), and a rank for all values between
    its two members alike. So observed equals nominal for any number of members where truth and
    members are drawn alike.
    """
    number = histogram.shape[-1]
    whole = torch.cat([torch.zeros_like(histogram[..., :1]), histogram.cumsum(-1)], -1)
    place = torch.tensor([level * number for level in levels], dtype=torch.float64)
    rank = place.floor().long().clamp(0, number - 1).to(histogram.device)
    return whole[..., rank] + (place.to(whole) - rank) * histogram[..., rank]


def coverage(histogram: Float64[Tensor, "*group rank"], level: float) -> Float64[Tensor, "*group"]:
    """How often the truth lies in the central interval that should hold it with this probability.

    With fewer than 2 / (1 - level) - 1 members the interval ends beyond the outermost ones: what
    lies there is shared out as `reliability` does.
    """
    ends = reliability(histogram, ((1 - level) / 2, (1 + level) / 2))
    return ends[..., 1] - ends[..., 0]


def calibration_error(histogram: Float64[Tensor, "*group rank"]) -> Float64[Tensor, "*group"]:
    """Expected calibration error: mean over `LEVELS` of |observed - nominal|.

    0 is perfect; 0.24 for many members that have no bias and no spread.

    Source:
        Kuleshov et al. 2018, arXiv:1807.00263, with absolute in place of squared differences.
    """
    observed = reliability(histogram)
    return (observed - torch.tensor(LEVELS, dtype=torch.float64).to(observed)).abs().mean(-1)


def _checked(members: Tensor, reference: Tensor) -> int:
    if members.shape[1:] != reference.shape:
        raise ValueError(
            f"members {tuple(members.shape)} and reference {tuple(reference.shape)} do not match"
        )
    if len(members) < 2:
        raise ValueError(f"an ensemble has at least 2 members, found {len(members)}")
    return len(members)
