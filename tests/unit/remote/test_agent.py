"""The agent against commands that fail in every way: how each job ends, and what is still done."""

from __future__ import annotations

import signal
import threading
import time

import pytest
from agent_jobs import RUN, calls, is_alive, job, stand_in, status

from ups import paths
from ups.remote.agent import __main__ as agent
from ups.remote.agent import steps
from ups.remote.agent.work import use_own_remotes
from ups.remote.spec import JobSpec
from ups.transfer.remotes import find_remote, remotes_file

TRAINS = """
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("name: tiny")
    (run / "checkpoints" / "codec-last.pt").write_text("weights")
    print("trained", flush=True)
"""
SECRET = "planted-9d5ed678fe57bcca610140957afab571"


@pytest.fixture(autouse=True)
def _signals_as_before():
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def does(tmp_path, monkeypatch):
    """does(job's changes, command=program, ...) -> (exit code, status, calls)."""

    def act(changes=None, **commands):
        data = paths.data_dir("advection1d")
        data.mkdir(parents=True, exist_ok=True)
        (data / "tiny.h5").touch()
        for name, value in stand_in(tmp_path, **({"train": TRAINS} | commands)).items():
            monkeypatch.setenv(name, value)
        path = job(tmp_path / "job", **(changes or {}))
        monkeypatch.chdir(path.parent)
        code = agent.main([str(path)])
        told = status(path)
        assert told["state"] == "ended"
        assert told["exit_code"] == code
        return code, told, calls(tmp_path)

    return act


def test_a_job_is_checked_trained_judged_entered_and_pushed_in_this_order(does, tmp_path):
    code, told, called = does()
    assert (code, told["reason"]) == (0, "")
    assert called == [
        "doctor --json", "remotes check", "train --config", f"eval {RUN}", "leaderboard add",
        "runs push", "leaderboard push",
    ]  # fmt: skip
    trained = (tmp_path / "calls").read_text().splitlines()[2]
    assert trained.endswith("config.yaml --run-id run-1")


def test_stages_processes_and_the_cache_are_handed_to_the_training(does, tmp_path):
    task = {"stages": ("operator", "diff_residual"), "nproc": 2, "evaluate": False}
    _, _, called = does({"task": task})
    line = (tmp_path / "calls").read_text().splitlines()[2]
    assert "--set stages.order=[operator, diff_residual]" in line
    assert f"--cache-from {tmp_path / 'job' / 'remote'} --nproc 2" in line
    assert called[-1] == "runs push"


@pytest.mark.parametrize("command", ["doctor", "remotes"])
def test_what_is_wrong_at_the_beginning_ends_the_job_before_anything_is_trained(does, command):
    program = "print('error: it is broken\\nhint: mend it'); sys.exit(6)"
    code, told, called = does({}, **{command: program})
    assert code == 14
    assert "it is broken" in told["reason"]
    assert not {"train --config", "runs push"} & set(called)


def test_a_machine_without_the_gpu_that_was_asked_for_is_refused(does):
    code, told, _ = does({"gpu": {"name": "A100", "count": 2}})
    assert code == 14
    assert told["reason"] == "PyTorch sees 0 GPUs here, the job asks for A100:2"


def test_data_that_are_nowhere_are_told_at_the_beginning(does):
    content = {"task": {"config": "name: tiny\ndata: {dataset: burgers1d}\n"}}
    code, told, called = does(content, data="print('error: no burgers1d there'); sys.exit(6)")
    assert (code, told["reason"]) == (14, "looking for burgers1d: no burgers1d there")
    assert called[-1] == "data pull"


def test_secrets_that_did_not_arrive_are_named(does, tmp_path, monkeypatch):
    monkeypatch.delenv("B2_APP_KEY", raising=False)
    (tmp_path / "calls").touch()
    code, told, _ = does({"secrets": ["B2_APP_KEY"]})
    assert (code, told["reason"]) == (14, "B2_APP_KEY did not arrive here")


@pytest.mark.parametrize(
    ("ending", "code", "reason"),
    [
        ("print('error: loss is not finite'); sys.exit(4)", 4, "training: loss is not finite"),
        ("print('error: x: the disk is full'); sys.exit(3)", 3, "training: x: the disk is full"),
        ("raise KeyError('bug')", 1, "training: KeyError: 'bug'"),
        ("os.kill(os.getpid(), 9)", 137, "training was killed by SIGKILL"),
        ("os.kill(os.getpid(), 11)", 139, "training was killed by SIGSEGV"),
    ],
)
def test_a_training_that_fails_is_pushed_as_far_as_it_came(does, ending, code, reason):
    found, told, called = does({}, train=TRAINS + "    " + ending)
    assert found == code
    assert told["reason"].startswith(reason)
    assert told["step"] == "train"
    assert called[-1] == "runs push"
    assert f"eval {RUN}" not in called


def test_a_failed_evaluation_keeps_and_pushes_the_checkpoints(does):
    code, told, called = does({}, eval="print('error: no test data'); sys.exit(3)")
    assert (code, told["reason"]) == (3, "evaluation: no test data")
    assert called[-2:] == [f"eval {RUN}", "runs push"]


def test_a_missed_gate_is_entered_and_pushed_and_is_the_exit_code(does):
    code, told, called = does({}, eval="print('error: nRMSE 0.3 > 0.1'); sys.exit(5)")
    assert (code, told["reason"]) == (5, "evaluation: nRMSE 0.3 > 0.1")
    assert called[-3:] == ["leaderboard add", "runs push", "leaderboard push"]


