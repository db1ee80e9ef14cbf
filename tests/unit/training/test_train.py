"""Both stages end to end on 32 points of advection: repeatable, resumable, and loud when wrong."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from ups import checkpoint as checkpoints
from ups import paths, runs
from ups.config.loading import merged
from ups.config.schema import Experiment
from ups.errors import CheckpointError, DataError, GateError, UsageError
from ups.training import run as training
from ups.training.cache_source import CacheUse
from ups.training.loop import InterruptedRunError
from ups.training.losses import relative_l2
from ups.training.stages import codec as codec_module

GOLDEN = Path(__file__).with_name("golden_losses.json")
STAGE = {
    "batch_size": 8, "log_every": 1, "validate_every": 3, "checkpoint_every": 4,
    "schedule": {"warmup_steps": 2},
}  # fmt: skip
TINY = {
    "name": "tiny",
    "device": "cpu",
    "threads": 1,
    "data": {"dataset": "advection1d", "version": "tiny"},
    "codec": {"patch_size": 8, "width": 8, "depth": 1},
    "operator": {"width": 16, "depth": 1},
    "stages": {
        "codec": STAGE | {"steps": 5, "optimizer": {"kind": "adamw", "lr": 1e-2}},
        "operator": STAGE | {"steps": 10, "optimizer": {"kind": "muon_hybrid", "lr": 1e-2}},
    },
}


@pytest.fixture(autouse=True)
def _data(store):
    """All of it is trained on the store `advection1d/tiny`."""


def tiny(**changes):
    return Experiment.model_validate(merged(TINY, changes))


def losses_of(run, stage, key="loss"):
    records = runs.read_metrics(run / runs.METRICS)
    return [record[key] for record in records if record["stage"] == stage and key in record]


def newest_but(known):
    """The run that is not `known`."""
    (other,) = set(runs.list_runs()) - {known}
    return other


def stop_after(stage, step):
    """A progress callback that presses Ctrl-C."""

    def progress(what, done, total, note):
        if (what, done) == (stage, step):
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def assert_same(one, two):
    """Equal tensors and values, however deep."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        assert one == two


def weights(run, stage, *, last=False):
    path = runs.checkpoint_path(run, f"{stage}-last" if last else stage)
    return torch.load(path, weights_only=True)


def state_of(content, stage):
    """Weights of the codec or the operator in a checkpoint's content."""
    module = content["codecs"]["advection1d"] if stage == "codec" else content["modules"][stage]
    return module["state"]


def test_training_again_gives_the_same_losses_and_weights():
    one, two = training.train(tiny()), training.train(tiny())
    assert one != two
    assert runs.read_metrics(one / runs.METRICS) == runs.read_metrics(two / runs.METRICS)
    for stage in ("codec", "operator"):
        assert_same(weights(one, stage, last=True)["training"],
                    weights(two, stage, last=True)["training"])  # fmt: skip


def test_another_seed_gives_other_losses():
    one, two = training.train(tiny()), training.train(tiny(seed=1))
    assert losses_of(one, "codec") != losses_of(two, "codec")
    assert losses_of(one, "operator") != losses_of(two, "operator")


def test_training_lowers_the_loss_and_chooses_the_best_validation():
    changes = {"stages": {"operator": {"steps": 120, "validate_every": 20, "log_every": 5}}}
    run = training.train(tiny(**changes))
    losses = losses_of(run, "operator")
    assert losses[-1] < losses[0] / 3
    valid = losses_of(run, "operator", "valid_nrmse")
    best = checkpoints.load(runs.checkpoint_path(run, "operator"))
    assert best.metrics["valid_nrmse"] == min(valid)
    assert min(valid) < valid[0]


