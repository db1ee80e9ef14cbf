"""What a run was made from, as the names of artefacts."""

from __future__ import annotations

from pathlib import Path

from ups import checkpoint, paths, runs
from ups.config.stages import STAGES


def sources_of(run: Path) -> dict[str, list[str]]:
    """The data of a run's newest checkpoint, and the caches of it that are on this machine.

    Returns:
        Kind of artefact -> names, as `ups data push` and `ups cache push` use them; empty for a run
        without checkpoints.

    Raises:
        CheckpointError: The checkpoint is damaged.
    """
    saved = [runs.checkpoint_path(run, stage) for stage in reversed(STAGES)]
    path = next((path for path in saved if path.is_file()), None)
    if path is None:
        return {}
    tasks = checkpoint.task_identities(path).values()
    data = sorted({f"{task.dataset}/{task.version}" for task in tasks})
    caches = {
        folder.relative_to(paths.caches_dir()).as_posix()
        for task in tasks
        for folder in (paths.caches_dir() / task.dataset / task.version).glob(
            f"[!.]*-{task.codec_fingerprint[:12]}-*"
        )
        if folder.is_dir()
    }
    return {"data": data, "cache": sorted(caches)}
