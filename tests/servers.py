"""Real servers on loopback for tests: `rclone serve s3`, moto's S3, `rclone serve sftp`.

Each is a context manager; skips where a program or package is not installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

INSTALL = "pip install -e '.[dev,rclone]'"


@dataclass(frozen=True)
class S3Server:
    """An S3 server with one key and one bucket; `process` may be stopped by a test."""

    endpoint: str
    key: str
    secret: str
    bucket: str
    process: subprocess.Popen[bytes]
    region: str = "us-east-1"

    def look_again(self) -> None:
        """Let `rclone serve s3` see files that were changed without it."""
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.1)

    def environment(self, monkeypatch: pytest.MonkeyPatch, family: str = "b2") -> None:
        """Set B2_* (then the remote `b2` exists by itself) or AWS_*."""
        if family == "b2":
            values = {"B2_KEY_ID": self.key, "B2_APP_KEY": self.secret, "B2_BUCKET": self.bucket,
                      "B2_S3_ENDPOINT": self.endpoint, "B2_S3_REGION": self.region}  # fmt: skip
        else:
            values = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret,
                      "AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": self.region}  # fmt: skip
        for name, value in values.items():
            monkeypatch.setenv(name, value)


def rclone_binary() -> str:
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.is_file() else shutil.which("rclone")
    if found is None:
        pytest.skip(f"rclone is not installed: {INSTALL}")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def rclone_s3(folder: Path, bucket: str = "bucket") -> Iterator[S3Server]:
    """`rclone serve s3` over a local folder: objects are plain files in folder/bucket.

    It remembers what is there for an hour: where it may forget at once it deadlocks in some hundred
    requests (rclone 1.75, its timers lock folders in two orders). After changing a file behind its
    back call `look_again`.
    """
    binary, port = rclone_binary(), free_port()
    key, secret = "TESTKEYID0123456789", "test/secret+key0123456789abcdefghij"
    (folder / bucket).mkdir(parents=True, exist_ok=True)
    command = [binary, "serve", "s3", "--config=", f"--addr=127.0.0.1:{port}",
               "--auth-key", f"{key},{secret}", "--dir-cache-time=1h", "--",
               str(folder)]  # fmt: skip
    with _started(command, port, folder.parent) as process:
        yield S3Server(f"http://127.0.0.1:{port}", key, secret, bucket, process)


@contextmanager
def moto_s3(bucket: str = "bucket") -> Iterator[S3Server]:
    """moto's S3 in a process of its own, in memory; any key is good."""
    pytest.importorskip("moto.server", reason=INSTALL)
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _started(command, port, Path.cwd()) as process:
        server = S3Server(f"http://127.0.0.1:{port}", "moto-key-id", "moto-secret", bucket, process)
        client(server).create_bucket(Bucket=bucket)
        yield server


def client(server: S3Server):
    """A boto3 client: what the tests see of a server, without ups."""
    boto3 = pytest.importorskip("boto3", reason=INSTALL)
    return boto3.client(
        "s3", endpoint_url=server.endpoint, region_name=server.region,
        aws_access_key_id=server.key, aws_secret_access_key=server.secret,
    )  # fmt: skip


def object_names(server: S3Server, prefix: str = "") -> list[str]:
    """Names of all objects below a prefix, as the server lists them."""
    pages = client(server).get_paginator("list_objects_v2")
    found = pages.paginate(Bucket=server.bucket, Prefix=prefix)
    return [item["Key"] for page in found for item in page.get("Contents", [])]


def host_and_port(server: S3Server) -> tuple[str, int]:
    parts = urlsplit(server.endpoint)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@contextmanager
def _started(command: list[str], port: int, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        name: value for name, value in os.environ.items()
        if not name.startswith(("AWS_", "B2_", "RCLONE_"))
    }  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd, env=environment
    )
    try:
        _wait_until_it_listens(process, port)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nothing listens on port {port}")


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A fresh `rclone serve s3`; the remote `b2` is it."""
    with rclone_s3(tmp_path / "s3") as server:
        server.environment(monkeypatch)
        yield server


@pytest.fixture(scope="session")
def _moto_process() -> Iterator[S3Server]:
    with moto_s3() as server:
        yield server


@pytest.fixture
def moto(_moto_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """moto's S3, one process for the session; the remote `b2` is it. Its bucket is emptied."""
    api = client(_moto_process)
    for upload in api.list_multipart_uploads(Bucket=_moto_process.bucket).get("Uploads", []):
        api.abort_multipart_upload(
            Bucket=_moto_process.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        )
    for name in object_names(_moto_process):
        api.delete_object(Bucket=_moto_process.bucket, Key=name)
    _moto_process.environment(monkeypatch)
    return _moto_process
