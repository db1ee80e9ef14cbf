"""A run as programs that need torch and nothing of ups: `ups eval export`.

encode.pt2, encode_inputs.pt2   fields, or what is given with a problem -> tokens
step.pt2, or solve.pt2          tokens one step later, or of a steady problem's solution
decode.pt2, decode_at.pt2       tokens -> fields on the run's grid, or at any points
model.json                      shapes, units, parameters, dt, who this is
example.npz                     inputs and what the run itself makes of them
README.md                       how to call them, as code that runs
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ups
from ups import checkpoint as checkpoints
from ups import files, runs
from ups.codec.grid import GridCodec
from ups.config.stages import StageName
from ups.errors import CheckpointError, UsageError, translated_os_errors
from ups.evaluation.export_programs import Program, programs_of, refinements_of
from ups.evaluation.export_text import readme
from ups.models.flow import normal, seeded
from ups.models.layout import Given
from ups.models.library_fno import plain_contractions
from ups.models.surrogate import Surrogate
from ups.registry import DatasetCard, load_card

FORMAT = "ups-export-1"
TOLERANCE = 1e-5
"""Largest difference to the run's own rollout, relative to the RMS of each frame's fields."""

_STEPS, _BATCHES = 4, (1, 3)
_AMPLITUDE = 0.3


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        difference: Largest one found between programs and run, as `TOLERANCE` measures it.
    """

    folder: Path
    programs: tuple[str, ...]
    num_bytes: int
    difference: float


def export_run(
    run: Path,
    out: Path | None = None,
    *,
    task: str | None = None,
    stage: StageName | None = None,
    force: bool = False,
) -> Exported:
    """Write a run's codec and operator as `torch.export`ed programs, checked against the run.

    The batch may have any size, and so may the points of `decode_at`; PDE parameters are physical
    values. With a residual model the point forecast is exported.

    Args:
        out: A folder; None is `export[-<task>]` in the run's folder.
        force: Replace a folder that is there.
    Raises:
        UsageError: The folder is there already, or the run is on meshes or particles.
        CheckpointError: A part cannot be exported, or the programs do not do what the run does.
    """
    path = runs.checkpoint_path(run, stage or checkpoints.last_stage(run))
    found = checkpoints.load(path)
    name = found.task_name(task)
    surrogate, card = found.surrogate(name), load_card(found.tasks[name].dataset)
    codec = surrogate.codec
    if not isinstance(codec, GridCodec):
        raise UsageError(
            f"{runs.run_id(run)}: task '{name}' is on a {codec.geometry.kind}, whose neighbour "
            "lists are made anew for each set of nodes; only runs on grids can be exported",
            hint="ups infer predicts on any mesh",
        )
    folder = out or run / ("export" if len(found.tasks) == 1 else f"export-{name}")
    programs = tuple(programs_of(surrogate, codec, _axes(card)))
    about = _described(run, path, found, name, card, programs)
    with _whole_folder(folder, force) as temporary:
        difference = write_programs(surrogate, programs, temporary)
        about["check"] |= {"difference": difference}
        files.write_json(temporary / "model.json", about, CheckpointError)
        files.write_text(temporary / "README.md", readme(about), CheckpointError)
        size = sum(one.stat().st_size for one in temporary.iterdir())
    return Exported(folder, tuple(program.name for program in programs), size, difference)


def _axes(card: DatasetCard) -> tuple[str, ...]:
    return tuple(axis.name for axis in card.discretisation.axes)


def write_programs(surrogate: Surrogate, programs: Sequence[Program], folder: Path) -> float:
    """Export, save, load and check all programs of a surrogate; beside them `example.npz`.

    Returns:
        The largest difference to the surrogate's own predictions, as `TOLERANCE` measures it.
    Raises:
        CheckpointError: It is above `TOLERANCE`, or a part cannot be exported.
    """
    for program in programs:
        _write_program(program, folder / f"{program.name}.pt2")
    return _checked(surrogate, programs, folder)


