"""What goes wrong with a remote is one line with a hint and an exit code, soon, and no secret."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from broken_servers import always, blackhole, proxy
from servers import S3Server, free_port, host_and_port
from typer.testing import CliRunner

from ups.cli.main import app
from ups.errors import RemoteError
from ups.transfer import rclone_process
from ups.transfer.remotes import Remote, find_remote

LONGEST_S = 30


def check_fails(*words: str) -> str:
    """`ups remotes check` ends with exit code 6, one error line and one hint, in time."""
    start = time.monotonic()
    result = CliRunner().invoke(app, ["remotes", "check"])
    taken = time.monotonic() - start
    assert result.exit_code == 6, (result.output, result.exception)
    lines = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert all(word in result.stderr for word in words), result.stderr
    assert "is a file not a directory" not in result.stderr
    assert taken < LONGEST_S
    return result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("B2_KEY_ID", "NOBODYSKEY", ("does not know the key id",)),
        ("B2_APP_KEY", "not-the-secret", ("secret does not belong to the key id",)),
        ("B2_BUCKET", "nowhere", ("bucket does not exist",)),
        ("B2_S3_ENDPOINT", "http://nowhere.invalid", ("cannot be resolved",)),
        ("B2_S3_ENDPOINT", "https://{endpoint}", ("no secure connection",)),
    ],
)
def test_a_wrong_variable_is_named_by_its_effect(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: tuple[str, ...]
) -> None:
    host, port = host_and_port(s3)
    monkeypatch.setenv(variable, value.format(endpoint=f"{host}:{port}"))
    said = check_fails("remote b2", *words)
    assert s3.secret not in said
    assert os.environ["B2_APP_KEY"] not in said
    assert os.environ["B2_KEY_ID"] not in said


def test_moto_says_of_a_missing_bucket_that_it_is_missing(
    moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2_BUCKET", "nowhere")
    check_fails("bucket does not exist")


def test_a_closed_port(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B2_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    check_fails("nothing listens at the endpoint")


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (lambda: always(403, "RequestTimeTooSkewed", "The difference between the request time and "
                        "the current time is too large."), "clock of this machine"),
        (lambda: always(503, "SlowDown", "Please reduce your request rate."), "too busy"),
        (lambda: always(403, "AccessDenied", "Access Denied"), "access is denied"),
    ],
    ids=["clock", "busy", "denied"],
)  # fmt: skip
def test_a_server_that_always_refuses(
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    server: Callable[[], AbstractContextManager[str]],
    words: str,
) -> None:
    with server() as endpoint:
        monkeypatch.setenv("B2_S3_ENDPOINT", endpoint)
        check_fails(words)


@pytest.mark.slow
def test_a_server_that_never_answers(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with blackhole() as endpoint:
        monkeypatch.setenv("B2_S3_ENDPOINT", endpoint)
        check_fails("does not answer")


@pytest.fixture
def stored(s3: S3Server, tmp_path: Path) -> Remote:
    """A remote with objects/x of 3 MB."""
    (tmp_path / "x").write_bytes(os.urandom(3_000_000))
    remote = find_remote()
    remote.rclone().upload({"x": tmp_path / "x"}, remote.path("objects"))
    return remote


def test_a_connection_that_is_cut_once_is_taken_up_again(
    stored: Remote, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuts = []

    def allow(sent: int) -> str:
        if sent > 1_000_000 and not cuts:
            cuts.append(sent)
            return "cut"
        return "pass"

    with proxy(host_and_port(s3), allow) as endpoint:
        monkeypatch.setenv("B2_S3_ENDPOINT", endpoint)
        remote = find_remote()
        remote.rclone().download({"x": 3_000_000}, remote.path("objects"), tmp_path / "into")
    assert cuts
    assert (tmp_path / "into" / "x").read_bytes() == (tmp_path / "x").read_bytes()


def test_a_connection_that_is_always_cut_is_an_error_and_leaves_no_file(
    stored: Remote, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start = time.monotonic()
    with proxy(host_and_port(s3), lambda sent: "cut" if sent > 200_000 else "pass") as endpoint:
        monkeypatch.setenv("B2_S3_ENDPOINT", endpoint)
        remote = find_remote()
        with pytest.raises(RemoteError, match="the connection broke"):
            remote.rclone().download({"x": 3_000_000}, remote.path("objects"), tmp_path / "into")
    assert time.monotonic() - start < LONGEST_S
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.parametrize("stall_s", [2.0, pytest.param(None, marks=pytest.mark.slow)])
def test_a_server_that_falls_silent_in_the_middle(
    stored: Remote,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stall_s: float | None,
) -> None:
    silent = []

    def allow(sent: int) -> str:
        if sent > 200_000:
            silent.append(sent)
        return "stall" if silent else "pass"

    if stall_s is not None:
        monkeypatch.setattr(rclone_process, "STALL_S", stall_s)
    start = time.monotonic()
    with proxy(host_and_port(s3), allow) as endpoint:
        monkeypatch.setenv("B2_S3_ENDPOINT", endpoint)
        remote = find_remote()
        with pytest.raises(RemoteError, match="does not answer"):
            remote.rclone().download({"x": 3_000_000}, remote.path("objects"), tmp_path / "into")
    assert time.monotonic() - start < LONGEST_S
    assert not (tmp_path / "into" / "x").exists()


@pytest.mark.slow
def test_a_server_that_falls_silent_on_every_connection(
    stored: Remote, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each new connection brings a little more: the silences between count together."""
    start = time.monotonic()
    with proxy(host_and_port(s3), lambda sent: "stall" if sent > 200_000 else "pass") as endpoint:
        monkeypatch.setenv("B2_S3_ENDPOINT", endpoint)
        remote = find_remote()
        with pytest.raises(RemoteError, match="does not answer"):
            remote.rclone().download({"x": 3_000_000}, remote.path("objects"), tmp_path / "into")
    assert time.monotonic() - start < LONGEST_S
    assert not (tmp_path / "into" / "x").exists()


DOWNLOAD = """
import sys
from pathlib import Path
from ups.errors import UpsError
from ups.transfer.remotes import find_remote
remote = find_remote()
try:
    remote.rclone().download({"x": 3_000_000}, remote.path("objects"), Path(sys.argv[1]))
except UpsError as error:
    print(f"{error.exit_code} {error}")
"""


def downloaded_in_a_process(into: Path, **options: object) -> str:
    result = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, str(into)], capture_output=True, text=True, **options
    )  # type: ignore[call-overload]
    return str(result.stdout + result.stderr)


def test_a_full_disk_is_exit_code_3_and_leaves_no_file(stored: Remote, tmp_path: Path) -> None:
    said = downloaded_in_a_process(
        tmp_path / "into",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert said.startswith("3 remote b2: downloading: the disk is full")
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_small_disk_that_is_full(stored: Remote, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let root mount")
    try:
        said = downloaded_in_a_process(small / "into")
        assert said.startswith("3 remote b2: downloading: the disk is full")
        assert not list((small / "into").iterdir())
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_an_object_that_is_not_there_is_named_and_the_others_arrive(
    stored: Remote, tmp_path: Path
) -> None:
    sizes, into = {"x": 3_000_000, "y": 5}, tmp_path / "into"
    with pytest.raises(RemoteError, match="remote b2: y is not there"):
        stored.rclone().download(sizes, stored.path("objects"), into)
    assert (into / "x").read_bytes() == (tmp_path / "x").read_bytes()


def test_a_listening_port_that_is_not_http(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("B2_S3_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(rclone_process, "STALL_S", 2.0)
        check_fails("does not answer")
