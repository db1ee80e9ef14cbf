"""A real Slurm on loopback, driven by our driver; jobs are small shell scripts."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster, slurm_cluster
from ssh_server import ssh_server

from ups.errors import RemoteError, UsageError
from ups.remote.driver import Driver, Handle, State, Status
from ups.remote.drivers.slurm import SlurmDriver
from ups.remote.drivers.ssh_host import Host
from ups.remote.spec import EXIT_TIME_LIMIT, GpuRequest, JobSpec, Task

SECRET = "planted-'%\\n-0cc175b9c0f1b6a831c399e269772661"
SLOW_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with slurm_cluster() as found:
        yield found


@pytest.fixture
def driver(cluster: Cluster) -> SlurmDriver:
    return SlurmDriver({"folder": str(cluster.shared)}, poll_s=0.2)


def job(name: str, **changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "id": name, "engine": "slurm", "max_hours": 2, "options": {"mem": "100M"},
        "task": Task(config="name: tiny\n", run_name="tiny", run_id=f"run-{name}"),
    }  # fmt: skip
    return JobSpec(**(fields | changes))


def bundle(folder: Path, script: str) -> Path:
    made = folder / "bundle"
    made.mkdir(exist_ok=True)
    (made / "job.json").write_text("{}\n")
    (made / "run.sh").write_text(script)
    return made


def until(driver: SlurmDriver, handle: Handle, *states: State) -> Status:
    end = time.monotonic() + SLOW_S
    while (status := driver.status(handle)).state not in states:
        assert time.monotonic() < end, f"still {status}"
        assert not status.has_ended, status
        time.sleep(0.2)
    return status


def until_true(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + SLOW_S
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.2)


def is_forgotten(handle: Handle) -> bool:
    asked = ["scontrol", "show", "job", str(handle["number"])]
    return subprocess.run(asked, capture_output=True).returncode != 0


def started(
    cluster: Cluster, folder: Path, spec: JobSpec, call: str = "launch(spec, bundle, secrets)"
) -> subprocess.Popen[bytes]:
    """A client that does one thing and then waits; it is about to begin."""
    client = subprocess.Popen([sys.executable, "-c", f"""
from pathlib import Path
from ups.remote.drivers.slurm import SlurmDriver
from ups.remote.spec import JobSpec
spec = JobSpec.model_validate_json({spec.model_dump_json()!r})
driver = SlurmDriver({{"folder": {str(cluster.shared)!r}}})
bundle, secrets = Path({str(folder / "bundle")!r}), {{"WANDB_API_KEY": "a-planted-one"}}
print(flush=True)
driver.{call}
input()
"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert client.stdout is not None
    client.stdout.readline()
    return client


def killed(client: subprocess.Popen[bytes]) -> None:
    os.kill(client.pid, signal.SIGKILL)
    client.communicate()


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_driver_it_is_and_costs_nothing(driver: SlurmDriver) -> None:
    assert isinstance(driver, Driver)
    assert not driver.is_paid


def test_a_plan_names_the_clusters_own_gpus_and_changes_nothing(
    driver: SlurmDriver, cluster: Cluster
) -> None:
    plan = driver.plan(job("planned", gpu=GpuRequest(name="A100", memory_gb=80, count=2), cpus=3))
    assert [(o.region, o.gpu, o.gpu_count, o.gpu_memory_gb, o.price) for o in plan.offers] == [
        ("main", "a100_80gb", 2, 80.0, 0.0), ("short", "a100_80gb", 2, 80.0, 0.0),
    ]  # fmt: skip
    for line in ("--job-name=planned", "--gres=gpu:a100_80gb:2", "--cpus-per-task=3",
                 "--partition=main", "--mem=100M", "--time=125", "--requeue"):  # fmt: skip
        assert f"\n#SBATCH {line}\n" in plan.rendered
    assert plan.warnings == []
    assert not (cluster.shared / "planned").exists()
    assert driver.find("planned") is None


