"""rclone: bytes arrive, names are only names, secrets stay inside, nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import S3Server, client, rclone_s3

from ups.errors import MissingExtraError, RemoteError
from ups.transfer import rclone_process
from ups.transfer.rclone import Rclone
from ups.transfer.remotes import Remote, find_remote, make

HOSTILE = [
    "$(touch executed)", "`touch executed`", "a'b\"c", "; touch executed", "-rf", "--config=x",
    "with spaces", "trailing space ", "trailing dot.", "ümläut-文字-🌀", "a:b", ":local,x=y:",
    "name,option=value:", "#comment", ";semicolon", "*?[x]{a,b}", "\\backslash", "%41%2f",
    "wide．dot", "~", "&|<>", "!", "${HOME}",
]  # fmt: skip
LOCAL = [*HOSTILE, "a\nb", "-\r\n--delete", "\t", "\n", "$(touch executed)\n"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture(params=["local", "moto", "s3"])
def remote(
    request: pytest.FixtureRequest, tmp_path: Path, server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Remote:  # fmt: skip
    """A folder, and a bucket's own prefix on two servers."""
    if request.param == "local":
        return find_remote(str(tmp_path / "remote"))
    if request.param == "moto":
        request.getfixturevalue("moto")
    else:
        server.environment(monkeypatch)
    return make("b2", kind="b2", prefix=f"test-{tmp_path.name}")


def names(rclone: Rclone, path: str, recursive: bool = False) -> list[str]:
    return [entry.name for entry in rclone.list(path, recursive) if not entry.is_dir]


def test_what_is_written_is_read_listed_and_deleted(remote: Remote) -> None:
    rclone, path = remote.rclone(), remote.path
    assert rclone.list(path("a")) == []
    before = time.time()
    rclone.write(path("a/b/one.json"), b"hello")
    assert rclone.read(path("a/b/one.json"), 1, 2) == b"el"
    rclone.write(path("a/b/one.json"), b"world")  # of the same size
    assert rclone.read(path("a/b/one.json")) == b"world"
    rclone.write(path("a/empty"), b"")
    assert rclone.read(path("a/empty")) == b""
    (entry,) = rclone.list(path("a/b"))
    assert (entry.name, entry.size, entry.is_dir) == ("one.json", 5, False)
    assert before - 2 < entry.modified < time.time() + 2
    assert names(rclone, path("a"), recursive=True) == ["b/one.json", "empty"]
    rclone.delete(path("a"), ["empty", "never there"])
    assert names(rclone, path("a"), recursive=True) == ["b/one.json"]
    rclone.purge(path("a"))
    rclone.purge(path("never-there"))
    rclone.delete(path("never-there"), ["x"])
    assert rclone.list(path("a")) == []


def test_a_file_that_is_not_there_is_named(remote: Remote) -> None:
    with pytest.raises(RemoteError, match=r"none\.json is not there"):
        remote.rclone().read(remote.path("a/none.json"))


@pytest.mark.parametrize("root", ["ups:bucket/", "ups:bucket", "/", "/tmp", "/tmp/", "name:a"])
def test_a_root_is_never_purged(root: str) -> None:
    environment = {"RCLONE_CONFIG_UPS_TYPE": "memory"} if ":" in root else {}
    with pytest.raises(RemoteError, match="too near its root"):
        Rclone(environment).purge(root)


def test_files_travel_both_ways_with_progress(remote: Remote, tmp_path: Path) -> None:
    rclone, place = remote.rclone(), remote.path("objects")
    content = {"aa": os.urandom(3_000_000), "bb": b"", "cc": b"x" * 1000}
    for name, data in content.items():
        (tmp_path / f"local {name}").write_bytes(data)
    total = sum(map(len, content.values()))
    seen: list[tuple[int, int]] = []
    rclone.upload({name: tmp_path / f"local {name}" for name in content}, place,
                  lambda *step: seen.append(step))  # fmt: skip
    assert seen[-1] == (total, total)
    assert {entry.name: entry.size for entry in rclone.list(place)} == {
        name: len(data) for name, data in content.items()
    }
    seen.clear()
    arrived: dict[str, bytes] = {}
    into = tmp_path / "into"
    rclone.download(
        {name: len(data) for name, data in content.items()}, place, into,
        lambda *step: seen.append(step),
        lambda name: arrived.__setitem__(name, (into / name).read_bytes()),
    )  # fmt: skip
    assert arrived == content  # whole when they were announced
    assert seen[-1] == (total, total)


