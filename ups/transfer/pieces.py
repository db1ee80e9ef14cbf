"""Runs of bytes of an artefact's files: where they are in its objects, and what came of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ups.errors import RemoteError
from ups.transfer.manifest import Manifest, Piece
from ups.transfer.ranges import LARGEST_READ, Span


@dataclass(frozen=True)
class Run:
    """A run of bytes of a file of an artefact."""

    path: str
    offset: int
    size: int


class Pieces:
    """Finds runs of bytes of an artefact's files in its objects."""

    def __init__(self, manifest: Manifest) -> None:
        found: dict[str, list[tuple[int, str, Piece]]] = {}
        for item in manifest.objects:
            for piece in item.pieces:
                found.setdefault(piece.path, []).append((piece.offset, item.sha256, piece))
        self._of = {path: sorted(pieces, key=lambda p: p[0]) for path, pieces in found.items()}
        self._place = manifest.place

    def spans(self, run: Run) -> Iterator[tuple[Span, Run]]:
        """The spans of objects that make up a run, none long, each with the run that it is.

        Raises:
            RemoteError: The artefact does not hold all of it.
        """
        pieces, at, end = self._of.get(run.path, []), run.offset, run.offset + run.size
        index = bisect_right(pieces, at, key=lambda piece: piece[0]) - 1
        while at < end:
            if not 0 <= index < len(pieces) or not pieces[index][2].offset <= at:
                raise self._absent(run)
            _, name, piece = pieces[index]
            stop = min(end, piece.offset + piece.size)
            if stop <= at:
                raise self._absent(run)
            for start in range(at, stop, LARGEST_READ):
                size = min(LARGEST_READ, stop - start)
                yield (
                    Span(name, piece.at + start - piece.offset, size),
                    Run(run.path, start, size),
                )
            at, index = stop, index + 1

    def objects(self, runs: Iterable[Run]) -> list[str]:
        """Names of the objects that hold these runs."""
        return list(dict.fromkeys(span.name for run in runs for span, _ in self.spans(run)))

    def _absent(self, run: Run) -> RemoteError:
        return RemoteError(
            f"{self._place}: does not hold bytes {run.offset} to {run.offset + run.size} of "
            f"{run.path}",
            hint="ups data push pushes a whole version",
        )


class Arrived:
    """Runs of bytes in memory, and any run inside them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = sorted(runs, key=lambda run: (run.path, run.offset))
        self._keys = [(run.path, run.offset) for run in self._runs]
        self._content = [bytearray(run.size) for run in self._runs]

    def put(self, run: Run, content: bytes) -> None:
        self._view(run)[:] = content

    def get(self, run: Run) -> memoryview:
        return self._view(run)

    def items(self) -> Iterator[tuple[Run, bytearray]]:
        return zip(self._runs, self._content, strict=True)

    def _view(self, run: Run) -> memoryview:
        index = bisect_right(self._keys, (run.path, run.offset)) - 1
        start = run.offset - self._runs[index].offset
        return memoryview(self._content[index])[start : start + run.size]


def merged(runs: Iterable[Run]) -> list[Run]:
    """Runs of the same file that touch or overlap as one."""
    found: list[Run] = []
    for run in sorted(set(runs), key=lambda run: (run.path, run.offset)):
        last = found[-1] if found else None
        if last is None or last.path != run.path or run.offset > last.offset + last.size:
            found.append(run)
        else:
            end = max(last.offset + last.size, run.offset + run.size)
            found[-1] = Run(last.path, last.offset, end - last.offset)
    return found
