"""Error against cost: what each result took to train, how large it is, how fast it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ups.leaderboard import wording
from ups.leaderboard.lines import HEADLINE, PERSISTENCE, TRIVIAL, Line
from ups.leaderboard.svg import Axis, Point, legend, scatter
from ups.leaderboard.table import Ranking
from ups.leaderboard.wording import digits

_COSTS: tuple[
    tuple[str, Callable[[Line], int | float | None], Callable[[int | float], str]], ...
] = (
    ("training time", lambda line: line.train_hours, wording.hours),
    ("parameters", lambda line: line.num_parameters, lambda value: wording.count(round(value))),
    (
        "time of one step",
        lambda line: line.latency_seconds or line.seconds_per_step,
        wording.milliseconds,
    ),
)


def plots(ranking: Ranking) -> Iterator[str]:
    """Figures with a legend, for what has a number for both; nothing where there is none."""
    lines = [line for line in ranking.lines if line.kind != TRIVIAL and not line.unranked]
    kinds = sorted({_kind(line) for line in lines})
    level = next((
        (PERSISTENCE, line.value) for line in ranking.lines
        if line.row == PERSISTENCE and line.value
    ), None)  # fmt: skip
    metric = wording.metric_name(ranking.measure.metric)
    error = Axis(f"{metric} ({ranking.measure.statistic})", lambda value: digits(value, 1))
    drawn = []
    for name, cost, said in _COSTS:
        points = [one for line in lines if (one := _point(line, cost(line), said))]
        if points:
            picture = scatter(points, Axis(name, said), error, kinds, level)
            drawn.append(f"<figure>{picture}</figure>")
    if drawn:
        notes = "Numbers are ranks, bars 95 % intervals; both axes are logarithmic."
        if any(line.train_device == "cpu" for line in lines):
            notes += " Hollow marks: trained on a CPU."
        if metric == wording.metric_name(HEADLINE):
            notes += " Dashed: nothing below and left of it."
        yield "<h3>Error against cost</h3>"
        yield f'{legend(kinds)}<div class="plots">{"".join(drawn)}</div>'
        yield f'<p class="quiet">{notes}</p>'


def _point(
    line: Line, cost: int | float | None, said: Callable[[int | float], str]
) -> Point | None:
    if not cost or not line.value or cost < 0 or line.value < 0:
        return None  # not on a logarithmic axis
    return Point(
        x=float(cost),
        y=line.value,
        label=str(line.rank),
        title=f"{line.label}: {digits(line.value, 3)} at {said(cost)}",
        kind=_kind(line),
        low=line.low,
        high=line.high,
        hollow=line.train_device == "cpu",
    )


def _kind(line: Line) -> str:
    return line.model or line.run
