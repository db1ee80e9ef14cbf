"""What a user sees of `ups remote`, with an engine whose jobs are processes of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_engine import LocalEngine
from tiny_commands import ups

from ups.remote import drivers, engines, launch, records
from ups.remote.prepare import any_job
from ups.remote.spec import JobSpec

SECRET = "planted-5f4dcc3b5aa765d61d8327deb882cf99"


class Place:
    """An engine, a remote, and the script that jobs run."""

    def __init__(self, folder: Path) -> None:
        self.engine = LocalEngine(folder / "engine")
        self.remote = folder / "remote"
        self.remote.mkdir()
        self.script = "echo hello"

    def build(self, spec: JobSpec, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.sh").write_text(self.script + "\n")

    def launch(self, *options: str, code: int = 0) -> str:
        arguments = ("remote", "launch", "--remote", str(self.remote), *options)
        return ups(*arguments, code=code).output


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)
    monkeypatch.setattr(drivers, "driver_of", lambda engine, options: made.engine)
    monkeypatch.setattr(launch, "build_bundle", made.build)
    monkeypatch.setattr(launch, "_POLL_S", 0.02)
    monkeypatch.setattr(engines, "_has_sbatch", lambda: False)
    monkeypatch.delenv("UPS_DSTACK_URL", raising=False)
    home.mkdir()
    (home / "remote.yaml").write_text("options: {ssh: {host: box}}\n")
    yield made
    made.engine.end_all()


def contents(*folders: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for folder in folders for path in sorted(folder.rglob("*"))
    }  # fmt: skip


# ---- launch: what it prints, and the table of exit codes ----


def test_launch_shows_plan_output_and_end(place: Place) -> None:
    text = place.launch("--gpu", "a100-80gb")
    for line in ("engine    ssh: set up in remote.yaml", "job       burgers1d-", "A100-80GB",
                 "hours     unknown", "secrets   none (by name)", "hello",
                 "exit 0: done"):  # fmt: skip
        assert line in text, text
    (job,) = records.load_all()
    assert [one["event"] for one in job.events[:3]] == ["planned", "creating", "created"]
    assert job.spec.task.run_name == "burgers1d"
    assert job.spec.gpu.memory_gb == 80
    assert job.spec.remote_settings == {"kind": "local", "folder": str(place.remote)}


@pytest.mark.parametrize("code", [0, 7])
def test_launch_exits_as_the_job_does(place: Place, code: int) -> None:
    place.script = f"exit {code}"
    assert f"exit {code}: {launch.MEANINGS[code]}" in " ".join(place.launch(code=code).split())


@pytest.mark.parametrize("code", sorted(launch.MEANINGS))
def test_wait_exits_as_the_job_does_and_says_why(place: Place, code: int) -> None:
    text = ended(place, f"exit {code}", code)
    assert f"exit {code}: {launch.MEANINGS[code]}" in text


def test_wait_exits_as_a_job_that_a_signal_ended(place: Place) -> None:
    assert "exit 137: ended by a signal" in ended(place, "kill -KILL $$", 137)


def ended(place: Place, script: str, code: int) -> str:
    """What `wait` says about a job that runs a script."""
    place.script = script
    spec = any_job(engines.Engine("ssh", {}), "none")
    launch.start(spec, place.engine, {})
    return " ".join(ups("remote", "wait", spec.id, code=code).output.split())


def test_a_lost_machine_is_the_engines_failure(place: Place) -> None:
    job = begun("lost-0000aaaa")
    records.note(job, records.STATUS, state="failed", reason="machine lost")
    assert launch.exit_code_of(records.load(job)) == 10
    assert launch.outcome(records.load(job)).endswith("machine was lost (machine lost)")


def test_a_time_limit_kept_by_the_engine(place: Place) -> None:
    job = begun("late-0000aaaa")
    records.note(job, records.STATUS, state="timed_out")
    assert launch.exit_code_of(records.load(job)) == 11


def test_a_stopped_job_whose_checkpoint_was_saved_was_stopped(place: Place) -> None:
    job = begun("ended-0000aaaa")
    records.note(job, records.STOPPING)
    records.note(job, records.STATUS, state="done", exit_code=8)
    assert launch.exit_code_of(records.load(job)) == 12


def begun(name: str) -> str:
    """A job's record, as if it had been created."""
    spec = any_job(engines.Engine("ssh", {}), "none", id=name)
    records.begin(spec, {})
    records.note(name, records.CREATING)
    records.note(name, records.CREATED, handle={"engine": "local", "job": name})
    return name


