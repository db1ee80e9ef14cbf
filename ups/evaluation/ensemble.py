"""Scores of ensembles: how good a predicted distribution is, from its members alone.

Members come first: (member, *rest). Everything is computed in float64.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Members = Float[Tensor, "member *rest"]
Reference = Float[Tensor, "*values"]


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


def _checked(members: Tensor, reference: Tensor) -> int:
    if members.shape[1:] != reference.shape:
        raise ValueError(
            f"members {tuple(members.shape)} and reference {tuple(reference.shape)} do not match"
        )
    if len(members) < 2:
        raise ValueError(f"an ensemble has at least 2 members, found {len(members)}")
    return len(members)
