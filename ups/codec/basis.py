"""Which linear combinations of a patch's cosine coefficients a token keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.config.models import GridCodecConfig
from ups.errors import DataError


def token_size(config: GridCodecConfig, points: int, num_fields: int) -> int:
    """Numbers of a token for patches of `points` points: at least the mean of each field.

    Raises:
        DataError: More coefficients are asked for than there are.
    """
    if config.coefficients is not None:
        if config.coefficients > points:
            raise DataError(
                f"codec.coefficients: {config.coefficients} of a patch of {points} points"
            )
        return config.coefficients * num_fields
    compression = config.compression or 1.0
    if config.basis == "dct":
        return max(1, math.floor(points / compression)) * num_fields
    return max(num_fields, math.floor(points * num_fields / compression))


class CosineBasis(nn.Module):
    """Keep the lowest frequencies of each field."""

    def __init__(self, num_values: int, size: int) -> None:
        super().__init__()
        self.num_values, self.size = num_values, size

    def forward(
        self, values: Float[Tensor, "batch *anchors value"]
    ) -> Float[Tensor, "batch *anchors dim"]:
        return values[..., : self.size]

    def inverse(
        self, tokens: Float[Tensor, "batch *anchors dim"]
    ) -> Float[Tensor, "batch *anchors value"]:
        return F.pad(tokens, (0, self.num_values - self.size))


class PrincipalBasis(nn.Module):
    """Keep the mean of each field exactly, then principal components of all that is left.

    The components mix fields. They are orthonormal, so the embedding stays isometric and, with all
    of them, invertible. Before `fit` they are the cosines of lowest frequency.
    """

    components: Tensor

    def __init__(self, num_values: int, size: int, num_fields: int) -> None:
        super().__init__()
        self.num_fields = num_fields
        identity = torch.eye(num_values - num_fields, size - num_fields)
        self.register_buffer("components", identity)

    def forward(
        self, values: Float[Tensor, "batch *anchors value"]
    ) -> Float[Tensor, "batch *anchors dim"]:
        means, rest = values[..., : self.num_fields], values[..., self.num_fields :]
        return torch.cat([means, self._product(rest, self.components)], -1)

    def inverse(
        self, tokens: Float[Tensor, "batch *anchors dim"]
    ) -> Float[Tensor, "batch *anchors value"]:
        means, rest = tokens[..., : self.num_fields], tokens[..., self.num_fields :]
        return torch.cat([means, self._product(rest, self.components.T)], -1)

    def _product(
        self, values: Float[Tensor, "batch *anchors old"], matrix: Float[Tensor, "old new"]
    ) -> Float[Tensor, "batch *anchors new"]:
        with torch.autocast(values.device.type, enabled=False):
            return values.to(matrix) @ matrix

    def fit(self, moment: Float[Tensor, "rest rest"]) -> None:
        """Take the leading eigenvectors of the second moment of what the means leave over."""
        if not self.components.numel():  # patches of one point, or means alone
            return
        _, vectors = torch.linalg.eigh(moment.cpu())
        leading = vectors.flip(1)[:, : self.components.shape[1]]
        largest = leading.gather(0, leading.abs().argmax(0, keepdim=True))
        self.components.copy_(leading * largest.sign())


class Statistics:
    """One pass over fields: moments of some of them, second moment of coefficients, in float64.

    Args:
        fields: Names of those whose mean and deviation are wanted.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        self.fields = tuple(fields)
        self.count = 0
        self.num_batches, self.num_patches = 0, 0
        self.total = torch.zeros(len(fields), dtype=torch.float64)
        self.squares = torch.zeros(len(fields), dtype=torch.float64)
        self.smallest = torch.full((len(fields),), math.inf, dtype=torch.float64)
        self._moment: Tensor | None = None

    def add(
        self,
        values: Float[Tensor, "batch *space channel"],
        patches: Float[Tensor, "patch coefficient field"] | None,
    ) -> None:
        """One batch.

        Args:
            values: Of the named fields, after their transform, before shift and scale.
            patches: Coefficients of whole patches of all fields, in the same units.
        """
        self.num_batches += 1
        if self.fields:
            rows = values.reshape(-1, len(self.fields)).double()
            self.count += len(rows)
            self.total += rows.sum(0).cpu()
            self.squares += rows.square().sum(0).cpu()
            self.smallest = torch.minimum(self.smallest, rows.amin(0).cpu())
        if patches is not None:
            rest = patches[:, 1:].flatten(1).double()
            product = rest.T @ rest
            self.num_patches += len(rest)
            self._moment = product if self._moment is None else self._moment + product

    @property
    def mean(self) -> Float[Tensor, " channel"]:
        return self.total / self.count

    @property
    def deviation(self) -> Float[Tensor, " channel"]:
        """Raises DataError where a field is constant."""
        deviation = (self.squares / self.count - self.mean.square()).clamp_min(0).sqrt()
        for name, size in zip(self.fields, deviation.tolist(), strict=True):
            if size <= 1e-7:
                raise DataError(f"field '{name}' is constant", hint="ups data audit")
        return deviation

    def moment(self, scale: Float[Tensor, " channel"]) -> Float[Tensor, "rest rest"]:
        """Mean product of all coefficients but the means, of fields divided by `scale`."""
        assert self._moment is not None
        moment = self._moment.cpu() / self.num_patches
        one = 1 / scale.double().cpu().repeat(len(moment) // len(scale))
        return moment * one[:, None] * one
