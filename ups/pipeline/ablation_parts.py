"""The parts of an experiment that can be taken away: what an ablation may ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ups.config.loading import merged, parse_override
from ups.config.models import BackboneConfig, FieldOperatorConfig, LatentOperatorConfig
from ups.config.schema import Experiment
from ups.config.stages import LossesConfig, StageName, Term
from ups.errors import UsageError, did_you_mean
from ups.training.session import Session

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Something that a config may have, and the overrides that take it away.

    Attributes:
        without: Overrides for a session that has the part; None where it does not have it.
    """

    name: str
    description: str
    without: Callable[[Session], Overrides | None]


def part(name: str) -> Part:
    """A part by name.

    Raises:
        UsageError: There is no such part.
    """
    if name not in PARTS:
        raise UsageError(
            f"--off {name}: no such part{did_you_mean(name, PARTS)}", hint="ups ablate --list"
        )
    return PARTS[name]


def overrides_without(name: str, session: Session) -> Overrides:
    """What takes a part away from an experiment.

    Raises:
        UsageError: There is no such part, or the experiment does not have it.
    """
    found = part(name).without(session)
    if found is None:
        here = [one.name for one in PARTS.values() if one.without(session) is not None]
        raise UsageError(
            f"--off {name}: config '{session.experiment.name}' does not have it, so nothing would "
            "change",
            hint=f"it has {', '.join(here)}",
        )
    return found


