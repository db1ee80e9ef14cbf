"""Whether splits are apart, and the codec's units are those of the training split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ups.data.audit import Finding
from ups.data.store import TrajectoryStore
from ups.evaluation.context import Context
from ups.evaluation.gates import Gate
from ups.registry import DatasetCard, FieldSpec
from ups.training.building import normalisation
from ups.training.health_answers import Outcome

Array = npt.NDArray[Any]
MOST_OFF = 1e-3
"""How far shift and scale may be from the training split's, in units of its scale."""
MOST_OFF_LOG = 0.5
"""The same of a logarithm, whose statistics are those of a few frames here."""
_TRAJECTORIES = 32


def check_splits(findings: Sequence[Finding]) -> Outcome:
    """Whether anything that is held out is trained on.

    Args:
        findings: Of `ups.data.audit.audit_splits`.
    """
    bad = [one for one in findings if one.verdict == "fail"]
    leaks = [one for one in findings if one.check == "leaks"]
    detail = "; ".join(one.detail for one in bad or leaks)
    return Outcome("split", Gate(name="split", kind="data", passed=not bad, detail=detail))


def check_normalisation(context: Context) -> Outcome:
    """Whether the codec's shift and scale are what the store's statistics give, field by field.

    Of a field's logarithm the store has none: it needs training trajectories.
    """
    codec, store, card = context.surrogate.codec, context.store, context.card
    unknown = _logarithmic(card) if _lacks_training(context) else ()
    found = [
        (spec.name, gap, MOST_OFF_LOG if spec in _logarithmic(card) else MOST_OFF)
        for specs, shift, scale, statistics in (
            (card.fields, codec.shift, codec.scale, store.statistics),
            (card.inputs, codec.input_shift, codec.input_scale, store.input_statistics),
        )
        for spec, gap in zip(specs, _gaps(context, specs, shift, scale, statistics), strict=True)
        if spec not in unknown
    ]
    if not found:
        return Outcome("normalisation", skipped="no training trajectory is here")
    name, gap, limit = max(found, key=lambda one: one[1] / one[2])
    passed = bool(gap <= limit)
    said = "agree" if passed else "disagree"
    gate = Gate(
        name="normalisation", kind="data", passed=passed,
        detail=f"shift and scale of the codec {said} with the training split: off by {gap:.1e} of "
        f"its scale for field '{name}', {limit:g} is allowed",
        value=float(gap) if np.isfinite(gap) else None, limit=limit,
    )  # fmt: skip
    return Outcome("normalisation", gate)


def _gaps(
    context: Context,
    specs: tuple[FieldSpec, ...],
    shift: torch.Tensor,
    scale: torch.Tensor,
    statistics: Any,
) -> list[float]:
    """Largest relative distance of shift and scale from what is expected, of each field."""
    if not specs:
        return []
    wanted = np.array(normalisation(specs, context.store, statistics))
    logarithmic = () if _lacks_training(context) else _logarithmic(context.card)
    for index, spec in enumerate(specs):
        if spec in logarithmic:
            wanted[:, index] = _of_logarithm(context, index)
    given = np.stack([shift.cpu().double().numpy(), scale.cpu().double().numpy()])
    return list((np.abs(given - wanted) / wanted[1]).max(0).tolist())


def _lacks_training(context: Context) -> bool:
    """Whether training trajectories would be read that are not here."""
    presence = context.store.presence
    rows = context.some_of("train", _TRAJECTORIES)
    return presence is not None and len(presence.missing(rows)) > 0


def _logarithmic(card: DatasetCard) -> tuple[FieldSpec, ...]:
    """The fields that codecs take the logarithm of; of inputs they take none."""
    return tuple(spec for spec in card.fields if spec.transform == "log")


def _of_logarithm(context: Context, index: int) -> tuple[float, float]:
    """Mean and deviation of a field's logarithm, over a few training trajectories."""
    store = context.store
    rows = context.some_of("train", _TRAJECTORIES)
    if isinstance(store, TrajectoryStore):
        values = store.fields[rows][..., index]
    else:
        values = np.concatenate([store.fields(int(row))[..., index].ravel() for row in rows])
    logs = np.log(np.asarray(values, dtype=np.float64))
    return float(logs.mean()), float(logs.std())