def test_a_partitions_limit_shortens_an_attempt_not_the_job(driver: SlurmDriver) -> None:
    rendered = driver.plan(job("planned", options={"partition": "short"})).rendered
    assert "\n#SBATCH --time=1\n" in rendered
    assert "left=$((7200 - used))" in rendered


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"gpu": GpuRequest(name="H100")}, RemoteError, "no node with H100; there are: a100_80gb"),
        ({"nodes": 3}, RemoteError, "no 3 nodes"),
        ({"options": {"partition": "big"}}, RemoteError, "no partition big; there are: main"),
        ({"options": {"partiton": "main"}}, UsageError, "did you mean 'partition'"),
        ({"options": {"account": "x\n#SBATCH --uid=0"}}, UsageError, "characters"),
        ({"secrets": ("WANDB_API_KEY",)}, RemoteError, "no value for WANDB_API_KEY"),
        ({"options": {"account": "nobody", "constraint": "none"}}, RemoteError, "not taken: "),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_before_anything_is_left(
    driver: SlurmDriver, tmp_path: Path, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says.replace("(", r"\(")):
        driver.launch(job("refused", **changes), bundle(tmp_path, "exit 0"), {})
    assert driver.machines() == []


@pytest.mark.parametrize("code", [0, 7])
def test_a_job_ends_with_its_own_code_and_its_log_is_followed(
    driver: SlurmDriver, tmp_path: Path, code: int
) -> None:
    script = f'echo "one $UPS_X"; sleep 1; printf "two\\nthree"; exit {code}\n'
    spec = job(f"ends-{code}", environment={"UPS_X": "a $b 'c'"})
    handle = driver.launch(spec, bundle(tmp_path, script), {})
    assert list(driver.logs(handle, follow=True)) == ["one a $b 'c'", "two", "three"]
    status = driver.wait(handle)
    assert (status.state, status.exit_code, status.attempts) == ("done", code, 1)
    assert 1 <= status.running_s < SLOW_S
    assert driver.status(handle) == status


@pytest.mark.slow
def test_what_slurm_has_forgotten_the_folder_of_the_job_knows(
    driver: SlurmDriver, tmp_path: Path
) -> None:
    spec = job("forgotten")
    handle = driver.launch(spec, bundle(tmp_path, "exit 7\n"), {})
    status = driver.wait(handle)
    until_true(lambda: is_forgotten(handle))
    assert driver.status(handle) == status
    assert status.exit_code == 7
    assert driver.find(spec.id) == handle


@pytest.mark.slow
def test_launching_twice_is_launching_once(driver: SlurmDriver, tmp_path: Path) -> None:
    spec, made = job("twice"), bundle(tmp_path, "sleep 2")
    first = driver.launch(spec, made, {})
    assert driver.launch(spec, made, {}) == first
    assert [machine.job for machine in driver.machines()] == ["twice"]
    assert driver.wait(first).exit_code == 0


