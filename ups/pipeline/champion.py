"""Who is the champion of a benchmark, since when, why, and who was before.

`UPS_HOME/leaderboard/champions/<benchmark>.json` is replaced as a whole, under a lock, and only
if it still says what the challenger was judged against.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ups import files, paths
from ups.errors import CheckpointError, translated_os_errors
from ups.evaluation.gates import Gate

FORMAT = 1
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
_PATIENCE_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a champion reached on one task under one protocol.

    Attributes:
        place: 'burgers1d, ic': task and protocol of the benchmark.
        entry: Id on the leaderboard.
        protocol: Id of the protocol; scores of different ids are not compared.
        value: Mean of the benchmark's metric over trajectories.
        trajectories, values: Which ones, and the metric of each; left out in the history.
        measures: Other numbers of the report that the benchmark compares.
    """

    __pydantic_config__ = _STRICT

    place: str
    entry: str
    protocol: str
    value: float
    trajectories: tuple[int, ...] = ()
    values: tuple[float | None, ...] = ()
    measures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Champion:
    """A run that was better than all before it.

    Attributes:
        run: `name/id`.
        since: UTC, ISO 8601.
        reason: What the person who promoted it wrote.
        gates: What it met.
    """

    __pydantic_config__ = _STRICT

    run: str
    seed: int
    commit: str
    checkpoint_sha256: str
    since: str
    reason: str
    metric: str
    scores: tuple[Score, ...]
    gates: tuple[Gate, ...]

    def score(self, place: str) -> Score | None:
        return next((score for score in self.scores if score.place == place), None)

    def in_brief(self) -> Champion:
        """Without the values of single trajectories, as the history keeps it."""
        brief = tuple(
            Score(**{**vars(one), "trajectories": (), "values": ()}) for one in self.scores
        )
        return Champion(**{**vars(self), "scores": brief})


@dataclass(frozen=True, kw_only=True)
class Throne:
    """A benchmark's champion and those before it, newest first."""

    __pydantic_config__ = _STRICT

    benchmark: str
    champion: Champion | None = None
    history: tuple[Champion, ...] = ()
    format: int = FORMAT

    @property
    def checkpoint(self) -> str | None:
        """Whose weights hold it; None where nobody's do."""
        return self.champion.checkpoint_sha256 if self.champion else None


def throne_path(benchmark: str) -> Path:
    return paths.leaderboard_dir() / "champions" / f"{benchmark}.json"


def load_throne(benchmark: str) -> Throne:
    """The champion and the history of a benchmark; empty before the first promotion.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = throne_path(benchmark)
    if not path.is_file():
        return Throne(benchmark=benchmark)
    with translated_os_errors(path, "reading", CheckpointError):
        raw = path.read_bytes()
    try:
        throne = TypeAdapter(Throne).validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(
            f"{path}: not a record of champions: {where or 'file'}: {first['msg']}",
            hint="mend it by hand, or move it away to begin anew; the entries it names remain",
        ) from error
    if throne.format != FORMAT:
        raise CheckpointError(
            f"{path}: format {throne.format}; this version of ups reads {FORMAT}",
            hint="install a newer ups",
        )
    return throne


def crown(benchmark: str, champion: Champion, *, instead_of: str | None) -> bool:
    """Make a run the champion, if nobody else has become champion meanwhile.

    Args:
        instead_of: `Throne.checkpoint` as it was when the challenger was judged.
    Returns:
        False where it has changed: judge against the new champion.
    Raises:
        CheckpointError: The file cannot be written, or another process keeps it locked.
    """
    path = throne_path(benchmark)
    with files.exclusive(path, "promoting a champion", CheckpointError, wait_s=_PATIENCE_S):
        throne = load_throne(benchmark)
        if throne.checkpoint != instead_of:
            return False
        before = (throne.champion.in_brief(),) if throne.champion else ()
        now = Throne(benchmark=benchmark, champion=champion, history=(*before, *throne.history))
        files.write_json(path, plain(now), CheckpointError)
    return True


def plain(value: Any) -> Any:
    """A record as JSON values."""
    return json.loads(json.dumps(asdict(value), allow_nan=False))
