"""`ups quickstart`: the whole path, once, on generated data."""

from __future__ import annotations

from typing import Any

from ups import paths
from ups.cli import _output
from ups.errors import GateError


def quickstart() -> None:
    """From nothing to a leaderboard entry on 1D Burgers: no account, download or GPU needed.

    Generates trajectories, converts, audits, trains codec and operator, evaluates by rollout in
    physical space, enters the leaderboard and writes a report with pictures. A second call reuses
    what is unchanged.
    """
    from ups.cli._eval_text import print_report
    from ups.pipeline.quickstart import quickstart as run

    with _output.Bars() as bars:

        def told(step: Any) -> None:
            bars.close(step.name)
            _output.summary(step.name, describe(step))

        result = run(progress=bars, told=told)
    print_report(result.report)
    _output.summary("report", paths.display(result.page))
    _output.summary("total", _output.duration(sum(step.seconds for step in result.steps)))
    if result.failed_gates:
        raise GateError(
            "; ".join(gate.detail for gate in result.failed_gates),
            hint=f"the report: {paths.display(result.page)}",
        )


def describe(step: Any) -> str:
    """One line for a finished part."""
    text = _describe(step.name, step.outcome)
    if step.reused and not text.startswith("unchanged"):
        return f"unchanged, reused: {text}"
    return text if step.reused else f"{text} [dim]({_output.duration(step.seconds)})[/dim]"


def _describe(name: str, outcome: Any) -> str:
    from ups.cli.data_convert import describe_conversion
    from ups.cli.train import describe as describe_stage

    match name:
        case "generate":
            return f"raw trajectories -> {paths.display(outcome)}"
        case "convert":
            return describe_conversion(outcome)
        case "audit":
            passed = sum(finding.verdict == "ok" for finding in outcome)
            warned = [finding.check for finding in outcome if finding.verdict == "warn"]
            return f"{passed} checks ok" + (f", warnings: {', '.join(warned)}" if warned else "")
        case "train":
            return paths.display(outcome)
        case "eval":
            return f"{outcome.protocol.num_trajectories} unseen trajectories, rollout nRMSE " + (
                f"{outcome.headline:.4f}" if outcome.headline is not None else "not finite"
            )
        case "entry":
            return f"leaderboard {paths.display(outcome)}"
        case _:
            return describe_stage(outcome)
