"""Credentials are in no file, no argument and no output, whether transfers succeed or fail."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from servers import S3Server, free_port, object_names
from ssh_server import members

from ups import paths, runs
from ups.data.convert import convert
from ups.data.generate import generate
from ups.registry import load_card

WRONG = "wrong/secret+0123456789abcdefghijkl"
DEBUG = [pytest.param("0", marks=pytest.mark.slow), "1"]
RUN = "mine/20260101T000000Z-ab"


def forms(secret: str) -> set[bytes]:
    """How a secret may be written: plainly, for a URL, in hex, in base64 from any byte on."""
    raw = secret.encode()
    found = {raw, quote(secret, safe="").encode(), quote_plus(secret).encode(), raw.hex().encode()}
    for ahead, dropped in ((0, 0), (1, 2), (2, 3)):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(ahead) + raw).rstrip(b"=")[dropped:-1])
    return found


def check_clean(what: str, content: bytes, *secrets: str) -> None:
    for secret in secrets:
        assert not any(form in content for form in forms(secret)), f"a secret is in {what}"


def check_files(folder: Path, *secrets: str) -> int:
    """No file below a folder, no name and no link has a secret; the number of files."""
    count = 0
    for path in folder.rglob("*"):
        check_clean("a name", os.fsencode(path), *secrets)
        if path.is_symlink():
            check_clean(f"the link {path}", os.fsencode(path.readlink()), *secrets)
        elif path.is_file():
            check_clean(str(path), path.read_bytes(), *secrets)
            count += 1
    return count


def test_secrets_are_found_in_every_form(tmp_path: Path) -> None:
    for number, form in enumerate((
        WRONG.encode(), b"?k=" + quote(WRONG, safe="").encode(), WRONG.encode().hex().encode(),
        *(base64.b64encode(b"key:"[:ahead] + WRONG.encode() + b"!") for ahead in range(5)),
    )):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "file").write_bytes(b"before " + form + b" after")
        with pytest.raises(AssertionError, match="a secret is in"):
            check_files(tmp_path / str(number), WRONG)


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A UPS_HOME with a version of 2 MB and a run."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as other:
        other.setenv("UPS_HOME", str(folder))
        card = load_card("advection1d")
        assert card.generator is not None
        raw = generate(
            card, parameters=card.generator.parameters, num_trajectories=40, seed=0,
            out_dir=paths.raw_dir("advection1d"), points=256, frames=21, workers=1,
        )  # fmt: skip
        convert(card, [raw])
    (folder / "runs" / RUN).mkdir(parents=True)
    (folder / "runs" / RUN / runs.CONFIG).write_text("name: mine\n")
    return folder


class Machine:
    """A user's folders, the environment with the credentials, and the commands run in it."""

    def __init__(self, folder: Path, server: S3Server) -> None:
        self.folder, self.secrets = folder, (server.key, server.secret, WRONG)
        self.home = folder / "ups"
        for name in ("tmp", "user"):
            (folder / name).mkdir()
        kept = ("PATH", "LANG", "PYTHONPATH", "OMP_NUM_THREADS", "COVERAGE_PROCESS_START")
        self.environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "UPS_HOME": str(self.home), "TMPDIR": str(folder / "tmp"),
            "HOME": str(folder / "user"), "WANDB_MODE": "offline",
            "B2_KEY_ID": server.key, "B2_APP_KEY": server.secret, "B2_BUCKET": server.bucket,
            "B2_S3_ENDPOINT": server.endpoint, "B2_S3_REGION": server.region,
        }  # fmt: skip

    def start(self, *words: str, **more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ups", *words], cwd=self.folder / "user",
            env={**self.environment, **more}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def end(self, process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
        """The exit code and what was said; nothing of it, and no file, has a secret."""
        said = b"\n".join(process.communicate(timeout=90))
        check_clean("the output", said, *self.secrets)
        assert check_files(self.folder, *self.secrets) > 0
        return process.returncode, said

    def ups(self, *words: str, **more: str) -> tuple[int, bytes]:
        return self.end(self.start(*words, **more))


@pytest.fixture
def machine(tmp_path: Path, s3: S3Server, _made: Path) -> Machine:
    """With the server's own folder beside it: what is stored there is looked through as well."""
    made = Machine(tmp_path, s3)
    shutil.copytree(_made, made.home)
    return made


@pytest.mark.parametrize("debug", DEBUG)
def test_transfers_that_succeed_leave_no_secret(machine: Machine, s3: S3Server, debug: str) -> None:
    def works(*words: str) -> None:
        code, said = machine.ups(*words, UPS_DEBUG=debug)
        assert code == 0, said

    works("data", "push", "advection1d")
    works("runs", "push", "mine")
    shutil.rmtree(machine.home)
    works("data", "pull", "advection1d")
    works("remotes", "list")
    assert {name.split("/")[0] for name in object_names(s3)} == {"data", "run"}
    assert list(machine.home.glob("data/advection1d/*"))


@pytest.mark.parametrize("debug", DEBUG)
@pytest.mark.parametrize("cause", ["secret", "endpoint"])
def test_transfers_that_fail_leave_no_secret(machine: Machine, cause: str, debug: str) -> None:
    wrong = {
        "secret": {"B2_APP_KEY": WRONG},
        "endpoint": {"B2_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}"},
    }[cause]
    commands = [("data", "push", "advection1d"), ("runs", "push", "mine"),
                ("data", "pull", "advection1d")]  # fmt: skip
    for words in commands if cause == "secret" else commands[:1]:
        code, said = machine.ups(*words, UPS_DEBUG=debug, **wrong)
        assert code == (6 if debug == "0" else 1), said
        assert b"remote b2: " in said
        assert (b"Traceback" in said) == (debug == "1")


def seen(session: int) -> Iterator[tuple[str, bytes]]:
    """Arguments of every process of a session, and the content of the files that it has open."""
    for pid in members(session):
        with suppress(OSError):
            yield "arguments", Path(f"/proc/{pid}/cmdline").read_bytes()
            for opened in Path(f"/proc/{pid}/fd").iterdir():
                if opened.is_file():
                    yield str(opened.readlink()), opened.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="looks through /proc")
def test_nobody_sees_a_secret_while_files_move(machine: Machine) -> None:
    process = machine.start("data", "push", "advection1d", RCLONE_BWLIMIT="400k")
    copying = 0
    while process.poll() is None:
        for what, content in seen(process.pid):
            check_clean(what, content, *machine.secrets)
            copying += what == "arguments" and b"\0copy\0" in content
        time.sleep(0.1)
    assert machine.end(process)[0] == 0
    assert copying >= 5
