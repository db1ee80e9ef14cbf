"""Engines that a remote job can run on, one module each; import the one that is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ups.remote.driver import Driver
    from ups.remote.spec import EngineName


def driver_of(engine: EngineName, options: Mapping[str, str]) -> Driver:
    """The driver of an engine.

    Args:
        options: Of a job or of the user's settings: host, partition, ...
    Raises:
        MissingExtraError: What it needs is not installed.
        UsageError: An option is missing.
    """
    match engine:
        case "dstack":
            from ups.remote.drivers.dstack import DstackDriver

            return DstackDriver()
        case "slurm":
            from ups.remote.drivers.slurm import SlurmDriver

            return SlurmDriver(options)
        case "ssh":
            from ups.remote.drivers.ssh import SshDriver

            return SshDriver([options] if "host" in options else [])
