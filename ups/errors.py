"""Every error that `ups` raises on purpose, as one tree, with the exit code each one leaves with.

UpsError                    1   a failure without a better name below
├── UsageError              2   a wrong option, argument or config
│   └── ConfigError         2   a YAML file or `--set` that says something it may not
├── DataError               3   raw files, trajectory stores
├── CheckpointError         4   checkpoints and runs
│   └── CacheError          4   latent caches
├── GateError               5   everything ran, the result is not good enough
├── RemoteError             6   transfer and remote machines
└── MissingExtraError       7   an optional dependency is not installed

Exit code 0 is success, 1 with a traceback is a bug in `ups`, 8 is a run that was asked to leave its
machine (SIGTERM, SIGUSR1) and saved its state first, 130 is an interrupt (Ctrl-C).
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_PREEMPTED = 8
EXIT_INTERRUPTED = 130


class UpsError(Exception):
    """One sentence that says where and what is wrong, and almost always one that says what to do.

    Args:
        message: `<where>: <what>`, with the value found and the values allowed.
        hint: The command or edit that helps.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(UpsError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(UpsError):
    exit_code = 3


class CheckpointError(UpsError):
    exit_code = 4


class CacheError(CheckpointError):
    pass


class GateError(UpsError):
    exit_code = 5


class RemoteError(UpsError):
    exit_code = 6


class MissingExtraError(UpsError):
    exit_code = 7


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


_DISK_ERRORS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up",
                errno.EFBIG: "the file-size limit is reached"}  # fmt: skip


@contextmanager
def translated_os_errors(
    path: Path, doing: str, family: type[UpsError] = DataError
) -> Iterator[None]:
    """Turn an `OSError` met while `doing` something to `path` into one clear line.

    h5py reports a full disk as an `OSError` or `RuntimeError` whose text holds the errno.
    """
    try:
        yield
    except PermissionError as error:
        where = error.filename or path
        raise family(
            f"{where}: no permission for {doing}", hint=f"check with: ls -ld '{where}'"
        ) from error
    except (OSError, RuntimeError) as error:
        reason = _disk_reason(error)
        if reason is None:
            if isinstance(error, RuntimeError):
                raise
            raise family(f"{path}: {doing} failed: {_one_line(error)}") from error
        raise family(
            f"{path}: {doing} failed: {reason}",
            hint=f"free some space (df -h '{path.parent}') or set UPS_HOME to a larger disk",
        ) from error


def _disk_reason(error: BaseException) -> str | None:
    number = getattr(error, "errno", None)
    if number in _DISK_ERRORS:
        return _DISK_ERRORS[number]
    text = str(error)
    for code, reason in _DISK_ERRORS.items():
        if f"errno = {code}," in text:
            return reason
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
