"""Zero-shot super-resolution: a coarse rollout, asked for between the points it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from torch import Tensor

from ups.codec.coded import CodedGrid
from ups.codec.grid import GridCodec
from ups.data.store import TrajectoryStore
from ups.data.versions import list_versions, open_store
from ups.errors import DataError, UsageError
from ups.evaluation.accumulator import MetricAccumulator, Metrics
from ups.evaluation.context import Context
from ups.evaluation.report import Section
from ups.evaluation.rollout import predicted_tokens
from ups.evaluation.unseen import open_unseen

Array = npt.NDArray[Any]
FACTORS = (2, 4)
TRAJECTORIES = 64
DECODER, INTERPOLATED, FLOOR = "decoder", "interpolated", "floor"
_KEPT = ("nrmse", "relative_l2", "vrmse")


@torch.no_grad()
def super_resolution_section(
    context: Context,
    factors: Sequence[int] = FACTORS,
    *,
    versions: Sequence[str] | None = None,
    limit: int = TRAJECTORIES,
) -> Section:
    """Errors at the points of finer versions of the same raw data, divided into splits alike.

    The rollout starts from the coarse given frames; nothing fine is seen. Beside the decoder's
    values at the fine points stand the same rollout on its own grid carried there by an interpolant
    (trigonometric along periodic axes, cubic splines along others), and the floor: the true coarse
    frames through the codec, decoded at the fine points, which a perfect operator would reach. On
    at most `limit` trajectories of the split, evenly spaced.

    Args:
        factors: How many times finer, where no versions are named.
        versions: Converted versions by name.
    Content:
        num_trajectories, steps, interpolant (one word for each axis), own (metrics on the run's
        grid), missing (factors without a version), factors: a list of factor, version, space,
        metrics and per_step of 'decoder', 'interpolated' and 'floor'.
    Raises:
        UsageError: The run is on a mesh or particles.
        DataError: No finer version is there, or one does not go with the run's own.
    """
    store, codec = context.store, context.surrogate.codec
    if not isinstance(store, TrajectoryStore) or not isinstance(codec, GridCodec):
        raise UsageError(
            f"{context.task}: super-resolution compares grids, and this is a {codec.geometry.kind}",
            hint="ups infer --points decodes anywhere",
        )
    found = _named(context, store, versions) if versions else finer_versions(context, factors)
    if not found:
        raise DataError(_none(store, factors), hint=_how(store, factors))
    members = context.some_of(context.settings.split, limit)
    fine = {factor: _Fine(context, name) for factor, name in sorted(found.items())}
    own = _accumulator(context)
    for rows in np.array_split(members, -(-len(members) // context.settings.batch_size)):
        predicted, true = _coarse(context, rows)
        decoded = torch.stack(context.coded.decode(predicted, rows, _frames(context)))
        own.update(decoded.cpu(), torch.stack(context.coded.reference(rows, _frames(context))))
        for one in fine.values():
            one.update(rows, predicted, true, decoded)
    content = {
        "num_trajectories": len(members),
        "steps": context.horizon.steps,
        "interpolant": ["trigonometric" if wraps else "cubic" for wraps in codec.periodic],
        "own": {"space": list(store.space), "metrics": _kept(own.result())},
        "missing": [] if versions else [f for f in factors if f not in found],
        "factors": [{"factor": factor, **one.result()} for factor, one in fine.items()],
    }
    return Section(name="super_resolution", content=content)


HEADS = ("grid", ">", ">nRMSE mean", ">median", ">p90", ">interpolated", ">floor")


def super_resolution_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """The section as rows under `HEADS`: the run's own grid first, then the finer ones."""
    own = content["own"]
    rows = [["x".join(map(str, own["space"])), "1x", *_numbers(own["metrics"]), "-", "-"]]
    for one in content["factors"]:
        others = [one["metrics"][name]["nrmse"]["mean"] for name in (INTERPOLATED, FLOOR)]
        rows.append([
            "x".join(map(str, one["space"])), f"{one['factor']}x",
            *_numbers(one["metrics"][DECODER]), *map(_number, others),
        ])  # fmt: skip
    return rows


def finer_versions(context: Context, factors: Sequence[int] = FACTORS) -> dict[int, str]:
    """Converted versions of the same raw data with so many times finer grids, by their factor."""
    store = context.store
    found: dict[int, str] = {}
    if not isinstance(store, TrajectoryStore):
        return found
    for name in list_versions(store.metadata.dataset):
        other = open_store(store.metadata.dataset, name)
        if not isinstance(other, TrajectoryStore) or not _goes_with(store, other):
            continue
        factor = store.metadata.stride_x // other.metadata.stride_x
        if factor in factors:
            found.setdefault(factor, name)
    return found


def _goes_with(store: TrajectoryStore, other: TrajectoryStore) -> bool:
    """Whether the same trajectories are there, at the same times, on a grid that is a multiple."""
    ours, theirs = store.metadata, other.metadata
    alike = (
        (ours.split_hash, ours.dt, ours.fields, ours.bounds, ours.inputs)
        == (theirs.split_hash, theirs.dt, theirs.fields, theirs.bounds, theirs.inputs)
    )  # fmt: skip
    return (
        alike
        and other.num_frames == store.num_frames
        and other.num_trajectories == store.num_trajectories
        and bool((other.sources == store.sources).all() and (other.places == store.places).all())
        and _fingerprints(store) == _fingerprints(other)
        and ours.stride_x % theirs.stride_x == 0
        and ours.stride_x > theirs.stride_x
    )


