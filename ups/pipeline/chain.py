"""`ups pipeline`: from a config to a champion, resumable at every step.

`UPS_HOME/pipelines/<name>-<hash>/state.json` says which steps are done and what they left behind;
the hash is of the config, the benchmark and where data come from. A finished step is not believed:
its data, checkpoint or report is looked at, and made again where it is gone or has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ups import files, paths, runs
from ups.config.loading import load_experiment, to_yaml
from ups.config.schema import Experiment, TaskConfig
from ups.errors import CheckpointError, UsageError, did_you_mean
from ups.evaluation.context import open_context
from ups.evaluation.gates import Gate, failed
from ups.evaluation.report import OWN, Report
from ups.pipeline.champion import load_throne
from ups.pipeline.contest import Candidate, Place, candidate_at, evaluate_fully, places_of
from ups.pipeline.judge import judge
from ups.pipeline.parts import (
    Progress,
    Step,
    Teller,
    checkpoint_of,
    enter,
    present_reports,
    trained,
)
from ups.pipeline.promote import Promotion, promote, small_gates
from ups.pipeline.rules import Benchmark, BenchmarkTask, find_benchmark
from ups.pipeline.sources import DataSource, Store, found_here, provide
from ups.registry import load_card
from ups.training.distributed import local_device

STEPS = ("data", "train", "small-eval", "full-eval", "promote")
"""What `--from` may name. Caches belong to 'train', the gate of the small evaluation to it."""
FORMAT = 1


@dataclass
class Outcome:
    """How far a pipeline came.

    Attributes:
        failed: Gates that said no; the pipeline ended there.
        promotion: None without a benchmark, or where it did not come so far.
    """

    folder: Path
    run: Path | None = None
    reports: list[Report] = field(default_factory=list)
    failed: list[Gate] = field(default_factory=list)
    promotion: Promotion | None = None
    steps: list[Step] = field(default_factory=list)


@dataclass
class State:
    """What is done, in a file that is replaced as a whole after every step.

    Attributes:
        done: Step -> what it left behind.
        without: Runs that `--from train` set aside.
    """

    path: Path
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> State:
        """The state of a pipeline; empty before its first step, or where the file is damaged.

        Nothing depends on it but time: every step looks at what it left behind.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                return cls(path)
            return cls(path, dict(content["done"]), list(content["without"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path)

    def finish(self, step: str, **left: Any) -> None:
        """Note that a step is done."""
        self.done[step] = left
        self.save()

    def save(self) -> None:
        content = {"format": FORMAT, "done": self.done, "without": self.without}
        files.write_json(self.path, content, CheckpointError)


@dataclass(frozen=True)
class Chain:
    """A pipeline that can be planned and run.

    Attributes:
        rules: Of the benchmark; None judges by the config's gates alone.
    """

    experiment: Experiment
    rules: Benchmark | None
    source: DataSource
    folder: Path

    @classmethod
    def of(
        cls,
        config: str,
        overrides: Sequence[str] = (),
        *,
        benchmark: str | None = None,
        source: DataSource | None = None,
    ) -> Chain:
        """Read and check everything that is asked for.

        Raises:
            ConfigError, UsageError: Config, benchmark or device cannot be used.
        """
        experiment = load_experiment(config, overrides)
        rules = find_benchmark(benchmark) if benchmark else None
        for task in experiment.data.tasks:
            load_card(task.dataset)
        if rules is not None:
            _check_tasks(experiment, rules)
        local_device(experiment.device)
        source = source or DataSource()
        asked = [to_yaml(experiment), rules and rules.model_dump(mode="json"), asdict(source)]
        name = f"{experiment.name}-{files.sha256_json(asked)[:8]}"
        return cls(experiment, rules, source, paths.home() / "pipelines" / name)

    @property
    def state(self) -> State:
        return State.load(self.folder / "state.json")

    def run(
        self,
        *,
        start: str | None = None,
        reason: str = "",
        progress: Progress | None = None,
        told: Callable[[Step], None] | None = None,
    ) -> Outcome:
        """Do what is not done.

        Args:
            start: Do this step and those after it again, whatever is there.
            reason: For the history of champions.
            told: Called after each part of a step.
        Raises:
            UpsError: The first thing that went wrong; a second call goes on from there.
        """
        check_step(start)
        state_path = self.folder / "state.json"
        with files.exclusive(state_path, "running this pipeline", CheckpointError):
            working = _Working(self, self.state, Teller(progress, told))
            working.begin(start)
            return working.to_the_end(reason)


def check_step(start: str | None) -> None:
    """Refuse a step that there is not."""
    if start is not None and start not in STEPS:
        raise UsageError(
            f"--from {start}: no such step{did_you_mean(start, STEPS)}", hint=f"{', '.join(STEPS)}"
        )


def _check_tasks(experiment: Experiment, rules: Benchmark) -> None:
    trained_on = {task.dataset for task in experiment.data.tasks}
    for task in rules.tasks:
        if task.dataset not in trained_on:
            raise UsageError(
                f"benchmark '{rules.name}' is of {task.dataset}, the config trains on "
                f"{', '.join(sorted(trained_on))}"
            )


class _Working:
    """The steps in order; each looks first whether its result is there."""

    def __init__(self, chain: Chain, state: State, teller: Teller) -> None:
        self.chain, self.state, self.teller = chain, state, teller
        self.again: set[str] = set()
        self.device: torch.device = local_device(chain.experiment.device)

    def begin(self, start: str | None) -> None:
        """Forget the steps that are to be done again."""
        if start is not None:
            self.again = set(STEPS[STEPS.index(start) :])
            self.state.done = {k: v for k, v in self.state.done.items() if k not in self.again}
            if "train" in self.again:
                known = runs.list_runs(self.chain.experiment.name)
                self.state.without = [runs.run_id(run) for run in known]
        self.state.save()
        self.teller.tell("validate", self.chain, reused=False)

    def to_the_end(self, reason: str) -> Outcome:
        outcome = Outcome(self.chain.folder, steps=self.teller.steps)
        run = outcome.run = self.train(self.data())
        outcome.failed = failed(self.small(run))
        if outcome.failed:
            return outcome
        rules = self.chain.rules
        if rules is None:
            outcome.reports = self.full_by_config(run)
            outcome.failed = [gate for one in outcome.reports for gate in failed(one.gates)]
            return outcome
        outcome.reports = [one.report for one in self.full(run, rules)]
        outcome.promotion = self.promote(run, rules, reason)
        outcome.failed = outcome.promotion.failed
        return outcome

    def data(self) -> Experiment:
        """Every task's data; the config with the versions that were found or made."""
        known, left, tasks = self.state.done.get("data", {}), {}, []
        experiment = self.chain.experiment
        for task in experiment.data.tasks:
            pinned = task
            if task.key in known:
                pinned = task.model_copy(update={"version": known[task.key]["version"]})
            again = "data" in self.again
            chosen = pinned if not again and found_here(pinned) else task
            store = provide(chosen, self.chain.source, self.teller, again=again)
            left[task.key] = _identity(store)
            tasks.append(task.model_copy(update={"version": store.metadata.version}))
        self.state.finish("data", **left)
        return with_tasks(experiment, tasks)

    def train(self, experiment: Experiment) -> Path:
        """Codec, caches and models in one run."""
        known = self.state.done.get("train")
        if known is not None and is_there(known) and known["data"] == self.state.done["data"]:
            run = paths.runs_dir() / known["run"]
            self.teller.tell("train", run, reused=True)
            return run
        run = trained(experiment, self.teller, without=self.state.without)
        self.state.finish(
            "train", run=runs.run_id(run), checkpoint=checkpoint_of(run),
            data=self.state.done["data"],
        )  # fmt: skip
        return run

    def small(self, run: Path) -> list[Gate]:
        """The small evaluation and its gate; not again for the same run and champion."""
        rules = self.chain.rules
        champion = load_throne(rules.name).champion if rules else None
        asked = {
            "checkpoint": checkpoint_of(run),
            "champion": champion.checkpoint_sha256 if champion else None,
        }
        known = self.state.done.get("small-eval", {})
        same_run = known.get("checkpoint") == asked["checkpoint"]
        if same_run and asked["champion"] in (known["champion"], asked["checkpoint"]):
            gates = [Gate(**gate) for gate in known["gates"]]
            self.teller.tell("gate", gates, reused=True)
            return gates
        places = places_of(run, rules, self.device) if rules else _own_places(run, self.device)
        gates = small_gates(run, places, rules or _NO_BENCHMARK, champion, self.teller.progress)
        self.teller.tell("small eval", gates, reused=False)
        self.state.finish("small-eval", **asked, gates=[vars(gate) for gate in gates])
        self.teller.tell("gate", gates, reused=False)
        return gates

    def full(self, run: Path, rules: Benchmark) -> list[Candidate]:
        """Reports under every protocol of the benchmark, and their entries."""
        found, again = [], "full-eval" in self.again
        for place in places_of(run, rules, self.device):
            known = None if again else candidate_at(run, place)
            one = known or evaluate_fully(run, place, self.teller.progress)
            self.teller.tell("full eval", one.report, reused=known is not None)
            enter(one.path, self.teller)
            found.append(one)
        self.state.finish("full-eval", reports=[one.path.name for one in found])
        return found

    def full_by_config(self, run: Path) -> list[Report]:
        """Reports of every task under the config's own protocol and those beside it."""
        tasks = {task.key for task in runs.run_experiment_of(run).data.tasks}
        found = _own_reports(run)
        reused = "full-eval" not in self.again and len(found) == len(tasks)
        if not reused:
            judge(run, device=self.device, progress=self.teller.progress)
            found = _own_reports(run)
        for path, report in found:
            self.teller.tell("full eval", report, reused=reused)
            enter(path, self.teller)
        self.state.finish("full-eval", reports=[path.name for path, _ in found])
        return [report for _, report in found]

    def promote(self, run: Path, rules: Benchmark, reason: str) -> Promotion:
        result = promote(run, rules, reason=reason, device=self.device)
        self.teller.tell("promote", result, reused=result.outcome == "champion already")
        self.state.finish("promote", outcome=result.outcome, checkpoint=checkpoint_of(run))
        return result


_NO_BENCHMARK = Benchmark(name="none", tasks=(BenchmarkTask(dataset="none"),))
"""The rules of a small evaluation without a benchmark: be better than the trivial predictor."""


def _own_places(run: Path, device: torch.device) -> list[Place]:
    """Every task of a run under the config's own protocol."""
    return [
        Place(f"{task.key}, {OWN}", task.key, OWN, None,
              open_context(run, task=task.key, device=device))
        for task in runs.run_experiment_of(run).data.tasks
    ]  # fmt: skip


def _own_reports(run: Path) -> list[tuple[Path, Report]]:
    return [(p, report) for p, report in present_reports(run) if report.protocol_name == OWN]


def _identity(store: Store) -> dict[str, str]:
    meta = store.metadata
    return {"version": meta.version, "data_sha256": meta.data_sha256, "split_hash": meta.split_hash}


def is_there(known: dict[str, Any]) -> bool:
    """Whether a recorded run still holds the recorded weights."""
    run = paths.runs_dir() / known["run"]
    try:
        return checkpoint_of(run) == known["checkpoint"]
    except (CheckpointError, OSError):
        return False


def with_tasks(experiment: Experiment, tasks: Sequence[TaskConfig]) -> Experiment:
    """The experiment with the versions of these tasks."""
    data = experiment.data
    if data.dataset is None:
        data = data.model_copy(update={"task": tuple(tasks)})
    else:
        data = data.model_copy(update={"version": tasks[0].version})
    return experiment.model_copy(update={"data": data})