@pytest.mark.parametrize(
    ("stage", "step"), [("codec", 2), ("codec", 5), ("operator", 3), ("operator", 4)]
)
@pytest.mark.parametrize("ema_decay", [0.0, 0.7])
def test_an_interrupted_run_resumes_to_the_uninterrupted_one(stage, step, ema_decay):
    changes = {"stages": {name: {"ema_decay": ema_decay} for name in ("codec", "operator")}}
    whole = training.train(tiny(**changes))
    with pytest.raises(InterruptedRunError, match="interrupted at step") as caught:
        training.train(tiny(**changes), progress=stop_after(stage, step))
    assert caught.value.exit_code == 130
    run = newest_but(whole)
    assert caught.value.hint == f"ups train --resume {runs.run_id(run)}"
    saved = checkpoints.load(runs.checkpoint_path(run, f"{stage}-last"))
    assert f"at step {saved.step} of" in str(caught.value)
    assert saved.step >= step

    assert training.resume(run) == run
    assert runs.read_metrics(run / runs.METRICS) == runs.read_metrics(whole / runs.METRICS)
    for name in ("codec", "operator"):
        for last in (True, False):
            found, expected = (weights(folder, name, last=last) for folder in (run, whole))
            assert_same(found, expected)


def test_a_run_killed_between_checkpoints_resumes_to_the_uninterrupted_one():
    class Killed(BaseException):
        pass

    def kill(what, done, total, note):
        if (what, done) == ("operator", 7):
            raise Killed

    whole = training.train(tiny())
    with pytest.raises(Killed):
        training.train(tiny(), progress=kill)
    run = newest_but(whole)
    assert losses_of(run, "operator") == losses_of(whole, "operator")[:7]
    training.resume(run)
    assert runs.read_metrics(run / runs.METRICS) == runs.read_metrics(whole / runs.METRICS)
    assert_same(weights(run, "operator", last=True), weights(whole, "operator", last=True))


def test_resuming_a_finished_run_changes_nothing():
    run = training.train(tiny())
    before = (run / runs.METRICS).read_text()
    training.resume(run)
    assert (run / runs.METRICS).read_text() == before


def test_an_interrupt_after_the_last_step_still_stops_before_the_next_stage():
    with pytest.raises(InterruptedRunError):
        training.train(tiny(), progress=stop_after("codec", 5))
    run = runs.list_runs()[0]
    assert runs.checkpoint_path(run, "codec").is_file()
    assert losses_of(run, "operator") == []


def test_ctrl_c_has_its_usual_meaning_after_training():
    before = signal.getsignal(signal.SIGINT)
    training.train(tiny(), ["codec"])
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("stage", ["codec", "operator"])
def test_micro_batches_add_up_to_the_batch(stage):
    whole = training.train(tiny())
    parts = training.train(tiny(stages={stage: {"accumulate": 4}}))
    for key in ("loss", "grad_norm"):
        found, expected = (losses_of(run, stage, key) for run in (parts, whole))
        assert found[:4] == pytest.approx(expected[:4], rel=1e-3)


def test_averaged_weights_are_what_is_saved(monkeypatch):
    """With a constant rate the weights after step n do not depend on how many steps follow."""
    constant = {"schedule": {"kind": "constant", "warmup_steps": 0}, "ema_decay": 0.5}
    better = iter(range(100, 0, -1))
    monkeypatch.setattr(
        codec_module.CodecStage,
        "validate",
        lambda stage: {"valid_nrmse": float(next(better)), "valid_nrmse_native": 0.0},
    )
    raw = []
    for steps in (1, 2, 3):
        run = training.train(tiny(stages={"codec": constant | {"steps": steps}}), ["codec"])
        raw.append(weights(run, "codec", last=True)["training"]["trainable"])
    saved = state_of(weights(run, "codec"), "codec")
    moved = 0
    for name, value in saved.items():
        one, two, three = (state[f"advection1d.{name}"] for state in raw)
        expected = 0.25 * one + 0.25 * two + 0.5 * three
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
        moved += int(bool(((value - three).abs() > 1e-4).any()))
    assert moved > 2


