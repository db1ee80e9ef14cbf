"""The grid codec: patches <-> tokens at the patch centres, decoded at any point."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.codec.anypoint import AnchorAxis, AnyPointDecoder
from ups.codec.basis import CosineBasis, PrincipalBasis, Statistics, token_size
from ups.codec.geometry import GridGeometry
from ups.codec.identity import fingerprint_of
from ups.codec.interpolation import interpolate, resample
from ups.codec.local import LocalNetwork, amplitude
from ups.codec.patches import PatchTransform, patch_sizes
from ups.config.models import GridCodecConfig
from ups.errors import DataError

__all__ = ["GridCodec", "GridGeometry"]

_FLOOR = 1e-3


class GridCodec(nn.Module):
    """Spatially anchored tokens: linear orthonormal skip, local learned parts, any-point decoder.

    A token holds coefficients of its patch in normalised units: first, exactly, the mean of each
    field times sqrt(points_per_token); then either the lowest cosines (channel
    `k * num_fields + c` belongs to field c) or principal components of all fields together. With
    all coefficients kept the embedding is orthonormal, hence exactly invertible and isometric;
    with fewer, a local network that sees the neighbouring tokens corrects what was cut, except for
    the means. Between grid points the decoder adds to a sixth-order local polynomial a learned
    correction that vanishes at the grid points. All learned parts scale with the amplitude of the
    normalised field.

    Tokens are those of the codec's own grid. Fields on another grid of the domain are first
    evaluated at its points by local polynomials of sixth order, so that smooth fields have the
    same tokens at every resolution, wherever the points lie in their cells; finer detail than the
    codec's grid resolves is sampled, not averaged.

    Fields with the transform 'log' are encoded as their logarithm; values below a thousandth of
    the smallest one that `fit` saw count as that.

    Attributes:
        separable: Whether every channel belongs to one field.
        points_per_token: Grid points of a whole patch.
        weights: Share of the domain of each token; None where all are equal.
        context_dim: Channels that `encode_inputs` makes.
        compression: Values of a frame / numbers of its tokens.

    Shape:
        fields: (batch, *space, channel), physical units
        tokens: (batch, num_tokens, latent_dim)
        queries: (query, axis), physical coordinates

    Raises:
        DataError: The grid cannot be cut in such patches.
    """

    shift: Tensor
    scale: Tensor
    floor: Tensor
    is_log: Tensor
    input_shift: Tensor
    input_scale: Tensor

    def __init__(self, config: GridCodecConfig, geometry: GridGeometry) -> None:
        super().__init__()
        self.config, self.geometry = config, geometry
        self.patches = PatchTransform(geometry.space, patch_sizes(config, geometry.space))
        self.fields = geometry.fields
        self.num_fields, num_inputs = len(geometry.fields), len(geometry.inputs)
        self.anchors, self.periodic = self.patches.anchors, geometry.periodic
        self.num_tokens, self.points_per_token = math.prod(self.anchors), self.patches.points
        self.weights = self.patches.weights
        num_values = self.points_per_token * self.num_fields
        self.latent_dim = token_size(config, self.points_per_token, self.num_fields)
        self.context_dim = self.points_per_token * num_inputs
        self.is_invertible = self.latent_dim == num_values
        self.separable = config.basis == "dct"
        self.compression = (
            math.prod(geometry.space) * self.num_fields / (self.num_tokens * self.latent_dim)
        )
        self.basis = (
            CosineBasis(num_values, self.latent_dim)
            if self.separable
            else PrincipalBasis(num_values, self.latent_dim, self.num_fields)
        )
        self._register_units(num_inputs)
        self._build_learned(num_values)

    def _register_units(self, num_inputs: int) -> None:
        for name, size in (("", self.num_fields), ("input_", num_inputs)):
            self.register_buffer(f"{name}shift", torch.zeros(size))
            self.register_buffer(f"{name}scale", torch.ones(size))
        smallest = torch.finfo(torch.float32).tiny
        self.register_buffer("floor", torch.full((self.num_fields,), smallest))
        is_log = self.geometry.is_log
        self.register_buffer("is_log", torch.tensor(is_log), persistent=False)
        self._logs = [field for field, chosen in enumerate(is_log) if chosen]

    def _build_learned(self, num_values: int) -> None:
        width, depth = self.config.width, self.config.depth
        local = partial(LocalNetwork, width=width, depth=depth, periodic=self.periodic)
        free = self.latent_dim - self.num_fields
        self.encoder = None
        if not self.is_invertible:
            if self.config.encoder == "learned" and free:
                self.encoder = local(num_values, free)
            self.decoder = local(self.latent_dim, num_values - self.num_fields)
        sizes = zip(self.geometry.space, self.patches.patch, self.periodic, strict=True)
        axes = [_anchor_axis(points, patch, wraps) for points, patch, wraps in sizes]
        self.anypoint = AnyPointDecoder(
            self.latent_dim, self.num_fields, axes, width=width, depth=depth
        )

    def set_normalisation(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        """Fix the affine map to the units in which the codec works, per field.

        Of fields with a transform these are replaced by those that `fit` finds.
        """
        self.shift.copy_(torch.as_tensor(shift))
        self.scale.copy_(torch.as_tensor(scale))

    def set_input_normalisation(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        """The same for the fields that `encode_inputs` takes."""
        self.input_shift.copy_(torch.as_tensor(shift))
        self.input_scale.copy_(torch.as_tensor(scale))

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` has anything to find."""
        return bool(self._logs) or not self.separable

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Everything that comes from data, in one pass, after `set_normalisation`.

        Principal components for `basis: pca`, from whole patches; mean and deviation of the
        logarithm for the fields with that transform, as their shift and scale.

        Args:
            batches: Physical fields of the training split on the codec's grid, (batch, *space,
                channel) each.

        Raises:
            DataError: A field with the transform 'log' is not positive, or is constant.
        """
        if not self.needs_fit:
            return
        statistics = Statistics([self.fields[field] for field in self._logs])
        for fields in batches:
            self._require_positive(fields)
            values = self._transformed(fields.to(self.scale.device))
            patches = None
            if not self.separable:
                patches = self.patches.whole_patches(self.patches(values))
            statistics.add(values[..., self._logs], patches)
        if not statistics.num_batches:
            raise ValueError("GridCodec.fit: no batches")
        if self._logs:
            self.shift[self._logs] = statistics.mean.to(self.shift)
            self.scale[self._logs] = statistics.deviation.to(self.scale)
            self.floor[self._logs] = (_FLOOR * statistics.smallest.exp()).to(self.floor)
        if isinstance(self.basis, PrincipalBasis):
            self.basis.fit(statistics.moment(self.scale))

    def _require_positive(self, fields: Float[Tensor, "batch *space channel"]) -> None:
        for field in self._logs:
            smallest = fields[..., field].min().item()
            if not smallest > 0:
                raise DataError(
                    f"field '{self.fields[field]}': {smallest:g} has no logarithm",
                    hint="ups data audit, or transform: none in the card",
                )

    def forward(
        self,
        fields: Float[Tensor, "batch *space channel"],
        queries: Float[Tensor, "query axis"],
    ) -> tuple[Float[Tensor, "batch *space channel"], Float[Tensor, "batch query channel"]]:
        """Reconstruct: what `decode` makes of `encode`, on the grid and at queries."""
        tokens = self.encode(fields).unflatten(1, self.anchors)
        values = self._on_grid(tokens)
        between = self._between(tokens, values, self.grid_positions(queries))
        return self._physical(values), self._physical(between)

    def encode(
        self,
        fields: Float[Tensor, "batch *space channel"],
        geometry: GridGeometry | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Fields to tokens.

        Args:
            geometry: Of the grid on which the fields are, where that is not the codec's. With
                `codec.anchors` fields of another size may come without: their points are then
                at the centres of the cells of the codec's box (`GridGeometry.resized`).
        """
        grid = self._grid_of(fields, self.num_fields, geometry)
        values = (self._transformed(fields) - self.shift) / self.scale
        full = self.patches(self._on_own_grid(values, grid)).flatten(-2)
        tokens = self.basis(full)
        if self.encoder is not None:
            size = amplitude(full)
            tokens = tokens + F.pad(size * self.encoder(full / size), (self.num_fields, 0))
        return tokens.flatten(1, -2)

    def encode_inputs(
        self,
        inputs: Float[Tensor, "batch *space input"],
        geometry: GridGeometry | None = None,
    ) -> Float[Tensor, "batch tokens context"]:
        """All cosine coefficients of the normalised input fields: nothing is lost."""
        grid = self._grid_of(inputs, len(self.geometry.inputs), geometry)
        values = (inputs - self.input_shift) / self.input_scale
        return self.patches(self._on_own_grid(values, grid)).flatten(-2).flatten(1, -2)

    def decode(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        queries: Float[Tensor, "query axis"] | None = None,
        *,
        space: Sequence[int] | None = None,
    ) -> Float[Tensor, "batch *points channel"]:
        """Tokens to fields: on the codec's grid (batch, *space, channel), or elsewhere.

        Args:
            queries: The points to decode at, instead: (batch, query, channel).
            space: Points along each axis, instead, at the centres of the cells of the same box.
        """
        tokens = tokens.to(self.scale.dtype).unflatten(1, self.anchors)
        values = self._on_grid(tokens)
        if queries is not None:
            values = self._between(tokens, values, self.grid_positions(queries))
        elif space is not None and tuple(space) != self.geometry.space:
            values = self._resized(tokens, values, self.geometry.resized(space))
        return self._physical(values)

    def linear(
        self, fields: Float[Tensor, "batch *space channel"]
    ) -> Float[Tensor, "batch *space channel"]:
        """Reconstruct by the linear skip alone: what the learned parts start from."""
        values = (self._transformed(fields) - self.shift) / self.scale
        kept = self.basis.inverse(self.basis(self.patches(values).flatten(-2)))
        return self._physical(self.patches.inverse(kept.unflatten(-1, (-1, self.num_fields))))

    def _transformed(
        self, fields: Float[Tensor, "batch *space channel"]
    ) -> Float[Tensor, "batch *space channel"]:
        if not self._logs:
            return fields
        positive = torch.where(self.is_log, torch.maximum(fields, self.floor), 1.0)
        return torch.where(self.is_log, positive.log(), fields)

    def _physical(
        self, values: Float[Tensor, "batch *points channel"]
    ) -> Float[Tensor, "batch *points channel"]:
        fields = values * self.scale + self.shift
        if not self._logs:
            return fields
        return torch.where(self.is_log, torch.where(self.is_log, fields, 0.0).exp(), fields)

    def _grid_of(
        self,
        fields: Float[Tensor, "batch *space channel"],
        channels: int,
        geometry: GridGeometry | None,
    ) -> GridGeometry:
        """The grid on which fields are."""
        space, own = tuple(fields.shape[1:-1]), self.geometry
        if geometry is None:
            anywhere = self.config.anchors is not None and len(space) == own.num_dims
            geometry = own.resized(space) if anywhere and space != own.space else own
        if space != geometry.space or fields.shape[-1] != channels:
            expected = (*geometry.space, channels)
            raise ValueError(f"fields of shape {tuple(fields.shape[1:])}, expected {expected}")
        return geometry

    def _on_own_grid(
        self, values: Float[Tensor, "batch *space channel"], grid: GridGeometry
    ) -> Float[Tensor, "batch *own channel"]:
        if self.geometry.is_same_grid(grid):
            return values
        self.geometry.check_same_domain(grid)
        return resample(values, self._places(self.geometry, grid), self.periodic)

    def _places(self, points: GridGeometry, grid: GridGeometry) -> list[Float[Tensor, " _"]]:
        """Points of one grid, axis by axis, in units of points of the other."""
        return [
            ((axis - start) / step).to(self.scale)
            for axis, start, step in zip(points.axes(), grid.origin, grid.spacing, strict=True)
        ]

    def _on_grid(
        self, tokens: Float[Tensor, "batch *anchors dim"]
    ) -> Float[Tensor, "batch *space channel"]:
        full = self.basis.inverse(tokens)
        if not self.is_invertible:
            size = amplitude(tokens)
            full = full + F.pad(size * self.decoder(tokens / size), (self.num_fields, 0))
        return self.patches.inverse(full.unflatten(-1, (-1, self.num_fields)))

    def _between(
        self,
        tokens: Float[Tensor, "batch *anchors dim"],
        values: Float[Tensor, "batch *space channel"],
        positions: Float[Tensor, "query axis"],
    ) -> Float[Tensor, "batch query channel"]:
        learned = self._off_grid(tokens, positions)
        return interpolate(values, positions, self.periodic) + learned

    def _resized(
        self,
        tokens: Float[Tensor, "batch *anchors dim"],
        values: Float[Tensor, "batch *space channel"],
        geometry: GridGeometry,
    ) -> Float[Tensor, "batch *places channel"]:
        places = self._places(geometry, self.geometry)
        positions = torch.stack(torch.meshgrid(*places, indexing="ij"), -1)
        learned = self._off_grid(tokens, positions.flatten(0, -2))
        return resample(values, places, self.periodic) + learned.unflatten(1, geometry.space)

    def _off_grid(
        self, tokens: Float[Tensor, "batch *anchors dim"], positions: Float[Tensor, "query axis"]
    ) -> Float[Tensor, "batch query channel"]:
        """The learned correction of the polynomial; zero at grid points."""
        vanishing = 1 - torch.cos(torch.pi * positions).square().prod(-1)
        return self.anypoint(tokens, positions) * vanishing[:, None]

    def grid_positions(self, queries: Float[Tensor, "query axis"]) -> Float[Tensor, "query axis"]:
        """Physical coordinates in units of grid points from the first one."""
        origin = torch.tensor(self.geometry.origin, dtype=torch.float64, device=queries.device)
        spacing = torch.tensor(self.geometry.spacing, dtype=torch.float64, device=queries.device)
        return ((queries - origin) / spacing).to(self.scale.dtype)

    def fingerprint(self) -> str:
        """SHA-256 over options, geometry and every weight: two codecs agree only if it does."""
        options = {
            "config": self.config.model_dump(exclude={"gate"}),
            "geometry": asdict(self.geometry),
        }
        return fingerprint_of(options, self)

    @property
    def label(self) -> str:
        """What a person needs to know: kind, dimensions, tokens."""
        return f"{self.config.kind}{self.latent_dim}_{self.geometry.num_dims}d_{self.num_tokens}tok"


def _anchor_axis(points: int, patch: int, wraps: bool) -> AnchorAxis:
    """Anchors at the centres of the patches, in units of grid points."""
    starts = range(0, points, patch)
    centres = tuple((start + min(start + patch, points) - 1) / 2 for start in starts)
    return AnchorAxis(centres, float(patch), float(points) if wraps else None, patch)
