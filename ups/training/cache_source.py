"""Where a run's tokens come from: they are here, are pulled from a remote, or are built now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ups import checkpoint as checkpoints
from ups import registry
from ups.cache import pulling
from ups.cache.format import MANIFEST, PROGRESS, CacheIdentity, LatentCache, open_cache
from ups.cache.travel import silent
from ups.config.schema import CacheConfig, Experiment, TaskConfig
from ups.config.stages import StageName
from ups.data.versions import list_versions, open_store
from ups.errors import CheckpointError, DataError, RemoteError
from ups.training.codec_runs import same_options
from ups.training.distributed import on_main
from ups.training.latents import Progress, build_caches, cache_identity, codecs_for, find_codec
from ups.training.losses import wanted
from ups.training.session import Session, TaskData, open_session, open_task
from ups.transfer.artefacts import Found
from ups.transfer.remotes import Remote, find_remote

Origin = Literal["here", "pulled", "built"]
_MEGABYTE = 10**6
_SPLITS = {"train", "valid"}
"""Whose tokens the stages read."""
_WITHOUT_TRUTH = {"forward", "latent_norm", "diversity", "inverse_encoding"}
"""Terms of the operator's loss that need no true field of a training trajectory."""


@dataclass(frozen=True)
class CacheUse:
    """Which cache a task of a run takes, or would take.

    Attributes:
        detail: The remote that it is pulled from, or why it is built.
        received_bytes: Of the pull.
    """

    task: str
    identity: CacheIdentity
    origin: Origin
    detail: str = ""
    received_bytes: int = 0

    @property
    def cache(self) -> LatentCache:
        return open_cache(self.identity)


@dataclass(frozen=True)
class Fetched:
    """What was not here of a task's data and codec, and was pulled, or would be.

    Attributes:
        version: With its dataset.
        parts: Data, codec, and of a plan tokens.
        remote: Where from, in words.
    """

    version: str
    parts: tuple[pulling.Arrived, ...]
    remote: str

    @property
    def received_bytes(self) -> int:
        return sum(part.received_bytes for part in self.parts)


def provide_caches(
    session: Session,
    codec_from: Path,
    *,
    progress: Progress | None = None,
    dry_run: bool = False,
) -> list[CacheUse]:
    """The cache of every task by the codecs of a checkpoint: found, pulled or built, in this order.

    Of several processes one pulls, and all build.

    Raises:
        CacheError: What is here under the cache's name is of other data or another codec.
        DataError: It has to be built, and the training data are not here.
        RemoteError: It is to be pulled, and the remote does not answer or holds something wrong.
    """
    codecs = codecs_for(session, checkpoints.load(codec_from, session.device))
    config = session.experiment.cache
    uses = []
    for task in session.tasks:
        identity = cache_identity(task, codecs[task.name], config)
        use = on_main(partial(_look, task, identity, config, progress, dry_run))
        if use.origin == "built":
            _check_buildable(task, use.detail)
            if not dry_run:
                build_caches(replace(session, tasks=(task,)), codec_from, progress=progress)
        uses.append(use)
    return uses


def _look(
    task: TaskData,
    identity: CacheIdentity,
    config: CacheConfig,
    progress: Progress | None,
    dry_run: bool,
) -> CacheUse:
    """Find a cache here or on the remote, and pull it from there; else say why it is built."""
    if (identity.folder / MANIFEST).is_file():
        if set(LatentCache(identity.folder, identity).manifest.splits) >= _SPLITS:
            return CacheUse(task.name, identity, "here")
        reason = "the one here lacks a split"
    elif (identity.folder / PROGRESS).is_file():
        reason = "a build of it was stopped here"
    else:
        reason = "none is here"
    if config.pull:
        remote = _remote(config)
        for found in pulling.caches_on(remote, identity.dataset, identity.version):
            if pulling.identity_in(found) == identity:
                part = pulling.pull_tokens(
                    found, remote, progress=_megabytes(progress), dry_run=dry_run
                )
                return CacheUse(
                    task.name, identity, "pulled", remote.describe(), part.received_bytes
                )
        reason = f"neither here nor on {remote.describe()}"
    return CacheUse(task.name, identity, "built", reason)


def _check_buildable(task: TaskData, reason: str) -> None:
    """Refuse to build a cache of data that are not here."""
    absent = _absent(task, ("train", "valid"))
    if absent:
        raise DataError(
            f"{task.store.name}: its cache has to be built ({reason}), and {absent}",
            hint=f"{_pull_command(task)}; or pull the cache: --cache-from REMOTE",
        )


def _absent(task: TaskData, splits: Sequence[str]) -> str:
    """Which trajectories of some splits are not here, in words; empty if all are."""
    presence = task.store.presence
    if presence is None:
        return ""
    rows = [task.store.split(split) for split in splits]
    missing = sum(len(presence.missing(one)) for one in rows)
    total = sum(map(len, rows))
    return (
        f"{missing} of {total} {' and '.join(splits)} trajectories are not here" if missing else ""
    )


def _pull_command(task: TaskData) -> str:
    data = task.store.metadata
    return f"ups data pull {data.dataset} --version {data.version} --splits train"


def check_fields(session: Session, stages: Sequence[StageName]) -> None:
    """Refuse stages that read training fields where these are not here, before anything is made.

    Raises:
        DataError: Names what reads them, and the command that brings them.
    """
    for task in session.tasks:
        absent = _absent(task, ("train",))
        reason = next(_readers(session.experiment, task, stages), None) if absent else None
        if reason:
            raise DataError(f"{task.store.name}: {absent}, and {reason} reads their fields",
                            hint=_pull_command(task))  # fmt: skip