def test_a_stage_that_never_beats_its_untrained_state_leaves_that(monkeypatch):
    worse = iter(range(1, 100))
    monkeypatch.setattr(
        codec_module.CodecStage,
        "validate",
        lambda stage: {"valid_nrmse": float(next(worse)), "valid_nrmse_native": 0.0},
    )
    learned = {"codec": {"coefficients": 2, "encoder": "learned"}}
    run = training.train(tiny(**learned), ["codec"])
    saved, last = weights(run, "codec"), weights(run, "codec", last=True)
    assert saved["step"] == 0
    assert saved["metrics"]["valid_nrmse"] == 1
    out = "encoder.out.weight"
    assert not state_of(saved, "codec")[out].any(), "the last layer starts at zero"
    assert state_of(last, "codec")[out].any()


def poisoned(at, value):
    """`relative_l2` that gives `value(loss)` on its call number `at`."""
    calls = 0

    def loss(prediction, target):
        nonlocal calls
        calls += 1
        usual = relative_l2(prediction, target)
        return value(usual) if calls == at else usual

    return loss


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(monkeypatch):
    monkeypatch.setattr(codec_module, "relative_l2", poisoned(5, lambda loss: loss * torch.nan))
    with pytest.raises(CheckpointError, match="codec: loss is nan at step 4; last good") as caught:
        training.train(tiny(), ["codec"])
    named = Path(str(caught.value).partition("last good checkpoint: ")[2])
    assert checkpoints.load(named).step == 4
    assert "learning rate" in caught.value.hint


def test_a_loss_that_is_not_finite_at_once_says_that_nothing_was_written(monkeypatch):
    monkeypatch.setattr(codec_module, "relative_l2", poisoned(1, lambda loss: loss / 0))
    with pytest.raises(CheckpointError, match="no checkpoint was written yet"):
        training.train(tiny(), ["codec"])


def with_bad_gradient(loss):
    return loss + (0 * loss).sqrt()


def test_a_step_with_a_gradient_that_is_not_finite_is_skipped_and_counted(monkeypatch):
    constant = {"schedule": {"kind": "constant"}}
    usual = training.train(tiny(stages={"codec": constant | {"steps": 3}}), ["codec"])
    monkeypatch.setattr(codec_module, "relative_l2", poisoned(4, with_bad_gradient))
    run = training.train(tiny(stages={"codec": constant | {"steps": 4}}), ["codec"])
    assert losses_of(run, "codec", "skipped") == [1]
    assert losses_of(usual, "codec", "skipped") == []
    found, expected = (
        weights(one, "codec", last=True)["training"]["trainable"] for one in (run, usual)
    )
    assert_same(found, expected)


def test_too_many_skipped_steps_stop_the_run(monkeypatch):
    monkeypatch.setattr(codec_module, "relative_l2", poisoned(2, with_bad_gradient))
    with pytest.raises(
        CheckpointError, match=r"gradient norm is nan at step 1, after 0 such steps"
    ):
        training.train(tiny(stages={"codec": {"max_skipped": 0}}), ["codec"])


LOSSY = {"codec": {"coefficients": 2, "gate": 1e-6}}


@pytest.mark.parametrize("stages", [("codec", "operator"), ("operator",)])
def test_an_operator_is_not_trained_on_a_codec_above_its_gate(stages):
    if "codec" not in stages:
        training.train(tiny(**LOSSY), ["codec"])
    with pytest.raises(GateError, match=r"reconstruction nRMSE .* is above codec.gate 1.00e-06"):
        training.train(tiny(**LOSSY), stages)
    assert not list(paths.runs_dir().rglob("operator*.pt"))


def test_an_operator_without_a_codec_names_the_command():
    with pytest.raises(CheckpointError, match="no codec trained on advection1d/tiny") as caught:
        training.train(tiny(), ["operator"])
    assert caught.value.hint.startswith("ups train --stage codec")
    assert runs.list_runs() == []


