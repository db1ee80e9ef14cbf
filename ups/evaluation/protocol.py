"""What a number was measured on. Two results with different protocols are never ranked together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ConfigDict

from ups import files

HEADLINE = (
    "nrmse: RMSE over space / RMS of reference over space; "
    "mean over trajectories, predicted frames and channels"
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Everything that decides whether two numbers may be compared, and nothing else.

    Seeds belong to the run, not here: two seeds of one model are two rows of one table.

    Attributes:
        split: 'train', 'valid' or 'test'.
        split_hash: Of the division into train, valid and test.
        data_sha256: Of all field values of the version.
        resolution: Points per space axis.
        domain: (low, high) of each space axis.
        stride_x, stride_t: Every which point and frame of the raw data the version kept.
        dt: Time between stored frames; None for a static problem.
        stride: Stored frames per predicted frame.
        history: Frames given.
        horizon: Frames predicted.
        mode: 'rollout' feeds predictions back; 'one-step' starts each from the truth.
        metric: The headline metric and its reductions, in words.
        selected_on: The split that chose the checkpoint.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    dataset: str
    version: str
    split: str
    split_hash: str
    data_sha256: str
    resolution: tuple[int, ...]
    domain: tuple[tuple[float, float], ...]
    stride_x: int
    stride_t: int
    dt: float | None
    stride: int
    history: int
    horizon: int
    num_trajectories: int
    mode: Literal["rollout", "one-step"] = "rollout"
    metric: str = HEADLINE
    selected_on: str = "valid"

    def __post_init__(self) -> None:
        """One spelling per value, so that equal protocols have equal ids."""
        if self.mode not in ("rollout", "one-step"):
            raise ValueError(f"mode is {self.mode!r}, not 'rollout' or 'one-step'")
        if len(self.domain) != len(self.resolution):
            raise ValueError(
                f"{len(self.domain)} domain axes for a resolution of {tuple(self.resolution)}"
            )
        for name, value in _one_spelling(asdict(self)).items():
            object.__setattr__(self, name, value)

    @property
    def id(self) -> str:
        """The first 12 hex digits of the sha256 of all fields as canonical JSON."""
        return protocol_id(self.to_dict())

    @property
    def extents(self) -> tuple[float, ...]:
        """Domain length per axis."""
        return tuple(high - low for low, high in self.domain)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: lists for tuples."""
        content = asdict(self)
        content["resolution"] = list(self.resolution)
        content["domain"] = [list(pair) for pair in self.domain]
        return content

    def describe(self) -> str:
        """The protocol in one line of words."""
        return describe_protocol(self.to_dict())


def _one_spelling(content: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, whole numbers and numpy's as floats where a float is meant."""
    out = dict(content)
    if "domain" in out:
        out["domain"] = tuple((float(low), float(high)) for low, high in out["domain"])
    if "resolution" in out:
        out["resolution"] = tuple(int(size) for size in out["resolution"])
    if out.get("dt") is not None:
        out["dt"] = float(out["dt"])
    return out


def protocol_id(content: Mapping[str, Any]) -> str:
    """The id of a protocol given as `Protocol.to_dict` gives it."""
    return files.sha256_json(content)[:12]


def describe_protocol(content: Mapping[str, Any]) -> str:
    """One line of words for a protocol given as `Protocol.to_dict` gives it.

    What is as it should be, stride 1 and a checkpoint selected on 'valid', goes without saying.
    """
    sizes = content["resolution"]
    places = "grid " + "x".join(str(size) for size in sizes) if any(sizes) else "at nodes"
    given, predicted = content["history"], content["horizon"]
    steps = f"{given} -> {predicted} frames" if given else "steady"
    if content["mode"] == "one-step":
        steps += ", one step at a time"
    spacing = f"stride {content['stride']}, " if content["stride"] != 1 else ""
    chosen = content["selected_on"]
    selected = f", selected on {chosen}" if chosen != "valid" else ""
    count, split = content["num_trajectories"], content["split"]
    judged = f"all {count}" if split == "all" else f"{count} {split}"
    data = f"{content['dataset']} ({content['version']})"
    return f"{data}, {judged} trajectories, {places}, {spacing}{steps}{selected}"
