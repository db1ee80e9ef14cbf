"""Caches on a remote: what is there, and reading the tokens of some trajectories in place.

A cache's own manifest comes first, and is verified by the artefact's identity, which holds the hash
of its list of shards. Shards come when they are read, as runs of bytes of the objects that hold
them, each verified by its SHA-256 in that list, and are kept as `ups.transfer.blocks` says.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files
from ups.cache.format import MANIFEST, LatentCache, Manifest, Shard, size_problem
from ups.cache.pulling import caches_on, identity_in
from ups.cache.travel import SHARDS_SHA256, TOKENS
from ups.errors import CacheError, RemoteError
from ups.transfer.artefacts import Found, list_artefacts
from ups.transfer.blocks import BlockFolder
from ups.transfer.manifest import push_command
from ups.transfer.pieces import Arrived, Pieces, Run
from ups.transfer.ranges import open_reader
from ups.transfer.remotes import Remote


class CacheInPlace(LatentCache):
    """A cache on a remote, of which the shards that are read come here.

    Args:
        found: Its artefact: `all_caches_on` or `ups.cache.pulling.caches_on`.
        remote: Where it is.

    Raises:
        RemoteError: The remote does not answer, or what it has is wrong; also later, on reading.
        DataError: Blocks may not take so much: UPS_BLOCKS_GB.
    """

    def __init__(self, found: Found, remote: Remote) -> None:
        artefact = found.manifest
        self._blocks, self._pieces = BlockFolder.of(remote, artefact), Pieces(artefact)
        self.reader = open_reader(remote, f"{artefact.folder}/objects")
        folder = self._blocks.path / TOKENS.rstrip("/")
        if not (folder / MANIFEST).is_file():
            with files.atomic_path(folder / MANIFEST, CacheError) as temporary:
                temporary.write_bytes(self._read(MANIFEST))
                self._check(temporary)
        super().__init__(folder, identity_in(found))

    def first(self, split: str, count: int) -> npt.NDArray[Any]:
        """Tokens of the first trajectories of a split: (trajectory, time, tokens, dim).

        Only the shards that hold them are fetched.
        """
        arrays: list[npt.NDArray[Any]] = []
        for shard in self.shards(split):
            if sum(map(len, arrays)) >= count:
                break
            arrays.append(self._map(shard))
        return np.concatenate(arrays)[:count]

    def _map(self, shard: Shard) -> npt.NDArray[Any]:
        path = self.folder / shard.file
        if size_problem(path, shard):
            self._blocks.make_room(shard.size_bytes)
            content = self._read(shard.file)
            with files.atomic_path(path, CacheError) as temporary:
                temporary.write_bytes(content)
                if files.sha256_file(temporary) != shard.sha256:
                    raise self._damaged(shard.file)
        return super()._map(shard)

    def _read(self, name: str) -> memoryview:
        path = f"{TOKENS}{name}"
        whole = Run(path, 0, self._blocks.manifest.files.get(path, 0))
        arrived, targets = Arrived([whole]), dict(self._pieces.spans(whole))
        for span, content in self.reader.read_many(list(targets)):
            arrived.put(targets[span], content)
        return arrived.get(whole)

    def _check(self, path: Path) -> None:
        try:
            shards = [asdict(shard) for shard in Manifest.read(path).shards]
        except CacheError as error:
            raise self._damaged(MANIFEST) from error
        if files.sha256_json(shards) != self._blocks.manifest.identity.get(SHARDS_SHA256):
            raise self._damaged(MANIFEST)

    def _damaged(self, name: str) -> RemoteError:
        artefact = self._blocks.manifest
        path = f"{TOKENS}{name}"
        objects = self._pieces.objects([Run(path, 0, artefact.files.get(path, 0))])
        return RemoteError(
            f"{self.reader.where}/{' or '.join(objects)}: the bytes of {name} of {artefact.name} "
            "have another sha256; nothing of it is kept",
            hint=f"{push_command(artefact.kind, artefact.name)} --repair",
        )


def all_caches_on(remote: Remote, dataset: str | None = None) -> list[Found]:
    """Caches that a remote has, by dataset, the newest of each first.

    Raises:
        RemoteError: The remote cannot be reached, or a manifest there is damaged.
    """
    keys = {item.name.partition("/")[0] for item in list_artefacts("cache", remote)}
    wanted = sorted(keys if dataset is None else keys & {dataset})
    return [found for key in wanted for found in caches_on(remote, key)]
