"""The little of Weights & Biases that artefacts need, behind an interface of three methods.

Keys are read by wandb itself, from the environment or the file that `wandb login` writes; none
passes through here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from ups.errors import RemoteError
from ups.transfer.wandb_access import failures, has_key

PROJECT = "ups"
_SECONDS = 20
_ABSENT = ("not found", "could not find", "does not exist", "unable to fetch", "does not contain")
_BEHAVIOUR = {"WANDB_SILENT": "true", "WANDB_FINISH_TIMEOUT": "300"}


@dataclass(frozen=True)
class Version:
    """One version of a W&B artifact.

    Attributes:
        address: `entity/project/collection:v3`.
        metadata: What `Parcel.metadata` said when it was logged.
        created: Unix seconds, by W&B's clock.
    """

    address: str
    metadata: Mapping[str, Any]
    created: float


@dataclass(frozen=True)
class Parcel:
    """What becomes one version of a W&B artifact.

    Attributes:
        collection: The artifact's name, without version.
        type: 'dataset', 'cache' or 'model'.
        files: Name in the artifact -> local file, which stays until the parcel has been sent.
        uses: `collection:alias` of the artifacts that this one was made from.
    """

    collection: str
    type: str
    aliases: tuple[str, ...]
    metadata: Mapping[str, Any]
    files: Mapping[str, Path]
    uses: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Posted:
    """What became of a parcel.

    Attributes:
        queued: The offline run that holds it, for `wandb sync`; None if it was sent.
        why: Why it was not sent.
        unused: Artifacts of `Parcel.uses` that W&B does not have.
    """

    queued: Path | None = None
    why: str = ""
    unused: tuple[str, ...] = ()


@runtime_checkable
class Service(Protocol):
    """One project of W&B."""

    def versions(self, type_name: str, collection: str | None = None) -> list[Version]:
        """Every version of one collection, or of all of a type; nothing if there is none."""
        ...

    def fetch(self, version: Version, name: str, into: Path) -> Path:
        """Download one file of a version below `into`; the bytes are not judged."""
        ...

    def post(self, parcel: Parcel, folder: Path) -> Posted:
        """Send a parcel; without a network or a key, queue it in an offline run in `folder`."""
        ...


def offline_because() -> str:
    """Why nothing can be sent to W&B from here; empty where it may be tried."""
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled", "dryrun"):
        return f"WANDB_MODE is {mode}"
    return "" if has_key() else "there is no key: set WANDB_API_KEY"


@dataclass(frozen=True)
class Wandb:
    """W&B as it is, through its package.

    Raises:
        RemoteError: `versions` and `fetch`, when W&B cannot be asked or does not answer.
    """

    entity: str | None = None
    project: str = PROJECT
    _apis: list[Any] = field(default_factory=list, repr=False, compare=False)

    def versions(self, type_name: str, collection: str | None = None) -> list[Version]:
        with _translated(f"listing {collection or type_name}"):
            api = self._api()
            names = [collection] if collection else self._collections(api, type_name)
            return [one for name in names for one in self._versions_of(api, type_name, name)]

    def fetch(self, version: Version, name: str, into: Path) -> Path:
        with _translated(f"fetching {name}"):
            entry = self._api().artifact(version.address).get_entry(name)
            return Path(entry.download(str(into), skip_cache=True))

    def post(self, parcel: Parcel, folder: Path) -> Posted:
        import wandb

        why = offline_because()
        run = None
        if not why:
            try:
                run = self._run("online", folder)
            except failures() as error:
                if isinstance(error, wandb.errors.AuthenticationError):
                    raise RemoteError(
                        f"W&B refuses the key: {_line(error)}", hint="set WANDB_API_KEY"
                    ) from None
                why = f"W&B does not answer: {_line(error)}"
        if run is not None:
            with _translated(f"sending {parcel.collection}"):
                return Posted(unused=self._send(run, parcel))
        with _translated(f"queueing {parcel.collection}"):
            run = self._run("offline", folder)
            run.log_artifact(_artifact(parcel), aliases=list(parcel.aliases))
            run.finish()
            return Posted(Path(run.dir).parent, why)

    def _send(self, run: Any, parcel: Parcel) -> tuple[str, ...]:
        unused = []
        try:
            for name, type_name in parcel.uses:
                try:
                    run.use_artifact(f"{self._prefix}{name}", type=type_name)
                except failures() as error:
                    if not _is_absent(error):
                        raise
                    unused.append(name)
            run.log_artifact(_artifact(parcel), aliases=list(parcel.aliases)).wait()
        finally:
            run.finish()
        return tuple(unused)

    def _run(self, mode: Literal["online", "offline"], folder: Path) -> Any:
        import wandb

        for name, value in _BEHAVIOUR.items():
            os.environ.setdefault(name, value)
        folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self.project, entity=self.entity, job_type="push", mode=mode, dir=str(folder),
            settings=wandb.Settings(
                console="off", silent=True, init_timeout=_SECONDS, disable_git=True,
                x_disable_stats=True, x_disable_meta=True, x_save_requirements=False,
            ),
        )  # fmt: skip

    @property
    def _prefix(self) -> str:
        return f"{self.entity}/{self.project}/" if self.entity else f"{self.project}/"

    def _api(self) -> Any:
        import wandb

        if why := offline_because():
            raise RemoteError(
                f"W&B cannot be asked: {why}", hint="set WANDB_API_KEY, and WANDB_MODE=online"
            )
        if not self._apis:
            self._apis.append(wandb.Api(timeout=_SECONDS))
        return self._apis[0]

    def _collections(self, api: Any, type_name: str) -> list[str]:
        try:
            return [str(one.name) for one in api.artifact_collections(self._prefix[:-1], type_name)]
        except failures() as error:
            if _is_absent(error):
                return []
            raise

    def _versions_of(self, api: Any, type_name: str, collection: str) -> list[Version]:
        try:
            found = list(api.artifacts(type_name, f"{self._prefix}{collection}"))
        except failures() as error:
            if _is_absent(error):
                return []
            raise
        return [
            Version(one.qualified_name, dict(one.metadata), _seconds(one.created_at))
            for one in found
        ]


def _artifact(parcel: Parcel) -> Any:
    """The artifact, with links to the files: wandb copies none of them."""
    import wandb

    made = wandb.Artifact(parcel.collection, parcel.type, metadata=dict(parcel.metadata))
    for name, path in parcel.files.items():
        made.add_file(str(path), name=name, policy="immutable", skip_cache=True)
    return made


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except failures() as error:
        raise RemoteError(
            f"W&B: {doing} failed: {_line(error)}",
            hint="check WANDB_API_KEY, WANDB_BASE_URL and the project: --to wandb:ENTITY/PROJECT",
        ) from None


def _is_absent(error: Exception) -> bool:
    text = str(error).lower()
    return any(word in text for word in _ABSENT)


def _line(error: Exception) -> str:
    """The first sentence of an error; wandb's advice about its own settings is left out."""
    text = " ".join(str(error).split())
    return text.partition(" Consider ")[0][:200] or type(error).__name__


def _seconds(created: str) -> float:
    return datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp()
