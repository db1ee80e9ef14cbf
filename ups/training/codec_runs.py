"""Which run's codec made a cache, and which cache somebody means by a codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ups import checkpoint as checkpoints
from ups import runs
from ups.cache.format import MANIFEST, CacheIdentity, LatentCache, list_caches
from ups.cache.pulling import caches_on, identity_in
from ups.cache.travel import Parcel
from ups.config.schema import Experiment
from ups.data.versions import find_version, open_store
from ups.errors import CacheError, CheckpointError, RemoteError, did_you_mean
from ups.registry import load_card
from ups.training.session import family_of
from ups.transfer.artefacts import Found
from ups.transfer.dataset_pieces import source_of
from ups.transfer.remotes import Remote

_SHORTEST = 6
"""Letters of a fingerprint that say which one is meant."""


def parcel_of(dataset: str, version: str = "latest", codec: str | None = None) -> Parcel:
    """What `ups cache push` sends: the newest complete cache of a version, and what belongs to it.

    Args:
        codec: Fingerprint (six letters or more), name, or run; None takes the newest cache.

    Raises:
        CacheError: There is no such cache.
        CheckpointError: No run here holds its codec.
        DataError: Not all of the version is here.
    """
    path = find_version(dataset, version)
    store = open_store(dataset, version)
    folders = [
        folder
        for folder in list_caches(dataset)
        if folder.parent.name == store.metadata.version and (folder / MANIFEST).is_file()
    ]
    folders.sort(key=lambda folder: (folder / MANIFEST).stat().st_mtime_ns, reverse=True)
    known = [LatentCache(folder) for folder in folders]
    chosen = [cache for cache in known if codec is None or is_by(cache.manifest.identity, codec)]
    if codec is not None and not chosen:
        prints = fingerprints_in(codec)
        chosen = [cache for cache in known if cache.manifest.identity.fingerprint in prints]
    if not chosen:
        names = [cache.manifest.identity.codec for cache in known]
        which = f" by codec '{codec}'{did_you_mean(codec, names)}" if codec else ""
        raise CacheError(
            f"no complete cache of {store.name}{which} here",
            hint=f"ups cache build {dataset} --version {store.metadata.version}",
        )
    run = codec_run_of(chosen[0].manifest.identity)
    return Parcel(
        chosen[0], run, source_of(path), codec_options(runs.run_experiment_of(run), dataset)
    )


def cache_on(
    remote: Remote, dataset: str, version: str | None = None, codec: str | None = None
) -> Found:
    """The cache on a remote that somebody means: the newest that fits, a deprecated one at last.

    Args:
        version: None is that of the card's artefact where it has a cache there, else any.
        codec: As in `parcel_of`; a run may also be named that only the cache knows.

    Raises:
        RemoteError: There is none, or only deprecated ones and neither version nor codec is named.
    """
    known = list(caches_on(remote, dataset, version))
    found = [one for one in known if codec is None or _is_meant(one, codec)]
    artefacts = load_card(dataset).artefacts
    if version is None and artefacts:
        preferred = artefacts[-1].version
        found.sort(key=lambda one: identity_in(one).version != preferred)
    if not found:
        remote.check_folder()
        name = f"{dataset}/{version}" if version else dataset
        which = f" by codec '{codec}'" if codec else ""
        others = f", only {known[0].manifest.name}" if known else ""
        raise RemoteError(
            f"{remote.describe()}: no cache of {name}{which}{others}",
            hint=f"from a machine that has it: ups cache push {dataset}",
        )
    chosen = next((one for one in found if one.deprecated is None), found[0])
    if chosen.deprecated is not None and codec is None and version is None:
        raise RemoteError(
            f"{remote.describe()}: {chosen.manifest.name} is deprecated: {chosen.deprecated}",
            hint=f"ups cache pull {dataset} --version {identity_in(chosen).version} takes it",
        )
    return chosen


def _is_meant(found: Found, codec: str) -> bool:
    identity, run = identity_in(found), str(found.manifest.labels.get("codec_run"))
    if is_by(identity, codec) or codec in (run, run.split("/")[0]):
        return True
    return identity.fingerprint in fingerprints_in(codec)


def is_by(identity: CacheIdentity, codec: str) -> bool:
    """Whether a codec's fingerprint, name, or cache is meant by `codec`."""
    by_fingerprint = len(codec) >= _SHORTEST and identity.fingerprint.startswith(codec)
    return by_fingerprint or codec in (identity.codec, identity.folder.name)


def fingerprints_in(run: str) -> set[str]:
    """Of the codecs of a run on this machine; none if there is no such run."""
    try:
        folder = runs.find_run(run, with_stage="codec")
    except CheckpointError:
        return set()
    return set(checkpoints.codec_fingerprints(runs.checkpoint_path(folder, "codec")))


def codec_run_of(identity: CacheIdentity) -> Path:
    """The newest run on this machine whose codec made these tokens.

    Raises:
        CheckpointError: There is none.
    """
    for run in runs.list_runs(with_stage="codec"):
        known = checkpoints.codec_fingerprints(runs.checkpoint_path(run, "codec"))
        if identity.fingerprint in known:
            return run
    raise CheckpointError(
        f"no run here holds the codec {identity.fingerprint[:12]}, by which the tokens of "
        f"{identity.dataset}/{identity.version} were made",
        hint="ups runs pull RUN brings one from a remote; or build the cache again",
    )


def codec_options(experiment: Experiment, dataset: str) -> dict[str, Any]:
    """The options of an experiment's codec for a dataset, but for what it must reach."""
    codec = experiment.codec_for(family_of(load_card(dataset)))
    return codec.model_dump(mode="json", exclude={"gate"})


def same_options(experiment: Experiment, dataset: str, options: object) -> bool:
    """Whether an experiment asks for a codec of these options, as `codec_options` gave them."""
    ours = experiment.codec_for(family_of(load_card(dataset)))
    try:
        theirs = type(ours).model_validate(options)
    except ValidationError:
        return False
    return ours == theirs.model_copy(update={"gate": ours.gate})