def _write_program(program: Program, path: Path) -> None:
    arguments = tuple(argument.example(2) for argument in program.arguments)
    free = {name: torch.export.Dim(name, min=1) for argument in program.arguments
            for name in argument.free.values()}  # fmt: skip
    shapes = tuple(
        {place: free[name] for place, name in argument.free.items()}
        for argument in program.arguments
    )
    with _exporting(program), plain_contractions(), torch.no_grad():
        made = torch.export.export(
            program.module.eval(), arguments, dynamic_shapes=shapes, strict=False
        )
        torch.export.save(made, path)


def _loaded(program: Program, folder: Path) -> nn.Module:
    with _exporting(program):
        return torch.export.load(folder / f"{program.name}.pt2").module()


@contextmanager
def _exporting(program: Program) -> Iterator[None]:
    """Say in one line which part torch cannot export."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{program.name}: torch {torch.__version__} cannot export this part: {first}"
        ) from error


@torch.no_grad()
def _checked(surrogate: Surrogate, programs: Sequence[Program], folder: Path) -> float:
    """The largest difference to the run's own predictions; keeps the last of them as example."""
    loaded = {program.name: _loaded(program, folder) for program in programs}
    largest = 0.0
    for number in _BATCHES:
        example = _example(surrogate, programs, number)
        own = _own_prediction(surrogate, example)
        there = _by_programs(loaded, example, surrogate.history)
        scale = own.square().flatten(2).mean(-1).sqrt()[..., None].clamp_min(1e-12)
        largest = max(largest, float(((there - own).flatten(2) / scale).abs().max()))
        if not largest <= TOLERANCE:
            raise CheckpointError(
                f"{surrogate.task}: the exported programs differ from the run by {largest:.1e}, "
                f"at most {TOLERANCE:g} is allowed"
            )
    arrays: dict[str, Any] = {name: values.numpy() for name, values in example.items()}
    np.savez(folder / "example.npz", rollout=own.numpy(), **arrays)
    return largest


def _example(surrogate: Surrogate, programs: Sequence[Program], number: int) -> dict[str, Tensor]:
    """States, parameters and whatever else is given, all of the size that training data have."""
    codec, layout = surrogate.codec, surrogate.layout
    generator = seeded(number)
    ranges = torch.tensor([card.range for card in surrogate.cards], dtype=torch.float64)
    low, high = ranges.reshape(-1, 2).unbind(-1)
    shares = torch.rand(number, len(low), generator=generator, dtype=torch.float64)
    found = {"parameters": low + shares * (high - low)}
    names = {program.name for program in programs}
    if "encode" in names:
        tokens = normal((number, layout.num_tokens, layout.latent_dim), generator, "cpu")
        found["fields"] = codec.decode(_AMPLITUDE * tokens)
    if "encode_inputs" in names:
        shape = (number, *codec.geometry.space, len(codec.geometry.inputs))
        values = _AMPLITUDE * normal(shape, generator, "cpu")
        found["inputs"] = codec.input_shift + codec.input_scale * values
    if drawn := refinements_of(surrogate):
        shape = (number, drawn, layout.num_tokens, layout.latent_dim)
        found["noise"] = normal(shape, generator, "cpu")
    return found


def _own_prediction(surrogate: Surrogate, example: Mapping[str, Tensor]) -> Tensor:
    """(batch, time, *space, field), by the run itself."""
    inputs = example.get("inputs")
    context = None if inputs is None else surrogate.codec.encode_inputs(inputs)
    given = surrogate.given(example["parameters"], context)
    if surrogate.is_steady:
        return surrogate.codec.decode(_solved(surrogate, given, example.get("noise")))[:, None]
    states = surrogate.roll(surrogate.codec.encode(example["fields"])[:, None], given)
    pairs = zip(range(_STEPS), states, strict=False)
    return torch.stack([surrogate.codec.decode(tokens) for _, tokens in pairs], 1)