def _readers(experiment: Experiment, task: TaskData, stages: Sequence[StageName]) -> Iterator[str]:
    """What in an experiment reads fields of training trajectories."""
    if "codec" in stages:
        yield "stage codec"
    if experiment.data.augment:
        yield "data.augment"
    if "operator" in stages and task.family.startswith("grid"):
        for name in sorted(wanted(experiment.stages.operator.losses) - _WITHOUT_TRUTH):
            yield f"stages.operator.losses.{name}"


def open_with_data(
    experiment: Experiment,
    stages: Sequence[StageName] | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[Session, list[Fetched]]:
    """Open an experiment; where `cache.pull` says so, pull data and codecs that are missing first.

    Args:
        stages: What is to be trained; only where that is known, and no codec is, anything is
            pulled.
    Raises:
        RemoteError: The remote does not answer, or has no cache that fits.
    """
    fetched: list[Fetched] = []
    if may_fetch(experiment, stages):
        fetched = on_main(lambda: fetch_missing(experiment, progress=progress))
    return open_session(experiment), fetched


def may_fetch(experiment: Experiment, stages: Sequence[StageName] | None) -> bool:
    """Whether these stages stand on tokens that may be pulled."""
    return bool(experiment.cache.pull) and stages is not None and "codec" not in stages


def fetch_missing(
    experiment: Experiment, *, progress: Progress | None = None, dry_run: bool = False
) -> list[Fetched]:
    """Pull data and codecs of all tasks, unless they are here.

    Data come without their training trajectories. The version is the one named, else the one that
    is here, else that of the card's artefact, else that of the newest cache that fits.

    Raises:
        RemoteError: The remote does not answer, or has no cache that fits.
    """
    tasks = experiment.data.tasks
    if all(_is_here(task) for task in tasks) and _has_codec(experiment):
        return []
    remote, fetched = _remote(experiment.cache), []
    for task, found in zip(tasks, _fitting(experiment, remote), strict=True):
        tell = _megabytes(progress)
        steps = [pulling.pull_data, pulling.pull_codec]
        if dry_run:
            steps.append(pulling.pull_tokens)
        parts = tuple(step(found, remote, progress=tell, dry_run=dry_run) for step in steps)
        version = pulling.identity_in(found).version
        fetched.append(Fetched(f"{task.dataset}/{version}", parts, remote.describe()))
    return fetched


def _is_here(task: TaskConfig) -> bool:
    here = list_versions(task.dataset)
    return bool(here) if task.version == "latest" else task.version in here


def _has_codec(experiment: Experiment) -> bool:
    try:
        find_codec([open_task(task) for task in experiment.data.tasks], experiment)
    except CheckpointError:
        return False
    return True


def _remote(config: CacheConfig) -> Remote:
    return find_remote(None if config.pull is True else str(config.pull))


def _fitting(experiment: Experiment, remote: Remote) -> list[Found]:
    """For each task the newest cache that fits, all by codecs of one run."""
    candidates = [_candidates(experiment, task, remote) for task in experiment.data.tasks]
    by_run = [{str(one.manifest.labels.get("codec_sha256")): one for one in reversed(found)}
              for found in candidates]  # fmt: skip
    for run in (str(one.manifest.labels.get("codec_sha256")) for one in candidates[0]):
        if all(run in known for known in by_run):
            return [known[run] for known in by_run]
    raise RemoteError(
        f"{remote.describe()}: its caches of {', '.join(t.dataset for t in experiment.data.tasks)} "
        "are not by codecs of one run",
        hint="train one codec on all tasks and push their caches: ups cache push",
    )


def _candidates(experiment: Experiment, task: TaskConfig, remote: Remote) -> list[Found]:
    """Caches of a task that fit data here, codec options and `cache`, the newest first."""
    version, data_sha256 = _version(task)
    known = [one for one in pulling.caches_on(remote, task.dataset, version) if not one.deprecated]
    found = [one for one in known if _fits(experiment, task, one, data_sha256)]
    if found and version is None:
        artefacts = registry.load_card(task.dataset).artefacts
        versions = [pulling.identity_in(one).version for one in found]
        chosen = artefacts[-1].version if artefacts else versions[0]
        chosen = chosen if chosen in versions else versions[0]
        found = [one for one, name in zip(found, versions, strict=True) if name == chosen]
    if not found:
        others = f", only {len(known)} of other data, codec options or types" if known else ""
        name = f"{task.dataset}/{version}" if version else task.dataset
        raise RemoteError(
            f"{remote.describe()}: no cache of {name} that fits this config{others}",
            hint="ups cache push, on a machine that has it; or here: ups train --stage codec",
        )
    return found


def _version(task: TaskConfig) -> tuple[str | None, str]:
    """The version to be used, None for any; and the data_sha256 of the one here, if there is."""
    if not _is_here(task):
        return (None if task.version == "latest" else task.version), ""
    data = open_store(task.dataset, task.version).metadata
    return data.version, data.data_sha256


def _fits(experiment: Experiment, task: TaskConfig, found: Found, data_sha256: str) -> bool:
    identity, cache = pulling.identity_in(found), experiment.cache
    if data_sha256 not in ("", identity.data_sha256):
        return False
    if (identity.dtype, identity.repeats) != (cache.dtype, cache.repeats):
        return False
    if identity.repeats > 1 and identity.seed != cache.seed:
        return False
    return same_options(experiment, task.dataset, found.manifest.labels.get("codec_options"))


def _megabytes(progress: Progress | None) -> Callable[[int, int], object]:
    """Bytes as the bars of a run count."""
    if progress is None:
        return silent
    return lambda done, total: progress(
        "cache", done // _MEGABYTE, max(total // _MEGABYTE, 1), "MB pulled"
    )