def test_hostile_names_are_only_names(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As local files, as folders and as files on a remote; nothing is executed."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    local = {f"{number}": tmp_path / "source" / name for number, name in enumerate(LOCAL)}
    (tmp_path / "source").mkdir()
    for path in local.values():
        path.write_bytes(path.name.encode())
    rclone, deep = remote.rclone(), "/".join(["".join(HOSTILE[:9]), "".join(HOSTILE[9:][::-1])])
    rclone.upload(local, remote.path(f"{deep}/objects"))
    rclone.upload({name: path for name, path in zip(HOSTILE, local.values(), strict=False)},
                  remote.path("names"))  # fmt: skip
    rclone.write(remote.path(f"{deep}/$(touch executed)"), b"small")
    assert rclone.read(remote.path(f"{deep}/$(touch executed)")) == b"small"
    below = [f"{deep}/$(touch executed)", *(f"{deep}/objects/{name}" for name in local)]
    expected = sorted([*below, *(f"names/{name}" for name in HOSTILE)])
    assert names(rclone, remote.path(), recursive=True) == expected
    into = tmp_path / "into\n$(touch executed)"
    sizes = {name: path.stat().st_size for name, path in local.items()}
    rclone.download(sizes, remote.path(f"{deep}/objects"), into)
    assert {name: (into / name).read_bytes() for name in local} == {
        name: path.read_bytes() for name, path in local.items()
    }
    assert not list(work.iterdir())
    assert not list(tmp_path.rglob("executed"))


def test_hostile_names_are_deleted_as_they_are(remote: Remote, tmp_path: Path) -> None:
    rclone, folder = remote.rclone(), "".join(HOSTILE[:9])
    (tmp_path / "x").write_bytes(b"x")
    rclone.upload({name: tmp_path / "x" for name in [*HOSTILE, "kept"]}, remote.path(folder))
    rclone.delete(remote.path(folder), HOSTILE)
    assert names(rclone, remote.path(), recursive=True) == [f"{folder}/kept"]
    rclone.purge(remote.path(folder))
    assert rclone.list(remote.path(folder)) == []


@pytest.mark.parametrize(
    "relative",
    [
        "..",
        "a/../b",
        "/etc",
        "a//b",
        "a/",
        "./a",
        "a\nb",
        "a\x00b",
        "\x7f",
        "a\udcff",
        "a/．．/b",
        "．",
        "a／..／b",
        "‛．",
    ],
)
def test_paths_that_lead_elsewhere_are_refused(relative: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="is no path on a remote"):
        find_remote(str(tmp_path)).path(relative)


@pytest.mark.parametrize("name", ["", "../x", "/x", "a\nb", "a//b", "."])
def test_names_that_lead_elsewhere_are_refused(name: str, remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="is no name for a file"):
        remote.rclone().download({name: 1}, remote.path("o"), tmp_path / "into")
    with pytest.raises(RemoteError, match="is no name for a file"):
        remote.rclone().delete(remote.path("o"), [name])


def test_a_neighbours_unfinished_uploads_stay(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.environment(monkeypatch)
    remote = make("b2", kind="b2", prefix="mine")
    rclone, api = remote.rclone(), client(server)
    assert rclone.unfinished_uploads(remote.path()) == []
    for key in ("mine/a/x", "mine/y", "mine2/z"):
        api.create_multipart_upload(Bucket=server.bucket, Key=key)
    assert rclone.unfinished_uploads(remote.path()) == ["a/x", "y"]
    rclone.remove_unfinished_uploads(remote.path())
    assert rclone.unfinished_uploads(remote.path()) == []
    left = api.list_multipart_uploads(Bucket=server.bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["mine2/z"]


def test_unfinished_files_of_a_folder_go(tmp_path: Path) -> None:
    remote = find_remote(str(tmp_path / "remote"))
    remote.rclone().write(remote.path("a/x"), b"1")
    (tmp_path / "remote" / "a" / "y.0123abcd.partial").write_bytes(b"half")
    assert remote.rclone().unfinished_uploads(remote.path()) == ["a/y.0123abcd.partial"]
    remote.rclone().remove_unfinished_uploads(remote.path())
    assert names(remote.rclone(), remote.path(), recursive=True) == ["a/x"]


def script(folder: Path, text: str) -> Path:
    path = folder / "rclone"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_rclone_the_install_line_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MissingExtraError) as caught:
        find_remote(str(tmp_path)).rclone().list(str(tmp_path))
    assert caught.value.exit_code == 7
    assert caught.value.hint == "pip install 'universal-physics-stack[rclone]'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo 'rclone v1.53.3-DEV'", "rclone 1.53 is too old, 1.65 is needed"),
        ("echo 'something else'", "says no version"),
    ],
)
def test_a_wrong_rclone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setenv("UPS_RCLONE", str(script(tmp_path, text)))
    with pytest.raises(RemoteError, match=words):
        find_remote(str(tmp_path)).rclone().list(str(tmp_path))


