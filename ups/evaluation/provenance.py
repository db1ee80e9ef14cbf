"""What a result's data were made of, enough to make them again from a leaderboard entry alone."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from ups import paths
from ups.config.base import Config
from ups.data.store import SourceFile
from ups.errors import DataError
from ups.evaluation.context import Context
from ups.evaluation.report import Section
from ups.evaluation.unseen import Store, open_store_of
from ups.registry import DatasetCard, load_card

DATA = "data"
_STATISTICS = ("mean", "std", "rms")


class RawRecord(Config):
    """One raw file of a version, and where it can be had."""

    name: str
    size_bytes: int
    fingerprint: str = Field(description="Hash of 4 kB at 1024 places.")
    first: int = Field(description="Place of the first trajectory that was taken.")
    trajectories: int = Field(description="How many were taken.")
    made: dict[str, Any] = Field(
        default_factory=dict,
        description="How `ups data generate` made it: generator, request, batch size, libraries.",
    )
    url: str | None = Field(None, description="Of the published file of this name.")
    md5: str | None = Field(None, description="As published.")

    @property
    def origin(self) -> Literal["generated", "published", "by hand"]:
        """How it can be had again; what came by hand must be given by hand."""
        if self.made:
            return "generated"
        return "published" if self.url else "by hand"


class RecipeRecord(Config):
    """How raw files became the version, see `ups.data.conversion.plan.Recipe`."""

    stride_x: int
    stride_t: int
    trajectories: tuple[int, int] | None
    exclude_invalid: bool
    test_only: bool


class VersionRecord(Config):
    """One converted version of a dataset."""

    dataset: str
    version: str
    data_sha256: str
    split_hash: str
    num_trajectories: int
    num_frames: int
    recipe: RecipeRecord
    files: tuple[RawRecord, ...]
    statistics: dict[str, dict[str, float]] = Field(
        description="Field -> mean, std and rms of the training split: data of the same recipe on "
        "other hardware may differ in their last bits, and must not in these."
    )
    card: dict[str, Any] | None = Field(
        None, description="The dataset's card, where it is none that comes with ups."
    )


class DataRecord(Config):
    """The data of a run: of every task it was trained on, and of the judgement where it differs."""

    trained: dict[str, VersionRecord]
    judged: VersionRecord | None = None
    missing: tuple[str, ...] = Field(
        (), description="Tasks whose data were not there, or had changed, at the judgement."
    )


def data_section(context: Context) -> Section:
    """Section 'data' of a report: a `DataRecord` as plain values."""
    trained, missing = {}, []
    for name, known in context.checkpoint.tasks.items():
        try:
            judged = _is_judged(context, name)
            trained[name] = _version(context.store if judged else open_store_of(known))
        except DataError:  # one task of several can be judged where the others' data are not
            missing.append(name)
    same = _is_judged(context, context.task)
    record = DataRecord(
        trained=trained, judged=None if same else _version(context.store), missing=tuple(missing)
    )
    return Section(name=DATA, content=record.model_dump(mode="json"))


def _is_judged(context: Context, task: str) -> bool:
    """Whether the task was trained on the very version that is judged on."""
    known, judged = context.checkpoint.tasks[task], context.store.metadata
    return (known.dataset, known.data_sha256, known.split_hash) == (
        judged.dataset, judged.data_sha256, judged.split_hash,
    )  # fmt: skip


def _version(store: Store) -> VersionRecord:
    meta = store.metadata
    card = load_card(meta.dataset)
    return VersionRecord(
        dataset=meta.dataset,
        version=meta.version,
        data_sha256=meta.data_sha256,
        split_hash=meta.split_hash,
        num_trajectories=store.num_trajectories,
        num_frames=store.num_frames,
        recipe=RecipeRecord(
            stride_x=meta.stride_x,
            stride_t=meta.stride_t,
            trajectories=meta.trajectories,
            exclude_invalid=bool(meta.excluded),
            test_only=meta.test_only,
        ),
        files=tuple(_raw_file(card, source) for source in meta.sources),
        statistics=_statistics(store),
        card=None if _is_shipped(card) else card.model_dump(mode="json", exclude_defaults=True),
    )


def _raw_file(card: DatasetCard, source: SourceFile) -> RawRecord:
    published = None if source.made else card.source.file(source.name)
    return RawRecord(
        name=source.name,
        size_bytes=source.size_bytes,
        fingerprint=source.fingerprint,
        first=source.first,
        trajectories=source.trajectories,
        made=source.made,
        url=published.url if published else None,
        md5=published.md5 if published else None,
    )


def _statistics(store: Store) -> dict[str, dict[str, float]]:
    values = {name: store.statistics[name].tolist() for name in _STATISTICS}
    return {
        field: {name: each[index] for name, each in values.items() if math.isfinite(each[index])}
        for index, field in enumerate(store.metadata.fields)
    }


def _is_shipped(card: DatasetCard) -> bool:
    return (paths.registry_dirs()[0] / f"{card.key}.yaml").is_file()
