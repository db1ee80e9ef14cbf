"""One immutable file per report, named by the hash of what it says.

Nothing is ever changed or locked: processes that add at the same time write different files, or
the same file with the same content. A correction is a new entry that names the one it supersedes;
the old one stays, out of sight. What must really go is deleted by hand: `rm <entry>.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ups import files
from ups.errors import CheckpointError, UpsError, UsageError, did_you_mean, translated_os_errors
from ups.evaluation.gates import Gate, failed
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import LIMIT, OWN, Report, Row, load_report, report_files

FORMAT = 2
DISQUALIFYING = frozenset({"health", "data"})
"""Kinds of gates without which a number means nothing."""

_LEFT_OUT = frozenset({"spectra", "energy"})
_WHOLE = frozenset({"data"})
"""What `ups reproduce` needs to the last list."""
_LONGEST = 32
_DIGITS = 9
_NOT_THE_RECIPE = ("seed", "name", "device", "threads", "evaluation", "tracking")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Supersedes:
    """Which entry another one corrects, and why."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    entry: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one report said.

    Attributes:
        id: The first 16 hex digits of the sha256 of the content, the name of its file.
        created: When the report was made, UTC, ISO 8601.
        run: As `Report.run`: 'name', 'id', 'seed', 'commit', 'version', 'config', 'config_sha256',
            'checkpoint_sha256', 'num_parameters', ...
        rows: As in the report, with intervals and the values of every trajectory.
        recipe: Hash of the config without its seed and name: equal for two seeds of one config;
            empty where the report holds no config.
        sections: Of the report, without spectra and long curves: 'cost', 'one_step', ...
        environment: Packages, platform and device.
        format: Of its file; entries of format 1 have no intervals, trajectories, gates or sections.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    id: str
    created: str
    run: dict[str, Any]
    protocol: Protocol
    rows: tuple[Row, ...]
    recipe: str = ""
    protocol_name: str = OWN
    gates: tuple[Gate, ...] = ()
    sections: dict[str, Any] = field(default_factory=dict)
    trajectories: tuple[int, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    supersedes: Supersedes | None = None
    format: int = FORMAT

    def __post_init__(self) -> None:
        datetime.fromisoformat(self.created)
        if not self.rows:
            raise ValueError("an entry needs at least one row")

    @classmethod
    def of(cls, report: Report, supersedes: Supersedes | None = None) -> Entry:
        """The entry that `add` would write."""
        return _parsed(_content(report, supersedes))

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.run.get("name", ""))

    @property
    def task(self) -> str:
        """The run's task, where it has several; else the dataset."""
        return str(self.run.get("task", self.protocol.dataset))

    @property
    def disqualified_by(self) -> tuple[Gate, ...]:
        """The gates that keep it from being ranked."""
        return tuple(gate for gate in failed(self.gates) if gate.kind in DISQUALIFYING)

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)

    def path(self, folder: Path) -> Path:
        """Where the entry is in a leaderboard's folder."""
        return folder / f"{self.id}.json"


def add(
    report_path: Path, folder: Path, *, supersedes: str | None = None, reason: str = ""
) -> tuple[Entry, bool]:
    """Put a `report.json` on the leaderboard.

    Args:
        supersedes: The beginning of the id of an entry that this one corrects.
        reason: Why; needed with `supersedes`.
    Returns:
        The entry, and whether it is new; False if this very report had been added before.
    Raises:
        CheckpointError: The report is broken, or the folder cannot be written.
        UsageError: There is no such entry to supersede, another has superseded it, or no reason
            is given; or the report is on the first trajectories of a split only.
    """
    report = load_report(report_path)
    if about := report.sections.get(LIMIT):
        raise UsageError(
            f"{report_path}: judged on the first {about['first']} of {about['of']} trajectories",
            hint=f"ups eval {report.run['id']}",
        )
    old = None if supersedes is None else _to_supersede(supersedes, reason, report, folder)
    content = _content(report, old)
    entry = _parsed(content)
    path = entry.path(folder)
    if path.exists():
        return load(path), False
    files.write_text(path, _text(content), CheckpointError)
    return entry, True


def reports_to_add(
    run: Path, *, task: str | None = None, protocol: str | None = None
) -> list[Path]:
    """The reports of a run, or those of one task or protocol, that of the config's own first.

    Raises:
        CheckpointError: The run has not been judged, or not so.
    """
    found = [path for path in report_files(run) if LIMIT not in load_report(path).sections]
    if task is None and protocol is None:
        chosen = found
    else:
        reports = [(path, load_report(path)) for path in found]
        chosen = [
            path for path, one in reports
            if task in (None, one.run.get("task", one.protocol.dataset))
            and protocol in (None, one.protocol_name)
        ]  # fmt: skip
    if not chosen:
        asked = [f"task '{task}'"] * (task is not None)
        asked += [f"protocol '{protocol}'"] * (protocol is not None)
        how = f" for {' and '.join(asked)}" if asked else ""
        raise CheckpointError(
            f"{run}: not evaluated yet{how}", hint=f"ups eval {run.parent.name}/{run.name}"
        )
    return chosen


def load(path: Path) -> Entry:
    """Read one entry.

    Raises:
        CheckpointError: The content does not match the name, or is not an entry.
    """
    with translated_os_errors(path, "reading", CheckpointError):
        raw = path.read_bytes()
    try:
        content = json.loads(raw)
        name = _name(content)
    except ValueError as error:
        raise _damaged(path, f"not readable as JSON: {error}") from error
    if name != path.stem:
        raise _damaged(path, f"the content does not match the name (it gives '{name}')")
    if not isinstance(content, dict) or "format" not in content:
        raise _damaged(path, "not a leaderboard entry")
    if content["format"] not in (1, FORMAT):
        raise CheckpointError(
            f"{path}: entry format {content['format']!r}; this version of ups reads 1 to {FORMAT}",
            hint="install a newer ups",
        )
    try:
        return _parsed(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"not a leaderboard entry: {where}: {first['msg']}") from error
    except ValueError as error:
        raise _damaged(path, str(error)) from error


