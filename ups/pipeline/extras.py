"""What `judge` measures on request, beyond what every report has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ups.evaluation.context import Context, open_context
from ups.evaluation.report import Section
from ups.evaluation.super_resolution import super_resolution_section
from ups.evaluation.test_time import ttc_section
from ups.evaluation.uncertainty import uncertainty_section

Progress = Callable[[str, int, int, str], None]
AUTO = "auto"


@dataclass(frozen=True)
class Search:
    """Test-time compute: see `ups.evaluation.search.Plan`."""

    candidates: int = 8
    beam: int = 2
    look_ahead: int = 1
    budget: int | None = None
    patience: int = 3


@dataclass(frozen=True)
class Extras:
    """What else is wanted; nothing by default.

    Attributes:
        members: Of the ensemble, drawn from the residual model of each run.
        partners: Other runs, of other seeds, whose predictions are members too.
        search: Test-time compute.
        finer: Versions on finer grids for zero-shot super-resolution; `auto` finds them.
    """

    members: int = 0
    partners: tuple[Path, ...] = ()
    search: Search | None = None
    finer: tuple[str, ...] = ()

    def sections(self, context: Context, progress: Progress | None = None) -> Iterator[Section]:
        """Each as a section of the report.

        Raises:
            CheckpointError: The run has no residual model to draw from.
            UsageError: A partner was not trained on these data, or what is asked for does not fit
                the problem.
        """
        if self.members or self.partners:
            partners = [_alike(context, run) for run in self.partners]
            yield uncertainty_section(
                context, members=self.members, partners=partners,
                progress=_bar(progress, "ensemble"),
            )  # fmt: skip
        if self.search is not None:
            plan = self.search
            yield ttc_section(
                context, candidates=plan.candidates, beam=plan.beam, look_ahead=plan.look_ahead,
                budget=plan.budget, patience=plan.patience, progress=_bar(progress, "search"),
            )  # fmt: skip
        if self.finer:
            versions = None if self.finer == (AUTO,) else self.finer
            yield super_resolution_section(context, versions=versions)


def _alike(context: Context, run: Path) -> Context:
    """Another run under the same protocol, on the same data."""
    version = context.store.metadata.version
    return open_context(
        run, task=context.task, settings=context.settings, protocol_name=context.protocol_name,
        version=None if version == context.identity.version else version, device=context.device,
    )  # fmt: skip


def _bar(progress: Progress | None, name: str) -> Any:
    return (lambda done, total: progress(name, done, total, "")) if progress else None
