"""Publishing a dataset: convert, audit, push, read back, and enter the artefact into its card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from ups import files, paths
from ups.config.base import validated
from ups.data.audit import Finding, audit
from ups.data.conversion.sources import find_raw
from ups.data.convert import convert
from ups.data.points import PointStore
from ups.data.store import TrajectoryStore
from ups.data.versions import list_versions, open_store
from ups.errors import ConfigError, DataError, RemoteError
from ups.registry import Artefact, DatasetCard, load_card
from ups.transfer.artefacts import find
from ups.transfer.dataset_pieces import source_of
from ups.transfer.manifest import identity16
from ups.transfer.push import Pushed, push
from ups.transfer.remotes import Remote
from ups.transfer.verify import verify_remote

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Published:
    """What publishing did, or would do.

    Attributes:
        store: The version's name.
        findings: Of the audit.
        verified_bytes: Read back from the remote.
        entry: What the card says now; None after a dry run.
        card: The card's file; None where it could not be edited.
        problem: Why it could not.
    """

    store: str
    findings: tuple[Finding, ...]
    pushed: Pushed
    verified_bytes: int = 0
    entry: Artefact | None = None
    card: Path | None = None
    problem: str = ""


def publish(
    key: str,
    remote: Remote,
    *,
    version: str = "latest",
    progress: Progress = lambda what, done, total: None,
    dry_run: bool = False,
) -> Published:
    """Make a version of a dataset what `ups data pull` brings to everybody with the card.

    Args:
        version: On this machine; without any, raw files that are here are converted.
        progress: Called with (stage, done, all).
        dry_run: Convert and audit; send and write nothing.

    Raises:
        DataError: There is nothing to publish, or the audit found what is wrong.
        RemoteError: The remote does not take it, or gives other bytes back.
    """
    card = load_card(key)
    store = _store(card, version, progress)
    findings = audit(store, card, _of(progress, "audit"))
    if failed := [finding.check for finding in findings if finding.verdict == "fail"]:
        raise DataError(
            f"{store.path}: not published, the audit failed: {', '.join(failed)}",
            hint=f"ups data audit {key} --version {store.metadata.version}",
        )
    source = source_of(store.path)
    pushed = push(source, remote, progress=_of(progress, "push"), dry_run=dry_run)
    if dry_run:
        return Published(store.name, tuple(findings), pushed)
    found = find(source.kind, source.name, remote, identity16(source.identity))
    if found.deprecated is not None:
        raise RemoteError(
            f"{found.place}: is deprecated there: {found.deprecated}",
            hint=f"ups data prune {key} --on REMOTE removes it; then publish again",
        )
    read = verify_remote(found, remote, _of(progress, "verify"))
    entry = Artefact(
        version=store.metadata.version,
        location=source.folder,
        manifest_sha256=found.manifest.sha256,
    )
    path, problem = _enter(key, entry)
    return Published(store.name, tuple(findings), pushed, read, entry, path, problem)


def with_artefact(text: str, entry: Artefact, where: str) -> str:
    """A card's text with one artefact more; all else stays as it is, comments included.

    Raises:
        ConfigError: The card writes its artefacts in a form that cannot be added to line by line.
    """
    if entry in _card_of(text, where).artefacts[-1:]:
        return text
    lines = text.splitlines()
    heading = next((n for n, line in enumerate(lines) if line.startswith("artefacts:")), None)
    if heading is None:
        lines += ["", "artefacts:", f"  - {snippet(entry)}"]
    else:
        if re.fullmatch(r"artefacts:\s*(\[\s*\])?\s*(#.*)?", lines[heading]):
            lines[heading] = lines[heading].replace("[", "", 1).replace("]", "", 1).rstrip()
        last, indent = heading, "  "
        for number, line in enumerate(lines[heading + 1 :], heading + 1):
            if re.match(r"\S", line) and not line.startswith(("-", "#")):
                break
            if line.strip() and not line.lstrip().startswith("#"):
                last = number
                indent = _indent(line) if line.lstrip().startswith("-") else indent
        lines.insert(last + 1, f"{indent}- {snippet(entry)}")
    edited = "\n".join(lines) + "\n"
    before = _card_of(text, where)
    expected = before.model_copy(update={"artefacts": (*before.artefacts, entry)})
    try:
        same = _card_of(edited, where) == expected
    except ConfigError:
        same = False
    if not same:
        raise ConfigError(
            f"{where}: artefacts: cannot be added to as they are written",
            hint=f"write one on a line, then add: - {snippet(entry)}",
        )
    return edited


def snippet(entry: Artefact) -> str:
    """An artefact as one line of YAML."""
    values = {"version": entry.version, "location": entry.location}
    values["manifest_sha256"] = entry.manifest_sha256
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "}"


def _store(card: DatasetCard, version: str, progress: Progress) -> TrajectoryStore | PointStore:
    """The version to publish; where there is none and raw files are, they are converted."""
    if version == "latest" and not list_versions(card.key):
        return convert(card, find_raw(card), progress=_of(progress, "convert")).store
    return open_store(card.key, version)


def _enter(key: str, entry: Artefact) -> tuple[Path | None, str]:
    """Write an artefact into the dataset's card; the file, or why it was not written."""
    path = next(p for folder in paths.registry_dirs() if (p := folder / f"{key}.yaml").is_file())
    if paths.checkout() is None and not path.is_relative_to(paths.home()):
        return None, "the card belongs to the installed package"
    try:
        edited = with_artefact(path.read_text(encoding="utf-8"), entry, str(path))
        files.write_text(path, edited, ConfigError)
    except ConfigError as error:
        return None, str(error)
    return path, ""


def _card_of(text: str, where: str) -> DatasetCard:
    try:
        return validated(DatasetCard, yaml.safe_load(text), where)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: is not YAML: {error}") from error


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _of(progress: Progress, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)