def load_all(folder: Path) -> list[Entry]:
    """Every entry of a folder, superseded ones too, oldest first; none if there is no folder.

    Raises:
        CheckpointError: At least one file is damaged; all of them are named.
    """
    found, errors = read_folder(folder)
    if errors:
        raise CheckpointError("\n".join(map(str, errors)), hint=errors[0].hint)
    return found


def read_folder(folder: Path) -> tuple[list[Entry], list[UpsError]]:
    """The sound entries of a folder, oldest first, and what is wrong with the others."""
    found, errors = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(load(path))
        except UpsError as error:
            errors.append(error)
    return sorted(found, key=lambda entry: (entry.created, entry.id)), errors


def superseded(entries: Iterable[Entry]) -> dict[str, Entry]:
    """The id of each entry that was corrected -> the entry that corrects it."""
    return {one.supersedes.entry: one for one in entries if one.supersedes}


def current(entries: Sequence[Entry]) -> list[Entry]:
    """Without the entries that others supersede."""
    gone = superseded(entries)
    return [entry for entry in entries if entry.id not in gone]


def find(entries: Iterable[Entry], wanted: str) -> Entry:
    """The entry whose id begins so.

    Raises:
        UsageError: None does, or several do.
    """
    known = {entry.id: entry for entry in entries}
    found = [key for key in known if wanted and key.startswith(wanted)]
    if len(found) == 1:
        return known[found[0]]
    if not found:
        raise UsageError(
            f"{wanted}: no such entry{did_you_mean(wanted, known)}",
            hint="their ids: ups leaderboard show --all",
        )
    raise UsageError(f"{wanted}: {len(found)} entries begin so: {', '.join(found)}")


def recipe_of(run: Mapping[str, Any]) -> str:
    """What two seeds of one config have in common, as a hash; empty without a config."""
    text = run.get("config")
    if not isinstance(text, str):
        return ""
    content = yaml.load(text, Loader=_LOADER)
    if not isinstance(content, dict):
        return ""
    kept = {key: value for key, value in content.items() if key not in _NOT_THE_RECIPE}
    return files.sha256_json(kept)[:16]


def _to_supersede(wanted: str, reason: str, report: Report, folder: Path) -> Supersedes:
    if not reason.strip():
        raise UsageError("an entry is superseded for a reason", hint='--reason "..."')
    known = load_all(folder)
    old = find(known, wanted)
    if (by := superseded(known).get(old.id)) is not None:
        raise UsageError(f"{old.id}: superseded already, by {by.id}", hint=f"--supersedes {by.id}")
    if old.id == Entry.of(report, old.supersedes).id:
        raise UsageError(f"{old.id}: is this very report", hint="judge the run again: ups eval")
    return Supersedes(old.id, reason.strip())


def _content(report: Report, supersedes: Supersedes | None) -> dict[str, Any]:
    """What the file says: the report without spectra, long curves and the command's arguments."""
    told = report.to_dict()
    environment = {key: part for key, part in told["environment"].items() if key != "command"}
    sections = {key: part for key, part in told["sections"].items() if key not in _LEFT_OUT}
    return {
        "format": FORMAT,
        "created": told["created"],
        "supersedes": asdict(supersedes) if supersedes else None,
        "recipe": recipe_of(told["run"]),
        "run": told["run"],
        "protocol_name": told["protocol_name"],
        "protocol": told["protocol"],
        "gates": told["gates"],
        "sections": {
            key: part if key in _WHOLE else _without_curves(part) for key, part in sections.items()
        },
        "environment": environment,
        "trajectories": told["trajectories"],
        "rows": [_shortened(row) for row in told["rows"]],
    }


def _shortened(row: dict[str, Any]) -> dict[str, Any]:
    """Curves and the values of trajectories with fewer digits: they are many."""
    curves = {key: {name: [_short(value) for value in values] for name, values in row[key].items()}
              for key in ("per_step", "per_trajectory")}  # fmt: skip
    return row | curves


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def _without_curves(value: Any) -> Any:
    """Plain JSON values without the keys whose values are long lists."""
    if isinstance(value, dict):
        return {
            key: _without_curves(part) for key, part in value.items()
            if not (isinstance(part, list) and len(part) > _LONGEST)
        }  # fmt: skip
    return [_without_curves(part) for part in value] if isinstance(value, list) else value


def _text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and for each row."""
    lines = []
    for key, value in content.items():
        text = json.dumps(value, allow_nan=False)
        if key == "rows":
            text = "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in value) + "\n]"
        lines.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _parsed(content: Mapping[str, Any]) -> Entry:
    """An entry from a file's content.

    Raises:
        ValueError: It is not one, or its protocol does not match its id.
    """
    told = {**content, "id": _name(content)}
    protocol = dict(told["protocol"]) if isinstance(told.get("protocol"), Mapping) else {}
    claimed = protocol.pop("id", None)
    told["protocol"] = protocol
    entry = TypeAdapter(Entry).validate_json(json.dumps(told), strict=True)
    if claimed != entry.protocol.id:
        raise ValueError(
            f"protocol: id '{claimed}' but the fields give '{entry.protocol.id}'; edited?"
        )
    return entry if entry.recipe else replace(entry, recipe=recipe_of(entry.run))


def _name(content: Any) -> str:
    return files.sha256_json(content)[:16]


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}",
        hint="delete the file and add its report again: ups leaderboard add <report.json>",
    )