def without(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The experiment with these overrides laid on it."""
    content: dict[str, Any] = experiment.model_dump(mode="json")
    for override in overrides:
        content = merged(content, parse_override(override))
    return Experiment.model_validate(content)


def _set(value: Any, has: Callable[[Experiment], bool], key: str) -> Callable[..., Any]:
    """`key` becomes `value` where `has` is true of the experiment."""

    def found(session: Session) -> Overrides | None:
        return (f"{key}={json.dumps(value)}",) if has(session.experiment) else None

    return found


def _operator(key: str, value: Any, has: Callable[[LatentOperatorConfig], bool]) -> Any:
    """An option of the latent operator."""

    def is_there(experiment: Experiment) -> bool:
        return isinstance(experiment.operator, LatentOperatorConfig) and has(experiment.operator)

    return _set(value, is_there, f"operator.{key}")


def _baseline(key: str, value: Any, has: Callable[[FieldOperatorConfig], bool]) -> Any:
    """An option of a neural operator on the grid."""

    def is_there(experiment: Experiment) -> bool:
        return isinstance(experiment.operator, FieldOperatorConfig) and has(experiment.operator)

    return _set(value, is_there, f"operator.{key}")


def _stages(key: str, value: Any, has: Callable[[Any], bool]) -> Callable[..., Any]:
    """A setting of every stage after the codec that has it."""

    def found(session: Session) -> Overrides | None:
        chosen = [name for name in _main(session) if has(_stage(session, name))]
        texts = [f"stages.{name}.{key}={json.dumps(value)}" for name in chosen]
        return tuple(texts) or None

    return found


def _main(session: Session) -> list[StageName]:
    return [name for name in session.stages if name != "codec"]


def _stage(session: Session, name: StageName) -> Any:
    return getattr(session.experiment.stages, name)


def _without_stages(*names: StageName) -> Callable[..., Any]:
    """These stages are not trained; the model is what the stages before them leave."""

    def found(session: Session) -> Overrides | None:
        kept = [name for name in session.stages if name not in names]
        changed = len(kept) < len(session.stages) and names[0] in session.stages
        return (f"stages.order={json.dumps(kept)}",) if changed else None

    return found


def _muon(session: Session) -> Overrides | None:
    """AdamW in its place, at the same rate: Muon's is matched to the size of AdamW's updates."""
    texts = []
    for name in _main(session):
        optimizer = _stage(session, name).optimizer
        if optimizer.kind == "muon_hybrid":
            kept = {key: getattr(optimizer, key) for key in ("lr", "weight_decay", "betas")}
            texts.append(
                f"stages.{name}.optimizer={json.dumps({'kind': 'adamw', **kept, 'fused': False})}"
            )
    return tuple(texts) or None


def _loss(name: str) -> Callable[..., Any]:
    """A term of the operator's loss, where another one is left."""

    def found(session: Session) -> Overrides | None:
        if "operator" not in session.stages:
            return None
        losses = session.experiment.stages.operator.losses
        on = [key for key in _TERMS if getattr(losses, key).weight > 0]
        if name not in on or len(on) < 2:
            return None
        return (f"stages.operator.losses.{name}.weight=0",)

    return found


_TERMS = tuple(
    name for name, field in LossesConfig.model_fields.items() if field.annotation is Term
)


def _history(session: Session) -> Overrides | None:
    return ("operator.history=1",) if session.experiment.operator.history > 1 else None


def _conserve(session: Session) -> Overrides | None:
    operator = session.experiment.operator
    kept = any(task.card.pde.conserved and not task.is_steady for task in session.tasks)
    is_on = isinstance(operator, LatentOperatorConfig) and operator.conserve
    return ("operator.conserve=false",) if kept and is_on else None


def _learned(session: Session) -> Overrides | None:
    """Codecs without what they learn: the linear one alone."""
    experiment = session.experiment
    texts = []
    for task in session.tasks:
        codec = experiment.codec_for(task.family)
        where = f"codecs.{task.family}" if task.family in experiment.codecs else "codec"
        if codec.kind == "grid" and codec.encoder == "learned":
            texts.append(f"{where}.encoder=linear")
        elif codec.kind == "points" and codec.learned:
            texts.append(f"{where}.learned=false")
    return tuple(dict.fromkeys(texts)) or None


def _network(key: str, value: Any, has: Callable[[BackboneConfig], bool]) -> Any:
    """An option of the latent operator's network, which the other latent stages share."""
    return _operator(key, value, has)


_ALL = (
    Part("diff_residual", "the generative model of what the operator leaves over",
         _without_stages("diff_residual", "consistency_distill")),
    Part("consistency_distill", "the distillation of the residual model",
         _without_stages("consistency_distill")),
    Part("normalise", "division of states by their amplitude, per sample and field",
         _operator("normalise", False, lambda one: one.normalise)),
    Part("conserve", "taking the mean off the update of conserved fields", _conserve),
    Part("conditioning", "PDE parameters, amplitudes and means told to the network",
         _operator("conditioning", False, lambda one: one.conditioning)),
    Part("input_scaling", "division of token channels by their size over the training split",
         _operator("input_scaling", "none", lambda one: one.input_scaling != "none")),
    Part("wrapper", "the amplitude-normalised, conserving form around a baseline",
         _baseline("wrapper", False, lambda one: one.wrapper)),
    Part("coordinates", "positions as inputs of a baseline",
         _baseline("coordinates", False, lambda one: one.coordinates)),
    Part("padding", "the padded domain of a baseline",
         _baseline("padding", 0.0, lambda one: one.padding > 0)),
    Part("history", "frames before the present one", _history),
    Part("spectral", "global mixing over waves; a convolution in its place",
         _network("mixer", "conv", lambda one: one.mixer == "spectral" and not one.local)),
    Part("attention", "global mixing by attention; a convolution in its place",
         _network("mixer", "conv", lambda one: one.mixer == "attention" and not one.local
                  and one.window is None)),
    Part("local", "the depthwise convolution beside a global mixer",
         _network("local", False, lambda one: one.local)),
    Part("positions", "learned offsets of anchors along axes that do not wrap",
         _network("positions", False, lambda one: one.positions)),
    Part("neighbours", "neighbours as inputs of the per-token network",
         _network("mlp", "mlp", lambda one: one.mlp == "neighbours")),
    Part("learned_codec", "what the codec learns beside its linear part", _learned),
    Part("unroll", "training through several operator steps",
         _stages("unroll", [{"start": 0, "steps": 1}],
                 lambda one: any(item.steps > 1 for item in getattr(one, "unroll", ())))),
    Part("early_bias", "more windows from early frames",
         _stages("early_bias", 1.0, lambda one: getattr(one, "early_bias", 1.0) != 1)),
    Part("max_stride", "windows at random strides",
         _stages("max_stride", 1, lambda one: getattr(one, "max_stride", 1) > 1)),
    Part("muon", "Muon for hidden matrices; AdamW in its place", _muon),
    Part("schedule", "decay of the learning rate",
         _stages("schedule.kind", "constant", lambda one: one.schedule.kind != "constant")),
    Part("ema", "averaged weights", _stages("ema_decay", 0.0, lambda one: one.ema_decay > 0)),
    Part("grad_clip", "the limit of the gradient norm",
         _stages("grad_clip", None, lambda one: one.grad_clip is not None)),
    Part("refinement", "refinements of a steady problem's first prediction",
         _stages("refinement_steps", 1, lambda one: getattr(one, "refinement_steps", 1) > 1)),
    Part("augment", "samples moved by symmetries",
         _set([], lambda one: bool(one.data.augment), "data.augment")),
    Part("noise", "noise on given states", _set(0.0, lambda one: one.data.noise > 0, "data.noise")),
    *(Part(f"{name}_loss", f"the term '{name}' of the operator's loss", _loss(name))
      for name in _TERMS),
)  # fmt: skip

PARTS: Mapping[str, Part] = {one.name: one for one in _ALL}
