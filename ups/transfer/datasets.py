"""Datasets on remotes: pushing a version, finding the one that a user means, pulling, deprecating.

The registry card decides which artefact is a dataset's: its manifest must be the one that the card
names. Without an artefact in the card, the newest version on the remote that is not deprecated is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ups.data.splits import SPLITS
from ups.data.versions import find_version
from ups.errors import RemoteError, UpsError, UsageError, did_you_mean
from ups.registry import Artefact, DatasetCard, dataset_keys, load_card
from ups.transfer import clean
from ups.transfer.artefacts import (
    Found,
    Listing,
    list_artefacts,
    read_manifest,
    read_reason,
    scan,
)
from ups.transfer.dataset_pieces import SMALL, chosen, holds, source_of
from ups.transfer.push import Pushed, push
from ups.transfer.remotes import Remote, find_remote, load
from ups.transfer.stores import Arrived, pull_store
from ups.transfer.verify import verify_remote

KIND = "data"
Progress = Callable[[int, int], object]
_AT_ONCE = 4
_PLACE = re.compile(r"data/(?P<key>[^/]+)/(?P<version>[^/]+)/(?P<identity16>[0-9a-f]{16})")


@dataclass(frozen=True)
class Part:
    """What of a version is wanted: the first so many trajectories of some splits.

    Raises:
        UsageError: An unknown split, or a number below 1.
    """

    splits: tuple[str, ...] = ()
    first: int | None = None

    def __post_init__(self) -> None:
        for name in self.splits:
            if name not in SPLITS:
                raise UsageError(
                    f"--splits {name}: no such split{did_you_mean(name, SPLITS)}",
                    hint=f"splits are {', '.join(SPLITS)}; several with commas",
                )
        if self.first is not None and self.first < 1:
            raise UsageError(f"--first {self.first}: must be at least 1")

    @classmethod
    def of(cls, splits: str | None, first: int | None, subset: str | None) -> Part:
        """Out of what a user types: `train,valid`, a number, `small`."""
        if subset is not None and subset != "small":
            raise UsageError(f"--subset {subset}: the only subset is 'small'")
        if subset is not None and first is not None:
            raise UsageError("--subset small and --first exclude each other")
        names = tuple(name.strip() for name in splits.split(",")) if splits is not None else ()
        return cls(names, SMALL if subset else first)


@dataclass(frozen=True)
class Outcome:
    """What became of one dataset that was to be pulled.

    Attributes:
        arrived: None if it failed.
        named: Whether the user or the card named the version; otherwise it is the newest there.
        deprecated: Why it is not to be used; None for what is.
        error: Why it failed; None if it did not.
    """

    key: str
    arrived: Arrived | None = None
    named: bool = False
    deprecated: str | None = None
    error: UpsError | None = None


def remote_for(key: str, spec: str | None) -> Remote:
    """The remote that a dataset is pulled from.

    Raises:
        RemoteError: There is no such remote, or none at all; then it says what to do instead.
    """
    if spec is None and load().default is None:
        card = load_card(key)
        others = [f"ups data download {key}"] if card.source.files else []
        others += [f"ups data generate {key}"] if card.generator else []
        instead = f"; without one: {', or '.join(others)}" if others else ""
        raise RemoteError(f"{key}: no remote to pull from", hint=f"ups remotes add --help{instead}")
    return find_remote(spec)


def push_dataset(
    key: str,
    version: str,
    remote: Remote,
    *,
    progress: Progress = lambda done, total: None,
    dry_run: bool = False,
    repair: bool = False,
) -> Pushed:
    """Push a version that is on this machine; 'latest' is the newest.

    Raises:
        DataError: There is none, or only some of it is here.
        RemoteError: The remote does not take it.
    """
    load_card(key)
    source = source_of(find_version(key, version))
    return push(source, remote, progress=progress, dry_run=dry_run, repair=repair)


def verify_dataset(
    key: str, version: str, remote: Remote, progress: Progress = lambda done, total: None
) -> int:
    """Read back every byte of a version on a remote; the number of bytes.

    Raises:
        RemoteError: It is not there, or something of it is wrong.
    """
    return verify_remote(find_dataset(key, remote, version)[0], remote, progress)


def find_dataset(key: str, remote: Remote, version: str | None = None) -> tuple[Found, bool]:
    """The artefact that a user means, and whether the user or the card named its version.

    Raises:
        ConfigError: There is no such dataset, or its card names no place on a remote.
        RemoteError: It is not there, is deprecated and not asked for by name, or is not the one
            that the card names.
    """
    entry = _entry(load_card(key), version)
    if entry is not None:
        return _as_in_card(key, entry, remote), True
    everything = list_artefacts(KIND, remote)
    there = [item for item in everything if _version(item, key) is not None]
    known = [item for item in there if version in (None, _version(item, key))]
    if not known:
        remote.check_folder()
        raise _not_there(key, version, everything, remote)
    newest = max(known, key=lambda item: (not item.deprecated, item.created))
    found = _read(newest, newest.manifests[0], remote)
    if found.deprecated is not None and version is None:
        raise RemoteError(
            f"{key}: every version on {remote.describe()} is deprecated; "
            f"{_version(newest, key)}: {found.deprecated}",
            hint=f"ups data pull {key} --version {_version(newest, key)} takes it all the same",
        )
    return found, version is not None


def pull_datasets(
    keys: Sequence[str],
    spec: str | None,
    *,
    version: str | None = None,
    part: Part | None = None,
    progress: Callable[[str, int, int], object] = lambda key, done, total: None,
    dry_run: bool = False,
) -> list[Outcome]:
    """Pull several datasets at once; one that fails does not keep the others.

    Args:
        spec: The remote: `ups.transfer.remotes.find_remote`.
        version: The same for all; None takes the card's, else the newest.
        progress: Called with (key, bytes done, bytes in all), from any thread.
    """
    part = part or Part()

    def one(key: str) -> Outcome:
        try:
            remote = remote_for(key, spec)
            found, named = find_dataset(key, remote, version)
            arrived = _pull(found, remote, part, lambda *at: progress(key, *at), dry_run)
            return Outcome(key, arrived, named, found.deprecated)
        except UpsError as error:
            return Outcome(key, error=error)

    for key in keys:
        load_card(key)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(one, dict.fromkeys(keys)))


def _pull(found: Found, remote: Remote, part: Part, progress: Progress, dry_run: bool) -> Arrived:
    wanted = chosen(found.manifest, part.splits, part.first)
    if part.splits and not wanted.any():
        raise RemoteError(f"{found.place}: has no trajectory in {', '.join(part.splits)}")
    return pull_store(
        found,
        remote,
        wanted=lambda piece: holds(piece, wanted),
        progress=progress,
        dry_run=dry_run,
    )


def deprecate_dataset(key: str, version: str, reason: str, remote: Remote) -> Found:
    """Mark a version on a remote as not to be used; `prune_datasets` may then remove it.

    Raises:
        UsageError: No reason is given.
        RemoteError: It is not there.
    """
    if not reason.strip():
        raise UsageError("--reason: say why the version is not to be used")
    found, _ = find_dataset(key, remote, version)
    clean.deprecate(found, reason.strip(), remote)
    return found


@dataclass(frozen=True)
class RemotePruning:
    """Deprecated versions on a remote that go, and those that stay, with the reason."""

    removed: tuple[Listing, ...]
    kept: tuple[tuple[Listing, str], ...]


def prune_datasets(
    remote: Remote,
    keys: Sequence[str] = (),
    *,
    older_than_s: float | None = None,
    keep_last: int | None = None,
    dry_run: bool = False,
) -> RemotePruning:
    """Remove deprecated versions from a remote. What a registry card here names stays.

    Args:
        keys: Of these datasets only; all by default.
        older_than_s: Only what was pushed longer ago.
        keep_last: Not the newest so many versions of each dataset, deprecated or not.
    """
    everything = scan(KIND, remote)
    chosen_keys = set(keys) or {item.name.split("/")[0] for item in everything}
    asked = [i for i in everything if i.deprecated and i.name.split("/")[0] in chosen_keys]
    known = {item.name.split("/")[0] for item in asked} & set(dataset_keys())
    named = {entry.location for key in known for entry in load_card(key).artefacts}
    newest = _newest(everything, keep_last or 0)
    reasons = {
        item.folder: "its registry card names it" if item.folder in named
        else "among the newest" if item.folder in newest
        else "not that old" if older_than_s is not None and item.age_s < older_than_s
        else ""
        for item in asked
    }  # fmt: skip
    going = {folder for folder, reason in reasons.items() if not reason}
    removed = clean.prune(KIND, remote, dry_run=dry_run, which=lambda item: item.folder in going)
    kept = tuple((item, reasons[item.folder]) for item in asked if reasons[item.folder])
    return RemotePruning(tuple(removed), kept)


def _newest(listings: Sequence[Listing], count: int) -> set[str]:
    """Folders of the newest so many versions of each dataset."""
    found: set[str] = set()
    for key in {item.name.split("/")[0] for item in listings}:
        own = [item for item in listings if item.name.split("/")[0] == key]
        found |= {i.folder for i in sorted(own, key=lambda i: i.created, reverse=True)[:count]}
    return found


def _entry(card: DatasetCard, version: str | None) -> Artefact | None:
    """What the card says about a version, or about the one to take if none is given."""
    entries = [entry for entry in card.artefacts if version in (None, entry.version)]
    return entries[-1] if entries else None


def _as_in_card(key: str, entry: Artefact, remote: Remote) -> Found:
    """The very manifest that a card names, whatever else is there."""
    place = _PLACE.fullmatch(entry.location)
    if place is None or (place["key"], place["version"]) != (key, entry.version):
        raise RemoteError(
            f"registry card {key}: artefacts: location {entry.location!r} is no place of "
            f"{key}/{entry.version}",
            hint=f"ups data publish {key} enters it",
        )
    there = [item for item in list_artefacts(KIND, remote, f"{key}/{entry.version}")
             if item.folder == entry.location]  # fmt: skip
    if not there:
        remote.check_folder()
        raise RemoteError(
            f"{remote.describe()}: {entry.location}, which the registry card of {key} names, is "
            "not there",
            hint=f"ups data pull {key} --from another remote, or push it there: "
            f"ups data push {key} --version {entry.version}",
        )
    for name in there[0].manifests:
        if name.endswith(f"-{entry.manifest_sha256[:8]}.json"):
            found = _read(there[0], name, remote)
            if found.manifest.sha256 == entry.manifest_sha256:
                return found
    raise RemoteError(
        f"{remote.describe()}: {entry.location}: no manifest with the sha256 that the registry "
        f"card names, {entry.manifest_sha256[:16]}...",
        hint=f"update the card (git pull), or publish again: ups data publish {key}",
    )


def _read(listing: Listing, name: str, remote: Remote) -> Found:
    return Found(read_manifest(listing, name, remote), listing, read_reason(listing, remote))


def _version(listing: Listing, key: str) -> str | None:
    """The version that a listing is of; None if it is of another dataset."""
    dataset, _, version = listing.name.partition("/")
    return version if dataset == key and version else None


def _not_there(
    key: str, version: str | None, everything: Sequence[Listing], remote: Remote
) -> RemoteError:
    names = sorted({name for item in everything if (name := _version(item, key)) is not None})
    if version is not None and names:
        return RemoteError(
            f"{remote.describe()}: {key} has no version '{version}'{did_you_mean(version, names)}",
            hint=f"versions there: {', '.join(names)}",
        )
    others = sorted({item.name.split("/")[0] for item in everything})
    what = f"datasets there: {', '.join(others)}" if others else "no dataset is there"
    return RemoteError(
        f"{remote.describe()}: {key} is not there{did_you_mean(key, others)}; {what}",
        hint=f"from a machine that has it: ups data push {key}",
    )