def test_a_codec_of_other_options_is_not_taken():
    training.train(tiny(), ["codec"])
    with pytest.raises(CheckpointError, match="with other options than asked for"):
        training.train(tiny(codec={"patch_size": 4}), ["operator"])


def test_an_operator_without_a_cache_builds_it_and_says_why():
    training.train(tiny(), ["codec"])
    told = []
    training.train(tiny(), ["operator"], done=told.append)
    training.train(tiny(), ["operator"], done=told.append)
    uses = [(one.origin, one.detail) for one in told if isinstance(one, CacheUse)]
    assert uses == [("built", "none is here"), ("here", "")]


def test_an_operator_trained_alone_is_the_one_trained_after_its_codec():
    together = training.train(tiny())
    alone = training.train(tiny(), ["operator"])
    assert losses_of(alone, "operator") == losses_of(together, "operator")
    assert runs.planned(alone).stages == ("operator",)
    assert list(runs.planned(alone).stands_on) == ["codec"]
    training.resume(alone)


def test_a_second_process_on_one_run_is_refused():
    def again(what, done, total, note):
        training.resume(runs.list_runs()[0])

    with pytest.raises(CheckpointError, match=rf"pid {os.getpid()}\) is training this run"):
        training.train(tiny(), ["codec"], progress=again)


def test_missing_data_names_the_commands():
    with pytest.raises(DataError, match="no version 'tony'"):
        training.train(tiny(data={"version": "tony"}))
    with pytest.raises(DataError, match="no converted version") as caught:
        training.train(tiny(data={"dataset": "burgers1d"}))
    assert caught.value.hint == "ups data generate burgers1d && ups data convert burgers1d"


@pytest.mark.parametrize("device", ["gpu0", "tpu-9"])
def test_an_unknown_device_is_a_usage_error(device):
    with pytest.raises(UsageError, match=f"'{device}' is not a device"):
        training.train(tiny(device=device))


def test_the_resolved_config_of_a_run_trains_the_same_again():
    run = training.train(tiny(data={"version": "latest"}))
    experiment = runs.run_experiment_of(run)
    assert experiment.data.version == "tiny"
    again = training.train(experiment)
    assert losses_of(again, "operator") == losses_of(run, "operator")


def test_where_the_tokens_are_kept_changes_no_loss():
    """All in memory, in one memory-mapped shard, or in many."""
    resident = training.train(tiny())
    mapped = training.train(tiny(cache={"residence": "stream"}))
    few = {"residence": "stream", "shard_bytes": 3 * 11 * 32 * 2}
    shards = training.train(tiny(cache=few))
    (manifest,) = paths.caches_dir().rglob("manifest.json")
    assert len(json.loads(manifest.read_text())["shards"]) == 7
    for run in (mapped, shards):
        assert losses_of(run, "operator") == losses_of(resident, "operator")


def test_an_operator_step_can_span_several_stored_frames(store):
    """At speed 1 and dt 0.05, five frames are a quarter of the domain: 8 points, one token."""
    operator = {"steps": 60, "validate_every": 60, "unroll": [{"start": 0, "steps": 1}]}
    run = training.train(tiny(data={"stride": 5}, stages={"operator": operator}))
    saved = checkpoints.load(runs.checkpoint_path(run, "operator"))
    assert saved.tasks["advection1d"].dt == pytest.approx(5 * store.metadata.dt)
    losses = losses_of(run, "operator")
    assert losses[-1] < losses[0] / 3
    with torch.no_grad():
        frames = torch.from_numpy(store.fields[store.split("train")])
        parameters = torch.ones(len(frames), 1, dtype=torch.float64)
        surrogate = saved.surrogate()
        tokens = surrogate.codec.encode(frames[:, :1].flatten(0, 1))[:, None]
        states = surrogate.roll(tokens, surrogate.given(parameters))
        predicted = surrogate.codec.decode(next(states))
    error = (predicted - frames[:, 5]).square().mean().sqrt() / frames[:, 5].square().mean().sqrt()
    persistence = (frames[:, 0] - frames[:, 5]).square().mean().sqrt()
    assert error < 0.3 * persistence / frames[:, 5].square().mean().sqrt()


