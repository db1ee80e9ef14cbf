"""The ssh engine against a real sshd: jobs that are small shell scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ssh_server import SshServer, kill_session, members, ssh_server

from ups.errors import RemoteError, UsageError
from ups.remote.drivers.ssh import SshDriver
from ups.remote.drivers.ssh_host import Host
from ups.remote.spec import GpuRequest, JobSpec, Task

SECRET = 'planted-c4ca4238a0b923820dcc509a6f75849b it\'s "quoted"\nsecond line'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ssh_server(tmp_path_factory.mktemp("ssh") / "host") as running:
        yield running


@pytest.fixture
def driver(server):
    return SshDriver([server.options], poll_s=0.2, grace_s=5.0)


@pytest.fixture
def launch(server: SshServer, driver: SshDriver, tmp_path: Path):
    """launch(script, ...) -> handle: a job whose run.sh is that script."""

    def start(script, name="", **changes):
        bundle = tmp_path / "bundle"
        bundle.mkdir(exist_ok=True)
        (bundle / "run.sh").write_text(script)
        fields = {"secrets": ("A_KEY",), "environment": {"PLAIN": "$HOME 'x'"}} | changes
        return driver.launch(
            job(server, name or tmp_path.name, **fields), bundle, {"A_KEY": SECRET}
        )

    return start


def job(server, name, **changes):
    name = "j-" + "".join(letter for letter in name.lower() if letter.isalnum())[:30]
    task = Task(config="name: tiny\n", run_name="tiny", run_id="run-1")
    return JobSpec(**({"id": name, "engine": "ssh", "task": task, "options": server.options}
                      | changes))  # fmt: skip


def test_a_job_runs_detached_and_its_exit_code_log_and_time_come_back(driver, launch):
    handle = launch('echo "hello $PLAIN"; printf "%s|" "$A_KEY" | wc -c; echo last; exit 7')
    status = driver.wait(handle, timeout_s=30)
    assert (status.state, status.exit_code, status.price) == ("done", 7, 0.0)
    assert status.machine == os.uname().nodename
    assert list(driver.logs(handle)) == ["hello $HOME 'x'", str(len(SECRET) + 1), "last"]
    assert driver.find(handle["job"]) == handle
    assert driver.machines() == []
    driver.stop(handle)
    assert driver.status(handle).state == "done"


def test_a_second_launch_of_a_job_starts_nothing(driver, launch, server):
    handle = launch("echo once >>$HOME/count; sleep 0.5", "twice")
    assert launch("echo twice >>$HOME/count", "twice") == handle
    driver.wait(handle, timeout_s=30)
    assert launch("echo twice >>$HOME/count", "twice") == handle
    assert (server.home / "count").read_text() == "once\n"


def test_a_job_that_was_sent_and_not_started_is_no_job_and_can_be_launched(driver, launch, server):
    (server.job("j-sent") / "bundle").mkdir(parents=True)
    assert driver.find("j-sent") is None
    handle = launch("echo here", "sent")
    assert driver.wait(handle, timeout_s=30).exit_code == 0


def test_secrets_are_in_no_file_and_no_argument(driver, launch, server):
    handle = launch("sleep 30")
    pid = int((server.job(handle["job"]) / "pid").read_text().split()[0])
    assert f"A_KEY={SECRET}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert b"planted-c4ca" not in path.read_bytes(), path
        except OSError:
            continue
    driver.stop(handle)
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert all(b"planted-c4ca" not in path.read_bytes() for path in files)
    assert server.job(handle["job"]).stat().st_mode & 0o077 == 0


def test_a_stopped_job_has_time_to_save_and_leaves_nobody_behind(driver, launch, server):
    handle = launch("trap 'echo saved; exit 8' TERM; sleep 60 & setsid sleep 0.1; wait")
    (machine,) = driver.machines()
    assert (machine.job, machine.engine) == (handle["job"], "ssh")
    pid = int((server.job(handle["job"]) / "pid").read_text().split()[0])
    driver.remove(machine)
    status = driver.status(handle)
    assert (status.state, status.exit_code) == ("stopped", 8)
    assert "saved" in list(driver.logs(handle))
    assert members(pid) == []


def test_a_job_that_does_not_listen_is_killed(server, launch, driver):
    handle = launch("trap '' TERM; sleep 60; sleep 60")
    pid = int((server.job(handle["job"]) / "pid").read_text().split()[0])
    SshDriver(grace_s=0.5, poll_s=0.1).stop(handle)
    assert (driver.status(handle).state, members(pid)) == ("stopped", [])


def test_the_time_limit_holds_without_the_client(driver, launch):
    handle = launch('echo "$UPS_REMOTE_DEADLINE"; sleep 60', max_hours=1.2 / 3600)
    status = driver.wait(handle, timeout_s=40)
    assert (status.state, status.exit_code) == ("timed_out", 11)
    (line,) = driver.logs(handle)
    assert abs(int(line) - time.time()) < 60


def test_a_job_that_is_killed_takes_its_children_along_and_says_so(driver, launch, server):
    handle = launch("sleep 60 & kill -KILL $$")
    status = driver.wait(handle, timeout_s=30)
    assert (status.state, status.exit_code) == ("done", 137)
    assert status.reason == "killed by signal 9: did the machine run out of memory?"
    pid = int((server.job(handle["job"]) / "pid").read_text().split()[0])
    assert members(pid) == []


def test_what_fails_before_the_agent_is_told_in_its_words(driver, launch):
    handle = launch("echo 'error: there is no Python 3.11 or newer' >&2; exit 14")
    status = driver.wait(handle, timeout_s=30)
    assert (status.exit_code, status.reason) == (14, "there is no Python 3.11 or newer")


def test_a_killed_job_and_a_restarted_machine_are_told_apart(driver, launch, server):
    handle = launch("sleep 60")
    record = server.job(handle["job"]) / "pid"
    pid, start, boot = record.read_text().split()
    assert driver.status(handle).state == "starting"
    (server.job(handle["job"]) / "bundle" / "status.json").write_text('{"state":\n "running"}')
    assert driver.status(handle).state == "running"
    record.write_text(f"{pid} {start} an-earlier-boot\n")
    assert "restarted" in driver.status(handle).reason
    record.write_text(f"{pid} 1 {boot}\n")
    assert driver.status(handle).state == "failed"
    driver.stop(handle)
    assert members(int(pid)), "a number that another process has by now is not killed"
    (server.job(handle["job"]) / "exit-code").unlink()
    record.write_text(f"{pid} {start} {boot}\n")
    kill_session(int(pid))
    assert "killed without a word" in driver.status(handle).reason


def test_logs_are_followed_to_the_end_over_a_lost_connection(driver, launch, server):
    handle = launch('for i in {1..12}; do echo "line $i"; sleep 0.3; done; printf "no newline"')
    lines = []
    for line in driver.logs(handle, follow=True):
        lines.append(line)
        if line == "line 3":
            server.cut()
            server.start()
    assert lines == [*(f"line {i}" for i in range(1, 13)), "no newline"]
    assert driver.wait(handle, timeout_s=10).exit_code == 0


def test_a_host_out_of_reach_is_waited_for(driver, launch, server):
    handle = launch("sleep 1.5; exit 3")
    server.cut()
    assert driver.wait(handle, timeout_s=0.3).reason == "the host is out of reach"
    server.start()
    assert driver.wait(handle, timeout_s=30).exit_code == 3


def test_an_unknown_host_a_changed_key_and_a_wrong_user_key_are_refused(server, tmp_path):
    empty, other, key = tmp_path / "empty", tmp_path / "other", tmp_path / "key"
    empty.touch()
    for path in (other, key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    words = (tmp_path / "other.pub").read_text().split()[:2]
    changed = tmp_path / "changed"
    changed.write_text(f"[127.0.0.1]:{server.port} {' '.join(words)}\n")

    def error(**options):
        Host.of(server.options).close()
        with pytest.raises(RemoteError) as caught:
            Host.of(server.options | options).run("true")
        return caught.value

    unknown = error(known_hosts=str(empty))
    assert str(unknown) == "127.0.0.1: its key is not known here"
    assert f"ssh-keyscan -p {server.port} 127.0.0.1" in str(unknown.hint)
    assert empty.read_text() == ""
    assert "not the one that is known" in str(error(known_hosts=str(changed)))
    assert "permission denied" in str(error(identity=str(key)))
    assert "no connection" in str(error(port="1"))


def test_the_host_is_offered_where_it_has_what_is_asked_for(server, driver):
    spec = job(server, "offer")
    (offer,) = driver.offers(spec)
    assert (offer.price, offer.cpus) == (0.0, len(os.sched_getaffinity(0)))
    asks = spec.model_copy(update={"gpu": GpuRequest(name="B300", count=8)})
    assert driver.offers(asks) == []
    plan = driver.plan(asks)
    assert plan.offers == []
    assert plan.cheapest is not None
    assert "B300:8 is asked for" in plan.warnings[0]
    assert "~/.ups/jobs/j-offer" in plan.rendered
    named = spec.model_copy(update={"options": server.options | {"home": "/data/ups"}})
    assert "UPS_HOME: /data/ups" in driver.plan(named).rendered
    assert not server.job("j-offer").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "which machine"),
        ({"host": "-oProxyCommand=x"}, "not a name"),
        ({"host": "a", "prot": "1"}, "did you mean 'port'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Host.of(options)


def test_the_job_outlives_a_client_that_is_killed(server, driver, launch):
    handle = launch("sleep 1; exit 5")
    follower = subprocess.Popen(
        [*Host.of(server.options).command, "tail -f ~/.ups/jobs/*/log"],
        stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    follower.send_signal(signal.SIGKILL)
    follower.wait()
    server.cut()
    server.start()
    assert driver.wait(handle, timeout_s=30).exit_code == 5
