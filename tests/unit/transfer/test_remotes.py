"""Remotes by name: what is stored, what is refused, and that no secret is either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from servers import S3Server
from typer.testing import CliRunner

from ups.cli.main import app
from ups.errors import ConfigError, RemoteError
from ups.transfer.remotes import find_remote, make, remotes_file

SECRETS = [
    "K001" + "aB3" * 9,
    "AKIA" + "ABCD2345" * 2,
    "001a2" + "1a2b3" * 4,
    "wJalrXUtnFEMIK7MDENGbPxRfiCYzEXAMPLE",
]


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("B2_KEY_ID", "B2_APP_KEY", "B2_BUCKET", "B2_S3_ENDPOINT", "UPS_REMOTE",
                 "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def ups(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["remotes", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stderr if code else result.stdout


def test_a_remote_is_added_listed_and_removed(tmp_path: Path) -> None:
    assert "no remote is configured" in ups("list")
    ups("add", "disk", "--kind", "local", "--path", str(tmp_path / "disk"))
    ups("add", "cloud", "--kind", "s3", "--bucket", "bucket", "--prefix", "a/b")
    assert find_remote().name == "disk"
    assert find_remote("cloud").root == "bucket/a/b"
    shown = json.loads(ups("list", "--json"))
    assert [(one["name"], one["default"]) for one in shown] == [("cloud", False), ("disk", True)]
    assert shown[0]["credentials"] == {
        "AWS_ACCESS_KEY_ID": "missing", "AWS_SECRET_ACCESS_KEY": "missing",
    }  # fmt: skip
    assert "already" in ups("add", "disk", "--kind", "local", "--path", "x", code=2)
    ups("remove", "disk")
    assert "is not configured" in ups("remove", "disk", code=2)


def test_without_a_remote_the_way_to_one_is_said() -> None:
    with pytest.raises(RemoteError, match="no remote is configured") as caught:
        find_remote()
    assert caught.value.hint == "ups remotes add --help"


@pytest.mark.parametrize("spec", ["./folder", "/folder", "~/folder", "a/b", "."])
def test_a_folder_is_a_remote_by_its_path(spec: str) -> None:
    assert find_remote(spec).kind == "local"


def test_other_remotes_need_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_remote("mine:some/path").path("x") == "mine:some/path/x"
    assert find_remote("mine:").path("x") == "mine:x"
    assert find_remote("wandb").is_wandb
    assert find_remote("wandb:me/project").root == "me/project"
    with pytest.raises(RemoteError, match="no remote 'clod'"):
        find_remote("clod")


@pytest.mark.parametrize("spec", [":local:/x", ":s3,access_key_id=x:y", "name,type=local:/x"])
def test_connection_strings_are_no_remotes(spec: str) -> None:
    try:
        remote = find_remote(spec)
    except RemoteError:
        return
    assert remote.path("x").startswith("/")  # a folder of this odd name, and nothing else


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("option", ["--secret-env", "--key-id-env", "--bucket", "--endpoint"])
def test_a_credential_as_option_is_refused_and_not_repeated(secret: str, option: str) -> None:
    given = {"--kind": "s3", "--bucket": "bucket", option: secret}
    said = ups("add", "x", *(word for pair in given.items() for word in pair), code=2)
    assert "looks like a credential" in said
    assert secret not in said
    assert not remotes_file().exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "s3"}, "kind s3 needs bucket"),
        ({"kind": "local", "folder": "x", "bucket": "yyy"}, "kind local has no bucket"),
        ({"kind": "s3", "bucket": "../x"}, "bucket: is not valid"),
        ({"kind": "s3", "bucket": "bbb", "prefix": "a/../b"}, "prefix: must not contain"),
        ({"kind": "s3", "bucket": "bbb", "bukket": "x"}, "did you mean 'bucket'"),
        ({"kind": "rclone", "folder": ":s3:x"}, "must be name:path"),
        ({"kind": "sftp", "host": "-oProxyCommand=x", "folder": "/"}, "host: is not valid"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make("x", **options)


def test_no_secret_is_anywhere_after_a_good_and_a_bad_run(
    s3: S3Server, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_ID", s3.key)
    monkeypatch.setenv("MY_SECRET", s3.secret)
    said = ups("add", "mine", "--kind", "s3", "--bucket", s3.bucket, "--endpoint", s3.endpoint,
               "--key-id-env", "MY_ID", "--secret-env", "MY_SECRET")  # fmt: skip
    said += ups("check", "mine") + ups("list") + ups("list", "--json")
    monkeypatch.setenv("MY_ID", wrong := "SOMEOTHERKEY")
    said += ups("check", "mine", code=6)
    monkeypatch.setenv("UPS_DEBUG", "1")
    result = CliRunner().invoke(app, ["remotes", "check", "mine"])
    assert isinstance(result.exception, RemoteError)
    said += result.output + repr(result.exception) + str(result.exception.hint)
    said += "".join(path.read_text() for path in home.rglob("*") if path.is_file())
    assert "MY_SECRET" in said
    assert not [secret for secret in (s3.key, s3.secret, wrong) if secret in said]


def test_check_says_what_works_and_how_far_the_clocks_are_apart(s3: S3Server) -> None:
    found = json.loads(ups("check", "--json"))
    assert list(found["seconds"]) == ["list", "write", "read", "delete"]
    assert abs(found["clock_s"]) < 5
    assert find_remote().rclone().list(find_remote().path()) == []