@pytest.mark.parametrize("stage", ["codec", "operator"])
def test_bfloat16_trains_close_to_float32_and_saves_float32(stage):
    changes = {"stages": {stage: {"amp": "bfloat16"}}}
    half, full = training.train(tiny(**changes)), training.train(tiny())
    found, expected = (np.array(losses_of(run, stage)) for run in (half, full))
    # The codec's losses are near bfloat16's own rounding, 4e-3.
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=4e-3 if stage == "codec" else 0)
    assert (found != expected).any()
    state = state_of(weights(half, stage), stage)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float32}


def test_losses_are_the_golden_ones():
    """To renew after a deliberate change: delete the file, run once, look at the difference."""
    run = training.train(tiny(stages={"operator": {"schedule": {"warmup_steps": 1}}}))
    found = {stage: losses_of(run, stage) for stage in ("codec", "operator")}
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail(f"{GOLDEN.name} was missing and has been written")
    golden = json.loads(GOLDEN.read_text())
    for stage, losses in golden.items():
        assert found[stage] == pytest.approx(losses, rel=1e-3, abs=1e-6), stage


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_saves_checkpoints_that_load_plain():
    changes = {"stages": {"codec": {"compile": True}, "operator": {"compile": True, "steps": 4}}}
    compiled, plain = (
        training.train(tiny(**changes)),
        training.train(tiny(stages={"operator": {"steps": 4}})),
    )
    for stage in ("codec", "operator"):
        found, expected = losses_of(compiled, stage), losses_of(plain, stage)
        assert found == pytest.approx(expected, rel=1e-2, abs=1e-7)
        one, two = weights(compiled, stage), weights(plain, stage)
        assert state_of(one, stage).keys() == state_of(two, stage).keys()
    checkpoints.load(runs.checkpoint_path(compiled, "operator")).surrogate()
    training.resume(compiled)


def test_weights_and_biases_offline_writes_and_changes_no_loss():
    plain = training.train(tiny())
    tracked = training.train(tiny(tracking={"wandb": "offline"}))
    assert losses_of(tracked, "operator") == losses_of(plain, "operator")
    assert list(tracked.glob("wandb/offline-run-*/*.wandb"))


def test_a_run_stopped_before_its_first_validation_remembers_its_untrained_state(monkeypatch):
    worse = iter(range(1, 100))
    monkeypatch.setattr(
        codec_module.CodecStage,
        "validate",
        lambda stage: {"valid_nrmse": float(next(worse)), "valid_nrmse_native": 0.0},
    )
    late = {"stages": {"codec": {"steps": 6, "validate_every": 6, "checkpoint_every": 1}}}
    with pytest.raises(InterruptedRunError):
        training.train(tiny(**late), ["codec"], progress=stop_after("codec", 2))
    run = runs.list_runs()[0]
    assert not runs.checkpoint_path(run, "codec").is_file()
    training.resume(run)
    assert weights(run, "codec")["step"] == 0, "as of the uninterrupted run, which never beat it"


def test_a_codec_that_is_not_trained_to_the_end_is_not_built_upon():
    steps = {"stages": {"codec": {"steps": 6, "validate_every": 1, "checkpoint_every": 1}}}
    with pytest.raises(InterruptedRunError):
        training.train(tiny(**steps), ["codec"], progress=stop_after("codec", 3))
    run = runs.list_runs()[0]
    assert runs.checkpoint_path(run, "codec").is_file()
    with pytest.raises(CheckpointError, match="1 are not trained to the end"):
        training.train(tiny(**steps), ["operator"])
    training.resume(run)
    operator = training.train(tiny(**steps), ["operator"])
    assert runs.planned(operator).stands_on == {"codec": str(runs.checkpoint_path(run, "codec"))}