def test_secrets_are_in_no_file_and_no_process_list(
    driver: SlurmDriver, cluster: Cluster, tmp_path: Path
) -> None:
    script = (
        'printf %s "$WANDB_API_KEY" | md5sum\n'
        'tr "\\0" "\\n" </proc/$$/environ | grep -c UPS_REMOTE_KEY\nsleep 3\n'
    )
    spec = job("keeps-secrets", secrets=("WANDB_API_KEY",))
    handle = driver.launch(spec, bundle(tmp_path, script), {"WANDB_API_KEY": SECRET})
    assert SECRET not in driver.plan(spec).rendered
    until(driver, handle, "running")
    half = cluster.shared / spec.id / "secrets"
    assert half.stat().st_mode & 0o777 == 0o600
    states = list((cluster.folder / "state").glob(f"hash.*/job.{handle['number']}/environment"))
    assert b"UPS_REMOTE_KEY=" in states[0].read_bytes()
    planted = [SECRET.encode(), SECRET.encode().hex().encode(), b"0cc175b9c0f1b6a8"]
    for path in [p for p in cluster.folder.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        assert not [value for value in planted if value in content], path
    listed = slurm("ps", "-eo", "args") + slurm("scontrol", "show", "job", str(handle["number"]))
    assert "0cc175b9c0f1b6a8" not in listed
    lines = list(driver.logs(handle, follow=True))
    assert lines[0].split()[0] == hashlib.md5(SECRET.encode()).hexdigest()
    assert lines[1] == "0"
    assert not half.exists()


def test_secrets_of_a_job_that_never_began_go_with_it(
    driver: SlurmDriver, cluster: Cluster, tmp_path: Path
) -> None:
    spec = job("never-began", secrets=("WANDB_API_KEY",), cpus=4, nodes=2)
    blocks = driver.launch(job("blocks", cpus=4), bundle(tmp_path, "sleep 30"), {})
    until(driver, blocks, "running")
    handle = driver.launch(spec, bundle(tmp_path, "exit 0"), {"WANDB_API_KEY": SECRET})
    assert driver.status(handle).state == "queued"
    assert (cluster.shared / spec.id / "secrets").exists()
    driver.stop(handle)
    assert driver.status(handle).state == "stopped"
    assert not (cluster.shared / spec.id / "secrets").exists()
    driver.remove(next(m for m in driver.machines() if m.job == "blocks"))
    assert driver.status(blocks).state == "stopped"
    assert driver.machines() == []


@pytest.mark.slow
def test_a_stopped_job_has_time_for_its_checkpoint(driver: SlurmDriver, tmp_path: Path) -> None:
    """More than the cluster's KillWait of five seconds."""
    script = "trap 'sleep 7; echo saved; exit 8' TERM\necho on\nwhile :; do sleep 0.1; done\n"
    handle = driver.launch(job("is-stopped"), bundle(tmp_path, script), {})
    until_true(lambda: "on" in driver.logs(handle))
    driver.stop(handle)
    status = driver.status(handle)
    assert (status.state, status.exit_code) == ("stopped", 8)
    assert "saved" in driver.logs(handle)
    driver.stop(handle)


@pytest.mark.slow
def test_a_job_at_the_end_of_its_allocation_goes_back_to_the_queue_and_resumes(
    driver: SlurmDriver, cluster: Cluster, tmp_path: Path
) -> None:
    script = """
if [ -f saved ]; then echo "resumed with $WANDB_API_KEY"; exit 5; fi
trap 'touch saved; echo saved; exit 8' USR1
while :; do sleep 0.1; done
"""
    spec = job("resumes", options={"partition": "short"}, secrets=("WANDB_API_KEY",))
    handle = driver.launch(spec, bundle(tmp_path, script), {"WANDB_API_KEY": "secret"})
    status = driver.wait(handle, timeout_s=SLOW_S)
    lines = list(driver.logs(handle))
    assert lines[0] == "saved"
    assert lines[-1] == "resumed with secret"
    assert (status.state, status.exit_code, status.attempts) == ("done", 5, 2)
    assert not (cluster.shared / spec.id / "secrets").exists()


@pytest.mark.slow
def test_the_jobs_own_time_limit_ends_it(driver: SlurmDriver, tmp_path: Path) -> None:
    script = "trap 'echo asked; exit 8' TERM\nwhile :; do sleep 0.1; done\n"
    handle = driver.launch(job("limited", max_hours=3 / 3600), bundle(tmp_path, script), {})
    status = driver.wait(handle, timeout_s=SLOW_S)
    assert (status.state, status.exit_code) == ("timed_out", EXIT_TIME_LIMIT)
    assert "asked" in list(driver.logs(handle))


@pytest.mark.slow
def test_an_interrupted_job_is_started_again_only_so_often(
    driver: SlurmDriver, tmp_path: Path
) -> None:
    handle = driver.launch(job("gives-up", retries=1), bundle(tmp_path, "exit 8"), {})
    status = driver.wait(handle, timeout_s=SLOW_S)
    assert (status.state, status.exit_code, status.attempts) == ("done", 8, 2)


def test_a_job_that_others_cancel_is_told_apart(driver: SlurmDriver, tmp_path: Path) -> None:
    handle = driver.launch(job("cancelled"), bundle(tmp_path, "sleep 60"), {})
    until(driver, handle, "running")
    slurm("scancel", str(handle["number"]))
    status = driver.wait(handle, timeout_s=SLOW_S)
    assert (status.state, status.reason) == ("stopped", "cancelled, and not by ups")


@pytest.mark.slow
def test_a_lost_client_loses_nothing(driver: SlurmDriver, cluster: Cluster, tmp_path: Path) -> None:
    """Killed between sbatch and its record: found again by name."""
    bundle(tmp_path, "sleep 3; exit 7")
    spec = job("found-again")
    client = started(cluster, tmp_path, spec)
    try:
        until_true(lambda: any(machine.job == spec.id for machine in driver.machines()))
    finally:
        killed(client)
    (cluster.shared / spec.id / "number").unlink(missing_ok=True)
    handle = driver.find(spec.id)
    assert handle is not None
    status = driver.wait(handle, timeout_s=SLOW_S)
    assert (status.state, status.exit_code) == ("done", 7)


@pytest.mark.slow
def test_kills_at_random_moments_leave_one_job_or_none(
    driver: SlurmDriver, cluster: Cluster, tmp_path: Path
) -> None:
    choose = random.Random(7)
    made = bundle(tmp_path, "trap 'exit 8' TERM\nwhile :; do sleep 0.1; done\n")
    found_again = 0
    for number in range(10):
        spec = job(f"killed-{number}", secrets=("WANDB_API_KEY",))
        client = started(cluster, tmp_path, spec)
        time.sleep(choose.uniform(0.0, 0.15))
        killed(client)
        found = driver.find(spec.id)
        found_again += found is not None
        handle = driver.launch(spec, made, {"WANDB_API_KEY": SECRET})
        assert found in (None, handle)
        assert [machine.job for machine in driver.machines()] == [spec.id]
        client = started(cluster, tmp_path, spec, "stop(driver.find(spec.id))")
        time.sleep(choose.uniform(0.0, 0.5))
        killed(client)
        driver.stop(handle)
        assert driver.status(handle).state == "stopped"
        assert not (cluster.shared / spec.id / "secrets").exists()
        until_true(lambda: driver.machines() == [])
    assert 0 < found_again < 10


@pytest.mark.slow
def test_a_controller_that_is_killed_and_comes_back(
    driver: SlurmDriver, cluster: Cluster, tmp_path: Path
) -> None:
    handle = driver.launch(job("outlives"), bundle(tmp_path, "sleep 12; exit 7"), {})
    until(driver, handle, "running")
    saved, began = cluster.folder / "state" / "job_state", time.time()
    until_true(lambda: saved.stat().st_mtime > began)
    cluster.restart_controller()
    status = driver.wait(handle, timeout_s=SLOW_S)
    assert (status.state, status.exit_code) == ("done", 7), status


def test_processes_on_two_nodes_find_their_places_and_are_asked_to_end(
    driver: SlurmDriver, tmp_path: Path
) -> None:
    code = (
        "import signal, sys, time; from ups.training.processes import find_place; p = find_place();"
        "say = lambda *a: (print('asked', p.rank, flush=True), sys.exit(8));"
        "signal.signal(signal.SIGUSR1, say);"
        "print('rank', p.rank, p.world_size, p.local_rank, p.address, flush=True); time.sleep(30)"
    )  # fmt: skip
    script = f"""export PYTHONPATH={Path(__file__).parents[2]}
$UPS_REMOTE_LAUNCHER {sys.executable} -c "{code}" & child=$!
trap 'kill -TERM $child' TERM
wait $child; wait $child
"""
    spec = job("two-nodes", nodes=2, task=job("x1x").task.model_copy(update={"nproc": 2}), cpus=2)
    handle = driver.launch(spec, bundle(tmp_path, script), {})
    until_true(lambda: sum(line.startswith("rank") for line in driver.logs(handle)) == 4)
    driver.stop(handle)
    lines = sorted(driver.logs(handle))
    assert [line for line in lines if line.startswith("rank")] == [
        f"rank {rank} 4 {rank % 2} n1" for rank in range(4)
    ]
    assert [line for line in lines if line.startswith("asked")] == [f"asked {r}" for r in range(4)]
    assert driver.status(handle).state == "stopped"


@pytest.mark.slow
def test_a_login_node_over_ssh(cluster: Cluster, tmp_path: Path) -> None:
    with ssh_server(tmp_path / "ssh", environment={"SLURM_CONF": os.environ["SLURM_CONF"]}) as host:
        driver = SlurmDriver(host.options, poll_s=0.2)
        spec = job("over-ssh", secrets=("WANDB_API_KEY",), options=host.options)
        script = bundle(tmp_path, 'printf %s "$WANDB_API_KEY" | md5sum; exit 7')
        handle = driver.launch(spec, script, {"WANDB_API_KEY": SECRET})
        assert handle["folder"] == f"{host.home}/.ups/jobs/over-ssh"
        lines = list(driver.logs(handle, follow=True))
        assert lines[0].split()[0] == hashlib.md5(SECRET.encode()).hexdigest()
        assert driver.status(handle).exit_code == 7
        assert driver.find(spec.id) == handle
        elsewhere = SlurmDriver({**host.options, "identity": "/dev/null"})
        Host.of(host.options).close()
        with pytest.raises(RemoteError, match="permission denied"):
            elsewhere.status(handle)


def test_without_slurm_the_error_says_where_to_go(
    driver: SlurmDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RemoteError, match="sinfo") as caught:
        driver.offers(job("nowhere"))
    assert "login node" in str(caught.value.hint)
