"""A job, from its specification to its exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ups import paths, runs
from ups.config.loading import load_experiment
from ups.errors import GateError, RemoteError, UpsError
from ups.remote.agent.checks import Needs, launcher, preflight
from ups.remote.agent.pushing import Pusher
from ups.remote.agent.steps import Limits, Outcome, Steps
from ups.remote.agent.telling import Reporter
from ups.remote.bundle import CONFIG
from ups.remote.spec import EXIT_PREFLIGHT, JobSpec
from ups.transfer import remotes
from ups.transfer.artefacts import list_artefacts
from ups.transfer.remotes import find_remote

_LEAST_PUSH_S = 10.0
_LONGEST_PUSH_S = 24 * 3600.0
_REMOTES = "remotes.yaml"


class Job:
    """The steps of a job on this machine.

    Args:
        folder: Where the bundle was unpacked.
        limits: What ends it before its time.
    """

    def __init__(self, spec: JobSpec, folder: Path, limits: Limits, reporter: Reporter) -> None:
        self.spec, self._folder = spec, folder
        self._limits, self._reporter = limits, reporter
        self._steps = Steps(folder, limits, reporter)
        self._config = folder / CONFIG
        self._run = f"{spec.task.run_name}/{spec.task.run_id}"
        self._run_folder = paths.runs_dir() / spec.task.run_name / spec.task.run_id
        self._missed: Outcome | None = None

    def do(self) -> Outcome:
        """Do everything; whatever fails, what there is of the run is pushed.

        Returns:
            Of the first step that failed; a missed gate counts when all else is done.
        """
        failed = next((found for found in self._in_order() if not found.ok), None)
        if failed is not None and failed.code == EXIT_PREFLIGHT:
            return failed
        pushed = self._push_results(failed)
        return failed or (pushed if not pushed.ok else self._missed or Outcome(0))

    def _in_order(self) -> Iterator[Outcome]:
        """The steps, each when it is asked for."""
        self._reporter.step("preflight")
        try:
            needs = Needs(self.spec, load_experiment(self._config))
            yield _of_preflight(preflight(needs, self._steps))
            self._reporter.step("fetch")
            yield from self._fetch(needs)
        except UpsError as error:
            yield _of_preflight(Outcome(error.exit_code, reason=str(error)))
            return
        self._reporter.step("train")
        yield self._train(needs)
        if self.spec.task.evaluate:
            self._reporter.step("evaluate")
            yield self._evaluate()
            if self.spec.task.leaderboard:
                yield self._steps.ups("leaderboard", ["leaderboard", "add", self._run])

    def _fetch(self, needs: Needs) -> Iterator[Outcome]:
        """Bring data or tokens that are not here, and the run where another machine began it."""
        if self.spec.remote is None:
            return
        for task in needs.missing():
            if not needs.on_tokens:  # tokens are brought by the training itself
                yield self._steps.ups("data pull", needs.pull(task))
        if (self._run_folder / runs.CONFIG).is_file():
            self._reporter.event("resumed", run=self._run)
        elif list_artefacts("run", find_remote(self.spec.remote), self._run):
            pull = ["runs", "pull", self._run, "--from", self.spec.remote]
            yield self._steps.ups("runs pull", pull)
            self._reporter.event("resumed", run=self._run)

    def _train(self, needs: Needs) -> Outcome:
        task, before = self.spec.task, launcher()
        arguments = ["train", "--config", str(self._config), "--run-id", task.run_id]
        if task.stages:
            arguments += ["--set", f"stages.order=[{', '.join(task.stages)}]"]
        if self.spec.remote and needs.on_tokens:
            arguments += ["--cache-from", self.spec.remote]
        if task.nproc > 1 and not before:
            arguments += ["--nproc", str(task.nproc)]
        if self.spec.remote is None:
            return self._steps.ups("training", arguments, launcher=before)
        pusher = Pusher(
            self._push_command(), self._run_folder / "checkpoints", self._reporter,
            every_s=60 * float(self.spec.push_minutes), limit_s=self._limits.hang_s,
        )  # fmt: skip
        try:
            return self._steps.ups("training", arguments, launcher=before, meanwhile=pusher.tick)
        finally:
            pusher.close()

    def _evaluate(self) -> Outcome:
        """A missed gate is a result: it is entered and pushed like any other."""
        found = self._steps.ups("evaluation", ["eval", self._run])
        if found.code == GateError.exit_code:
            self._missed = found
            return Outcome(0)
        return found

    def _push_results(self, failed: Outcome | None) -> Outcome:
        """The run as it is now, and after an evaluation the leaderboard."""
        if self.spec.remote is None or not (self._run_folder / runs.CONFIG).is_file():
            return Outcome(0)
        self._reporter.event("step", step="push")
        limit = min(max(self._limits.left_s() - 1.0, _LEAST_PUSH_S), _LONGEST_PUSH_S)
        pushed = self._steps.ups("push of the run", self._push_command(), limit_s=limit)
        if pushed.ok:
            self._reporter.event("pushed")
        if pushed.ok and failed is None and self.spec.task.evaluate and self.spec.task.leaderboard:
            command = ["leaderboard", "push", "--to", self.spec.remote]
            pushed = self._steps.ups("push of the leaderboard", command, limit_s=limit)
        if pushed.cause:  # only of this push: what ended the job has been said
            return Outcome(RemoteError.exit_code, reason="the last push did not end in time")
        return pushed

    def _push_command(self) -> list[str]:
        return ["runs", "push", self._run, "--to", str(self.spec.remote)]


def use_own_remotes(spec: JobSpec, folder: Path) -> JobSpec:
    """Give this process and its children the job's remote, and leave the machine's list alone.

    Returns:
        The job, with the remote's name as commands here understand it.
    Raises:
        ConfigError: Its settings do not make a remote.
    """
    if spec.remote is None or not spec.remote_settings:
        return spec
    os.environ["UPS_REMOTES_FILE"] = str(folder / _REMOTES)
    remote = remotes.make(spec.remote, **spec.remote_settings)
    if remote.is_wandb:
        name = f"wandb:{remote.folder}" if remote.folder else "wandb"
        return spec.model_copy(update={"remote": name})
    remotes.add(remote, default=True, replace_it=True)
    return spec


def _of_preflight(found: Outcome) -> Outcome:
    if found.ok or found.cause:
        return found
    return Outcome(EXIT_PREFLIGHT, reason=found.reason, output=found.output)