def test_rclone_gets_its_own_secrets_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: S3Server
) -> None:
    """And none of them, nor RCLONE_ settings of the user's, in its arguments."""
    server.environment(monkeypatch)
    monkeypatch.setenv("WANDB_API_KEY", "another-secret")
    monkeypatch.setenv("RCLONE_DRY_RUN", "true")
    seen = tmp_path / "seen"
    fake = script(tmp_path, f"[ $1 = version ] && echo rclone v1.70.0 && exit\n"
                  f"(env; printf '%s\\n' \"$@\" > {seen}.args) > {seen}; echo '[]'")  # fmt: skip
    monkeypatch.setenv("UPS_RCLONE", str(fake))
    remote = find_remote()
    remote.rclone().list(remote.path("x"))
    environment = seen.read_text()
    assert f"RCLONE_CONFIG_UPS_SECRET_ACCESS_KEY={server.secret}" in environment
    assert "another-secret" not in environment
    assert "RCLONE_DRY_RUN" not in environment
    arguments = Path(f"{seen}.args").read_text()
    assert server.secret not in arguments
    assert server.key not in arguments
    assert "--config=\n" in arguments
    assert server.secret not in repr(remote.rclone())


def test_what_rclone_says_is_shown_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: S3Server
) -> None:
    server.environment(monkeypatch)
    text = (
        f"[ $1 = version ] && echo rclone v1.70.0 && exit\necho 'bad {server.secret} x' >&2; exit 5"
    )
    monkeypatch.setenv("UPS_RCLONE", str(script(tmp_path, text)))
    with pytest.raises(RemoteError, match=r"exit code 5: bad \*\*\* x"):
        find_remote().rclone().list("ups:bucket/x")


def test_a_child_that_says_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    text = f"[ $1 = version ] && echo rclone v1.70.0 && exit\necho $$ > {pid}; exec sleep 60"
    monkeypatch.setenv("UPS_RCLONE", str(script(tmp_path, text)))
    monkeypatch.setattr(rclone_process, "STALL_S", 0.3)
    with pytest.raises(RemoteError, match="does not answer"):
        find_remote(str(tmp_path)).rclone().list(str(tmp_path))
    assert not running(int(pid.read_text()))


@pytest.mark.parametrize(
    ("pause", "count", "ends"), [(1.0, 100, "stalled"), (0.2, 12, "whole")], ids=["jerky", "slow"]
)
def test_silences_with_a_few_bytes_between_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: float, count: int, ends: str
) -> None:
    """A slow link that always sends a little goes on for longer than a silence may last."""
    text = f"""[ $1 = version ] && echo rclone v1.70.0 && exit
for step in $(seq {count}); do
  echo '{{"level": "info", "stats": {{"bytes": '$step'000, "transfers": 0}}}}' >&2; sleep {pause}
done"""
    monkeypatch.setenv("UPS_RCLONE", str(script(tmp_path, text)))
    monkeypatch.setattr(rclone_process, "STALL_S", 2.0)
    start = time.monotonic()
    outcome = rclone_process.run(["copy"], {})
    assert (outcome.stalled, outcome.code) == (ends == "stalled", 0)
    assert 2.0 < time.monotonic() - start < 12.0


def test_a_file_of_another_size_is_not_announced(
    remote: Remote, tmp_path: Path, server: S3Server
) -> None:
    (tmp_path / "x").write_bytes(b"short")
    remote.rclone().upload({"x": tmp_path / "x", "y": tmp_path / "x"}, remote.path("o"))
    announced: list[str] = []
    with pytest.raises(RemoteError, match="x has 5 bytes there, 9 are expected"):
        remote.rclone().download({"x": 9, "y": 5}, remote.path("o"), tmp_path / "into",
                                 on_file=announced.append)  # fmt: skip
    assert announced == ["y"]


def test_many_small_files_move_at_once_in_a_bucket_only(
    monkeypatch: pytest.MonkeyPatch, server: S3Server
) -> None:
    server.environment(monkeypatch)
    ssh = {"RCLONE_CONFIG_UPS_TYPE": "sftp", "RCLONE_CONFIG_UPS_USER": "s3"}
    bucket, own = find_remote().rclone(), find_remote("mine:").rclone()
    assert bucket._at_a_time([20_000] * 300) == "--transfers=32"
    for other in (Rclone(ssh), Rclone({}), own):
        assert other._at_a_time([20_000] * 300) == "--transfers=4"
    assert bucket._at_a_time([20_000, 64 << 20]) == "--transfers=4"


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the child")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_however_ups_ends_rclone_ends_too(tmp_path: Path, how: signal.Signals) -> None:
    pid = tmp_path / "pid"
    text = f"[ $1 = version ] && echo rclone v1.70.0 && exit\necho $$ > {pid}; exec sleep 60"
    code = "from ups.transfer.rclone import Rclone; Rclone({}).list('/tmp')"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL,
        env={**os.environ, "UPS_RCLONE": str(script(tmp_path, text))},
    )  # fmt: skip
    wait_for(lambda: pid.is_file() and pid.read_text().strip() != "")
    child = int(pid.read_text())
    assert running(child)
    process.send_signal(how)
    process.wait(20)
    wait_for(lambda: not running(child))


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
