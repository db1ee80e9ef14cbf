"""What takes the numbers and pictures of a run, and what a failure of it may cost: nothing."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ups import files, runs
from ups.errors import CheckpointError, translated_os_errors
from ups.runs.history import FINISHED, TIME

logger = logging.getLogger(__name__)
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A small table of results, such as a codec's report card."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


Medium = Path | Table
"""A picture (.png, .jpg), an animation (.gif, .mp4), a page (.html), or a table."""


@runtime_checkable
class Tracker(Protocol):
    """Takes one record at a time: `stage`, `step` and numbers."""

    def log(self, record: Record) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Board(Tracker, Protocol):
    """A tracker that also shows pictures, tables and the summary of a run."""

    def media(self, stage: str, step: int, name: str, medium: Medium) -> None: ...

    def summary(self, values: Mapping[str, Any]) -> None: ...


class JsonLines:
    """Appends each record as one line, with the time it was written at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with translated_os_errors(path, "writing", CheckpointError):
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def log(self, record: Record) -> None:
        timed = {**_plain(record), TIME: round(time.time(), 3)}
        with translated_os_errors(self.path, "writing", CheckpointError):
            self._file.write(json.dumps(timed, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.close()


def _plain(record: Record) -> dict[str, Any]:
    """The record with None for what is NaN or infinite, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


class Droppable:
    """A board whose failures are worth one warning: it is dropped, and the run goes on.

    Args:
        open_board: Makes the board; its failures count too.
        failures: The exceptions that the board is known to raise.
    """

    def __init__(self, open_board: Callable[[], Board], failures: tuple[type[Exception], ...]):
        self._failures = failures
        self._board: Board | None = None
        self._try("opened", lambda: setattr(self, "_board", open_board()))

    def log(self, record: Record) -> None:
        self._with_board("written to", lambda board: board.log(record))

    def media(self, stage: str, step: int, name: str, medium: Medium) -> None:
        self._with_board("given media", lambda board: board.media(stage, step, name, medium))

    def summary(self, values: Mapping[str, Any]) -> None:
        self._with_board("given a summary", lambda board: board.summary(values))

    def close(self) -> None:
        self._with_board("closed", lambda board: board.close())
        self._board = None

    def _with_board(self, doing: str, action: Callable[[Board], None]) -> None:
        board = self._board
        if board is not None:
            self._try(doing, lambda: action(board))

    def _try(self, doing: str, action: Callable[[], None]) -> None:
        try:
            action()
        except self._failures as error:
            self._board = None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning(
                "tracking: W&B could not be %s, the run goes on without it: %s", doing, reason
            )


class Tracking:
    """Everything that one run tells, handed to all its trackers; a context manager.

    Args:
        run: Its folder.
        trackers: In the order in which they are told.
    """

    def __init__(self, run: Path, trackers: Sequence[Tracker]) -> None:
        self.run = run
        self.trackers = tuple(trackers)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def log(self, record: Record) -> None:
        for tracker in self.trackers:
            tracker.log(record)

    def media(self, stage: str, step: int, name: str, medium: Medium) -> None:
        """Show a picture or a table under `stage/name`, where there is a board for it."""
        for board in self._boards():
            board.media(stage, step, name, medium)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set final numbers, shown beside the run's name."""
        for board in self._boards():
            board.summary(values)

    def finished(self, stage: str, step: int, best: Mapping[str, float]) -> None:
        """A stage is done: `ups runs list` reads it, and its best numbers become the summary."""
        known = runs.read_metrics(self.run / runs.METRICS)
        if not any(record["stage"] == stage and record.get(FINISHED) for record in known):
            self.log({"stage": stage, "step": step, FINISHED: True})
        self.summary({f"{stage}/best/{key}": value for key, value in best.items()})

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()

    def _boards(self) -> list[Board]:
        return [tracker for tracker in self.trackers if isinstance(tracker, Board)]


def forget_after(path: Path, stage: str, step: int) -> None:
    """Drop the records of `stage` beyond `step`, which a resumed run will write again.

    A board that has them already is told, in `tracking.json`, not to take them a second time.
    """
    records = runs.read_metrics(path, timed=True)
    dropped = [r["step"] for r in records if r["stage"] == stage and r["step"] > step]
    kept = [r for r in records if r["stage"] != stage or r["step"] <= step]
    files.write_text(path, "".join(json.dumps(record) + "\n" for record in kept), CheckpointError)
    context = runs.read_tracking(path.parent)
    if dropped and context is not None:
        sent = {**context.get("sent", {}), stage: max(dropped)}
        files.write_json(path.parent / runs.TRACKING, {**context, "sent": sent}, CheckpointError)
