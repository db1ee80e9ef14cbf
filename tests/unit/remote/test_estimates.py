"""Hours and money, from runs whose times are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_commands import ups

from ups import paths, runs
from ups.config.loading import load_experiment
from ups.config.schema import Experiment
from ups.remote import needs
from ups.remote.costs import budget
from ups.remote.engines import Engine
from ups.remote.estimates import estimate, known_speeds
from ups.remote.gpus import parse_gpu
from ups.remote.prepare import any_job
from ups.runs.speed import Speed, keys_of, speeds_of
from ups.transfer.remotes import find_remote
from ups.transfer.run_artefacts import push_run

STEPS = 100


def experiment(*changes: str) -> Experiment:
    return load_experiment("burgers1d", changes)


def trained(
    device: str, seconds_per_step: float, *changes: str, pause_s: float = 0.0, name: str = "old"
) -> Path:
    """A run whose operator took so long, with a validation's gap at each tenth step."""
    config = experiment(*changes).model_copy(update={"name": name})
    run = runs.create_run(config, stages=["operator"], device=device)
    with (run / runs.METRICS).open("w") as file:
        for step in range(0, STEPS + 1, 10):
            when = 1e9 + step * seconds_per_step + (pause_s if step > STEPS // 2 else 0.0)
            record = {"stage": "operator", "step": step, "loss": 0.1, "time": when}
            file.write(json.dumps(record) + "\n")
    return run


def operator_only(*changes: str) -> Experiment:
    return experiment("stages.operator.steps=3600", *changes)


def test_a_run_on_the_same_gpu_is_a_measurement(home: Path) -> None:
    run = trained("NVIDIA A100-SXM4-80GB", 0.5, "seed=3", "stages.operator.optimizer.lr=0.1")
    trained("cpu", 9.0)
    found = estimate(operator_only(), ["operator"], parse_gpu("A100"), known_speeds("x", None))
    assert found.hours == pytest.approx(0.5)
    assert found.quality == "measured"
    assert found.sources == [f"measured on NVIDIA A100-SXM4-80GB, run {runs.run_id(run)}"]


def test_a_run_on_another_gpu_is_scaled_by_their_peaks(home: Path) -> None:
    run = trained("NVIDIA A100-SXM4-80GB", 0.5)
    found = estimate(operator_only(), ["operator"], parse_gpu("H100"), known_speeds("x", None))
    assert found.hours == pytest.approx(0.5 * 312 / 989)
    assert found.quality == "rough"
    assert found.sources == [f"scaled from NVIDIA A100-SXM4-80GB, run {runs.run_id(run)}: rough"]


def test_a_run_on_other_data_is_rough_and_one_of_another_model_says_nothing(home: Path) -> None:
    trained("cpu", 0.5, "data.dataset=advection1d")
    trained("cpu", 0.1, "operator.width=32")
    known = known_speeds("x", None)
    found = estimate(operator_only(), ["operator"], parse_gpu("none"), known)
    assert found.hours == pytest.approx(0.5)
    assert found.sources[0].endswith("other data: rough")
    other = operator_only("operator.depth=7")
    assert estimate(other, ["operator"], parse_gpu("none"), known).hours is None


def test_one_unknown_stage_makes_the_hours_unknown(home: Path) -> None:
    trained("cpu", 0.5)
    known = known_speeds("x", None)
    found = estimate(operator_only(), ["codec", "operator"], parse_gpu("none"), known)
    assert (found.hours, found.quality) == (None, "unknown")
    assert found.stages[1].seconds == pytest.approx(1800)


def test_a_pause_of_a_run_does_not_count(home: Path) -> None:
    (speed,) = speeds_of(trained("cpu", 0.5, pause_s=86400.0))
    assert speed.seconds_per_step == pytest.approx(0.45)  # the gap with the pause is left out
    assert speed.steps == STEPS


def test_pushed_runs_of_the_same_name_tell_their_speed(home: Path, tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    remote = find_remote(str(tmp_path / "remote"))
    run = trained("NVIDIA L4", 0.25, name="told")
    push_run(run, remote)
    paths.runs_dir().rename(tmp_path / "gone")
    assert known_speeds("other", remote) == []
    (speed,) = known_speeds("told", remote)
    assert (speed.device, speed.seconds_per_step) == ("NVIDIA L4", pytest.approx(0.25))
    assert Speed.from_dict(speed.to_dict()) == speed


def test_keys_leave_out_what_does_not_decide_a_steps_cost() -> None:
    def keys(*changes: str) -> tuple[str, str]:
        return keys_of(experiment(*changes).model_dump(mode="json"), "operator")

    assert keys("seed=7", "name=other", "stages.operator.steps=9") == keys()
    assert keys("stages.codec.batch_size=8") == keys()
    assert keys("stages.operator.batch_size=8")[1] != keys()[1]
    assert keys("data.dataset=advection1d")[0] != keys()[0]
    assert keys("data.dataset=advection1d")[1] == keys()[1]


def test_a_plan_is_summed_and_what_is_unknown_is_named(home: Path) -> None:
    trained("NVIDIA A100-SXM4-80GB", 1.0)
    jobs = {
        "one": operator_only("stages.order=[operator]"),
        "other": operator_only("stages.order=[operator]", "operator.depth=7"),
    }
    found = budget(jobs, parse_gpu("A100:2"), 2.0, known_speeds("", None), {"one": 3})
    assert found.hours == pytest.approx(3.0)
    assert found.gpu_hours == pytest.approx(6.0)
    assert found.dollars == pytest.approx(6.0)
    assert found.unknown == ["other"]


def test_cost_of_all_datasets_and_of_a_sweep(home: Path, tmp_path: Path) -> None:
    trained("cpu", 0.5)
    found = json.loads(ups("remote", "cost", "--all-datasets", "--max-price", "2", "--json").output)
    assert {"burgers1d", "darcy2d", "era5_64x32"} <= {job["name"] for job in found["jobs"]}
    assert found["price"] == 2.0
    space = tmp_path / "space.yaml"
    space.write_text("parameters: {seed: {choice: [0, 1, 2]}}\nsampler: {kind: grid}\n")
    text = ups("remote", "cost", "--plan", str(space), "--set", "stages.order=[operator]",
               "--set", "stages.operator.steps=3600").stdout  # fmt: skip
    assert "in all    1.5 h, 0.0 GPU h: price unknown: --max-price" in text
    assert max(map(len, text.splitlines())) <= 80


def test_transfers_are_tokens_where_no_codec_is_trained(home: Path, tmp_path: Path) -> None:
    ups("data", "generate", "advection1d", "--num-trajectories", "4", "--points", "32",
        "--frames", "5", "--param", "beta=0.4")  # fmt: skip
    ups("data", "convert", "advection1d")
    remote = find_remote(str(tmp_path / "remote"))
    ups("data", "push", "advection1d", "--to", str(tmp_path / "remote"))
    config = experiment("data.dataset=advection1d")
    spec = any_job(Engine("ssh", {}), "none")
    bundle, data = needs.transfers(spec, config, remote)
    assert (bundle.what, data.what, data.problem) == ("bundle", "data", "")
    assert data.size is not None
    assert data.size > 4 * 5 * 32 * 4
    tokens = spec.model_copy(
        update={"task": spec.task.model_copy(update={"stages": ("operator",)})}
    )
    (_, cache) = needs.transfers(tokens, config, remote)
    assert cache.size is None
    assert "ups cache push advection1d" in cache.problem
