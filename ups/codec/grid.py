"""The grid codec: patches <-> tokens at the patch centres, decoded at any point."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ups.codec.interpolation import interpolate
from ups.codec.local import LocalNetwork
from ups.codec.patches import cosine_basis, patchify, unpatchify
from ups.config.models import GridCodecConfig
from ups.errors import DataError

_FEATURES = 32
_EPS = 1e-8


@dataclass(frozen=True)
class GridGeometry:
    """Where the points of a uniform grid are.

    Attributes:
        space: Points along each axis.
        origin: Coordinate of the first point along each axis.
        spacing: Distance between points along each axis.
        periodic: Whether each axis wraps.
        fields: Names of the channels.
    """

    space: tuple[int, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    periodic: tuple[bool, ...]
    fields: tuple[str, ...]

    @property
    def num_dims(self) -> int:
        return len(self.space)

    def coords(self) -> Float[Tensor, "point axis"]:
        """Physical coordinates of all points, last axis fastest."""
        axes = [
            start + step * torch.arange(size, dtype=torch.float64)
            for size, start, step in zip(self.space, self.origin, self.spacing, strict=True)
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, self.num_dims)


class GridCodec(nn.Module):
    """Spatially anchored tokens: local encoder, local any-point decoder, linear orthonormal skip.

    A token holds the cosine coefficients of its patch, lowest frequencies first, fields fastest:
    channel `k * num_fields + c`. With all coefficients kept the embedding is orthonormal, hence
    exactly invertible and isometric; with fewer, local networks that see the neighbouring tokens
    correct what was cut. Between grid points the decoder adds to a sixth-order local polynomial a
    learned expansion around the nearest anchors, in relative coordinates, that vanishes at the
    grid points themselves. All learned parts scale with the amplitude of the field.

    Shape:
        fields: (batch, *space, channel), physical units
        tokens: (batch, num_tokens, latent_dim)
        queries: (query, axis), physical coordinates

    Raises:
        DataError: The grid is not a multiple of the patch.
    """

    basis: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, config: GridCodecConfig, geometry: GridGeometry) -> None:
        super().__init__()
        _check_patch(config, geometry)
        self.config, self.geometry = config, geometry
        dims, num_fields = geometry.num_dims, len(geometry.fields)
        points = config.patch_size**dims
        self.num_coefficients = config.coefficients or points
        self.anchors = tuple(size // config.patch_size for size in geometry.space)
        self.num_tokens = math.prod(self.anchors)
        self.latent_dim = self.num_coefficients * num_fields
        self.is_invertible = self.num_coefficients == points
        self.register_buffer("basis", cosine_basis(config.patch_size, dims).float())
        self.register_buffer("shift", torch.zeros(num_fields))
        self.register_buffer("scale", torch.ones(num_fields))
        local = partial(
            LocalNetwork, width=config.width, depth=config.depth, periodic=geometry.periodic
        )
        if not self.is_invertible:
            self.encoder = local(points * num_fields, self.latent_dim)
            self.decoder = local(self.latent_dim, points * num_fields)
        self.expansion = local(self.latent_dim, _FEATURES * num_fields)
        self.functions = nn.Sequential(
            nn.Linear(2 * dims * config.patch_size, config.width),
            nn.GELU(),
            nn.Linear(config.width, _FEATURES),
        )

    def set_normalisation(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        """Fix the affine map to the units in which the codec works, per channel."""
        self.shift.copy_(torch.as_tensor(shift))
        self.scale.copy_(torch.as_tensor(scale))

    def forward(
        self,
        fields: Float[Tensor, "batch *space channel"],
        queries: Float[Tensor, "query axis"],
    ) -> tuple[Float[Tensor, "batch *space channel"], Float[Tensor, "batch query channel"]]:
        """Reconstruct: what `decode` makes of `encode`, on the grid and at queries."""
        tokens = self.encode(fields).unflatten(1, self.anchors)
        values = self._on_grid(tokens)
        between = self._between(tokens, values, self.grid_positions(queries))
        return values * self.scale + self.shift, between * self.scale + self.shift

    def encode(
        self, fields: Float[Tensor, "batch *space channel"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Fields on the codec's grid to tokens."""
        if tuple(fields.shape[1:]) != (*self.geometry.space, len(self.geometry.fields)):
            expected = (*self.geometry.space, len(self.geometry.fields))
            raise ValueError(f"fields of shape {tuple(fields.shape[1:])}, expected {expected}")
        patches = patchify((fields - self.shift) / self.scale, self.config.patch_size)
        full = _along_points(patches, self.basis)
        tokens = full[..., : self.num_coefficients, :].flatten(-2)
        if not self.is_invertible:
            size = _amplitude(full.flatten(-2))
            tokens = tokens + size * self.encoder(full.flatten(-2) / size)
        return tokens.flatten(1, -2)

    def decode(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        queries: Float[Tensor, "query axis"] | None = None,
    ) -> Float[Tensor, "batch *points channel"]:
        """Tokens to fields: on the codec's grid (batch, *space, channel), or at `queries`."""
        tokens = tokens.unflatten(1, self.anchors)
        values = self._on_grid(tokens)
        if queries is not None:
            values = self._between(tokens, values, self.grid_positions(queries))
        return values * self.scale + self.shift

    def _on_grid(
        self, tokens: Float[Tensor, "batch *anchors dim"]
    ) -> Float[Tensor, "batch *space channel"]:
        num_fields = len(self.geometry.fields)
        coefficients = tokens.unflatten(-1, (self.num_coefficients, num_fields))
        if not self.is_invertible:
            size = _amplitude(tokens)
            missing = self.basis.shape[1] - self.num_coefficients
            coefficients = F.pad(coefficients, (0, 0, 0, missing))
            learned = size * self.decoder(tokens / size)
            coefficients = coefficients + learned.unflatten(-1, (-1, num_fields))
        patches = _along_points(coefficients, self.basis.T)
        return unpatchify(patches, self.config.patch_size)

    def _between(
        self,
        tokens: Float[Tensor, "batch *anchors dim"],
        values: Float[Tensor, "batch *space channel"],
        positions: Float[Tensor, "query axis"],
    ) -> Float[Tensor, "batch query channel"]:
        """Local polynomial plus the learned expansion of the 2^dim anchors around each query."""
        size = _amplitude(tokens)
        features = (size * self.expansion(tokens / size)).flatten(1, -2)
        features = features.unflatten(-1, (_FEATURES, -1))
        place = (positions + 0.5) / self.config.patch_size - 0.5
        corner = place.detach().floor()
        learned: Tensor | float = 0.0
        for step in itertools.product((0, 1), repeat=len(self.anchors)):
            anchor = corner + torch.tensor(step, dtype=place.dtype, device=place.device)
            relative = place - anchor
            hat = (1 - relative.abs()).prod(-1)
            functions = self.functions(self._waves(relative)) * hat[:, None]
            chosen = features[:, self._flat_index(anchor.long())]
            learned = learned + torch.einsum("bqfc,qf->bqc", chosen, functions)
        off_grid = 1 - torch.cos(torch.pi * positions).square().prod(-1)
        return interpolate(values, positions, self.geometry.periodic) + learned * off_grid[:, None]

    def _waves(self, relative: Float[Tensor, "query axis"]) -> Float[Tensor, "query wave"]:
        orders = torch.arange(1, self.config.patch_size + 1, device=relative.device)
        angles = (torch.pi * relative[..., None] * orders).flatten(1)
        return torch.cat([angles.sin(), angles.cos()], -1)

    def _flat_index(self, anchor: Tensor) -> Tensor:
        index = torch.zeros(len(anchor), dtype=torch.long, device=anchor.device)
        for axis, (size, wraps) in enumerate(
            zip(self.anchors, self.geometry.periodic, strict=True)
        ):
            along = anchor[:, axis]
            index = index * size + (along % size if wraps else along.clamp(0, size - 1))
        return index

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
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
        for name, weight in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def label(self) -> str:
        """What a person needs to know: kind, dimensions, tokens."""
        return f"{self.config.kind}{self.latent_dim}_{self.geometry.num_dims}d_{self.num_tokens}tok"


def _along_points(
    values: Float[Tensor, "batch *anchors points channel"], matrix: Float[Tensor, "points new"]
) -> Float[Tensor, "batch *anchors new channel"]:
    """Multiply the last axis but one by a matrix; for one channel that is one plain product."""
    return (values.transpose(-1, -2) @ matrix).transpose(-1, -2)


def _amplitude(x: Float[Tensor, "batch *anchors dim"]) -> Float[Tensor, "batch *ones"]:
    """RMS of each sample over everything but the batch."""
    return (x.square().mean(tuple(range(1, x.ndim)), keepdim=True) + _EPS).sqrt()


def _check_patch(config: GridCodecConfig, geometry: GridGeometry) -> None:
    points = config.patch_size**geometry.num_dims
    if any(size % config.patch_size for size in geometry.space):
        shape = "x".join(str(size) for size in geometry.space)
        raise DataError(
            f"codec.patch_size: a grid of {shape} points is not a multiple of {config.patch_size}",
            hint="choose a divisor with --set codec.patch_size=N",
        )
    if config.coefficients and config.coefficients > points:
        raise DataError(f"codec.coefficients: {config.coefficients} of a patch of {points} points")
