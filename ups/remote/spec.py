"""What a remote job is: the same for every engine, without secrets, written before it starts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from ups.config.base import Config

EngineName = Literal["dstack", "slurm", "ssh"]
Hours = Annotated[float, Field(gt=0, le=24 * 31)]

EXIT_INFRASTRUCTURE = 10
EXIT_TIME_LIMIT = 11
EXIT_STOPPED = 12
EXIT_HANG = 13
EXIT_PREFLIGHT = 14


class GpuRequest(Config):
    """What a machine must have; no `name` and no `memory_gb` is a machine without a GPU."""

    name: str | None = Field(None, description="As engines call it: A100, H100, RTX4090.")
    memory_gb: PositiveFloat | None = Field(None, description="Of one GPU, at least.")
    count: PositiveInt = 1

    @property
    def is_any(self) -> bool:
        return self.name is None and self.memory_gb is None

    def __str__(self) -> str:
        """As people write it: `A100-80GB:2`."""
        if self.is_any:
            return "no GPU"
        memory = f"{self.memory_gb:g}GB" if self.memory_gb else ""
        name = "-".join(part for part in (self.name, memory) if part)
        return f"{name}:{self.count}" if self.count > 1 else name


class Task(Config):
    """What is trained: the arguments of `ups train`, and what follows it.

    Attributes are those of the commands of the same names.
    """

    config: str = Field(description="YAML text of the resolved experiment.")
    stages: tuple[str, ...] = Field((), description="Empty for those of the experiment.")
    nproc: PositiveInt = 1
    evaluate: bool = True
    leaderboard: bool = True
    run_name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    run_id: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Chosen here, so that a job that starts again continues the same run.",
    )


class JobSpec(Config):
    """One job.

    Attributes:
        id: `<name>-<8 hex>`; part of every name that the job has elsewhere, so that it is found
            again after a crash between its creation and its record.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9-]{2,40}$")
    project: str = "ups"
    engine: EngineName
    task: Task
    gpu: GpuRequest = GpuRequest()
    nodes: PositiveInt = 1
    cpus: PositiveInt | None = None
    disk_gb: PositiveInt = 100
    spot: bool = False
    max_price: PositiveFloat | None = Field(None, description="US dollars an hour, of one node.")
    max_hours: Hours | None = Field(None, description="After which the machine goes.")
    hang_minutes: PositiveFloat = Field(30, description="Without progress, after which it goes.")
    push_minutes: PositiveFloat = Field(10, description="Between pushes of checkpoints.")
    remote: str | None = Field(None, description="`ups remotes` name that data come from.")
    remote_settings: dict[str, str] = Field(
        default_factory=dict, description="Of the remote, without secrets."
    )
    environment: dict[str, str] = Field(default_factory=dict, description="Without secrets.")
    secrets: tuple[str, ...] = Field((), description="Names of environment variables, no values.")
    retries: NonNegativeInt = Field(3, description="New machines after an interruption.")
    options: dict[str, str] = Field(
        default_factory=dict, description="Of one engine: host, partition, account, region, image."
    )

    @field_validator("secrets")
    @classmethod
    def _names_only(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name.isidentifier():
                raise ValueError("secrets: names of environment variables, never values")
        return names

    @property
    def worst_cost(self) -> float | None:
        """US dollars that the job cannot exceed; None without a price or a limit."""
        if self.max_price is None or self.max_hours is None:
            return None
        return self.max_price * self.nodes * self.max_hours
