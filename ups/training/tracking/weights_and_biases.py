"""One Weights & Biases run for a whole pipeline, continued by id whenever its run is opened again.

Names on the board are `stage/part/key`: `operator/train/loss`, `operator/valid/nrmse`,
`operator/burgers1d/nrmse`. Each stage has its own axis, `operator/step`. Keys are read by wandb
itself, from the environment or the file that `wandb login` writes; none passes through here.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ups import files, runs
from ups.config.schema import Experiment, TrackingConfig
from ups.errors import CheckpointError
from ups.training.tracking.base import Medium, Record, Table
from ups.transfer.wandb_access import has_key

Mode = Literal["disabled", "offline", "online"]
_INIT_SECONDS = 30
_VALID = "valid_"
# As variables, since versions of wandb differ in what they know. A server that has gone away may
# hold a finished run up for five minutes, not for ever.
_BEHAVIOUR = {"WANDB_SILENT": "true", "WANDB_FINISH_TIMEOUT": "300",
              "WANDB_FINISH_TIMEOUT_RAISES": "true"}  # fmt: skip


def mode_of(config: TrackingConfig) -> Mode:
    """What `tracking` comes to on this machine.

    'auto' is online where there are credentials; without them offline if a project is named,
    else nothing. WANDB_MODE may lower what 'auto' chooses. 'online' without credentials is
    offline, to be synced later.
    """
    if config.wandb in ("disabled", "offline"):
        return "disabled" if config.wandb == "disabled" else "offline"
    wished = os.environ.get("WANDB_MODE") if config.wandb == "auto" else None
    if wished == "disabled":
        return "disabled"
    asked = config.wandb == "online" or config.project is not None
    if has_key():
        return "offline" if wished == "offline" else "online"
    return "offline" if asked else "disabled"


def name_on_board(stage: str, key: str) -> str:
    """`loss` -> `operator/train/loss`; `valid_nrmse` -> `operator/valid/nrmse`."""
    if "/" in key:
        return f"{stage}/{key}"
    if key.startswith(_VALID):
        return f"{stage}/valid/{key.removeprefix(_VALID)}"
    return f"{stage}/train/{key}"


def name_in_record(name: str) -> tuple[str, str]:
    """Stage and key of a name on a board; the inverse of `name_on_board`.

    What another program logged without a stage is of the stage 'wandb'.
    """
    stage, slash, key = name.partition("/")
    if not slash:
        return "wandb", name
    part, slash, rest = key.partition("/")
    if slash and "/" not in rest and part in ("train", "valid"):
        return stage, rest if part == "train" else f"{_VALID}{rest}"
    return stage, key


class WandbRun:
    """Sends records, media and the summary of one run folder to one W&B run.

    Its id, project and address are kept in the folder's `tracking.json`.
    """

    def __init__(self, run: Path, experiment: Experiment, mode: Mode) -> None:
        import wandb

        for name, value in _BEHAVIOUR.items():
            os.environ.setdefault(name, value)
        known = runs.read_tracking(run) or {}
        self._sent: dict[str, int] = known.get("sent", {})
        self._stages: set[str] = set()
        self._run = wandb.init(
            project=known.get("project") or experiment.tracking.project or "ups",
            entity=known.get("entity") or experiment.tracking.entity,
            id=known.get("id") or secrets.token_hex(4),
            resume="allow",
            name=runs.run_id(run),
            group=run.parent.name,
            mode=mode,
            dir=str(run),
            config=experiment.model_dump(mode="json"),
            settings=wandb.Settings(console="off", silent=True, init_timeout=_INIT_SECONDS),
        )
        online = mode == "online"
        unsynced = [] if online else [os.path.relpath(Path(self._run.dir).parent, run)]
        context = {
            "id": self._run.id,
            "project": self._run.project,
            "entity": self._run.entity or None,
            "url": self._run.url if online else known.get("url"),
            "mode": mode,
            "unsynced": [*known.get("unsynced", []), *unsynced],
            "sent": self._sent,
        }
        files.write_json(run / runs.TRACKING, context, CheckpointError)

    def log(self, record: Record) -> None:
        """Send the numbers of a record, unless it was sent before the run was interrupted."""
        stage, step = str(record["stage"]), int(record["step"])
        values = {
            name_on_board(stage, key): value
            for key, value in record.items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        if values and step > self._sent.get(stage, -1):
            self._send(stage, step, values)

    def media(self, stage: str, step: int, name: str, medium: Medium) -> None:
        self._send(stage, step, {f"{stage}/{name}": _shown(medium)})

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def close(self) -> None:
        self._run.finish()

    def _send(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        axis = f"{stage}/step"
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=axis)
        self._run.log({**values, axis: step})


def _shown(medium: Medium) -> Any:
    import wandb

    if isinstance(medium, Table):
        rows = [list(row) for row in medium.rows]
        return wandb.Table(columns=list(medium.columns), data=rows, allow_mixed_types=True)
    match medium.suffix.lower():
        case ".html":
            return wandb.Html(str(medium))
        case ".gif" | ".mp4":
            return wandb.Video(str(medium))
        case _:
            return wandb.Image(str(medium))
