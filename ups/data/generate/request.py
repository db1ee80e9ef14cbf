"""Checking what a user asks a generator for, before anything is solved."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError

from ups.data.generate.base import Grid, GridAxis
from ups.errors import DataError, UsageError, did_you_mean
from ups.registry import DatasetCard, Parameter

Precision = Literal["float32", "float64"] | torch.dtype
_MIN_POINTS = 16
_LEAST = {("burgers1d", "nu"): 1e-4}
"""Below it Burgers' solver needs more than 40000 points."""


@dataclass(frozen=True)
class Request:
    """What makes a generated file what it is.

    Attributes:
        points: Grid points of each axis, or fewest and most nodes.
    """

    num_trajectories: int
    seed: int
    points: tuple[int, ...]
    times: tuple[float, ...]
    parameters: dict[str, float]
    precision: str

    def to_json(self) -> str:
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def read(cls, content: Mapping[str, Any], card: DatasetCard) -> Request:
        """A request from its JSON, as a generated file and the stores made from it keep it.

        Raises:
            DataError: It is none, or not one for this dataset.
        """
        where = f"{card.key}: the record of how it was generated"
        try:
            found = TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            raise DataError(f"{where}: {error.errors()[0]['msg']}") from error
        sizes = card.num_dims if card.discretisation.kind == "grid" else 2
        if len(found.points) != sizes or not found.times:
            raise DataError(f"{where}: {len(found.points)} sizes, {len(found.times)} times")
        checked_parameters(card, found.parameters)
        checked_precision(found.precision)
        check_positive(num_trajectories=found.num_trajectories)
        return found


def checked_request(
    card: DatasetCard,
    parameters: Mapping[str, float],
    num_trajectories: int,
    seed: int,
    points: int | None,
    frames: int | None,
    dtype: Precision,
) -> Request:
    """What a user asks for, complete and allowed.

    Raises:
        UsageError: Names what is not.
    """
    if num_trajectories < 1:
        raise UsageError(f"num_trajectories={num_trajectories} must be at least 1")
    if seed < 0:
        raise UsageError(f"seed={seed} must not be negative")
    values, precision = checked_parameters(card, parameters), checked_precision(dtype)
    times = checked_times(card, frames)
    if card.discretisation.kind == "grid":
        size = checked_grid(card, points, frames).space
        name = str(precision).removeprefix("torch.")
    else:
        size, name = checked_nodes(card, points), "float64"
    return Request(num_trajectories, seed, size, times, values, name)


def checked_parameters(card: DatasetCard, given: Mapping[str, float]) -> dict[str, float]:
    """The parameters of a file: known, finite, complete but for those drawn per trajectory."""
    for name in given:
        if name not in card.parameter_names:
            near = did_you_mean(name, card.parameter_names)
            takes = ", ".join(f"'{known}'" for known in card.parameter_names) or "none"
            raise UsageError(f"{card.key}: unknown parameter '{name}'{near}; it takes {takes}")
    drawn = card.generator.drawn if card.generator else ()
    for name in card.parameter_names:
        if name not in given and name not in drawn:
            raise UsageError(f"{card.key}: parameter '{name}' is missing")
    return {p.name: _checked(card, p, given[p.name]) for p in card.parameters if p.name in given}


def _checked(card: DatasetCard, parameter: Parameter, value: float) -> float:
    least = _LEAST.get((card.key, parameter.name), 0.0 if parameter.scale == "log" else -math.inf)
    strictly = parameter.scale == "log" and least == 0
    if not math.isfinite(value) or value < least or (strictly and value <= 0):
        allowed = {-math.inf: "finite", 0.0: "finite and positive"}.get(
            least, f"finite and at least {least:g}"
        )
        raise UsageError(f"{card.key}: parameter {parameter.name}={value:g} must be {allowed}")
    return float(value)


def checked_grid(card: DatasetCard, points: int | None, frames: int | None) -> Grid:
    """Cell centres and frame times, the card's unless told otherwise."""
    if points is not None and points < _MIN_POINTS:
        raise UsageError(f"{card.key}: points={points} must be at least {_MIN_POINTS}")
    axes = tuple(
        GridAxis(axis.bounds[0], axis.bounds[1] - axis.bounds[0], points or axis.points or 0)
        for axis in card.discretisation.axes
    )
    return Grid(axes, checked_times(card, frames))


def checked_times(card: DatasetCard, frames: int | None) -> tuple[float, ...]:
    """Frame times over the card's interval, both ends included; (0,) for a static problem."""
    if card.time.step is None:
        if frames not in (None, 1):
            raise UsageError(f"{card.key}: frames={frames}: the problem is static, it has one")
        return (0.0,)
    frames = card.time.frames if frames is None else frames
    if frames < 2:
        raise UsageError(f"{card.key}: frames={frames} must be at least 2")
    end = (card.time.frames - 1) * card.time.step
    return tuple(index * end / (frames - 1) for index in range(frames))


def checked_nodes(card: DatasetCard, points: int | None) -> tuple[int, int]:
    """Fewest and most nodes of a trajectory."""
    if points is not None:
        if points < _MIN_POINTS:
            raise UsageError(f"{card.key}: points={points} must be at least {_MIN_POINTS}")
        return points, points
    if card.discretisation.nodes is None:
        raise UsageError(f"{card.key}: the card has no discretisation.nodes; give --points N")
    return card.discretisation.nodes


def check_positive(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UsageError(f"{name}={count} must be at least 1")


def checked_precision(dtype: str | torch.dtype) -> torch.dtype:
    known = {"float32": torch.float32, "float64": torch.float64}
    found = known.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UsageError(f"dtype={dtype}: solvers run in {' or '.join(known)}")
    return found


def checked_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={device}: cannot be used here: {error}") from error
