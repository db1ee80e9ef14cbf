"""A real dstack server, driven by our driver, renting from stand-ins of Vast.ai and Vultr."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dstack_jobs import SECRET, bundle, job
from dstack_server import INSTALL, VAST_KEY, VULTR_KEY, Clouds, clouds, until

pytest.importorskip("dstack", reason=INSTALL)

from ups.errors import RemoteError, UsageError
from ups.remote import dstack_setup
from ups.remote.driver import Driver
from ups.remote.drivers import dstack_calls, dstack_client, dstack_server, dstack_task
from ups.remote.drivers.dstack import DstackDriver
from ups.remote.spec import GpuRequest


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with (
        pytest.MonkeyPatch.context() as patch,
        clouds(tmp_path_factory.mktemp("dstack"), patch) as c,
    ):
        dstack_server.ensure_server()
        yield c


@pytest.fixture
def rented_from(server: Clouds, monkeypatch: pytest.MonkeyPatch) -> Clouds:
    server.environment(monkeypatch)
    return server


@pytest.fixture
def driver() -> DstackDriver:
    return DstackDriver(poll_s=0.2)


def test_a_driver_it_is(driver: DstackDriver) -> None:
    assert isinstance(driver, Driver)
    assert driver.is_paid


def test_before_setup_there_are_no_offers_and_the_plan_says_why(
    rented_from: Clouds, driver: DstackDriver
) -> None:
    found = dstack_setup.describe()
    assert found is not None
    assert found.backends == []
    assert [line.partition(":")[0] for line in found.warnings] == [
        "no backend", "no fleet is set up, so dstack offers nothing"
    ]  # fmt: skip
    plan = driver.plan(job("before-setup"))
    assert plan.offers == []
    assert plan.warnings == ["no fleet is set up, so dstack offers nothing"]


def test_setup_adds_what_is_missing_once(rented_from: Clouds) -> None:
    said: list[str] = []
    first = dstack_setup.setup(say=said.append)
    assert said == first.done == [
        "added vastai", "added vultr", "made the fleet ups (0 to 100 machines)",
        "made the fleet ups-cluster (0 to 100 machines)",
    ]  # fmt: skip
    assert list(first.backends) == ["vastai", "vultr"]
    assert rented_from.vast.asked("GET", "/api/v1/instances/")[0].key == VAST_KEY
    assert rented_from.vultr.asked("GET", "/v2/ssh-keys")[0].key == VULTR_KEY

    again = dstack_setup.setup()
    assert sorted(again.fleets) == ["ups", "ups-cluster"]
    assert not any(line.startswith(("added", "made", "started")) for line in again.done)
    assert again.warnings == []


def test_a_cloud_that_refuses_its_key_is_named(
    rented_from: Clouds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VASTAI_API_KEY", "wrong-key-0123")
    with pytest.raises(RemoteError, match="adding vastai, key from VASTAI_API_KEY") as caught:
        dstack_setup.setup(["vastai"])
    assert "wrong-key-0123" not in str(caught.value)


def test_offers_come_from_all_backends_cheapest_first(
    rented_from: Clouds, driver: DstackDriver
) -> None:
    offers = driver.offers(job("offers"))
    found = [(offer.backend, offer.machine, round(offer.price, 2)) for offer in offers]
    assert found == [
        ("vastai", "102", 0.96), ("vastai", "101", 1.41),
        ("vultr", "vcg-a100-12c-120g-80vram", 1.85), ("vultr", "vcg-a100-12c-120g-80vram", 1.85),
    ]  # fmt: skip
    assert {(offer.gpu, offer.gpu_count, offer.gpu_memory_gb) for offer in offers} == {
        ("A100", 1, 80)
    }
    asked = rented_from.vast.asked("POST", "/api/v0/bundles/")[-1].body
    assert asked["gpu_name"] == {"in": ["A100 PCIE", "A100 SXM4"]}
    assert asked["rentable"] == {"eq": True}

    spot = driver.offers(job("offers", spot=True))
    assert [(offer.machine, offer.spot) for offer in spot] == [("101", True)]
    two = driver.offers(job("offers", gpu=GpuRequest(name="A100", count=2)))
    assert [(offer.machine, offer.gpu_count) for offer in two] == [("105", 2)]
    cpu = driver.offers(job("offers", gpu=GpuRequest(), cpus=4))
    assert [(offer.machine, offer.gpu) for offer in cpu] == [("vc2-4c-8gb", "")]


def test_several_nodes_are_not_offered_by_vastai(rented_from: Clouds, driver: DstackDriver) -> None:
    backends = {offer.backend for offer in driver.offers(job("nodes", nodes=2))}
    assert backends == {"vultr"}


def test_a_plan_keeps_the_price_and_names_the_cheapest_otherwise(
    rented_from: Clouds, driver: DstackDriver
) -> None:
    plan = driver.plan(job("plan"))
    assert [offer.machine for offer in plan.offers] == ["102"]
    assert plan.warnings == []
    assert "WANDB_API_KEY: ${{ secrets.plan__WANDB_API_KEY }}" in plan.rendered
    assert "max_price: 1.0" in plan.rendered
    assert "idle_duration: 0" in plan.rendered

    dear = driver.plan(job("plan", max_price=0.5))
    assert dear.offers == []
    assert dear.cheapest is not None
    assert dear.cheapest.price == pytest.approx(0.964, abs=0.001)
    assert dear.warnings == [
        "no on-demand offer with A100-80GB under $0.5/h; the cheapest is $0.96389/h"
        " (A100, vastai is-iceland)"
    ]
    unknown = driver.plan(job("plan", gpu=GpuRequest(name="B300")))
    assert unknown.warnings == ["no on-demand machine with B300 is offered by any backend"]


def test_without_price_or_time_limit_nothing_is_planned_or_launched(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    for changes in ({"max_price": None}, {"max_hours": None}):
        with pytest.raises(UsageError, match="a price and a time limit are needed"):
            driver.plan(job("unlimited", **changes))
        with pytest.raises(UsageError, match="a price and a time limit are needed"):
            driver.launch(job("unlimited", **changes), bundle(tmp_path), {"WANDB_API_KEY": SECRET})
    assert driver.find("unlimited") is None


def test_an_image_is_not_asked_for_at_plan_time(rented_from: Clouds, driver: DstackDriver) -> None:
    plan = driver.plan(job("image", options={"image": "registry.invalid/ours:1"}))
    assert [offer.machine for offer in plan.offers] == ["102"]
    with pytest.raises(UsageError, match=r"unknown option 'imgae' \(did you mean 'image'\?\)"):
        driver.plan(job("image", options={"imgae": "x"}))


def test_no_offer_under_the_price_launches_nothing(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    with pytest.raises(RemoteError, match=r"the cheapest is \$0.96") as caught:
        driver.launch(job("dear", max_price=0.5), bundle(tmp_path), {"WANDB_API_KEY": SECRET})
    assert caught.value.hint == "--max-price 1.01"
    assert driver.find("dear") is None
    with pytest.raises(RemoteError, match="no value for WANDB_API_KEY"):
        driver.launch(job("dear"), bundle(tmp_path), {})


def test_a_job_is_launched_once_found_by_its_id_and_leaves_nothing_when_stopped(
    rented_from: Clouds, driver: DstackDriver, tmp_path: Path
) -> None:
    spec = job("once-0a1b2c3d")
    handle = driver.launch(spec, bundle(tmp_path), {"WANDB_API_KEY": SECRET})
    assert driver.launch(spec, bundle(tmp_path), {"WANDB_API_KEY": SECRET}) == handle
    assert driver.find(spec.id) == handle
    until(lambda: rented_from.vast.instances, "a machine is rented")

    asked = rented_from.vast.asked("PUT", r"/api/v0/asks/\d+/")
    assert [request.path for request in asked] == ["/api/v0/asks/102/"]
    body = asked[0].body
    assert body["label"].startswith("dstack-main-once-0a1b2c3d-0-0-")
    assert body["disk"] == 100
    assert body["price"] is None  # not a bid: an on-demand machine
    assert SECRET not in str(body)

    status = until(lambda: (s := driver.status(handle)).machine and s, "the machine is known")
    assert status.state == "starting"
    assert status.machine == "102 in vastai is-iceland"
    assert status.price == pytest.approx(0.964, abs=0.001)
    (machine,) = driver.machines()
    assert (machine.job, machine.price) == (spec.id, pytest.approx(0.964, abs=0.001))
    assert rented_from.files_with(SECRET, VAST_KEY, VULTR_KEY) == []
    listed = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert not any(secret in listed for secret in (SECRET, VAST_KEY, VULTR_KEY))

    driver.stop(handle)
    assert rented_from.rented() == 0
    assert driver.machines() == []
    assert driver.wait(handle, timeout_s=5).state == "stopped"
    assert [request.method for request in rented_from.vast.asked("DELETE", ".*")] == ["DELETE"]
    driver.stop(handle)  # nothing, where it has ended
    found = dstack_server.ensure_server()
    with dstack_client.connect(found.url, found.token) as client:
        assert client.secrets.list(found.project) == []
    assert rented_from.files_with(SECRET, VAST_KEY, VULTR_KEY) == []


def test_machines_that_only_the_cloud_knows_are_listed_and_given_back(
    rented_from: Clouds, driver: DstackDriver
) -> None:
    vast, vultr = rented_from.vast, rented_from.vultr
    shared = {"actual_status": "running", "dph_total": 0.95, "start_date": 1_795_000_000.0}
    vast.instances[7001] = {"id": 7001, "label": "dstack-main-lost-1a2b-0-0-abcd1234", **shared}
    vast.instances[7002] = {"id": 7002, "label": "dstack-other-job-0-0-abcd1234", **shared}
    vast.instances[7003] = {"id": 7003, "label": None, **shared}
    vultr.instances["v-1"] = {
        "id": "v-1", "label": "dstack-main-lost-3c4d-0-0-abcd1234", "status": "active",
        "date_created": "2026-11-20T10:00:00+00:00",
    }  # fmt: skip
    found = {machine.job: machine for machine in driver.machines()}
    assert sorted(found) == ["lost-1a2b", "lost-3c4d"]
    assert found["lost-1a2b"].state == "running, unknown to dstack"
    assert found["lost-1a2b"].price == 0.95
    for machine in found.values():
        driver.remove(machine)
        driver.remove(machine)  # gone already
    assert sorted(vast.instances) == [7002, 7003]
    assert vultr.instances == {}
    vast.instances.clear()


def test_a_cloud_that_cannot_be_asked_is_named(
    rented_from: Clouds, driver: DstackDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ups.remote.drivers import dstack_audit

    monkeypatch.setitem(dstack_audit.HOSTS, "vultr", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="vultr: the cloud could not be asked"):
        driver.machines()


def test_an_unknown_job_is_unknown(rented_from: Clouds, driver: DstackDriver) -> None:
    handle = {"engine": "dstack", "run": "never-was", "project": "main"}
    assert driver.find("never-was") is None
    assert driver.status(handle).state == "unknown"
    assert list(driver.logs(handle, follow=True)) == []
    driver.stop(handle)


def test_the_servers_folder_is_its_owners_alone(rented_from: Clouds) -> None:
    folder = dstack_server.folder()
    assert folder.stat().st_mode & 0o077 == 0
    for name in ("token", "config.yml", "server.log"):
        assert (folder / name).stat().st_mode & 0o077 == 0, name


def test_plain_values_stand_in_the_database_as_they_are(rented_from: Clouds) -> None:
    """Why secrets go by name: dstack encrypts its secrets and keys, not a job's `env`."""
    spec = job("plain-values", environment={"UPS_EXAMPLE": "plain-planted-900150983cd24fb0"})
    found = dstack_server.ensure_server()
    with dstack_client.connect(found.url, found.token) as client:
        content = dstack_task.configuration(spec, deadline=1) | {"max_price": 0.01, "retry": False}
        run_spec = dstack_calls.run_spec(spec, content)
        client.runs.apply_plan(found.project, dstack_client.ApplyRunPlanInput(run_spec=run_spec))
        client.runs.stop(found.project, [spec.id], abort=True)
    assert rented_from.files_with("plain-planted-900150983cd24fb0") != []
