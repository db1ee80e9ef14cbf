"""rclone: bytes arrive, names are only names, failures are errors."""

from __future__ import annotations

from ups.transfer.remotes import find_remote


def test_what_is_written_is_read_listed_and_deleted(s3):
    remote = find_remote()
    rclone = remote.rclone()
    assert rclone.list(remote.path("a")) == []
    rclone.write(remote.path("a/b.json"), b"hello")
    assert rclone.read(remote.path("a/b.json"), 1, 2) == b"el"
    rclone.write(remote.path("a/b.json"), b"world")
    assert rclone.read(remote.path("a/b.json")) == b"world"
    assert [(entry.name, entry.size) for entry in rclone.list(remote.path("a"))] == [("b.json", 5)]
    rclone.delete(remote.path("a"), ["b.json", "never"])
    assert rclone.list(remote.path("a")) == []
