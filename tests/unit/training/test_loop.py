"""The loop on a toy stage: resumed bit for bit, stopped by signals, loud when numbers go wrong."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from toy_stage import ToyCheckpoints, fit_of, load

from ups.errors import CheckpointError, ConfigError
from ups.training import loop, signals
from ups.training.loop import DivergedError, InterruptedRunError, PreemptedRunError

SPEED = {"samples_per_s", "peak_memory_bytes", "mfu"}
EVERYTHING = {
    "ema_decay": 0.7, "accumulate": 2, "noise": 0.1, "bad_gradients": (2, 7),
    "validate_every": 2, "floor": 1.9,
    "schedule": {"kind": "plateau", "patience": 0, "factor": 0.5, "warmup_steps": 3},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(loop, "checkpoints", ToyCheckpoints)


def plain(rows):
    """Records without what depends on the clock; as text, in which NaN equals itself."""
    return [str({key: row[key] for key in row if key not in SPEED}) for row in rows]


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


def signal_after(step, number=signal.SIGINT):
    """A progress callback that sends this process a signal."""

    def progress(done, total, note):
        if done == step:
            os.kill(os.getpid(), number)

    return progress


class Killed(BaseException):
    pass


def killed_after(step):
    def progress(done, total, note):
        if done == step:
            raise Killed

    return progress


def files_of(folder):
    return {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


def assert_resumed(tmp_path, step, *, stop, **options):
    whole, expected = fit_of(tmp_path / "whole", **options)
    whole.run()
    part, records = fit_of(tmp_path / "part", **options)
    with pytest.raises((InterruptedRunError, Killed)):
        part.run(stop(step))
    rest, more = fit_of(tmp_path / "part", **options)
    if rest.last_path.is_file():
        rest.restore()
    first = rest.step
    rest.run()
    kept = [row for row in records.rows if row["step"] <= first] if first else []
    assert plain(kept + more.rows) == plain(expected.rows)
    assert_same(files_of(tmp_path / "part"), files_of(tmp_path / "whole"))


@pytest.mark.parametrize("step", range(1, 12))
def test_a_run_stopped_at_any_step_resumes_to_the_uninterrupted_one(tmp_path, step):
    assert_resumed(tmp_path, step, stop=signal_after, **EVERYTHING)


@pytest.mark.parametrize("step", [2, 6, 9])
@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path, step, amp):
    assert_resumed(tmp_path, step, stop=killed_after, **EVERYTHING, amp=amp, look_every=5)


def test_the_toy_run_uses_what_it_claims_to(tmp_path):
    fit, records = fit_of(tmp_path, **EVERYTHING)
    fit.run()
    assert fit.skipped == 2
    assert records.of("skipped") == [1, 2]
    assert fit.plateau.factor < 1
    assert fit.average.updates == 12
    assert fit.stage.lowest == min(records.of("loss"))
    other, elsewhere = fit_of(tmp_path / "other", **EVERYTHING | {"noise": 0.0})
    other.run()
    assert elsewhere.of("loss") != records.of("loss"), "torch's random numbers matter"


def test_validation_leaves_the_random_numbers_of_training_alone(tmp_path):
    losses = []
    for every in (1, 12):
        fit, records = fit_of(tmp_path / str(every), noise=0.1, validate_every=every)
        fit.run()
        losses.append(records.of("loss"))
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("number", "family", "code"),
    [
        (signal.SIGINT, InterruptedRunError, 130),
        (signal.SIGTERM, PreemptedRunError, 8),
        (signal.SIGUSR1, PreemptedRunError, 8),
    ],
)
def test_a_signal_saves_after_the_next_step_and_has_its_exit_code(tmp_path, number, family, code):
    before = [signal.getsignal(n) for n in signals._REASONS]
    fit, _ = fit_of(tmp_path / "name" / "id" / "checkpoints")
    with pytest.raises(family, match="at step 6 of 12, state saved") as caught:
        fit.run(signal_after(5, number))
    assert caught.value.exit_code == code
    assert load(fit.last_path).step == 6
    assert [signal.getsignal(n) for n in signals._REASONS] == before
    if family is PreemptedRunError:
        assert caught.value.hint.startswith("ups train --resume auto")
    else:
        assert caught.value.hint == "ups train --resume name/id"


def test_a_second_signal_ends_at_once_and_its_echo_does_not(monkeypatch):
    with signals.stop_signals() as reason:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the launcher passes on what the terminal has sent
        assert reason() is signals.Stop.INTERRUPTED
        monkeypatch.setattr(signals, "_SAME_S", 0.0)
        time.sleep(0.001)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stage_that_has_what_it_wants_stops_early_and_stays_stopped(tmp_path):
    fit, records = fit_of(tmp_path, stop_below=0.5, steps=400, validate_every=400)
    result = fit.run()
    assert 3 < result.steps < 400
    assert records.of("loss")[-1] < 0.5 <= min(records.of("loss")[:-1])
    assert records.rows[-1]["step"] == result.steps
    assert "error" in records.rows[-1], "validated where it stopped"
    assert load(fit.last_path).training["finished"]
    again, _ = fit_of(tmp_path, stop_below=0.5, steps=400)
    again.restore()
    assert again.run().first == result.steps
    assert again.step == result.steps


def test_a_run_on_its_way_is_not_finished(tmp_path):
    fit, _ = fit_of(tmp_path)
    with pytest.raises(InterruptedRunError):
        fit.run(signal_after(3))
    assert not load(fit.last_path).training["finished"]
    rest, _ = fit_of(tmp_path)
    rest.restore()
    rest.run()
    assert load(fit.last_path).training["finished"]


def test_the_criterion_chooses_what_is_kept(tmp_path):
    fit, _ = fit_of(tmp_path, steps=9)
    fit.stage.errors = iter([5.0, 3.0, 1.0, 2.0])
    fit.run()
    best = load(fit.best_path)
    assert (best.step, best.metrics) == (6, {"error": 1.0})


def test_what_never_beats_the_untrained_state_leaves_that_also_after_a_resume(tmp_path):
    fit, _ = fit_of(tmp_path, validate_every=12)
    before = {name: value.clone() for name, value in fit.stage.trainable.state_dict().items()}
    fit.stage.errors = iter([1.0])
    with pytest.raises(InterruptedRunError):
        fit.run(signal_after(2))
    assert not fit.best_path.is_file()
    rest, _ = fit_of(tmp_path, validate_every=12)
    rest.restore()
    rest.stage.errors = iter([2.0])
    rest.run()
    assert load(rest.best_path).step == 0
    assert_same(dict(load(rest.best_path).weights), before)
    assert not torch.equal(rest.stage.trainable.out.weight, before["out.weight"])


@pytest.mark.parametrize("look_every", [None, 4])
def test_a_loss_that_is_not_finite_is_named_where_one_looks(tmp_path, look_every):
    fit, _ = fit_of(tmp_path, bad_steps=(4, 6), log_every=4, validate_every=4,
                    look_every=look_every)  # fmt: skip
    with pytest.raises(DivergedError, match="toy: loss is nan at step 4; last good") as caught:
        fit.run()
    assert caught.value.exit_code == CheckpointError.exit_code
    assert fit.step == (8 if look_every else 5)
    assert all(weight.isfinite().all() for weight in fit.stage.trainable.parameters())
    assert load(fit.last_path).step == 4


@pytest.mark.parametrize("look_every", [None, 12])
def test_a_gradient_that_is_not_finite_never_reaches_a_weight(tmp_path, look_every):
    seldom = {"log_every": 12, "validate_every": 12, "checkpoint_every": 12}
    fit, records = fit_of(tmp_path, bad_gradients=(3, 5), look_every=look_every, **seldom)
    fit.run()
    assert fit.skipped == 2
    assert records.of("skipped") == ([2] if look_every else [1, 2])
    assert all(weight.isfinite().all() for weight in fit.stage.trainable.parameters())


@pytest.mark.parametrize("look_every", [None, 12])
def test_too_many_such_steps_stop_the_run(tmp_path, look_every):
    fit, _ = fit_of(tmp_path, bad_gradients=(3, 5), max_skipped=1, look_every=look_every)
    with pytest.raises(DivergedError, match="after 1 such steps were skipped"):
        fit.run()


def test_looking_seldom_changes_no_loss_where_all_is_finite(tmp_path):
    one, often = fit_of(tmp_path / "a")
    two, seldom = fit_of(tmp_path / "b", log_every=6, validate_every=6, checkpoint_every=6,
                         look_every=6)  # fmt: skip
    one.run()
    two.run()
    assert seldom.of("loss") == [often.of("loss")[5], often.of("loss")[11]]
    assert_same(one.stage.trainable.state_dict(), two.stage.trainable.state_dict())


def test_micro_batches_add_up_to_the_batch(tmp_path):
    runs = [fit_of(tmp_path / str(n), accumulate=n) for n in (1, 4)]
    for fit, _ in runs:
        fit.run()
    for key in ("loss", "grad_norm"):
        whole, parts = (records.of(key) for _, records in runs)
        assert parts == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_half_precision_follows_full_precision_and_keeps_float32_weights(tmp_path, amp):
    adamw = {"optimizer": {"kind": "adamw", "lr": 1e-2}}
    full, expected = fit_of(tmp_path / "full", **adamw)
    half, found = fit_of(tmp_path / "half", **adamw, amp=amp)
    half.precision.scale.clamp_(max=2.0**8)
    full.run()
    half.run()
    assert found.of("loss") == pytest.approx(expected.of("loss"), rel=0.05)
    assert found.of("loss") != expected.of("loss")
    assert found.of("grad_norm")[0] == pytest.approx(expected.of("grad_norm")[0], rel=0.05)
    assert {w.dtype for w in half.stage.trainable.parameters()} == {torch.float32}


def test_a_float16_overflow_lowers_the_scale_and_is_not_counted(tmp_path):
    fit, _ = fit_of(tmp_path, amp="float16", max_skipped=0, bad_gradients=(1, 4))
    fit.precision.scale.clamp_(max=2.0**8)
    fit.run()
    assert fit.precision.scale.item() == 2.0**6
    assert fit.skipped == 0


def test_throughput_is_logged(tmp_path):
    fit, records = fit_of(tmp_path, log_every=3)
    fit.run()
    assert len(records.of("samples_per_s")) == 4
    assert all(value > 0 for value in records.of("samples_per_s"))


def test_cuda_graphs_need_a_cuda_device(tmp_path):
    with pytest.raises(ConfigError, match=r"stages\.toy\.cuda_graphs: needs a CUDA device"):
        fit_of(tmp_path, compile=True, cuda_graphs=True)


def test_a_checkpoint_without_training_state_is_named(tmp_path):
    fit, _ = fit_of(tmp_path)
    fit.run()
    fit.best_path.replace(fit.last_path)
    again, _ = fit_of(tmp_path)
    with pytest.raises(CheckpointError, match="training state without 'trainable'"):
        again.restore()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_run_has_the_same_losses_and_names(tmp_path):
    runs = [fit_of(tmp_path / str(flag), compile=flag, steps=4) for flag in (False, True)]
    for fit, _ in runs:
        fit.run()
    (one, plain_records), (two, compiled) = runs
    assert compiled.of("loss") == pytest.approx(plain_records.of("loss"), rel=1e-4)
    assert one.stage.trainable.state_dict().keys() == load(two.best_path).weights.keys()


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["none", "bfloat16", "float16"])
def test_a_gpu_follows_the_cpu(tmp_path, amp):
    fit, expected = fit_of(tmp_path / "cpu")
    fit.run()
    stage = type(fit.stage)(amp=amp)
    stage.trainable.cuda()
    batch = stage.batch
    stage.batch = lambda step, micro: (step, batch(step, micro)[1].cuda())
    stage.errors = iter(range(100, 0, -1))
    records = type(expected)()
    loop.Fit(stage, tmp_path, [records], torch.device("cuda")).run()
    assert records.of("loss") == pytest.approx(expected.of("loss"), rel=0.05)
    assert all(memory > 0 for memory in records.of("peak_memory_bytes"))
