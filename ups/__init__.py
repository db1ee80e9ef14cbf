"""The Universal Physics Stack: data, latent caches, staged training and honest evaluation.

Everything that the `ups` command does is one call here. Names are imported when they are first
used, so that `import ups` stays cheap:

    load_card, download, generate, convert, audit, show       getting data and looking at it
    open_store, TrajectoryStore, PointStore                   reading it
    Windows, Augmentation, Mixture, load_batches              training samples of it
    load_experiment, train, resume, build_caches              training
    load_run, infer, rollout, judge, nrmse, export_run        using and judging a run
    add_entry, rank                                           leaderboard
    quickstart                                                all of it once
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ups.checkpoint import load_run
    from ups.config.loading import load_experiment
    from ups.data.audit import audit
    from ups.data.convert import Recipe, convert
    from ups.data.download.run import download
    from ups.data.generate import generate
    from ups.data.pictures import show
    from ups.data.points import PointStore
    from ups.data.reading.loader import load_batches
    from ups.data.reading.mixing import Mixture
    from ups.data.reading.symmetries import Augmentation
    from ups.data.reading.windows import Windows
    from ups.data.store import TrajectoryStore
    from ups.data.versions import open_store
    from ups.evaluation.export import export_run
    from ups.evaluation.inference.forecast import infer
    from ups.evaluation.metrics import nrmse
    from ups.evaluation.rollout import rollout
    from ups.leaderboard.entries import add as add_entry
    from ups.leaderboard.table import rank
    from ups.models.surrogate import Surrogate
    from ups.pipeline.judge import judge
    from ups.pipeline.quickstart import quickstart
    from ups.registry import DatasetCard, load_card
    from ups.training.latents import build_caches
    from ups.training.run import resume, train
    from ups.training.session import open_session

_HOME = {
    "Augmentation": "data.reading.symmetries",
    "DatasetCard": "registry",
    "Mixture": "data.reading.mixing",
    "PointStore": "data.points",
    "Recipe": "data.convert",
    "Surrogate": "models.surrogate",
    "TrajectoryStore": "data.store",
    "Windows": "data.reading.windows",
    "add_entry": "leaderboard.entries:add",
    "audit": "data.audit",
    "build_caches": "training.latents",
    "convert": "data.convert",
    "download": "data.download.run",
    "export_run": "evaluation.export",
    "generate": "data.generate",
    "infer": "evaluation.inference.forecast",
    "judge": "pipeline.judge",
    "load_batches": "data.reading.loader",
    "load_card": "registry",
    "load_experiment": "config.loading",
    "load_run": "checkpoint",
    "nrmse": "evaluation.metrics",
    "open_session": "training.session",
    "open_store": "data.versions",
    "quickstart": "pipeline.quickstart",
    "rank": "leaderboard.table",
    "resume": "training.run",
    "rollout": "evaluation.rollout",
    "show": "data.pictures",
    "train": "training.run",
}

__all__ = [
    "Augmentation",
    "DatasetCard",
    "Mixture",
    "PointStore",
    "Recipe",
    "Surrogate",
    "TrajectoryStore",
    "Windows",
    "add_entry",
    "audit",
    "build_caches",
    "convert",
    "download",
    "export_run",
    "generate",
    "infer",
    "judge",
    "load_batches",
    "load_card",
    "load_experiment",
    "load_run",
    "nrmse",
    "open_session",
    "open_store",
    "quickstart",
    "rank",
    "resume",
    "rollout",
    "show",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ups' has no attribute '{name}'")
    module, _, attribute = _HOME[name].partition(":")
    return getattr(import_module(f"ups.{module}"), attribute or name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
