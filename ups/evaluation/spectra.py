"""Energy spectra of predicted and true fields on grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ups.data.store import TrajectoryStore
from ups.evaluation.metrics import BANDS
from ups.evaluation.report import Section
from ups.evaluation.rollout import Batch

KINDS = ("prediction", "reference", "error")


class SpectraObserver:
    """Energy of prediction, truth and error by wave number, in the first, middle and last frame.

    Shell k holds half the squared Fourier coefficients of all wave vectors with |k| within half a
    wave of k; wave numbers count waves per longest side of the domain. The sum over shells is half
    the mean square of the field. Axes that are not periodic are continued by their mirror image,
    so that ends do not look like jumps.

    Args:
        fields: Names of the channels.
        periodic: Of each axis.
        lengths: Of the domain along each axis.
        times: Of the predicted frames.

    Content:
        wavenumbers; complete_to (shells above it lie partly beyond the grid's reach); steps and
        times (of the frames looked at, steps counted from 1); num_trajectories; fields: name ->
        'prediction', 'reference', 'error' -> for each frame one value per wave number, mean over
        trajectories; bands: name -> band -> 'error' (root of the error's share of the true energy)
        and 'energy' (predicted over true energy), one value per frame; limits of the bands.
    """

    def __init__(
        self,
        fields: Sequence[str],
        *,
        periodic: Sequence[bool],
        lengths: Sequence[float],
        times: Sequence[float],
    ) -> None:
        self.fields, self.periodic = tuple(fields), tuple(periodic)
        self.lengths, self.times = tuple(lengths), tuple(times)
        last = len(self.times) - 1
        self.frames = sorted({0, last // 2, last})
        self._sums: dict[str, Tensor] = {}
        self._space: tuple[int, ...] = ()
        self._count = 0

    @classmethod
    def of(cls, store: TrajectoryStore, times: Sequence[float]) -> SpectraObserver:
        meta = store.metadata
        lengths = [high - low for low, high in meta.bounds]
        return cls(meta.fields, periodic=meta.periodic, lengths=lengths, times=times)

    @torch.no_grad()
    def update(self, batch: Batch) -> None:
        prediction = self._coefficients(batch.prediction[:, self.frames])
        reference = self._coefficients(batch.reference[:, self.frames])
        self._space = tuple(batch.prediction.shape[2:-1])
        self._count += len(batch.trajectories)
        found = zip(KINDS, (prediction, reference, prediction - reference), strict=True)
        for kind, values in found:
            square = torch.view_as_real(values).square().sum(-1)
            total = square.sum(0, dtype=torch.float64)
            self._sums[kind] = self._sums[kind] + total if kind in self._sums else total

    def absorb(self, other: SpectraObserver) -> None:
        self._count += other._count
        self._space = self._space or other._space
        for kind, total in other._sums.items():
            self._sums[kind] = self._sums[kind] + total if kind in self._sums else total

    def result(self) -> Section:
        shells, weights = self._shells()
        size = int(shells.max()) + 1
        spectra = {}
        for kind, total in self._sums.items():
            energy = (total.flatten(2) * weights.flatten() / 2) / self._count
            binned = torch.zeros(*energy.shape[:2], size, dtype=torch.float64)
            spectra[kind] = binned.index_add_(2, shells.flatten(), energy)
        content: dict[str, Any] = {
            "wavenumbers": list(range(size)),
            "complete_to": int(min(self._reach())),
            "steps": [frame + 1 for frame in self.frames],
            "times": [self.times[frame] for frame in self.frames],
            "num_trajectories": self._count,
            "fields": {
                name: {kind: values[:, number].tolist() for kind, values in spectra.items()}
                for number, name in enumerate(self.fields)
            },
            "bands": {
                name: _bands({kind: values[:, number] for kind, values in spectra.items()})
                for number, name in enumerate(self.fields)
            },
            "limits": {name: list(limits) for name, limits in BANDS.items()},
        }
        return Section(name="spectra", content=content)

    def _coefficients(self, fields: Float[Tensor, "batch time *space channel"]) -> Tensor:
        """Fourier coefficients of the mirrored fields, (batch, frame, channel, *mode)."""
        values = fields.movedim(-1, 2).contiguous()
        dims = range(-len(self.periodic), 0)
        for dim, periodic in zip(dims, self.periodic, strict=True):
            if not periodic:
                values = torch.cat([values, values.flip(dim)], dim)
        return torch.fft.rfftn(values, dim=tuple(dims), norm="forward")

    def _shells(self) -> tuple[Tensor, Float64[Tensor, "*mode"]]:
        """Shell of each stored mode, and how many modes it stands for."""
        axes, last = [], len(self._space) - 1
        for axis, points in enumerate(self._space):
            size = points if self.periodic[axis] else 2 * points
            modes = torch.fft.rfftfreq(size, 1 / size, dtype=torch.float64)
            if axis < last:
                modes = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
            axes.append(modes * self._per_side(axis))
            twice = torch.full((len(modes),), 2.0, dtype=torch.float64)
            twice[0] = 1
            if size % 2 == 0:
                twice[-1] = 1
        wave = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        return (wave + 0.5).floor().long(), twice.expand(wave.shape)

    def _per_side(self, axis: int) -> float:
        """Waves per longest side of an axis' first mode."""
        length = self.lengths[axis] * (1 if self.periodic[axis] else 2)
        return max(self.lengths) / length

    def _reach(self) -> list[float]:
        """Wave number up to which each axis is resolved."""
        return [
            points // (2 if self.periodic[axis] else 1) * self._per_side(axis)
            for axis, points in enumerate(self._space)
        ]


def _bands(spectra: dict[str, Float64[Tensor, "frame shell"]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name, (low, high) in BANDS.items():
        energy = {kind: values[:, low:high].sum(1) for kind, values in spectra.items()}
        found[name] = {
            "error": (energy["error"] / energy["reference"]).sqrt().tolist(),
            "energy": (energy["prediction"] / energy["reference"]).tolist(),
        }
    return found
