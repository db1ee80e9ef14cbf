"""Two processes by gloo do what one does; where they come from, and how they end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from distributed_work import ADAMW, OPTIONS
from toy_stage import ToyCheckpoints, fit_of, load

from ups.errors import ConfigError, UpsError
from ups.training import distributed, loop, processes
from ups.training.processes import AgreedError, Place, find_place, first_host, launch

WORK = Path(__file__).with_name("distributed_work.py")


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(loop, "checkpoints", ToyCheckpoints)


class Interrupted(BaseException):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def begun_alone(folder):
    """A run of one process, stopped at step 4, for two to continue."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "checkpoints", ToyCheckpoints)
        fit, _ = fit_of(folder / "one", **OPTIONS)

        def stop(done, total, note):
            if done == 4:
                raise Interrupted

        with pytest.raises(Interrupted):
            fit.run(stop)
    assert load(fit.last_path).step == 4


@pytest.fixture(scope="module")
def found(folder, begun_alone):
    """What both processes saw."""
    port = processes._free_port()
    group = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(WORK), str(folder)],
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=100)[1].decode() for process in group]
    assert [process.returncode for process in group] == [0, 0], told
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same runs in one process, uninterrupted."""
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "checkpoints", ToyCheckpoints)
        for name, more in (("ddp", {}), ("fsdp_adamw", ADAMW)):
            fit, records = fit_of(tmp_path_factory.mktemp(name), **OPTIONS, **more)
            fit.run()
            results[name] = records, fit
    return results | {"fsdp": results["ddp"]}


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp_adamw"])
def test_two_processes_have_the_losses_of_one(found, alone, kind):
    first, second = (one[kind] for one in found)
    records, fit = alone[kind]
    # Muon's iteration runs in bfloat16, whose rounding depends on how a matrix is cut.
    rel = {"ddp": 1e-4, "fsdp": 3e-3, "fsdp_adamw": 1e-5}[kind]
    assert first["stopped"] == second["stopped"] == 130
    assert first["loss"] == pytest.approx(records.of("loss"), rel=rel)
    norms = pytest.approx(records.of("grad_norm"), rel=10 * rel, nan_ok=True)
    assert first["norm"] == norms
    assert first["error"] == pytest.approx(records.of("error"), rel=10 * rel)
    assert first["best"] == second["best"]
    assert first["skipped"] == second["skipped"] == fit.skipped == 1
    assert second["loss"] == [], "only the first process logs"


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "fsdp_adamw"])
def test_what_two_processes_saved_is_whole_and_goes_on_in_one(found, alone, folder, kind, tmp_path):
    records, whole = alone[kind]
    names = whole.stage.trainable.state_dict().keys()
    best = load(folder / kind / "toy.pt")
    assert best.weights.keys() == names
    assert {type(weight) for weight in best.weights.values()} <= {torch.Tensor, torch.nn.Parameter}
    shutil.copy(folder / kind / "half.pt", tmp_path / "toy-last.pt")
    fit, more = fit_of(tmp_path, **OPTIONS, **(ADAMW if kind == "fsdp_adamw" else {}))
    fit.restore()
    assert fit.step == 6
    fit.run()
    rel = {"ddp": 1e-4, "fsdp": 3e-3, "fsdp_adamw": 1e-5}[kind]
    assert more.of("loss") == pytest.approx(records.of("loss")[6:], rel=rel)
    assert fit.best == pytest.approx(whole.best, rel=10 * rel)


def test_what_one_process_saved_goes_on_in_two(found, alone):
    records, _ = alone["fsdp"]
    assert found[0]["from_one"]["loss"] == pytest.approx(records.of("loss")[4:], rel=3e-3)


def test_processes_share_work_and_agree(found):
    one, two = (result["helpers"] for result in found)
    assert (one["share"], two["share"]) == ([0, 2, 4], [1, 3])
    assert one["portion"] == [1, 5]
    assert two["portion"] == [3, 7]
    for helpers in (one, two):
        assert helpers["in_order"] == [0, 10, 20, 30, 40]
        assert helpers["objects"] == [{"rank": 0}, {"rank": 1}]
        assert helpers["gathered"] == [[0.0, 0.0], [1.0, 1.0]]
        assert helpers["equal"] == [True, True, False]
        assert helpers["from_main"] == "said by 0"
        assert "6 is not a multiple of 2 processes x accumulate 2" in helpers["refused"]
    assert two["entered"] - one["entered"] >= 0.2, "the first went first"
    assert one["shared_error"] == ["DataError", "nothing here", 3]
    assert two["shared_error"] == ["ElsewhereError", "nothing here", 3]


def test_alone_everything_is_the_identity():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.portion([0, 1, 2, 3], 1, 2) == [1, 3]
    assert distributed.in_order(distributed.portion_of([3, 1, 2])) == [3, 1, 2]
    assert distributed.gathered(torch.ones(2)).tolist() == [[1, 1]]
    assert distributed.on_main(lambda: 7) == 7
    with distributed.main_first(), distributed.together("cpu") as device:
        distributed.barrier()
    assert device == torch.device("cpu")


TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "7",
}
SRUN = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
    "SLURM_STEP_NODELIST": "gpu[003-005,017],login", "SLURM_JOB_ID": "12", "SLURM_STEP_ID": "1",
}  # fmt: skip


def test_a_process_finds_its_place():
    assert find_place({}) == Place()
    assert find_place(TORCHRUN) == Place(3, 4, 1, "a", 7)
    assert find_place(SRUN) == Place(5, 8, 1, "gpu003", 20013)
    assert find_place(SRUN | {"MASTER_ADDR": "b", "MASTER_PORT": "9"}) == Place(5, 8, 1, "b", 9)
    assert find_place(SRUN | TORCHRUN).world_size == 4


def test_a_batch_script_is_one_process_however_many_tasks_it_has():
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}) == Place()


@pytest.mark.parametrize("broken", [TORCHRUN | {"RANK": "x"}, {"SLURM_STEP_NUM_TASKS": "2"}])
def test_a_broken_environment_is_named(broken):
    with pytest.raises(ConfigError, match="environment: not that of one of several processes"):
        find_place(broken)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("n[9-12]", "n9"),
        ("n[02,07],m1", "n02"),
        ("rack[1-2]-ib[00-31],x", "rack1-ib00"),
        ("a-b.c[3]", "a-b.c3"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


@pytest.mark.parametrize("nodes", ["", "n[1-2"])
def test_a_cut_off_node_list_is_refused(nodes):
    with pytest.raises(ValueError, match="node list"):
        first_host(nodes)


def test_several_processes_cannot_share_one_named_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert distributed.local_device("cuda") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="4 processes cannot share cuda:0"):
        distributed.local_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="has no GPU of its own, 2 are here"):
        distributed.local_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert distributed.local_device("cuda") == torch.device("cuda:0"), "Slurm chose it"


@processes.told_by_main()
def tell(error):
    print("a result")  # noqa: T201
    raise error


def test_a_process_after_the_first_tells_nothing_twice(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    error = AgreedError("all alike")
    error.exit_code = 8
    with pytest.raises(SystemExit) as caught:
        tell(error)
    assert caught.value.code == 8
    assert capsys.readouterr().out == ""
    with pytest.raises(UpsError, match="mine alone"):
        tell(UpsError("mine alone"))


@pytest.fixture
def child(tmp_path, monkeypatch):
    """child(code): what `launch` starts in place of `ups`; `rank` and `folder` are defined."""

    def write(code):
        package = tmp_path / "stand_in" / "ups"
        package.mkdir(parents=True)
        head = "import os, signal, sys, time, pathlib\nrank = int(os.environ['RANK'])\n"
        head += f"folder = pathlib.Path({str(tmp_path)!r})\n"
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(head + textwrap.dedent(code))
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        monkeypatch.chdir(package.parent)

    return write


def test_launched_processes_get_their_place_and_the_arguments(child, tmp_path):
    child("""
        world = os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'], *sys.argv[1:]
        (folder / str(rank)).write_text(' '.join(world))
    """)
    assert launch(2, ["train", "--nproc", "2"]) == 0
    assert [(tmp_path / str(n)).read_text() for n in range(2)] == [
        "2 0 train --nproc 2", "2 1 train --nproc 2"
    ]  # fmt: skip


def test_the_exit_code_of_a_failed_process_is_passed_on_and_the_others_end(child, monkeypatch):
    monkeypatch.setattr(processes, "_ALIKE_S", 0.1)
    child("time.sleep(60) if rank == 0 else sys.exit(4)")
    assert launch(2, []) == 4
    child_killed = "os.kill(os.getpid(), signal.SIGKILL)"
    Path("ups/__main__.py").write_text(f"import os, signal\n{child_killed}\n")
    assert launch(2, []) == 137


def test_a_process_that_does_not_end_when_told_is_killed(child, monkeypatch):
    monkeypatch.setattr(processes, "_ALIKE_S", 0.1)
    monkeypatch.setattr(processes, "_GRACE_S", 0.2)
    child("""
        if rank == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            (folder / 'ready').touch()
            time.sleep(60)
        while not (folder / 'ready').exists():
            time.sleep(0.01)
        sys.exit(3)
    """)
    start = time.monotonic()
    assert launch(2, []) == 3
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_are_passed_on(child, tmp_path, number):
    child(f"""
        signal.signal({int(number)}, lambda *_: sys.exit(8))
        (folder / f'ready{{rank}}').touch()
        if rank == 0:
            while not (folder / 'ready1').exists():
                time.sleep(0.01)
            os.kill(os.getppid(), {int(number)})
        while True:  # one long sleep might begin between the signal and its handler
            time.sleep(0.01)
    """)
    before = signal.getsignal(number)
    assert launch(2, []) == 8
    assert signal.getsignal(number) is before
