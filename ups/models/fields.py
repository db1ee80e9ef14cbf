"""Operators on grid points, with the interface of the latent one: the baselines."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ups.config.models import FieldOperatorConfig
from ups.errors import ConfigError
from ups.models.cosine_fno import CosineFNO, along
from ups.models.dit import DiffusionTransformer
from ups.models.layout import Given, TokenLayout
from ups.models.library_fno import LibraryFNO, LibraryUNO
from ups.models.normalisation import amplitudes, at_least_float32, without_mean
from ups.models.unet import UNet
from ups.models.waves import Axis, axes_of, resampling

_SMALLEST_SCALE = 1e-6


class FieldOperator(nn.Module):
    """One time step of the fields on their grid, by a network N from grid to grid.

        u' = u + s N(u, earlier frames, conditions)                           plain
        u' = u + r s (N(v / r, earlier, conditions) - mean N)                 `wrapper`
        u' = s N(context, conditions)                                         steady

    With the codec's patches one point wide a token is a point and its channels are the fields, so
    that a baseline sees the same windows, loss and validation as the latent operator. `v` is the
    deviation from the spatial mean and r its RMS, per sample and field; the mean of N goes for
    conserved fields; s is the typical size of a step. Conditions are PDE parameters and log dt,
    and in the wrapped form log r, r and the mean; they enter as constant channels, or through the
    modulations of a network that has them. With `coarsen` everything happens on a coarser grid:
    u' is what its waves can carry.

    Shape:
        history: (batch, frame, points, field), at least `config.history` frames, the last one the
            present; (batch, 0, points, field) for a steady problem
        output: (batch, points, field)
    Raises:
        ConfigError: Several tasks, tokens that are not grid points, or an option that does not fit
            a steady problem.
        MissingExtraError: The kind needs `neuraloperator`.
    """

    step_size: Tensor
    position: Tensor

    def __init__(self, config: FieldOperatorConfig, layouts: Mapping[str, TokenLayout]) -> None:
        super().__init__()
        self.config, self.layouts = config, dict(layouts)
        self.layout = _only_layout(config, self.layouts)
        self.history = config.history
        fine = axes_of(self.layout)
        axes = tuple(axis.with_points(max(axis.points // config.coarsen, 1)) for axis in fine)
        for index, (axis, coarse) in enumerate(zip(fine, axes, strict=True)):
            down = resampling(axis, coarse.points)
            up = down.T * axis.points / coarse.points
            self.register_buffer(f"down{index}", down.float(), persistent=False)
            self.register_buffer(f"up{index}", up.float().contiguous(), persistent=False)
        self.register_buffer("position", _positions(axes, config.coordinates), persistent=False)
        self.register_buffer("step_size", torch.ones(self.layout.num_fields))
        inputs = self._num_states() + self.position.shape[-1]
        sizes = (inputs, self.layout.num_fields, self._num_constants())
        self.network = build_network(config, axes, *sizes)

    def _num_states(self) -> int:
        layout = self.layout
        return layout.context_dim + (0 if layout.is_steady else self.history * layout.num_fields)

    def _num_constants(self) -> int:
        layout = self.layout
        statistics = 3 * layout.num_fields if self.config.wrapper else 0
        return layout.num_parameters + (0 if layout.is_steady else 1) + statistics

    def forward(
        self, history: Float[Tensor, "batch frame points field"], given: Given, task: str
    ) -> Float[Tensor, "batch points field"]:
        if self.layout.is_steady:
            return self._network([], given, []) * self.step_size
        if history.shape[1] < self.history:
            raise ValueError(f"{history.shape[1]} frames of history, expected {self.history}")
        *earlier, now = at_least_float32(history[:, -self.history :]).unbind(1)
        before = [frame - now for frame in earlier]
        if not self.config.wrapper:
            update = self._network([now, *before], given, []) * self.step_size
            return self._carried(now) + update
        state = amplitudes(now, self.layout)
        size = state.amplitude[:, None]
        inputs = [part / size for part in (state.deviation, *before)]
        update = self._network(inputs, given, [size.log(), size, state.mean[:, None]])
        return self._carried(now) + size * without_mean(update, self.layout) * self.step_size

    def _network(
        self, states: list[Tensor], given: Given, statistics: list[Tensor]
    ) -> Float[Tensor, "batch points field"]:
        """The network on the (coarser) grid; `statistics` are (batch, 1, number)."""
        values = [*states, given.context] if given.context is not None else states
        x = self._resampled(torch.cat(values, -1).unflatten(1, self.layout.anchors), "down")
        constants = [given.parameters, *(one[:, 0] for one in statistics)]
        if self.layout.dt is not None:
            constants.append((given.dt / self.layout.dt).log()[:, None])
        row = torch.cat(constants, -1)
        position = self.position.expand(x.shape[0], *self.position.shape)
        if isinstance(self.network, UNet | DiffusionTransformer):
            y = self.network(torch.cat([x, position], -1), row)
        else:
            space = x.shape[1:-1]
            row = row.reshape(row.shape[0], *(1,) * len(space), -1).expand(-1, *space, -1)
            y = self.network(torch.cat([x, row, position], -1))
        return self._resampled(y, "up").flatten(1, -2)

    def _carried(self, now: Tensor) -> Tensor:
        """What of the present state the operator's grid can carry on."""
        if self.config.coarsen == 1:
            return now
        grid = now.unflatten(1, self.layout.anchors)
        return self._resampled(self._resampled(grid, "down"), "up").flatten(1, -2)

    def _resampled(self, x: Tensor, way: str) -> Float[Tensor, "batch *space channel"]:
        if self.config.coarsen > 1:
            for axis in range(len(self.layout.anchors)):
                x = along(axis + 1, x, self.get_buffer(f"{way}{axis}"))
        return x

    @torch.no_grad()
    def fit_scales(
        self, task: str, windows: Float[Tensor, "batch frame points field"], given: Given
    ) -> None:
        """Set s, for each field, from training windows: the size of a solution where steady."""
        windows = at_least_float32(windows)
        if self.layout.is_steady:
            change = windows[:, -1]
        else:
            change = windows[:, 1:] - windows[:, :-1]
            if self.config.wrapper:
                state = amplitudes(windows[:, :-1].flatten(0, 1), self.layout)
                change = change.flatten(0, 1) / state.amplitude[:, None]
        size = change.flatten(0, -2).square().mean(0).sqrt()
        self.step_size.copy_(size.clamp_min(_SMALLEST_SCALE))


