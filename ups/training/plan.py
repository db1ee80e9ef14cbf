"""What a run would do: sizes before any weight moves."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ups.codec.grid import GridCodec
from ups.models.operator import LatentOperator
from ups.training.session import Session, geometry_of, token_layout


def plan(session: Session, stages: Sequence[str]) -> list[str]:
    """One line each on data, codec, operator and stages."""
    experiment, store = session.experiment, session.store
    codec = GridCodec(experiment.codec, geometry_of(store))
    operator = LatentOperator(experiment.operator, token_layout(session, codec))
    space = " x ".join(str(size) for size in store.space)
    lines = [
        f"data      {store.name}: {len(store.split('train'))} training trajectories, "
        f"{store.num_frames} frames, {space} points, dt {store.metadata.dt:g}",
        f"device    {session.device}",
        f"codec     {num_parameters(codec):,} parameters; {codec.num_tokens} tokens x "
        f"{codec.latent_dim}, compression {_compression(codec):g}x",
        f"operator  {num_parameters(operator):,} parameters; mixer {experiment.operator.mixer}",
    ]
    for name in stages:
        config = getattr(experiment.stages, name)
        lines.append(
            f"stage     {name}: {config.steps} steps of {config.batch_size}, "
            f"{config.optimizer.kind}, lr {config.optimizer.lr:g}"
        )
    return lines


def num_parameters(module: nn.Module) -> int:
    """Trainable numbers in a module; a complex weight counts as two."""
    return sum(weight.numel() for weight in module.parameters())


def _compression(codec: GridCodec) -> float:
    points = codec.config.patch_size**codec.geometry.num_dims
    return points / codec.num_coefficients
