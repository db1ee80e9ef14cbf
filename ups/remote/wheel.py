"""A wheel of the running ups: of a checkout as it is on the disk, or of an installed package.

Written here rather than by a build tool: it needs no network and no isolated environment, takes a
fraction of a second, and the same files make the same bytes, so that a machine that has this code
already is ready at once. The user's own cards and configs go with it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import ups
from ups import paths, runs
from ups.errors import UsageError

_PROJECT = "universal-physics-stack"
_PACKAGED = "ups/_packaged"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def build_wheel(folder: Path) -> Path:
    """Write the wheel into `folder`; its version ends with the commit, as `0.1.0+g1234abcd`.

    Raises:
        UsageError: This ups was not installed, so that nothing is known about its package.
    """
    version = _version(runs.commit())
    content = _package() | _packaged()
    info = f"{_PROJECT.replace('-', '_')}-{version}.dist-info"
    content[f"{info}/METADATA"] = _metadata(version)
    content[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: ups\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    content[f"{info}/entry_points.txt"] = b"[console_scripts]\nups = ups.cli.main:main\n"
    content[f"{info}/RECORD"] = _record(content, f"{info}/RECORD")
    path = folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    path.write_bytes(_zipped(content))
    return path


def lock_file() -> str:
    """Text of the requirements.lock that belongs to this ups."""
    root = paths.checkout()
    path = (root or _source() / "_packaged") / "requirements.lock"
    if not path.is_file():
        raise UsageError(
            f"{path}: there is no lock file for the job's environment",
            hint=f"install {_PROJECT} {ups.__version__} again, or run from a checkout",
        )
    return path.read_text(encoding="utf-8")


def _version(commit: str) -> str:
    """PEP 440: `0.1.0+g1234abcd`, with `.dirty` where files differ from the commit."""
    local = re.sub(r"[^0-9a-zA-Z]+", ".", commit).strip(".")
    return f"{ups.__version__}+g{local.removeprefix('g')}" if local else ups.__version__


def _source() -> Path:
    return Path(ups.__file__).resolve().parent


def _package() -> dict[str, bytes]:
    """Every file of the package but compiled ones; name in the wheel -> content."""
    source = _source()
    return {
        f"ups/{path.relative_to(source).as_posix()}": path.read_bytes()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and "_packaged" not in path.parts
    }


def _packaged() -> dict[str, bytes]:
    """Cards and configs, shipped ones and the user's own, the lock file and the commit."""
    content: dict[str, bytes] = {}
    for name, folders in (("registry", paths.registry_dirs()), ("configs", paths.config_dirs())):
        for folder in folders:
            for path in folder.rglob("*"):
                if path.is_file() and not path.name.startswith("."):
                    inside = path.relative_to(folder).as_posix()
                    content[f"{_PACKAGED}/{name}/{inside}"] = path.read_bytes()
    content[f"{_PACKAGED}/requirements.lock"] = lock_file().encode()
    content[f"{_PACKAGED}/commit.txt"] = f"{runs.commit()}\n".encode()
    return content


def _metadata(version: str) -> bytes:
    """The metadata of the installation, which names the requirements, with another version."""
    try:
        text = metadata.distribution(_PROJECT).read_text("METADATA") or ""
    except metadata.PackageNotFoundError as error:
        raise UsageError(
            "ups is not installed, only on Python's path", hint="python -m pip install -e ."
        ) from error
    head = text.partition("\n\n")[0]
    return (re.sub(r"(?m)^Version: .*$", f"Version: {version}", head) + "\n").encode()


def _record(content: Mapping[str, bytes], own: str) -> bytes:
    """Names, hashes and sizes, as pip checks them."""
    lines = []
    for name, data in sorted(content.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}")
    return ("\n".join([*lines, f"{own},,"]) + "\n").encode()


def _zipped(content: Mapping[str, bytes]) -> bytes:
    """The files in a zip whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, data in sorted(content.items()):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()
