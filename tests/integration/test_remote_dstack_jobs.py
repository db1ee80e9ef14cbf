"""Whole jobs through a real dstack server: exit codes, logs, crashes of the server, Vultr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dstack_jobs import SECRET, bundle, job
from dstack_machine import container
from dstack_server import INSTALL, VAST_KEY, VULTR_KEY, Clouds, clouds, kill_server, until

pytest.importorskip("dstack", reason=INSTALL)

from ups.remote import dstack_setup
from ups.remote.drivers import dstack_server
from ups.remote.drivers.dstack import DstackDriver
from ups.remote.spec import EXIT_TIME_LIMIT

pytestmark = pytest.mark.slow

IMAGE = {"image": "registry.invalid/ours:1"}  # no image: the server's own preamble needs its image


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with (
        pytest.MonkeyPatch.context() as patch,
        clouds(tmp_path_factory.mktemp("dstack"), patch) as c,
    ):
        dstack_setup.setup()
        yield c


@pytest.fixture
def rented_from(server: Clouds, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clouds]:
    server.environment(monkeypatch)
    server.vast.requests.clear()
    server.vultr.requests.clear()
    yield server
    assert server.rented() == 0


@pytest.fixture
def driver() -> DstackDriver:
    return DstackDriver(poll_s=0.2)


@pytest.mark.parametrize("code", [0, 7])
def test_a_job_runs_and_its_own_exit_code_and_output_come_back(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path, code: int
) -> None:
    script = (
        'test -f ups-0.1.0-py3-none-any.whl && echo "wheel is here"\n'
        'echo "secret of ${#WANDB_API_KEY} letters, $UPS_EXAMPLE"\n'
        f"echo first; sleep 1; echo last\nexit {code}\n"
    )
    with container(tmp_path / "machine", rented_from.vast) as runner:
        spec = job(f"exit-{code}", options=IMAGE)
        handle = driver.launch(spec, bundle(tmp_path, script), {"WANDB_API_KEY": SECRET})
        lines = list(driver.logs(handle, follow=True))
        status = driver.wait(handle, timeout_s=240)
    assert (status.state, status.exit_code, status.reason) == ("done", code, "")
    assert lines == [
        "wheel is here", f"secret of {len(SECRET)} letters, plain $value", "first", "last"
    ]  # fmt: skip
    assert runner.environment["WANDB_API_KEY"] == SECRET
    assert list(driver.logs(handle)) == lines
    until(lambda: rented_from.rented() == 0, "the machine has gone by itself")
    assert driver.machines() == []
    assert rented_from.files_with(SECRET, VAST_KEY, VULTR_KEY) == []


def test_the_time_limit_holds_on_the_machine(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    script = "trap 'echo saved; exit 8' TERM\necho started\nsleep 600 & wait\n"
    with container(tmp_path / "machine", rented_from.vast):
        spec = job("time-limit", options=IMAGE, max_hours=100 / 3600)
        handle = driver.launch(spec, bundle(tmp_path, script), {"WANDB_API_KEY": SECRET})
        status = driver.wait(handle, timeout_s=300)
    assert (status.state, status.exit_code) == ("done", EXIT_TIME_LIMIT)
    assert list(driver.logs(handle)) == ["started", "saved"]
    until(lambda: rented_from.rented() == 0, "the machine has gone by itself")


def test_a_running_job_that_is_stopped_has_time_to_save(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    script = "trap 'echo saved; exit 8' TERM\necho started\nsleep 600 & wait\n"
    with container(tmp_path / "machine", rented_from.vast) as runner:
        handle = driver.launch(
            job("stopped", options=IMAGE), bundle(tmp_path, script), {"WANDB_API_KEY": SECRET}
        )
        until(lambda: list(driver.logs(handle)) == ["started"], "the job prints")
        assert driver.status(handle).state == "running"
        driver.stop(handle)
    assert runner.stopped == 1
    assert driver.status(handle).state == "stopped"
    assert list(driver.logs(handle)) == ["started", "saved"]


def test_a_server_that_is_killed_ends_no_job_and_loses_none(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    script = "echo started\nsleep 20\necho ended\nexit 5\n"
    with container(tmp_path / "machine", rented_from.vast):
        handle = driver.launch(
            job("survivor", options=IMAGE), bundle(tmp_path, script), {"WANDB_API_KEY": SECRET}
        )
        until(lambda: list(driver.logs(handle)) == ["started"], "the job prints")
        kill_server()
        assert dstack_server.running_server() is None
        assert driver.status(handle).state == "running"
        assert dstack_server.running_server() is not None
        status = driver.wait(handle, timeout_s=300)
    assert (status.state, status.exit_code) == ("done", 5)
    assert list(driver.logs(handle)) == ["started", "ended"]
    until(lambda: rented_from.rented() == 0, "the machine has gone by itself")


def test_a_server_killed_while_machines_are_made_leaves_none_after_stop(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    jobs = [
        job("killed-vultr", max_price=2.0, options={"backend": "vultr"}),
        job("killed-vast", options={"backend": "vastai"}),
    ]
    handles = [driver.launch(spec, bundle(tmp_path), {"WANDB_API_KEY": SECRET}) for spec in jobs]
    until(lambda: rented_from.rented() == 2, "both machines are rented")
    asked = rented_from.vultr.asked("POST", "/v2/instances")[0].body
    assert asked["plan"] == "vcg-a100-12c-120g-80vram"
    assert asked["label"].startswith("dstack-main-killed-vultr-0-0-")
    until(lambda: len([m for m in driver.machines() if m.price]) == 2, "both are written down")
    kill_server()
    time.sleep(1)
    assert rented_from.rented() == 2
    assert {machine.job for machine in driver.machines()} == {"killed-vultr", "killed-vast"}
    for handle in handles:
        driver.stop(handle)
    assert rented_from.rented() == 0
    assert driver.machines() == []
    assert {driver.status(handle).state for handle in handles} == {"stopped"}
    assert len(rented_from.vultr.asked("DELETE", "/v2/instances/.*")) == 1
    assert rented_from.files_with(SECRET, VAST_KEY, VULTR_KEY) == []


def test_a_machine_is_removed_with_its_job(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    handle = driver.launch(job("removed"), bundle(tmp_path), {"WANDB_API_KEY": SECRET})
    until(lambda: rented_from.rented() == 1, "a machine is rented")
    (machine,) = until(driver.machines, "it is listed")
    driver.remove(machine)
    assert rented_from.rented() == 0
    assert driver.status(handle).state == "stopped"
