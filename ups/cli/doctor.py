"""`ups doctor`: is this machine fit, and what is here."""

from __future__ import annotations

import os
import platform
import shutil
import sys

import ups
from ups import paths
from ups.cli import _output
from ups.cli._options import Json
from ups.errors import UpsError

_PACKAGES = ("torch", "numpy", "scipy", "h5py", "zarr", "httpx", "scikit-fem", "threadpoolctl",
             "wandb", "matplotlib", "pillow", "pydantic", "typer")  # fmt: skip
_OPTIONAL = {
    "climate": ("NetCDF and Zarr by xarray", ("xarray", "h5netcdf", "cftime")),
    "baselines": ("FNO and TFNO baselines", ("neuraloperator",)),
    "video": ("MP4 where ffmpeg is not installed", ("imageio-ffmpeg",)),
}
_LEAST_PYTHON = (3, 11)
_LEAST_FREE_BYTES = 2e9


def doctor(as_json: Json = False) -> None:
    """Check Python, packages, device, disk and folders; say what is missing."""
    facts = {**_software(), **_hardware(), **_folders()}
    problems = _problems()
    if as_json:
        _output.print_json({"facts": facts, "problems": problems})
    else:
        _output.print_table("", ["", ""], [[key, text] for key, text in facts.items()])
    if problems:
        raise UpsError("; ".join(problems), hint="python -m pip install -r requirements.lock")
    if not as_json:
        _output.summary("healthy", "nothing is missing")


def _software() -> dict[str, str]:
    versions = {name: _version(name) or "missing" for name in _PACKAGES}
    return {
        "ups": ups.__version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **versions,
        **{f"extra {name}": _state(name, what, needs) for name, (what, needs) in _OPTIONAL.items()},
    }


def _state(extra: str, what: str, packages: tuple[str, ...]) -> str:
    """Of optional packages, which nothing else needs."""
    missing = [name for name in packages if not _version(name)]
    how = f"pip install 'universal-physics-stack[{extra}]'" if missing else "installed"
    return f"{what}: {how}"


def _hardware() -> dict[str, str]:
    facts = {"cpus": str(os.cpu_count())}
    if _version("torch"):
        import torch

        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        facts["gpu"] = ", ".join(gpus) or "none: training runs on the CPU"
    return facts


def _folders() -> dict[str, str]:
    home = paths.home()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    return {
        "home": f"{home}{'' if os.environ.get('UPS_HOME') else ' (UPS_HOME is not set)'}",
        "free disk": _output.size(free),
        "registry": ", ".join(paths.display(folder) for folder in paths.registry_dirs()),
        "configs": ", ".join(paths.display(folder) for folder in paths.config_dirs()),
    }


def _problems() -> list[str]:
    problems = [f"package {name} is missing" for name in _PACKAGES if not _version(name)]
    if sys.version_info < _LEAST_PYTHON:
        problems.append(f"Python {platform.python_version()} is older than 3.11")
    home = paths.home()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        problems.append(f"no permission to write in {existing}")
    if shutil.disk_usage(existing).free < _LEAST_FREE_BYTES:
        problems.append(f"less than {_output.size(_LEAST_FREE_BYTES)} free in {existing}")
    return problems + _broken_cards()


def _broken_cards() -> list[str]:
    from ups import registry

    problems = []
    for key in registry.dataset_keys():
        try:
            registry.load_card(key)
        except UpsError as error:
            problems.append(str(error))
    return problems


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
