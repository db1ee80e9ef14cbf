"""Records of jobs: appended, whole after any crash, found by a few letters."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ups.errors import RemoteError
from ups.remote import records
from ups.remote.costs import totals
from ups.remote.driver import Status
from ups.remote.engines import Engine
from ups.remote.prepare import any_job, new_id


def begun(name: str, **changes: object) -> records.Job:
    return records.begin(any_job(Engine("ssh", {}), "A100:2", id=name, **changes), {"price": 1.0})


def test_a_job_passes_through_its_states(home: Path) -> None:
    job = begun("one-0000aaaa")
    assert (job.has_ended, job.is_pending, job.handle) == (True, False, None)
    records.note(job.id, records.CREATING)
    job = records.load(job.id)
    assert (job.has_ended, job.is_pending) == (False, True)
    records.note(job.id, records.CREATED, handle={"pid": 1})
    job = records.note_status(records.load(job.id), Status("running", price=2.0, running_s=1800.0))
    assert (job.handle, job.has_ended, job.cost) == ({"pid": 1}, False, 1.0)
    same = records.note_status(job, Status("running", price=2.0, running_s=1801.0))
    assert len(same.events) == len(job.events)
    job = records.note_status(job, Status("done", 0, price=2.0, running_s=3600.0))
    assert (job.has_ended, job.cost) == (True, 2.0)
    (spent,) = totals([job])
    assert (spent.jobs, spent.running, spent.gpu_hours, spent.dollars) == (1, 0, 2.0, 2.0)


def test_a_line_cut_off_by_a_crash_is_skipped_and_the_next_one_is_whole(home: Path) -> None:
    job = begun("cut-0000aaaa")
    path = records.jobs_dir() / job.id / records.EVENTS
    with path.open("a") as file:
        file.write('{"event": "creat')
    records.note(job.id, records.STOPPING)
    assert [one["event"] for one in records.load(job.id).events] == ["planned", "stopping"]


def test_events_of_several_clients_at_once_are_all_kept(home: Path) -> None:
    job = begun("many-0000aaaa")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: records.note(job.id, "note", number=n), range(64)))
    numbers = [one["number"] for one in records.load(job.id).events if "number" in one]
    assert sorted(numbers) == list(range(64))


def test_jobs_are_found_by_a_few_letters(home: Path) -> None:
    with pytest.raises(RemoteError, match="no remote job yet"):
        records.find(None)
    begun("abc-0000aaaa")
    begun("abd-0000aaaa")
    assert records.find("abc").id == "abc-0000aaaa"
    assert records.find(None).id == "abd-0000aaaa"
    with pytest.raises(RemoteError, match="abc-0000aaaa, abd-0000aaaa begin so"):
        records.find("ab")
    with pytest.raises(RemoteError, match="did you mean 'abc-0000aaaa'"):
        records.find("abc-0000aaab")
    with pytest.raises(RemoteError, match="there is a job of this name"):
        begun("abc-0000aaaa")


def test_a_damaged_specification_is_named(home: Path) -> None:
    begun("bad-0000aaaa")
    (records.jobs_dir() / "bad-0000aaaa" / records.SPEC).write_text("{")
    with pytest.raises(RemoteError, match=r"spec\.json: not the record of a job"):
        records.load("bad-0000aaaa")


@pytest.mark.parametrize("name", ["burgers1d", "My Run_2", "1d", "x" * 200, "---"])
def test_ids_are_fit_for_every_engine(name: str) -> None:
    found = any_job(Engine("ssh", {}), "none", id=new_id(name)).id
    assert len(found) <= 41
    assert new_id(name) != new_id(name)
