"""Jobs and bundles for tests of the dstack engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ups.remote.spec import GpuRequest, JobSpec, Task

SECRET = "wandb-planted-0cc175b9c0f1b6a831c399e269772661"


def job(name: str, **changes: Any) -> JobSpec:
    """A job on one A100 for at most $1 an hour and two hours, with one secret."""
    fields: dict[str, Any] = {
        "id": name,
        "engine": "dstack",
        "task": Task(config="name: tiny\n", run_name="tiny", run_id=f"run-{name}"),
        "gpu": GpuRequest(name="A100", memory_gb=80),
        "max_price": 1.0,
        "max_hours": 2,
        "secrets": ("WANDB_API_KEY",),
        "environment": {"UPS_EXAMPLE": "plain $value"},
    }
    return JobSpec(**(fields | changes))


def bundle(folder: Path, script: str = "echo hello\n") -> Path:
    """A bundle as `ups remote launch` builds it, its wheel beside a `.gitignore` that names it."""
    made = folder / "bundle"
    made.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*.whl\n")
    (made / "job.json").write_text("{}\n")
    (made / "config.yaml").write_text("name: tiny\n")
    (made / "requirements.lock").write_text("numpy==2.0.0\n")
    (made / "ups-0.1.0-py3-none-any.whl").write_bytes(b"wheel")
    (made / "run.sh").write_text(script)
    return made
