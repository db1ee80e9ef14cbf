"""One push or pull in a process of its own, which a test may kill at any moment.

python transfer_child.py push|pull NAME SOURCE INTO FINAL PLACE

PLACE is a folder, or 'b2' for the server that the B2_* variables describe. Transfers are slowed
down and uploads cut into small parts, so that kills hit the middle of them. Prints `ready` when it
starts to work.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from ups.transfer.packing import LocalPiece
from ups.transfer.pull import find, pull
from ups.transfer.push import Source, push
from ups.transfer.rclone import Rclone
from ups.transfer.remotes import Remote, find_remote

MEGABYTE = 10**6
SHARD = 6 * MEGABYTE
LARGE = 10 * MEGABYTE
SLOWLY = {"RCLONE_S3_CHUNK_SIZE": "5Mi", "RCLONE_S3_UPLOAD_CUTOFF": "0", "RCLONE_BWLIMIT": "60M"}


class SlowRemote(Remote):
    def rclone(self) -> Rclone:
        made = super().rclone()
        return replace(made, environment={**made.environment, **SLOWLY})


def slow(remote: Remote) -> SlowRemote:
    return SlowRemote.model_construct(**dict(remote))


def source(folder: Path, name: str) -> Source:
    """A large file, a store in runs of bytes, and small files: about 25 MB in six objects.

    Every name has content of its own: a few bytes of each file are the name.
    """
    marked = folder / name
    pieces = []
    for path, size, run in (
        ("large", 11 * MEGABYTE, 11 * MEGABYTE),
        ("store.h5", 12 * MEGABYTE, 3 * MEGABYTE),
        *((f"small/{index}", 10_000, 10_000) for index in range(50)),
    ):
        local = marked / path
        if not local.is_file():
            local.parent.mkdir(parents=True, exist_ok=True)
            seed = f"{name} {path} ".encode()
            local.write_bytes((seed * (size // len(seed) + 1))[:size])
        pieces += [
            LocalPiece(local, path, run, offset=at, split="" if path == "large" else "train")
            for at in range(0, size, run)
        ]
    return Source("data", f"killed/{name}", {"name": name}, pieces)


def main(doing: str, name: str, folder: str, into: str, final: str, place: str) -> None:
    remote = slow(find_remote(place))
    sent = source(Path(folder), name)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if doing == "push":
        push(sent, remote, shard_bytes=SHARD, large_bytes=LARGE)
    else:
        pull(find("data", sent.name, remote), Path(into), remote)
        Path(into).rename(final)


if __name__ == "__main__":
    main(*sys.argv[1:])
