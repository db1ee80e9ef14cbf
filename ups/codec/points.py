"""The point codec: nodes of meshes and particles <-> tokens on a grid of anchors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ups.codec.anchors import AnchorGrid
from ups.codec.basis import Statistics
from ups.codec.boundary import boundary_moments
from ups.codec.cloud import Cloud
from ups.codec.identity import fingerprint_of
from ups.codec.local import amplitude
from ups.codec.local_fit import LocalFit, LocalPlan
from ups.codec.point_geometry import PointGeometry, check_anchors, point_geometry
from ups.codec.residual import Graph, ResidualDecoder, ResidualEncoder, build_graph, num_features
from ups.config.models import PointCodecConfig
from ups.errors import DataError

__all__ = ["PointCodec", "PointGeometry", "PointPlan", "point_geometry"]

_FLOOR = 1e-3
_MAX_ELEMENTS = 2**25
"""Largest number of values that a learned part makes at once without gradients."""


@dataclass(frozen=True)
class PointPlan:
    """What encoding needs of a batch of clouds besides values: made once for resting nodes."""

    cloud: Cloud
    local: LocalPlan
    graph: Graph | None


class PointCodec(nn.Module):
    """Anchored tokens of a local polynomial fit, corrected by message passing.

    A token holds, for the field around its anchor, coefficients of orthonormal polynomials in
    normalised units: channel `k * num_fields + c` is coefficient k of field c, and k = 0 is the
    local mean. The fit (`LocalFit`) is linear and needs no training. With `config.learned`,
    messages along edges add to the tokens, and local attention adds to the decoded values; both
    start at zero and scale with the amplitude of the sample's tokens.

    Nodes may be in any order, of any number in each sample, and differ between encoding and
    decoding. Decoded values are differentiable in the coordinates, once.

    Attributes:
        separable, points_per_token, weights: As in `TokenLayout`.
        context_dim: Channels that `context` makes.
        compression: Values of a frame / numbers of its tokens, mean over what `fit` saw; 0 before.

    Shape:
        values: (node, channel), physical units, all samples of the batch one after the other
        tokens: (batch, tokens, dim)
        coords: (query, axis), physical units

    Raises:
        ConfigError: `config.anchors` has other dimensions than the data.
    """

    separable = True
    is_invertible = False
    points_per_token = 1
    weights: tuple[float, ...] | None = None
    shift: Tensor
    scale: Tensor
    floor: Tensor
    is_log: Tensor
    input_shift: Tensor
    input_scale: Tensor
    nodes_per_frame: Tensor

    def __init__(self, config: PointCodecConfig, geometry: PointGeometry) -> None:
        super().__init__()
        check_anchors(config.anchors, geometry)
        self.config, self.geometry = config, geometry
        self.fields, self.num_fields = geometry.fields, len(geometry.fields)
        self.anchors, self.periodic = tuple(config.anchors), geometry.periodic
        self.grid = AnchorGrid(self.anchors, geometry.bounds, geometry.periodic)
        self.fit_to_nodes = LocalFit(self.grid, config.degree, config.ridge)
        self.num_basis = len(self.fit_to_nodes.polynomials)
        self.num_tokens = self.grid.num_anchors
        self.latent_dim = self.num_basis * self.num_fields
        moments = min(1 + geometry.num_dims, self.num_basis)
        boundary = geometry.num_dims + geometry.num_tags + 2 if geometry.kind == "mesh" else 0
        self.context_dim = self.num_basis * len(geometry.inputs) + moments + boundary
        self._register_units()
        self._build_learned()

    def _register_units(self) -> None:
        for name, size in (("", self.num_fields), ("input_", len(self.geometry.inputs))):
            self.register_buffer(f"{name}shift", torch.zeros(size))
            self.register_buffer(f"{name}scale", torch.ones(size))
        smallest = torch.finfo(torch.float32).tiny
        self.register_buffer("floor", torch.full((self.num_fields,), smallest))
        self.register_buffer("nodes_per_frame", torch.zeros(()))
        self.register_buffer("is_log", torch.tensor(self.geometry.is_log), persistent=False)
        self._logs = [field for field, chosen in enumerate(self.geometry.is_log) if chosen]

    def _build_learned(self) -> None:
        self.encoder: ResidualEncoder | None = None
        self.decoder: ResidualDecoder | None = None
        if not self.config.learned:
            return
        width, tags = self.config.width, self.geometry.num_tags
        features = num_features(self.grid, tags) if self.config.geometry else 0
        self.encoder = ResidualEncoder(
            self.num_fields, features, self.latent_dim, self.grid.num_dims, width,
            self.config.message_steps,
        )  # fmt: skip
        self.decoder = ResidualDecoder(
            self.grid, self.num_fields, self.latent_dim, width, self.config.neighbours
        )

    def set_normalisation(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        """Fix the affine map to the units in which the codec works, per field.

        Of fields with a transform these are replaced by those that `fit` finds.
        """
        self.shift.copy_(torch.as_tensor(shift))
        self.scale.copy_(torch.as_tensor(scale))

    def set_input_normalisation(self, shift: Sequence[float], scale: Sequence[float]) -> None:
        """The same for the inputs that `context` takes."""
        self.input_shift.copy_(torch.as_tensor(shift))
        self.input_scale.copy_(torch.as_tensor(scale))

    @torch.no_grad()
    def fit(self, batches: Iterable[tuple[Float[Tensor, "node channel"], Cloud]]) -> None:
        """Everything that comes from data, in one pass, after `set_normalisation`.

        Mean and deviation of the logarithm of fields with that transform, and nodes per frame.

        Args:
            batches: Physical values and where they are; of the training split.
        Raises:
            DataError: A field with the transform 'log' is not positive, or is constant.
        """
        statistics = Statistics([self.fields[field] for field in self._logs])
        nodes = samples = 0
        for values, cloud in batches:
            self._require_positive(values)
            if self._logs:
                statistics.add(self._transformed(values)[:, self._logs], None)
            nodes, samples = nodes + len(values), samples + cloud.num_samples
        if not samples:
            raise ValueError("PointCodec.fit: no batches")
        self.nodes_per_frame.fill_(nodes / samples)
        if self._logs:
            self.shift[self._logs] = statistics.mean.to(self.shift)
            self.scale[self._logs] = statistics.deviation.to(self.scale)
            self.floor[self._logs] = (_FLOOR * statistics.smallest.exp()).to(self.floor)

    def _require_positive(self, values: Float[Tensor, "node channel"]) -> None:
        for field in self._logs:
            smallest = values[:, field].min().item()
            if not smallest > 0:
                raise DataError(
                    f"field '{self.fields[field]}': {smallest:g} has no logarithm",
                    hint="ups data audit, or transform: none in the card",
                )

    def prepare(self, cloud: Cloud) -> PointPlan:
        """Factor the fits and choose supernodes: to be kept where nodes rest."""
        self._check_cloud(cloud)
        graph = None
        if self.encoder is not None:
            tags = self.geometry.num_tags if self.config.geometry else None
            graph = build_graph(
                cloud, self.grid, supernodes=self.config.supernodes,
                neighbours=self.config.neighbours, num_tags=tags,
            )  # fmt: skip
        return PointPlan(cloud, self.fit_to_nodes.prepare(cloud), graph)

    def forward(
        self, values: Float[Tensor, "node channel"], cloud: Cloud | PointPlan
    ) -> Float[Tensor, "node channel"]:
        """Reconstruct: what `decode` makes of `encode`, at the nodes."""
        plan = self._plan(cloud)
        return self.decode(self.encode(values, plan), plan.cloud.coords, plan.cloud.sample)

    def encode(
        self, values: Float[Tensor, "node channel"], cloud: Cloud | PointPlan
    ) -> Float[Tensor, "batch tokens dim"]:
        """Values at the nodes of a batch to tokens."""
        return self._encode(values[None], self._plan(cloud))[0]

    def encode_frames(
        self, values: Float[Tensor, "time node channel"], cloud: Cloud | PointPlan
    ) -> Float[Tensor, "time tokens dim"]:
        """Many frames on one resting mesh, for which everything is prepared once."""
        plan = self._plan(cloud)
        if plan.cloud.num_samples != 1:
            raise ValueError(f"frames of one mesh, found {plan.cloud.num_samples} meshes")
        return self._encode(values, plan)[:, 0]

    def decode(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        coords: Float[Tensor, "query axis"],
        sample: Int64[Tensor, " query"],
    ) -> Float[Tensor, "query channel"]:
        """Values at any points; `sample` says of which sample each is asked."""
        return self._decode(tokens[None], coords, sample)[0]

    def decode_frames(
        self, tokens: Float[Tensor, "time tokens dim"], coords: Float[Tensor, "query axis"]
    ) -> Float[Tensor, "time query channel"]:
        """Values of many frames at the same points."""
        sample = torch.zeros(len(coords), dtype=torch.int64, device=coords.device)
        return self._decode(tokens[:, None], coords, sample)

    def context(
        self, inputs: Float[Tensor, "node input"] | None, cloud: Cloud | PointPlan
    ) -> Float[Tensor, "batch tokens context"]:
        """What is given with a problem, around every anchor.

        The local fit of the normalised inputs, channel `k * num_inputs + i`; density and first
        moments of node volume; of meshes also `boundary_moments`.
        """
        plan = cloud if isinstance(cloud, PointPlan) else self._local_plan(cloud)
        wanted = len(self.geometry.inputs)
        found = 0 if inputs is None else inputs.shape[1]
        if found != wanted:
            raise ValueError(f"{found} inputs, expected {wanted}: {self.geometry.inputs}")
        parts = [plan.local.moments[..., : 1 + self.geometry.num_dims].to(self.scale)]
        if inputs is not None and wanted:
            normalised = (inputs - self.input_shift) / self.input_scale
            parts.insert(0, plan.local.encode(normalised[None])[0].flatten(-2))
        if self.geometry.kind == "mesh":
            moments = boundary_moments(plan.cloud, plan.local, self.grid, self.geometry.num_tags)
            parts.append(moments.to(self.scale))
        return torch.cat(parts, -1)

    def _encode(
        self, values: Float[Tensor, "time node channel"], plan: PointPlan
    ) -> Float[Tensor, "time batch tokens dim"]:
        expected = (len(plan.cloud), self.num_fields)
        if tuple(values.shape[1:]) != expected:
            raise ValueError(f"values of shape {tuple(values.shape[1:])}, expected {expected}")
        normalised = (self._transformed(values) - self.shift) / self.scale
        tokens = plan.local.encode(normalised).flatten(-2)
        if self.encoder is None or plan.graph is None:
            return tokens
        per_frame = self.config.width * (len(plan.graph.edges) + len(plan.cloud))
        frames = max(1, _MAX_ELEMENTS // per_frame)
        parts = zip(normalised.split(frames), tokens.split(frames), strict=True)
        return torch.cat([self._corrected(*part, plan) for part in parts])

    def _corrected(
        self,
        values: Float[Tensor, "time node channel"],
        tokens: Float[Tensor, "time batch tokens dim"],
        plan: PointPlan,
    ) -> Float[Tensor, "time batch tokens dim"]:
        assert self.encoder is not None
        assert plan.graph is not None
        size = amplitude(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        relative = values / size[:, plan.cloud.sample, 0]
        learned = self.encoder(relative, (tokens / size).flatten(1, 2), plan.graph)
        return tokens + size * learned.view_as(tokens)

    def _decode(
        self,
        tokens: Float[Tensor, "time batch tokens dim"],
        coords: Float[Tensor, "query axis"],
        sample: Int64[Tensor, " query"],
    ) -> Float[Tensor, "time query channel"]:
        per_query = len(tokens) * self.config.neighbours * max(self.config.width, self.latent_dim)
        queries = max(1, _MAX_ELEMENTS // per_query)
        parts = zip(coords.split(queries), sample.split(queries), strict=True)
        values = torch.cat([self._at(tokens, *part) for part in parts], 1)
        return self._physical(values * self.scale + self.shift)

    def _at(
        self,
        tokens: Float[Tensor, "time batch tokens dim"],
        coords: Float[Tensor, "query axis"],
        sample: Int64[Tensor, " query"],
    ) -> Float[Tensor, "time query channel"]:
        coefficients = tokens.unflatten(-1, (self.num_basis, self.num_fields))
        with torch.autocast(tokens.device.type, enabled=False):
            linear = self.fit_to_nodes.decode(coefficients.to(self.scale), coords, sample)
        if self.decoder is None:
            return linear
        size = amplitude(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        learned = self.decoder((tokens / size).flatten(1, 2), coords, sample)
        return linear + size[:, sample, 0] * learned

    def _plan(self, cloud: Cloud | PointPlan) -> PointPlan:
        return cloud if isinstance(cloud, PointPlan) else self.prepare(cloud)

    def _local_plan(self, cloud: Cloud) -> PointPlan:
        self._check_cloud(cloud)
        return PointPlan(cloud, self.fit_to_nodes.prepare(cloud), None)

    def _check_cloud(self, cloud: Cloud) -> None:
        if cloud.coords.shape[1] != self.geometry.num_dims:
            raise DataError(
                f"nodes in {cloud.coords.shape[1]} dimensions, the codec has "
                f"{self.geometry.num_dims}"
            )
        if cloud.tags is not None and int(cloud.tags.max()) > self.geometry.num_tags:
            raise DataError(
                f"boundary tag {int(cloud.tags.max())}, the codec knows 0 to "
                f"{self.geometry.num_tags}"
            )

    def _transformed(
        self, values: Float[Tensor, "*some channel"]
    ) -> Float[Tensor, "*some channel"]:
        if not self._logs:
            return values
        positive = torch.where(self.is_log, torch.maximum(values, self.floor), 1.0)
        return torch.where(self.is_log, positive.log(), values)

    def _physical(self, values: Float[Tensor, "*some channel"]) -> Float[Tensor, "*some channel"]:
        if not self._logs:
            return values
        return torch.where(self.is_log, torch.where(self.is_log, values, 0.0).exp(), values)

    def fingerprint(self) -> str:
        """SHA-256 over options, geometry and every weight: two codecs agree only if it does."""
        options = {
            "config": self.config.model_dump(mode="json", exclude={"gate"}),
            "geometry": asdict(self.geometry),
        }
        return fingerprint_of(options, self)

    @property
    def compression(self) -> float:
        nodes = float(self.nodes_per_frame)
        return nodes * self.num_fields / (self.num_tokens * self.latent_dim)

    @property
    def label(self) -> str:
        """What a person needs to know: kind, dimensions, tokens."""
        return f"{self.config.kind}{self.latent_dim}_{self.geometry.num_dims}d_{self.num_tokens}tok"
