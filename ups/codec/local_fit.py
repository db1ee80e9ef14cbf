"""Values at scattered points <-> polynomials around anchors: the part that needs no training."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ups.codec.anchors import AnchorGrid, halved
from ups.codec.cloud import Cloud
from ups.codec.polynomials import LocalPolynomials, hat, panels

CORRECTIONS = 2
"""Times that what the blend misses is fitted again. Errors on darcy2d_mesh (u, 16x16 anchors,
degree 2) with 0, 1, 2, 4: 0.0069, 0.0052, 0.0048, 0.0044; at nodes left out of the fit 0.0118,
0.0104, 0.0101, 0.0099."""


@dataclass(frozen=True)
class _Level:
    """The least-squares problems of all anchors of one grid.

    Attributes:
        collect: (sample * anchor * basis, node) sparse: quadrature of weight times polynomial.
        inverse: (sample * anchor, basis, basis): of the Gram matrix plus ridge.
        refine: One (fine, coarse) matrix along each axis, of the coefficients of one-dimensional
            polynomials around coarser anchors to those around this level's; none at the coarsest.
    """

    grid: AnchorGrid
    collect: Tensor
    inverse: Float[Tensor, "row basis other"]
    refine: tuple[Tensor, ...]


@dataclass(frozen=True)
class LocalPlan:
    """What of a fit depends on where the nodes are, and not on the values there.

    Attributes:
        blend: (node, sample * anchor * basis) sparse: from coefficients to values at the nodes.
        moments: Share of a sample's volume times number of anchors times polynomial, around every
            anchor: (sample, anchor, basis). The first is 1 where nodes are as dense as on average.
    """

    polynomials: LocalPolynomials
    volumes: Float[Tensor, " node"]
    sample: Int64[Tensor, " node"]
    num_samples: int
    ridge: float
    levels: tuple[_Level, ...]
    blend: Tensor
    moments: Float[Tensor, "sample anchor basis"]

    def encode(
        self, values: Float[Tensor, "time node channel"]
    ) -> Float[Tensor, "time sample anchor basis channel"]:
        """Coefficients of the fit around every anchor; linear in the values."""
        frames, nodes, channels = values.shape
        columns = values.double().transpose(0, 1).reshape(nodes, -1)
        weighted = columns * self.volumes[:, None]
        mean = columns.new_zeros(self.num_samples, columns.shape[1])
        found = mean.index_add(0, self.sample, weighted)[:, None, None]
        for level in self.levels:
            found = self._fit(level, weighted, found)
        for _ in range(CORRECTIONS):
            missed = columns - torch.sparse.mm(self.blend, found.reshape(-1, columns.shape[1]))
            found = found + self._solve(self.levels[-1], missed * self.volumes[:, None])
        found = found.unflatten(-1, (frames, channels))
        return found.permute(3, 0, 1, 2, 4).to(values.dtype)

    def sums(self, values: Float[Tensor, "node channel"]) -> Float[Tensor, "sample anchor channel"]:
        """Sums of values at nodes, shared out among the anchors around each."""
        level = self.levels[-1]
        basis, anchors = len(self.polynomials), level.grid.num_anchors
        sums = torch.sparse.mm(level.collect, values.double())
        rows = sums.view(self.num_samples, anchors, basis, -1)
        return (rows[:, :, 0] / anchors).to(values.dtype)

    def _fit(self, level: _Level, weighted: Tensor, coarser: Tensor) -> Tensor:
        """Coefficients (sample, anchor, basis, column), pulled towards those of a coarser grid."""
        prior = _refined(coarser, level, self.polynomials)
        return self._solve(level, weighted, self.ridge * prior.flatten(0, 1))

    def _solve(self, level: _Level, weighted: Tensor, pull: Tensor | float = 0.0) -> Tensor:
        right = torch.sparse.mm(level.collect, weighted).unflatten(0, level.inverse.shape[:2])
        return (level.inverse @ (right + pull)).unflatten(0, (self.num_samples, -1))


class LocalFit:
    """Weighted least squares with polynomials around every anchor of a regular grid.

    Around anchor a, sum_n v_n w_a(x_n) (f_n - sum_k c_ak p_k(x_n))^2 is smallest, with v the share
    of node n in the volume of its sample and w a partition of unity; the field between is
    sum_a w_a(x) sum_k c_ak p_k(x). Polynomials of the degree are reproduced. A ridge pulls towards
    the fit on a grid of half as many anchors along each axis, which in turn is pulled towards a
    coarser one, down to 2 and the mean: it decides where an anchor sees few nodes or none.

    Nodes near several anchors are fitted several times; what the blend misses of them is fitted
    again, `CORRECTIONS` times. The map from values to the blend's values at the nodes is
    self-adjoint under the volumes with eigenvalues in [0, 1], so that this converges.

    Source:
        Partition of unity method: Babuska and Melenk, Int. J. Numer. Meth. Eng. 40 (1997).
    """

    def __init__(self, grid: AnchorGrid, degree: int, ridge: float) -> None:
        self.grid, self.degree, self.ridge = grid, degree, ridge
        self.polynomials = LocalPolynomials(grid.num_dims, degree)
        self._grids = [replace(grid, anchors=anchors) for anchors in halved(grid.anchors)]
        self._refinements: list[tuple[Tensor, ...]] = [()]
        for coarse, fine in itertools.pairwise(self._grids):
            self._refinements.append(_refinements(coarse, fine, self.polynomials))

    def prepare(self, cloud: Cloud) -> LocalPlan:
        """Factor the fits of all anchors around the nodes of a batch, in float64."""
        coords, volumes = cloud.coords.double(), cloud.volumes.double()
        levels: list[_Level] = []
        for grid, refine in zip(self._grids, self._refinements, strict=True):
            around = grid.around(coords)
            rows = around.index + cloud.sample[:, None] * grid.num_anchors
            values = self.polynomials(around.relative)
            weighted = values * around.weight[..., None]
            scaled = values * (volumes * grid.num_anchors)[:, None, None]
            gram = _gram(weighted, scaled, rows, cloud.num_samples * grid.num_anchors)
            ridge = self.ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
            inverse = torch.linalg.inv(gram + ridge)
            collect = _collecting(weighted * grid.num_anchors, rows, grid, cloud.num_samples)
            levels.append(_Level(grid, collect, inverse, tuple(m.to(coords) for m in refine)))
        moments = gram[:, 0].view(cloud.num_samples, self.grid.num_anchors, -1).float()
        return LocalPlan(
            self.polynomials, volumes, cloud.sample, cloud.num_samples, self.ridge,
            tuple(levels), collect.t().coalesce() / self.grid.num_anchors, moments,
        )  # fmt: skip

    def decode(
        self,
        coefficients: Float[Tensor, "time sample anchor basis channel"],
        coords: Float[Tensor, "query dim"],
        sample: Int64[Tensor, " query"],
    ) -> Float[Tensor, "time query channel"]:
        """The blended polynomials at any points; once differentiable in `coords`."""
        around = self.grid.around(coords)
        rows = around.index + sample[:, None] * self.grid.num_anchors
        shape = (self.polynomials(around.relative) * around.weight[..., None]).to(coefficients)
        table = coefficients.flatten(1, 2)
        result = table.new_zeros(len(table), len(coords), table.shape[-1])
        for corner in range(rows.shape[1]):
            chosen = table[:, rows[:, corner]]
            result = result + torch.einsum("qk,tqkc->tqc", shape[:, corner], chosen)
        return result


def _gram(
    weighted: Float[Tensor, "node corner basis"],
    scaled: Float[Tensor, "node corner basis"],
    rows: Int64[Tensor, "node corner"],
    num_rows: int,
) -> Float[Tensor, "row basis other"]:
    basis = weighted.shape[-1]
    gram = weighted.new_zeros(num_rows, basis, basis)
    for corner in range(rows.shape[1]):
        products = weighted[:, corner, :, None] * scaled[:, corner, None, :]
        gram.index_add_(0, rows[:, corner], products)
    return gram


def _collecting(
    weighted: Float[Tensor, "node corner basis"],
    rows: Int64[Tensor, "node corner"],
    grid: AnchorGrid,
    num_samples: int,
) -> Tensor:
    """Sparse (sample * anchor * basis, node) matrix of the weighted polynomials."""
    nodes, _, basis = weighted.shape
    row = rows[..., None] * basis + torch.arange(basis, device=rows.device)
    column = torch.arange(nodes, device=rows.device)[:, None, None].expand_as(row)
    size = (num_samples * grid.num_anchors * basis, nodes)
    index = torch.stack([row.flatten(), column.flatten()])
    values = weighted.flatten()
    return torch.sparse_coo_tensor(index, values, size, check_invariants=False).coalesce()


def _refined(coarser: Tensor, level: _Level, polynomials: LocalPolynomials) -> Tensor:
    """Coefficients around coarse anchors as coefficients around the level's own."""
    samples, _, _, columns = coarser.shape
    basis, orders = len(polynomials), polynomials.orders
    anchors, dims, each = level.grid.num_anchors, polynomials.dims, polynomials.degree + 1
    if not level.refine:
        prior = coarser.new_zeros(samples, anchors, basis, columns)
        prior[:, :, :1] = coarser
        return prior
    places = torch.tensor(
        [sum(k * each ** (dims - 1 - axis) for axis, k in enumerate(order)) for order in orders],
        device=coarser.device,
    )
    full = coarser.new_zeros(samples, coarser.shape[1], each**dims, columns)
    full[:, :, places] = coarser
    coarse = [matrix.shape[1] // each for matrix in level.refine]
    full = full.view(samples, *coarse, *(each,) * dims, columns)
    for axis, matrix in enumerate(level.refine):
        pair = (1 + axis, 1 + dims + axis)
        moved = full.movedim(pair, (0, 1))
        mapped = matrix @ moved.flatten(0, 1).flatten(1)
        full = mapped.view(-1, each, *moved.shape[2:]).movedim((0, 1), pair)
    return full.reshape(samples, anchors, each**dims, columns)[:, :, places]


def _refinements(
    coarse: AnchorGrid, fine: AnchorGrid, polynomials: LocalPolynomials
) -> tuple[Tensor, ...]:
    """Along each axis, the projection of the coarse blend around every fine anchor."""
    points, weights = panels()
    each = polynomials.degree + 1
    project = (weights * hat(points))[:, None] * polynomials.along(points)
    matrices = []
    for axis in range(fine.num_dims):
        one = [
            AnchorGrid((grid.anchors[axis],), (grid.bounds[axis],), (grid.periodic[axis],))
            for grid in (coarse, fine)
        ]
        sites = one[1].centres() + points * one[1].spacing[0]
        around = one[0].around(sites.reshape(-1, 1))
        shape = polynomials.along(around.relative[..., 0]) * around.weight[..., None]
        onto = torch.nn.functional.one_hot(around.index, one[0].num_anchors).to(shape)
        values = torch.einsum("pnk,pna->pak", shape, onto)
        values = values.view(one[1].num_anchors, len(points), -1)
        matrices.append(
            torch.einsum("qk,aqm->akm", project, values).reshape(one[1].num_anchors * each, -1)
        )
    return tuple(matrices)