def test_a_push_that_fails_at_the_end_is_told(does):
    code, told, _ = does({}, runs="print('error: bucket is gone'); sys.exit(6)")
    assert (code, told["reason"]) == (6, "push of the run: bucket is gone")


def test_a_training_that_hangs_says_where_and_is_killed_with_its_children(does, tmp_path, capsys):
    hangs = (
        TRAINS
        + f"""
    import subprocess
    child = subprocess.Popen(["sleep", "300"])
    pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
    def waits_for_ever():
        time.sleep(300)
    waits_for_ever()
"""
    )
    began = time.monotonic()
    code, told, called = does({"hang_minutes": 1.5 / 60}, train=hangs)
    assert code == 13
    assert told["reason"] == "training hung: no progress, and was killed"
    assert time.monotonic() - began < 30
    assert "in waits_for_ever" in capsys.readouterr().out
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert called[-1] == "runs push"


def test_progress_without_output_is_no_hang(does):
    beats = (
        TRAINS
        + """
    beat = pathlib.Path(os.environ["UPS_HEARTBEAT"])
    for step in range(8):
        beat.write_text('{"what": "operator", "done": %d, "total": 8}' % step)
        time.sleep(0.4)
"""
    )
    code, told, _ = does({"hang_minutes": 1.5 / 60, "task": {"evaluate": False}}, train=beats)
    assert code == 0
    assert told["progress"] == {} or told["progress"]["total"] == 8


STOPS = (
    TRAINS
    + """
    def save(*args):
        (run / "checkpoints" / "saved").touch()
        sys.exit(8)
    signal.signal(signal.SIGTERM, save)
    print("listening", flush=True)
    while True:
        print("step", flush=True)
        time.sleep(0.1)
"""
)


def test_the_time_limit_ends_the_training_with_a_checkpoint_and_a_push(does, monkeypatch):
    monkeypatch.setenv(agent.DEADLINE, str(time.time() + 8))
    code, told, called = does({}, train=STOPS)
    assert (code, told["reason"]) == (11, "the time limit ended training")
    assert (paths.runs_dir() / RUN / "checkpoints" / "saved").is_file()
    assert called[-1] == "runs push"


def test_asked_to_stop_the_job_saves_pushes_and_leaves_with_8(does, tmp_path):
    def ask():
        while "train" not in (tmp_path / "calls").read_text():
            time.sleep(0.05)
        time.sleep(0.5)
        signal.raise_signal(signal.SIGUSR1)

    (tmp_path / "calls").touch()
    threading.Thread(target=ask).start()
    code, told, called = does({}, train=STOPS)
    assert (code, told["reason"]) == (8, "asked to stop during training")
    assert (paths.runs_dir() / RUN / "checkpoints" / "saved").is_file()
    assert called[-1] == "runs push"


def test_a_training_that_does_not_stop_is_killed_in_time_for_the_push(does, monkeypatch):
    monkeypatch.setattr(steps, "_STOP_S", 3.0)
    monkeypatch.setenv(agent.DEADLINE, str(time.time() + 6))
    deaf = (
        TRAINS
        + """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        print("step", flush=True)
        time.sleep(0.1)
"""
    )
    code, _, called = does({}, train=deaf)
    assert code == 11
    assert called[-1] == "runs push"


def test_checkpoints_are_pushed_while_it_trains_and_a_failed_push_does_not_end_it(does, capsys):
    slow = TRAINS + "    time.sleep(2.5)\n"
    code, _, called = does(
        {"push_minutes": 0.3 / 60, "task": {"evaluate": False}},
        train=slow, runs="sys.exit(6) if args[1] == 'push' and time.time() % 2 < 1 else None",
    )  # fmt: skip
    assert called.count("runs push") > 1
    assert code in (0, 6)
    assert '"event": "push' in capsys.readouterr().out


def test_secrets_are_in_no_line_and_no_file(does, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("B2_APP_KEY", SECRET)
    says = "print('error: wrong key', os.environ['B2_APP_KEY']); sys.exit(6)"
    code, told, _ = does({"secrets": ["B2_APP_KEY"]}, eval=says)
    assert (code, told["reason"]) == (6, "evaluation: wrong key [B2_APP_KEY]")
    captured = capsys.readouterr()
    assert SECRET not in captured.out + captured.err
    files = [path for path in (tmp_path / "job").rglob("*") if path.is_file()]
    assert files
    assert all(SECRET not in path.read_text() for path in files)


def test_a_remote_that_the_machine_does_not_know_travels_with_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv("UPS_REMOTES_FILE", "")  # and so put back at the end
    settings = {"kind": "s3", "bucket": "data", "endpoint": "https://s3.example.org", "region": "x"}
    path = job(tmp_path / "job", remote="lab", remote_settings=settings)
    spec = JobSpec.model_validate_json(path.read_text())
    assert use_own_remotes(spec, path.parent) == spec
    assert find_remote().describe() == "s3://data at https://s3.example.org"
    assert remotes_file() == path.parent / "remotes.yaml"
    settings = {"kind": "wandb", "folder": "team/project"}
    spec = spec.model_copy(update={"remote": "wandb", "remote_settings": settings})
    assert use_own_remotes(spec, path.parent).remote == "wandb:team/project"
