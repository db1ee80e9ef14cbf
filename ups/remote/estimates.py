"""How many hours a job takes, from what runs have taken: here, and on the remote.

A run of the same data, models and stage on the same GPU is a measurement. One on another device is
scaled by the peak speeds of both; one on other data is taken as it is. Both are called rough.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ups import runs
from ups.config.schema import Experiment
from ups.config.stages import STAGES, StageName
from ups.errors import UpsError
from ups.remote.gpus import in_drivers_words, same_gpu
from ups.remote.spec import GpuRequest
from ups.runs.speed import Speed, keys_of, speeds_of
from ups.training.peaks import peak_flops
from ups.transfer.artefacts import list_artefacts, read_manifest
from ups.transfer.remotes import Remote
from ups.transfer.run_artefacts import SPEEDS, is_run_name

Quality = Literal["measured", "rough", "unknown"]
_CPU_CORE_FLOPS = 5e10
"""About what one core's vector units do in float32."""
_SHARE_OF_PEAK = 0.05
"""What small models reach of a GPU's peak, where nothing was measured on one."""
_FROM_REMOTE, _FROM_HERE = 8, 200


@dataclass(frozen=True)
class StageTime:
    """What one stage takes.

    Attributes:
        seconds: None where nothing like it has been measured.
        source: `measured on NVIDIA A100-SXM4-80GB, run x/y`, for people.
    """

    stage: str
    seconds: float | None
    quality: Quality
    source: str


@dataclass(frozen=True)
class Estimate:
    """What a job takes, validation included; set-up, transfers and evaluation come on top."""

    stages: tuple[StageTime, ...]

    @property
    def hours(self) -> float | None:
        """None where a stage is unknown."""
        times = [one.seconds for one in self.stages]
        known = [seconds for seconds in times if seconds is not None]
        return sum(known) / 3600 if len(known) == len(times) else None

    @property
    def quality(self) -> Quality:
        """That of the worst stage."""
        found = {one.quality for one in self.stages}
        return next((name for name in ("unknown", "rough") if name in found), "measured")

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(one.source for one in self.stages))


def known_speeds(name: str, remote: Remote | None) -> list[Speed]:
    """What is known of runs on this machine, and of runs of this name on a remote.

    Args:
        name: Of the experiment.
        remote: None, or one that does not answer, has nothing to say.
    """
    found = [speed for run in runs.list_runs()[:_FROM_HERE] for speed in speeds_of(run)]
    if remote is None:
        return found
    try:
        return found + _pushed_speeds(name, remote)
    except UpsError:
        return found  # an estimate must not fail where the job's own preflight will say why


def _pushed_speeds(name: str, remote: Remote) -> list[Speed]:
    listings = [one for one in list_artefacts("run", remote)
                if is_run_name(one.name) and one.name.partition("/")[0] == name]  # fmt: skip
    newest = sorted(listings, key=lambda one: one.created, reverse=True)[:_FROM_REMOTE]
    found = []
    for listing in newest:
        labels = read_manifest(listing, listing.manifests[0], remote).labels
        found += [Speed.from_dict(content) for content in labels.get(SPEEDS, [])]
    return found


def stages_of(experiment: Experiment, chosen: Sequence[str]) -> list[StageName]:
    """The stages that will be trained, as far as that is known before the data are."""
    wanted = tuple(chosen) or experiment.stages.order
    return [stage for stage in STAGES if stage in (wanted or ("codec", "operator"))]


def estimate(
    experiment: Experiment, chosen: Sequence[str], gpu: GpuRequest, known: Sequence[Speed]
) -> Estimate:
    """Time of every stage on one kind of machine.

    Args:
        chosen: Stages; empty for those of the experiment.
        known: What has been measured, best first among equals.
    """
    content = experiment.model_dump(mode="json")
    return Estimate(tuple(
        _time_of(stage, content, gpu, known) for stage in stages_of(experiment, chosen)
    ))  # fmt: skip


def _time_of(
    stage: str, config: Mapping[str, Any], gpu: GpuRequest, known: Sequence[Speed]
) -> StageTime:
    key, loose_key = keys_of(config, stage)
    same = [speed for speed in known if speed.key == key]
    alike = [speed for speed in known if speed.loose_key == loose_key and speed.key != key]
    here = _by_device(gpu)
    for candidates, of_other_data in ((same, False), (alike, True)):
        measured = [speed for speed in candidates if here(speed)]
        if measured:
            return _told(stage, config, measured[0], 1.0, of_other_data)
        for speed in candidates:
            factor = _factor(speed.device, gpu)
            if factor is not None:
                return _told(stage, config, speed, factor, of_other_data)
    return StageTime(stage, None, "unknown", f"{stage}: no run like it has been measured")


def _by_device(gpu: GpuRequest) -> Callable[[Speed], bool]:
    if gpu.is_any:
        return lambda speed: speed.device == "cpu"
    return lambda speed: gpu.name is not None and same_gpu(gpu.name, speed.device)


def _told(
    stage: str, config: Mapping[str, Any], speed: Speed, factor: float, of_other_data: bool
) -> StageTime:
    settings = config["stages"][stage]
    counts = settings.get("epochs") is None and not settings.get("curriculum")
    steps = int(settings["steps"]) if counts else speed.steps
    device = speed.device or "an unknown device"
    is_measured = factor == 1.0 and not of_other_data
    what = "measured on" if factor == 1.0 else "scaled from"
    data = ", other data" if of_other_data else ""
    rough = "" if is_measured else ": rough"
    return StageTime(
        stage, steps * speed.seconds_per_step * factor, "measured" if is_measured else "rough",
        f"{what} {device}, run {speed.run}{data}{rough}",
    )  # fmt: skip


def _factor(device: str, gpu: GpuRequest) -> float | None:
    """Seconds on a machine over seconds on a device; None where one of them is not known."""
    there = _useful_flops("cpu" if gpu.is_any else in_drivers_words(gpu.name or ""))
    here = _useful_flops(device)
    return None if there is None or here is None else here / there


def _useful_flops(device: str) -> float | None:
    if device == "cpu":
        return _CPU_CORE_FLOPS * (os.cpu_count() or 1)
    peak = peak_flops(device)
    return None if peak is None else peak * _SHARE_OF_PEAK
