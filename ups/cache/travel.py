"""Pushing caches: tokens, the codec that made them, and what training needs of the data.

One artefact of kind `cache` holds three parts, so that another machine can train on the tokens and
judge the result without the raw data and without the training fields:

    tokens/...                    the cache's manifest and shards
    codec/<name>/<id>/...         the codec stage of the run that trained it, as a run folder
    store.h5 or store.zarr/...    the store without its training trajectories

`ups.cache.pulling` brings them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ups import files, runs
from ups.cache.format import MANIFEST, CacheIdentity, LatentCache
from ups.data.splits import SPLITS
from ups.errors import CacheError, CheckpointError
from ups.transfer.dataset_pieces import splits_in
from ups.transfer.manifest import Piece
from ups.transfer.packing import LocalPiece
from ups.transfer.push import Pushed, Source, push
from ups.transfer.remotes import Remote
from ups.transfer.scratch import scratch_folder

KIND = "cache"
TOKENS, CODEC = "tokens/", "codec/"
CODEC_PT = "checkpoints/codec.pt"
SHARDS_SHA256 = "shards_sha256"
HELD_OUT = ("valid", "test")
"""Splits whose fields travel with a cache."""
Progress = Callable[[int, int], object]
_CODEC_FILES = (runs.CONFIG, runs.CODEC_CARD, CODEC_PT, "checkpoints/codec-last.pt")


def silent(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Parcel:
    """What is to be pushed.

    Attributes:
        codec_run: The run whose codec made the tokens.
        data: All of the version that was encoded.
        options: The codec's options, by which `ups train` knows whether it may take the codec.
    """

    cache: LatentCache
    codec_run: Path
    data: Source
    options: Mapping[str, Any]


def name_of(identity: CacheIdentity) -> str:
    """The name of a cache's artefact."""
    return "/".join((identity.dataset, identity.version, identity.folder.name))


def push_cache(
    parcel: Parcel,
    remote: Remote,
    *,
    progress: Progress = silent,
    dry_run: bool = False,
    repair: bool = False,
) -> Pushed:
    """Send a cache with its codec, and with its data but for the training trajectories.

    Raises:
        CacheError: The cache is incomplete here, or is not of the data given.
        RemoteError: The remote does not take it.
    """
    with scratch_folder("cache") as folder:
        source = _source_of(parcel, folder)
        return push(source, remote, progress=progress, dry_run=dry_run, repair=repair)


def _source_of(parcel: Parcel, scratch: Path) -> Source:
    identity, run = parcel.cache.manifest.identity, parcel.codec_run
    if parcel.data.identity["data_sha256"] != identity.data_sha256:
        raise CacheError(
            f"{parcel.cache.folder}: is of other data than {identity.dataset}/{identity.version} "
            "here",
            hint=f"ups cache build {identity.dataset} --version {identity.version}",
        )
    held = [piece for piece in parcel.data.pieces if is_held_out(piece)]
    shards = [asdict(shard) for shard in parcel.cache.manifest.shards]
    return Source(
        kind=KIND,
        name=name_of(identity),
        identity={**asdict(identity), SHARDS_SHA256: files.sha256_json(shards)},
        pieces=[*held, *_codec_pieces(run, scratch), *_token_pieces(parcel.cache)],
        labels={
            "codec_sha256": files.sha256_file(run / CODEC_PT),
            "codec_options": dict(parcel.options),
            "codec_run": runs.run_id(run),
            "splits": list(parcel.cache.manifest.splits),
        },
        partial=_partial_files(held),
    )


def is_held_out(piece: Piece | LocalPiece) -> bool:
    """Whether a piece of a store is needed to judge, or by every reader."""
    return piece.trajectories is None or bool(splits_in(piece) & set(HELD_OUT))


def held_out(splits: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(trajectory,) bool: those of which every piece travels, by the splits of all."""
    return np.isin(splits, [SPLITS.index(name) for name in HELD_OUT])


def _partial_files(pieces: Sequence[LocalPiece]) -> dict[str, int]:
    """Files of which the pieces are not all, and their sizes."""
    sent: dict[str, int] = {}
    for piece in pieces:
        sent[piece.path] = sent.get(piece.path, 0) + piece.size
    whole = {piece.path: piece.source.stat().st_size for piece in pieces}
    return {path: size for path, size in whole.items() if sent[path] < size}


def _codec_pieces(run: Path, scratch: Path) -> Iterator[LocalPiece]:
    """The codec stage of a run as a run folder of its own, without what came later in the run."""
    made = {runs.ENVIRONMENT: _environment(run), runs.METRICS: _metrics(run)}
    for name, text in made.items():
        files.write_text(scratch / name, text, CheckpointError)
    found = {name: scratch / name for name in made}
    found |= {name: run / name for name in _CODEC_FILES if (run / name).is_file()}
    for name, path in found.items():
        inside = f"{CODEC}{runs.run_id(run)}/{name}"
        yield LocalPiece(path, inside, path.stat().st_size, split="codec")


def _environment(run: Path) -> str:
    """The run's record, as if the codec were all that it was to train."""
    try:
        content = json.loads((run / runs.ENVIRONMENT).read_text(encoding="utf-8"))
        content |= {"stages": ["codec"], "stands_on": {}}
    except (OSError, ValueError, TypeError) as error:
        path = run / runs.ENVIRONMENT
        raise CheckpointError(f"{path}: not the record of a run: {error}") from error
    return json.dumps(content, indent=2) + "\n"


def _metrics(run: Path) -> str:
    records = runs.read_metrics(run / runs.METRICS, timed=True)
    kept = [record for record in records if record.get("stage") == "codec"]
    return "".join(json.dumps(record) + "\n" for record in kept)


def _token_pieces(cache: LatentCache) -> Iterator[LocalPiece]:
    for name in (MANIFEST, *(shard.file for shard in cache.manifest.shards)):
        path = cache.folder / name
        if not path.is_file():
            raise CacheError(f"{path}: missing", hint="ups cache verify")
        yield LocalPiece(path, f"{TOKENS}{name}", path.stat().st_size, split="tokens")