def _fingerprints(store: TrajectoryStore) -> list[str]:
    return [source.fingerprint for source in store.metadata.sources]


def _named(context: Context, store: TrajectoryStore, versions: Sequence[str]) -> dict[int, str]:
    found = {}
    for name in versions:
        other = open_unseen(store, name, context.settings.split)
        if not isinstance(other, TrajectoryStore) or not _goes_with(store, other):
            raise DataError(
                f"{other.name}: not the trajectories of {store.name} on a finer grid",
                hint=_how(store, FACTORS),
            )
        found[store.metadata.stride_x // other.metadata.stride_x] = name
    return found


class _Fine:
    """One finer version: its truth, and the three predictions of it."""

    def __init__(self, context: Context, version: str) -> None:
        store = open_unseen(context.store, version, context.settings.split)
        assert isinstance(store, TrajectoryStore)
        codec = context.surrogate.codec
        self.context, self.store, self.coded = context, store, CodedGrid(store, codec)
        own = context.store
        assert isinstance(own, TrajectoryStore)
        lines = zip(own.coords, store.coords, codec.periodic, strict=True)
        self.matrices = [_matrix(coarse, fine, wraps) for coarse, fine, wraps in lines]
        names = (DECODER, INTERPOLATED, FLOOR)
        self.sums = {name: _accumulator(context) for name in names}

    def update(self, rows: Array, predicted: Tensor, true: Tensor, decoded: Tensor) -> None:
        """Some trajectories: predicted and true tokens, and the prediction on the run's grid."""
        frames = _frames(self.context)
        reference = torch.stack(self.coded.reference(rows, frames))
        for name, fields in self._predictions(rows, predicted, true, decoded):
            self.sums[name].update(fields.cpu(), reference)

    def _predictions(
        self, rows: Array, predicted: Tensor, true: Tensor, decoded: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        frames = _frames(self.context)
        yield DECODER, torch.stack(self.coded.decode(predicted, rows, frames))
        yield INTERPOLATED, _carried_over(decoded, self.matrices)
        yield FLOOR, torch.stack(self.coded.decode(true, rows, frames))

    def result(self) -> dict[str, Any]:
        metrics = {name: one.result() for name, one in self.sums.items()}
        return {
            "version": self.store.metadata.version,
            "space": list(self.store.space),
            "metrics": {name: _kept(one) for name, one in metrics.items()},
            "per_step": {name: one.per_step["nrmse"].tolist() for name, one in metrics.items()},
        }


def _coarse(context: Context, rows: Array) -> tuple[Tensor, Tensor]:
    """Tokens of the predicted frames, and of the true ones."""
    predicted = predicted_tokens(context.surrogate, context.coded, rows, context.horizon)
    return predicted, context.coded.encode(rows, _frames(context))


def _frames(context: Context) -> range:
    return range(context.coded.num_frames)[context.horizon.frames]


def _accumulator(context: Context) -> MetricAccumulator:
    meta = context.store.metadata
    extents = [high - low for low, high in meta.bounds]
    return MetricAccumulator(dt=context.dt, extents=extents, channels=meta.fields)


def _matrix(coarse: Array, fine: Array, wraps: bool) -> Float[Tensor, "fine coarse"]:
    """From values at coarse points of an axis to those of the interpolant at fine ones."""
    size = len(coarse)
    places = (fine - coarse[0]) / ((coarse[-1] - coarse[0]) / (size - 1))
    if not wraps:
        return torch.from_numpy(CubicSpline(np.arange(size), np.eye(size))(places))
    waves = np.fft.fftfreq(size, 1 / size)
    phases = np.exp(2j * np.pi * np.outer(places, waves) / size)
    # The highest wave of an even number of points has no known phase: its cosine is kept.
    if size % 2 == 0:
        phases[:, size // 2] = np.cos(np.pi * places)
    analysis = np.exp(-2j * np.pi * np.outer(waves, np.arange(size)) / size) / size
    return torch.from_numpy((phases @ analysis).real.copy())


def _carried_over(
    fields: Float[Tensor, "batch time *space channel"], matrices: Sequence[Tensor]
) -> Float[Tensor, "batch time *fine channel"]:
    values = fields.double()
    for axis, matrix in enumerate(matrices, start=2):
        one = matrix.to(values.device)
        values = torch.tensordot(values, one, ([axis], [1])).movedim(-1, axis)
    return values.to(fields.dtype)


def _kept(metrics: Metrics) -> dict[str, dict[str, float]]:
    return {name: metrics.reduced[name] for name in _KEPT}


def _none(store: TrajectoryStore, factors: Sequence[int]) -> str:
    wanted = " or ".join(f"{factor}x" for factor in factors)
    return (
        f"{store.name}: no version of the same raw data is {wanted} finer "
        f"(this one keeps every {store.metadata.stride_x}. point)"
    )


def _how(store: TrajectoryStore, factors: Sequence[int]) -> str:
    stride = store.metadata.stride_x
    fitting = [stride // factor for factor in factors if stride % factor == 0]
    if not fitting:
        return "train on a coarser version: ups data convert --stride-x 4"
    return f"ups data convert {store.metadata.dataset} --stride-x {fitting[0]}"


def _numbers(metrics: Mapping[str, Any]) -> list[str]:
    return [_number(metrics["nrmse"][part]) for part in ("mean", "median", "p90")]


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