def _solved(surrogate: Surrogate, given: Given, noise: Tensor | None) -> Tensor:
    if surrogate.prior is None:
        return surrogate.solve(given)
    drawn = () if noise is None else noise.unbind(1)
    return surrogate.prior.refined(given, surrogate.task, drawn)[-1]


def _by_programs(
    loaded: Mapping[str, nn.Module], example: Mapping[str, Tensor], history: int
) -> Tensor:
    """The same by the programs, as the README does it."""
    given = [example["parameters"]]
    context = loaded["encode_inputs"](example["inputs"]) if "inputs" in example else None
    if "solve" in loaded:
        noise = [example["noise"]] if "noise" in example else []
        return loaded["decode"](loaded["solve"](context, *given, *noise))[:, None]
    given += [] if context is None else [context]
    past = loaded["encode"](example["fields"])[:, None].repeat(1, history, 1, 1)
    frames = []
    for _ in range(_STEPS):
        tokens = loaded["step"](past, *given)
        past = torch.cat([past[:, 1:], tokens[:, None]], 1)
        frames.append(loaded["decode"](tokens))
    return torch.stack(frames, 1)


def _described(
    run: Path,
    checkpoint_path: Path,
    found: checkpoints.Checkpoint,
    task: str,
    card: DatasetCard,
    programs: tuple[Program, ...],
) -> dict[str, Any]:
    """The content of model.json."""
    codec, known = found.codecs[task], found.tasks[task]
    assert isinstance(codec, GridCodec)
    geometry = codec.geometry
    axes = zip(card.discretisation.axes, geometry.space, geometry.origin, geometry.spacing,
               geometry.periodic, strict=True)  # fmt: skip
    return {
        "format": FORMAT,
        "created": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "ups_version": ups.__version__,
        "torch_version": torch.__version__,
        "run": runs.run_id(run),
        "stage": found.stage,
        "checkpoint_sha256": files.sha256_file(checkpoint_path),
        "dataset": known.dataset,
        "dataset_version": known.version,
        "task": task,
        "dt": known.dt,
        "time_unit": card.time.unit,
        "history": found.surrogate(task).history,
        "fields": [{"name": one.name, "unit": one.unit} for one in card.fields],
        "inputs": [{"name": one.name, "unit": one.unit} for one in card.inputs],
        "parameters": [
            {"name": one.name, "unit": one.unit, "range": list(one.range), "scale": one.scale}
            for one in known.parameters
        ],
        "axes": [
            {"name": axis.name, "unit": axis.unit, "points": points, "origin": origin,
             "spacing": spacing, "periodic": periodic}
            for axis, points, origin, spacing, periodic in axes
        ],
        "programs": {program.name: _signature(program) for program in programs},
        "check": {"steps": 1 if known.dt is None else _STEPS, "tolerance": TOLERANCE},
    }  # fmt: skip


def _signature(program: Program) -> dict[str, Any]:
    takes = [
        {
            "name": one.name,
            "shape": [one.sizes.get(axis, axis) for axis in one.axes],
            "axes": list(one.axes),
            "dtype": str(one.dtype).removeprefix("torch."),
            "unit": one.unit,
        }
        for one in program.arguments
    ]
    return {"file": f"{program.name}.pt2", "about": program.about, "takes": takes,
            "returns": program.returns}  # fmt: skip


@contextmanager
def _whole_folder(folder: Path, force: bool) -> Iterator[Path]:
    """A temporary folder that becomes `folder` only if the block succeeds."""
    if folder.exists() and not force:
        raise UsageError(f"{folder}: there already", hint="--force replaces it, or choose --out")
    if folder.exists() and not (folder / "model.json").is_file():
        raise UsageError(f"{folder}: not an exported model, and so not replaced")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    with translated_os_errors(folder, "writing", CheckpointError):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            files.flush(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
