"""What a run would do: sizes and costs before any weight moves."""

from __future__ import annotations

from collections.abc import Sequence

from ups.codec.coded import Codec
from ups.codec.grid import GridCodec
from ups.config.models import BackboneConfig
from ups.config.stages import StageName
from ups.models.flops import num_parameters
from ups.models.operator import build_operator
from ups.training.building import layout_of, new_codec
from ups.training.probe import Cost, cost_of, describe_data
from ups.training.session import Session


def plan(session: Session) -> list[tuple[str, str]]:
    """Labelled lines on data, device, codecs and operator."""
    codecs = {task.name: new_codec(session, task) for task in session.tasks}
    layouts = {task.name: layout_of(task, codecs[task.name]) for task in session.tasks}
    operator = build_operator(session.experiment.operator, layouts)
    lines = [("data", text) for text in describe_data(session)]
    lines.append(("device", str(session.device)))
    lines += [("codec", _codec(name, codec)) for name, codec in codecs.items()]
    config = session.experiment.operator
    network = (
        f"{config.architecture}, mixer {config.mixer}, width {config.width}"
        if isinstance(config, BackboneConfig)
        else config.kind
    )
    lines.append(("operator", f"{num_parameters(operator):,} parameters; {network}"))
    return lines


def costs(session: Session, stages: Sequence[StageName]) -> list[Cost]:
    """What each stage needs, measured on a few steps with random numbers."""
    return [cost_of(session, stage) for stage in stages]


def _codec(name: str, codec: Codec) -> str:
    kind = "grid" if isinstance(codec, GridCodec) else "points"
    anchors = " x ".join(str(size) for size in codec.anchors)
    return (
        f"{name}: {kind}, {num_parameters(codec):,} parameters; {anchors} tokens x "
        f"{codec.latent_dim}, compression {codec.compression:.3g}x"
    )