def build_network(
    config: FieldOperatorConfig, axes: tuple[Axis, ...], inputs: int, outputs: int, condition: int
) -> nn.Module:
    """The network named by `config.kind`, from (batch, *space, channel) to outputs.

    Args:
        inputs: Channels that differ from point to point.
        condition: Numbers of a sample, which a network without modulations sees as channels.
    """
    width, depth, modes = config.width, config.depth, config.modes
    match config.kind:
        case "unet":
            return UNet(axes, inputs, outputs, condition, width, depth, config.levels)
        case "dit":
            return DiffusionTransformer(
                axes, inputs, outputs, condition, width, depth, config.patch, config.heads
            )
        case "cosine_fno":
            return CosineFNO(axes, inputs + condition, outputs, width, depth, modes)
        case "uno":
            return LibraryUNO(
                axes, inputs + condition, outputs, width, depth, modes, padding=config.padding
            )
        case "fno" | "tfno":
            return LibraryFNO(
                axes, inputs + condition, outputs, width, depth, modes,
                rank=config.rank if config.kind == "tfno" else None, padding=config.padding,
            )  # fmt: skip


def _only_layout(config: FieldOperatorConfig, layouts: Mapping[str, TokenLayout]) -> TokenLayout:
    where = f"operator.kind '{config.kind}'"
    if len(layouts) != 1:
        raise ConfigError(
            f"{where}: works on the grid of one task, found {', '.join(layouts)}",
            hint="--set operator.kind=latent for several tasks",
        )
    ((task, layout),) = layouts.items()
    if layout.kind != "grid" or layout.points_per_token != 1:
        raise ConfigError(
            f"{where}: task '{task}' has tokens that are not grid points",
            hint="--set codec.patch_size=1, on a dataset on a grid",
        )
    if layout.is_steady and (config.wrapper or config.history > 1):
        raise ConfigError(f"{where}: task '{task}' is steady, without wrapper and history")
    if layout.is_steady and not layout.context_dim:
        raise ConfigError(f"{where}: task '{task}' is steady and nothing is given with it")
    return layout


def _positions(axes: tuple[Axis, ...], wanted: bool) -> Float[Tensor, "*space axis"]:
    """Cell centres on [-1, 1] along each axis that does not wrap, one channel each."""
    lines = [(torch.arange(axis.points) + 0.5) * 2 / axis.points - 1 for axis in axes]
    grids = torch.meshgrid(*lines, indexing="ij")
    chosen = [grid for grid, axis in zip(grids, axes, strict=True) if wanted and not axis.periodic]
    space = [axis.points for axis in axes]
    return torch.stack(chosen, -1) if chosen else torch.zeros(*space, 0)
