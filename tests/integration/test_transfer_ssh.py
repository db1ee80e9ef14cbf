"""Artefacts through a real sshd: there and back, and only to a server that is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import free_port
from ssh_server import INSTALL, SFTP, SshServer, ssh_server
from tiny_commands import ups
from transfer_samples import SHARD, arrived, contents, sample

from ups.errors import RemoteError
from ups.transfer import remotes
from ups.transfer.pull import find, pull
from ups.transfer.push import push
from ups.transfer.remotes import Remote, find_remote, make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if SFTP is None:
        pytest.skip(f"sftp-server is not installed: {INSTALL}")
    with ssh_server(tmp_path_factory.mktemp("ssh") / "server") as started:
        yield started


@pytest.fixture
def remote(server: SshServer, tmp_path: Path) -> Remote:
    """A folder of the server, entered as the user does; the default remote."""
    options = server.options
    ups("remotes", "add", "box", "--kind", "sftp", "--host", options["host"],
        "--port", options["port"], "--user", options["user"], "--key-file", options["identity"],
        "--known-hosts", options["known_hosts"], "--folder", str(tmp_path / "there"))  # fmt: skip
    return find_remote()


def other_known_hosts(remote: Remote, content: str, folder: Path) -> None:
    (folder / "known").write_text(content)
    options = remote.model_dump(exclude_defaults=True, exclude={"name"})
    changed = make(remote.name, **options | {"known_hosts": str(folder / "known")})
    remotes.add(changed, replace_it=True)


def test_an_artefact_goes_there_and_comes_back(remote: Remote, tmp_path: Path) -> None:
    assert "list" in ups("remotes", "check").output
    source = sample(tmp_path / "source")
    sent = push(source, remote, shard_bytes=SHARD)
    assert sent.sent_bytes >= source.size
    assert push(source, remote, shard_bytes=SHARD).sent_bytes == 0
    into = tmp_path / "into"
    assert pull(find("data", source.name, remote), into, remote).complete
    assert arrived(into) == contents(source)
    assert not list((tmp_path / "there").rglob("*.partial"))


@pytest.mark.slow
def test_a_damaged_object_there_is_found(remote: Remote, tmp_path: Path) -> None:
    source = sample(tmp_path / "source")
    push(source, remote, shard_bytes=SHARD)
    found = find("data", source.name, remote)
    objects = tmp_path / "there" / found.manifest.folder / "objects"
    path = objects / found.manifest.objects[1].sha256
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RemoteError, match=found.manifest.objects[1].sha256):
        pull(found, tmp_path / "into", remote)
    push(source, remote, shard_bytes=SHARD, repair=True)
    assert pull(find("data", source.name, remote), tmp_path / "into", remote).complete
    assert arrived(tmp_path / "into") == contents(source)


def refused(*words: str) -> None:
    lines = ups("remotes", "check", code=6).stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert all(word in lines[0] for word in words), lines


def test_an_unknown_server_is_refused(remote: Remote, server: SshServer, tmp_path: Path) -> None:
    known = Path(server.options["known_hosts"]).read_text()
    other_known_hosts(remote, "", tmp_path)
    refused("remote box", "key is not in the known hosts")
    mine = (server.folder / "user_key.pub").read_text().split()[1]
    place, kind, _ = known.split()
    other_known_hosts(remote, f"{place} {kind} {mine}\n", tmp_path)
    refused("remote box", "key is not the known one")
    assert not (tmp_path / "there").exists()
    other_known_hosts(remote, known, tmp_path)
    assert "list" in ups("remotes", "check").output
    (tmp_path / "known").unlink()
    refused("no SSH server is trusted yet")


def test_a_server_that_does_not_take_the_key_and_one_that_is_gone(
    remote: Remote, server: SshServer, tmp_path: Path
) -> None:
    options = remote.model_dump(exclude_defaults=True, exclude={"name"})
    strange = options | {"key_file": str(server.folder / "host_key")}
    remotes.add(make("box", **strange), replace_it=True)
    refused("remote box", "refuses the key")
    remotes.add(make("box", **options | {"port": free_port()}), replace_it=True)
    refused("remote box", "nothing listens")
