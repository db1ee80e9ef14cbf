"""The one door to a dstack server: its own client with time limits and errors of ours."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ups.errors import MissingExtraError, RemoteError

try:
    import requests
    from dstack._internal.core.backends.models import AnyBackendConfigWithCredsTagged
    from dstack._internal.core.errors import DstackError, ResourceNotExistsError
    from dstack._internal.core.models.backends.base import BackendType
    from dstack._internal.core.models.fleets import ApplyFleetPlanInput, FleetSpec
    from dstack._internal.core.models.runs import ApplyRunPlanInput, Run, RunPlan, RunSpec
    from dstack._internal.server.schemas.logs import PollLogsRequest
    from dstack._internal.utils.hash import get_sha256
    from dstack.api.server import APIClient
except ImportError as error:
    raise MissingExtraError(
        f"the dstack engine needs the package dstack ({error})",
        hint="pip install 'universal-physics-stack[remote]'",
    ) from error

__all__ = [
    "AnyBackendConfigWithCredsTagged",
    "ApplyFleetPlanInput",
    "ApplyRunPlanInput",
    "BackendType",
    "Client",
    "FleetSpec",
    "PollLogsRequest",
    "ResourceNotExistsError",
    "Run",
    "RunPlan",
    "RunSpec",
    "bundle_archive",
    "connect",
    "translated",
]

_TIMEOUT_S = 60.0


class Client(APIClient):  # type: ignore[misc]  # dstack has no types
    """dstack's client; every request ends, and none goes through a proxy of the environment."""

    def __init__(self, url: str, token: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        super().__init__(url, token)
        self._timeout_s = timeout_s
        self._s.trust_env = not url.startswith(("http://127.0.0.1", "http://localhost"))

    def _request(self, path: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("timeout", self._timeout_s)
        return super()._request(path, *args, **kwargs)

    def close(self) -> None:
        self._s.close()


@contextmanager
def connect(url: str, token: str) -> Iterator[Client]:
    """A client whose connections are closed after the block."""
    client = Client(url, token)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what dstack and requests raise into one `RemoteError` that says what was tried."""
    try:
        yield
    except ResourceNotExistsError as error:
        raise RemoteError(f"dstack: {doing}: it does not exist") from error
    except DstackError as error:
        text = " ".join(str(error).split())
        raise RemoteError(f"dstack: {doing}: {text or type(error).__name__}",
                          hint="ups remote setup") from error  # fmt: skip
    except requests.RequestException as error:
        raise RemoteError(
            f"dstack: {doing}: the server does not answer ({type(error).__name__})",
            hint="ups remote setup",
        ) from error


def bundle_archive(bundle: Path) -> tuple[str, io.BytesIO]:
    """A tar file of `bundle` as the server's `files` want it, and the SHA-256 of its bytes.

    dstack's own packing leaves out what any `.gitignore` above the folder names, wheels for
    example. Times and owners are zero, so that the same bundle is the same upload.

    Returns:
        Hash in hex, and the open archive at its beginning.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in sorted(bundle.iterdir()):
            if not path.is_file():
                continue
            entry = tarfile.TarInfo(f"bundle/{path.name}")
            entry.size = path.stat().st_size
            entry.mode = 0o755 if path.suffix == ".sh" else 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    digest = get_sha256(content)
    content.seek(0)
    return digest, content