def test_a_job_that_the_engine_refuses_is_recorded_as_not_created(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ups.errors import RemoteError

    def refuse(*args: object) -> None:
        raise RemoteError("the box is on fire", hint="water")

    monkeypatch.setattr(place.engine, "launch", refuse)
    assert "error: the box is on fire" in place.launch(code=6)
    (job,) = records.load_all()
    assert job.has_ended
    assert job.refusal == "the box is on fire"
    assert "not created" in ups("remote", "list").output


# ---- before a launch ----


def test_a_dry_run_prints_everything_and_changes_nothing(place: Place, home: Path) -> None:
    os.environ["PLANTED"] = SECRET
    before = contents(home, place.remote, place.engine.folder)
    place.engine = LocalEngine(place.engine.folder, price=1.5)
    text = place.launch("--gpu", "RTX 4090", "--max-price", "2", "--max-hours", "3", "--dry-run",
                        "--secret", "PLANTED")  # fmt: skip
    for line in ("run: burgers1d-", "Offers", "machine   RTX4090 80GB of local place0, $1.50 an",
                 "cost      at most $6.00 ($2/h x 3 h)", "transfer  bundle:",
                 "transfer  data: burgers1d, missing", "secrets   PLANTED (by name)",
                 "ups data push burgers1d"):  # fmt: skip
        assert line in text, text
    assert SECRET not in text
    assert max(map(len, text.replace(str(place.remote), "there").splitlines())) <= 160
    assert contents(home, place.remote, place.engine.folder) == before
    assert not place.engine.folder.exists()
    del os.environ["PLANTED"]


def test_a_dry_run_as_json(place: Place) -> None:
    found = json.loads(place.launch("--dry-run", "--json"))
    assert found["offers"][0]["machine"] == "box0"
    assert found["hours"] is None
    assert found["hours_quality"] == "unknown"
    assert found["worst_cost"] is None


def test_a_paid_engine_needs_a_price_and_a_time_limit(place: Place) -> None:
    place.engine.price, place.engine.is_paid = 1.0, True
    assert "--max-price and --max-hours must be given" in place.launch(code=2)
    assert "rents machines: --max-hours must" in place.launch("--max-price", "1", code=2)
    assert records.ids() == []


def test_above_the_configured_amount_a_launch_asks(place: Place, home: Path) -> None:
    place.engine.price, place.engine.is_paid = 1.0, True
    limits = ("--max-price", "2", "--max-hours", "3")
    text = place.launch(*limits, code=2)
    assert "this may cost $6.00, more than ask_above, 5 dollars" in text
    assert records.ids() == []
    place.launch(*limits, "--yes")
    (home / "remote.yaml").write_text("ask_above: 6\noptions: {ssh: {host: box}}\n")
    place.launch(*limits)
    assert len(records.ids()) == 2


def test_no_offer_under_the_price_names_the_cheapest(place: Place) -> None:
    place.engine.price, place.engine.is_paid = 1.0, True
    text = place.launch("--gpu", "A100", "--max-price", "0.5", "--max-hours", "1", code=6)
    assert "no machine with A100 under $0.5/h; the cheapest is $1.00/h" in text
    assert "hint: --max-price 1.05" in text
    assert records.ids() == []


def test_an_unknown_gpu_lists_near_ones(place: Place) -> None:
    assert "no such GPU is known; near are A100" in place.launch("--gpu", "A1000", code=2)


def test_a_secret_without_a_value_is_named(place: Place) -> None:
    assert "not set here: NOT_THERE" in place.launch("--secret", "NOT_THERE", code=2)
    assert records.ids() == []


def test_secrets_are_in_no_file(place: Place, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", SECRET)
    place.script = 'test -n "$PLANTED"'
    place.launch("--secret", "PLANTED")
    found = contents(home, place.remote, place.engine.folder)
    assert not [name for name, content in found.items() if SECRET.encode() in content]


def test_engines_that_can_be_used(place: Place, home: Path) -> None:
    (home / "remote.yaml").write_text("options: {ssh: {host: box}, slurm: {partition: gpu}}\n")
    text = place.launch(code=2)
    assert "several engines can be used: slurm (set up in remote.yaml); ssh" in text
    assert "hint: --engine slurm or --engine ssh" in text
    (home / "remote.yaml").write_text("project: ours\n")
    assert "no engine is set up on this machine" in place.launch(code=2)
    place.launch("--option", "host=box")
    assert records.load_all()[0].spec.options == {"host": "box"}
    assert records.load_all()[0].spec.project == "ours"
    (home / "remote.yaml").write_text("projcet: ours\n")
    assert "projcet: unknown key (did you mean 'project'?)" in place.launch(code=2)


# ---- after it ----


def test_a_detached_job_is_listed_followed_and_waited_for(place: Place, tmp_path: Path) -> None:
    go = tmp_path / "go"
    place.script = f"echo one; while [ ! -f {go} ]; do sleep 0.02; done; echo two; exit 5"
    text = place.launch("--detach")
    (job,) = records.load_all()
    assert f"started   {job.id}; ups remote logs -f" in text
    assert "running" in ups("remote", "list").output
    assert "one" in ups("remote", "logs").output
    status = json.loads(ups("remote", "status", job.id[:-4], "--json").output)
    assert (status["state"], status["ended"]) == ("running", False)
    go.touch()
    assert "two" in ups("remote", "logs", "-f").output
    assert "exit 5: a gate was missed" in ups("remote", "wait", code=5).output
    assert ups("remote", "stop").output.startswith("ended")
    assert "outcome   exit 5" in ups("remote", "status").output
    listed = json.loads(ups("remote", "list", "--json", "--offline").output)
    assert [one["exit_code"] for one in listed["jobs"]] == [5]


def test_stopping_ends_the_process_and_says_so(place: Place) -> None:
    place.engine.price, place.engine.is_paid = 36.0, True
    place.script = "sleep 60"
    place.launch("--detach", "--max-price", "40", "--max-hours", "1", "--yes")
    assert len(place.engine.machines()) == 1
    assert "exit 12: stopped by the user" in ups("remote", "stop").output
    assert place.engine.machines() == []
    assert "exit 12" in ups("remote", "wait", code=12).output
    text = ups("remote", "cost").output
    assert "at most $40.00" in text
    assert "project   ups: 1 jobs, 0 going on" in ups("remote", "list").output


def test_an_interrupt_leaves_the_job_running(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> Iterator[str]:
        raise KeyboardInterrupt
        yield ""

    place.script = "sleep 60"
    monkeypatch.setattr(place.engine, "logs", interrupted)
    text = place.launch(code=130)
    (job,) = records.load_all()
    assert f"the job goes on; to end it: ups remote stop {job.id}" in text
    assert len(place.engine.machines()) == 1


def test_a_connection_that_breaks_is_made_again_and_no_line_comes_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ups.errors import RemoteError

    place.script = "echo one; echo two; sleep 0.2; echo three"
    whole, calls = place.engine.logs, []

    def broken(handle: object, *, follow: bool = False) -> Iterator[str]:
        calls.append(follow)
        for number, line in enumerate(whole(handle, follow=follow)):
            if number == 2 and len(calls) == 1:
                raise RemoteError("the connection broke")
            yield line

    monkeypatch.setattr(place.engine, "logs", broken)
    lines = place.launch().splitlines()
    assert [line for line in lines if line in ("one", "two", "three")] == ["one", "two", "three"]
    assert len(calls) > 1


def test_offers(place: Place) -> None:
    place.engine.price = 1.25
    text = ups("remote", "offers", "--gpu", "H100:2").output
    assert "H100 80GB:2" in text
    assert text.index("$1.25") < text.index("$2.50")
    assert max(map(len, text.splitlines())) <= 80
    assert "no machine fits" in ups("remote", "offers", "--max-price", "1").output


# ---- the audit ----


def test_a_machine_of_no_known_job_is_found_and_removed(place: Place, home: Path) -> None:
    place.script = "sleep 60"
    place.launch("--detach")
    assert "healthy" in ups("remote", "doctor").output
    (job,) = records.load_all()
    (records.jobs_dir() / job.id).rename(home / "forgotten")
    text = ups("remote", "doctor", code=6).output
    assert "unknown job" in text
    assert "1 machines belong to no job that runs" in text
    assert "hint: --yes if none has" in ups("remote", "doctor", "--remove", code=2).output
    assert len(place.engine.machines()) == 1
    assert f"removed   {job.id}" in ups("remote", "doctor", "--remove", "--yes").output
    assert place.engine.machines() == []


def test_a_job_whose_client_ended_before_its_record_is_adopted(place: Place) -> None:
    place.script = "sleep 60"
    place.launch("--detach")
    (job,) = records.load_all()
    path = records.jobs_dir() / job.id / records.EVENTS
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:2]) + '\n{"event": "crea')  # cut off inside `created`
    assert records.load(job.id).is_pending
    assert f"{job.id}: found again" in ups("remote", "doctor").output
    assert records.load(job.id).handle == job.handle
    ups("remote", "stop")
    assert place.engine.machines() == []


def test_a_job_that_was_never_created_is_given_up_after_a_while(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = any_job(engines.Engine("ssh", {}), "none", id="never-0000aaaa")
    records.begin(spec, {})
    records.note(spec.id, records.CREATING)
    assert "creating" in ups("remote", "list").output
    monkeypatch.setattr(launch, "LOST_AFTER_S", 0.0)
    assert "not created" in ups("remote", "list").output
    assert "its client ended before" in ups("remote", "wait", code=10).output


def test_a_machine_whose_job_has_ended_is_a_leak(place: Place) -> None:
    place.script = "sleep 60"
    place.launch("--detach")
    (job,) = records.load_all()
    records.note(job.id, records.STATUS, state="failed")
    assert "ended" in ups("remote", "doctor", code=6).output


def test_an_engine_that_does_not_answer_is_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ups.errors import RemoteError

    def down() -> None:
        raise RemoteError("connection refused")

    monkeypatch.setattr(place.engine, "machines", down)
    assert "ssh box does not answer" in ups("remote", "doctor", code=6).output
