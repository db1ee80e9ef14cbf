"""Downloads from a server that drops, stalls, lies and changes: whole and verified, or an error."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import h5py
import numpy as np
import pytest
from fault_server import Fault, FaultServer, serving, tiny_file, write_card

from ups import files, paths
from ups.data.convert import find_raw
from ups.data.download.http import Http, Patience
from ups.data.download.run import checksum_state, download, make_plan, select
from ups.errors import DataError, UsageError
from ups.registry import DatasetCard, load_card

NAME = "1D_Advection_Sols_beta0.1.hdf5"
QUICK = Patience(attempts=4, first_wait=0.001, longest_wait=0.002, stall=0.3, connect=2.0)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as world:
        yield world


@pytest.fixture
def data(tmp_path: Path, server: FaultServer) -> bytes:
    """The published file, 56 kB, on the server."""
    server.files[NAME] = tiny_file(tmp_path, 20)
    return server.files[NAME]


@pytest.fixture
def card(home: Path, server: FaultServer, data: bytes) -> DatasetCard:
    return write_card(home, server.address, {NAME: data})


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(QUICK) as client:
        yield client


def raw(name: str = NAME) -> Path:
    return paths.raw_dir("loopback1d") / name


def rejected() -> list[str]:
    folder = paths.data_dir("loopback1d") / "rejected"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def assert_whole(card: DatasetCard, data: bytes) -> None:
    assert raw().read_bytes() == data
    assert checksum_state(card, card.source.files[0]) == "verified"
    hidden = {path.name for path in raw().parent.iterdir()} - {NAME}
    assert hidden == {f".{NAME}.lock", f".{NAME}.verified.json"}


def test_a_file_arrives_verified_and_the_next_call_asks_nothing(card, data, server, http):
    (outcome,) = download(card, http=http)
    assert (outcome.state, outcome.received, outcome.size) == ("fetched", len(data), len(data))
    assert_whole(card, data)
    requests = len(server.log)
    assert download(card, http=http)[0].state == "verified"
    assert len(server.log) == requests


FAULTS = {
    "dropped in the middle": [Fault(drop=20_000)],
    "dropped three times": [Fault(drop=9_000), Fault(drop=1), Fault(drop=30_000)],
    "dropped before the first byte": [Fault(drop=0)],
    "silent in the middle": [Fault(stall=20_000)],
    "busy": [Fault(status=503), Fault(status=429)],
    "busy, says for how long": [Fault(status=503, retry_after="0")],
    "announces too much": [Fault(announce=500)],
    "announces too little": [Fault(announce=-500)],
    "says no length": [Fault(no_length=True)],
    "says no length and ends early": [Fault(no_length=True, cut=700)],
    "says no length, then too little": [Fault(no_length=True, cut=9_999), Fault(drop=1),
                                        Fault(ignore_range=True, announce=-7)],
    "knows no ranges": [Fault(drop=20_000), Fault(ignore_range=True)],
    "drops, no validators": [Fault(drop=20_000, no_validators=True)],
    "answers another range": [Fault(drop=20_000), Fault(shift=7)],
}  # fmt: skip


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_passing_faults_are_outlived(card, data, server, http, faults):
    server.faults[NAME] = list(faults)
    download(card, http=http)
    assert_whole(card, data)
    assert server.faults[NAME] == []
    assert rejected() == []


def test_what_came_before_a_drop_is_not_fetched_again(card, data, server, http):
    server.faults[NAME] = [Fault(drop=20_480), Fault(stall=10_240)]
    (outcome,) = download(card, http=http)
    assert outcome.received == len(data)
    assert [asked.range for asked in server.log[1:]] == [None, "bytes=20480-", "bytes=30720-"]
    assert all("if-range" in asked.headers for asked in server.log[2:])


def test_a_file_that_changes_midway_is_started_again(card, data, server, http):
    """The rest of a new version is never put behind the beginning of the old one."""
    old = bytes(len(data))
    server.files[NAME] = old
    server.faults[NAME] = [Fault(drop=20_480, change=data)]
    download(card, http=http)
    assert_whole(card, data)
    assert rejected() == []


def test_wrong_bytes_are_kept_aside_reported_with_both_sums_and_fetched_again(
    card, data, server, http
):
    server.faults[NAME] = [Fault(flip=30_000)]
    wrong = bytearray(data)
    wrong[30_000] ^= 0xFF
    lines: list[str] = []
    (outcome,) = download(card, http=http, notice=lines.append)
    assert_whole(card, data)
    assert outcome.received == 2 * len(data)
    bad = hashlib.md5(wrong).hexdigest()
    assert rejected() == [f"{NAME}.bad-{bad}"]
    (line,) = [line for line in lines if "rejected" in line]
    assert bad in line
    assert card.source.files[0].md5 in line
    assert find_raw(load_card("advection1d"), [paths.data_dir("loopback1d") / "raw"]) == [raw()]


def test_a_file_that_is_wrong_twice_is_never_used(card, server, http):
    server.always = Fault(flip=30_000)
    with pytest.raises(DataError, match=r"rejected: MD5 \w+, published \w+.*twice wrong"):
        download(card, http=http)
    assert not raw().exists()
    assert len(rejected()) == 1  # the same wrong bytes are not kept twice
    assert checksum_state(card, card.source.files[0]) == "rejected"


def test_a_wrong_file_is_fetched_again_from_the_mirror(home, data, server, http):
    server.files[f"mirror/tree/{NAME}"] = data
    card = write_card(home, server.address, {NAME: data}, mirrors=[server.url("mirror")])
    server.faults[NAME] = [Fault(flip=5)] * 9
    download(card, http=http)
    assert_whole(card, data)
    assert server.sent(f"mirror/tree/{NAME}") == len(data)


def test_a_mirror_goes_on_where_the_first_address_gave_up(home, data, server, http):
    server.files[f"mirror/tree/{NAME}"] = data
    card = write_card(home, server.address, {NAME: data}, mirrors=[server.url("mirror/")])
    server.faults[NAME] = [Fault(drop=20_480), Fault(status=404)]
    (outcome,) = download(card, http=http)
    assert_whole(card, data)
    assert outcome.received == len(data)
    assert server.sent(f"mirror/tree/{NAME}") == len(data) - 20_480


def test_a_server_that_never_recovers_gives_one_line_and_keeps_the_part(card, data, server, http):
    server.faults[NAME] = [Fault(drop=20_480)] + [Fault(status=503)] * 20
    with pytest.raises(DataError, match=r"not fetched: http://.*503") as caught:
        download(card, http=http)
    assert "\n" not in str(caught.value)
    assert "after 20480 bytes" in caught.value.hint
    assert checksum_state(card, card.source.files[0]) == "partial"
    server.faults.clear()
    (outcome,) = download(card, http=http)
    assert outcome.received == len(data) - 20_480
    assert_whole(card, data)


def test_lasting_refusals_are_not_asked_twice(card, server, http):
    server.faults[NAME] = [Fault(status=403)] * 3
    with pytest.raises(DataError, match="403"):
        download(card, http=http)
    assert len(server.faults[NAME]) == 2


@pytest.mark.parametrize("asked", ["7", "date"])
def test_retry_after_is_honoured(card, data, server, asked):
    pauses: list[float] = []
    date = formatdate(time.time() + 8, usegmt=True)
    server.faults[NAME] = [Fault(status=429, retry_after=date if asked == "date" else asked)]
    with Http(QUICK, sleep=pauses.append) as http:
        download(card, http=http)
    assert len(pauses) == 1
    assert 6 < pauses[0] < 9
    assert_whole(card, data)


def test_back_off_doubles_with_jitter_up_to_a_limit(card, server):
    pauses: list[float] = []
    server.faults[NAME] = [Fault(status=503)] * 6
    patience = Patience(attempts=8, first_wait=1.0, longest_wait=8.0)
    with Http(patience, sleep=pauses.append) as http:
        download(card, http=http)
    for pause, most in zip(pauses, [1, 2, 4, 8, 8, 8], strict=True):
        assert most / 2 <= pause <= most


def test_encoded_bodies_are_refused(card, server, http):
    server.faults[NAME] = [Fault(encoding="gzip")]
    with pytest.raises(DataError, match=r"encoded \(gzip\)"):
        download(card, http=http)
    assert {asked.headers["accept-encoding"] for asked in server.log} == {"identity"}


def test_redirects_to_another_host_are_followed_with_the_range(card, data, server, http):
    with serving() as storage:
        storage.files["object"] = data
        elsewhere = storage.url("object").replace("127.0.0.1", "localhost")
        server.faults[NAME] = [Fault(redirect=elsewhere)] * 2
        storage.faults["object"] = [Fault(drop=20_480)]
        download(card, http=http)
        assert [asked.range for asked in storage.log] == [None, "bytes=20480-"]
        assert all("authorization" not in asked.headers for asked in storage.log)
    assert_whole(card, data)


def test_a_wrong_size_is_noticed_before_the_download(home, data, server, http):
    card = write_card(home, server.address, {NAME: data}, sizes=True)
    server.files[NAME] = data[:-1]
    with pytest.raises(DataError, match=f"announces {len(data) - 1} bytes, published are"):
        download(card, http=http)
    assert checksum_state(card, card.source.files[0]) == "absent"


def test_no_byte_is_fetched_onto_a_disk_that_is_too_small(card, data, server, http, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=len(data) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="are to come, the disk has"):
        download(card, http=http)
    assert server.sent(NAME) <= 1
    raw().parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=len(data)))
    download(card, http=http)


def test_a_disk_that_fills_up_midway_is_one_line_and_the_part_goes_on(
    card, data, server, http, monkeypatch
):
    written = os.write

    def full(descriptor: int, piece: bytes) -> int:
        if os.fstat(descriptor).st_size >= 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, piece[:4096])

    with monkeypatch.context() as patch:
        patch.setattr("ups.data.download.fetch.os.write", full)
        with pytest.raises(DataError, match="writing failed: the disk is full"):
            download(card, http=http)
    (outcome,) = download(card, http=http)
    assert outcome.received == len(data) - 20_480
    assert_whole(card, data)


def test_a_size_that_nobody_tells_is_said(card, data, server, http):
    server.probe_faults[NAME] = [Fault(no_length=True, ignore_range=True)]
    lines: list[str] = []
    download(card, http=http, notice=lines.append)
    assert any("tells no size" in line for line in lines)
    assert_whole(card, data)


def test_a_file_put_there_by_hand_is_checked_once(card, data, server, http, monkeypatch):
    raw().parent.mkdir(parents=True)
    raw().write_bytes(data)
    assert checksum_state(card, card.source.files[0]) == "unverified"
    assert download(card, http=http)[0].state == "verified"
    assert server.log == []
    monkeypatch.setattr("ups.data.download.run.md5_file", lambda *_: pytest.fail("checked again"))
    download(card, http=http)
    os.utime(raw(), (1, 1))
    assert checksum_state(card, card.source.files[0]) == "unverified"


def test_a_wrong_file_put_there_by_hand_is_set_aside_and_fetched(card, data, http):
    raw().parent.mkdir(parents=True)
    raw().write_bytes(data[:-8])
    lines: list[str] = []
    download(card, http=http, notice=lines.append)
    assert_whole(card, data)
    assert len(rejected()) == 1
    assert "rejected: MD5" in lines[0]


def test_a_generated_file_in_the_place_is_not_touched(card, http):
    raw().parent.mkdir(parents=True)
    with h5py.File(raw(), "w") as file:
        file.attrs["generator"] = "advection1d"
    before = raw().read_bytes()
    with pytest.raises(DataError, match="made by `ups data generate`"):
        download(card, http=http)
    assert raw().read_bytes() == before


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"url": 3}', '{"md5": "x"}'])
def test_a_part_without_a_readable_journal_is_started_again(card, data, http, damage):
    raw().parent.mkdir(parents=True)
    raw(f".{NAME}.part").write_bytes(b"z" * 1000)
    raw(f".{NAME}.part.json").write_text(damage)
    download(card, http=http)
    assert_whole(card, data)
    assert rejected() == []


def test_a_part_that_was_complete_is_only_checked(card, data, server, http):
    server.faults[NAME] = [Fault(drop=len(data) - 10), Fault(status=403)]
    with pytest.raises(DataError):
        download(card, http=http)
    with raw(f".{NAME}.part").open("ab") as part:
        part.write(data[-10:])
    (outcome,) = download(card, http=http)
    assert outcome.received == 0
    assert_whole(card, data)


CHILD = """
import sys
from ups.data.download.run import download
from ups.registry import load_card
download(load_card("loopback1d"))
"""


def child(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={**os.environ, **environment},
        text=True,
        stderr=subprocess.PIPE,
    )


def test_after_kill_9_the_rest_is_fetched_and_nothing_twice(card, data, server, http):
    server.faults[NAME] = [Fault(stall=40_960)]
    process = child()
    assert server.holding.wait(30)
    with pytest.raises(DataError, match=rf"another process \(pid {process.pid}\)"):
        download(card, http=http)
    deadline = time.monotonic() + 10
    part = raw(f".{NAME}.part")
    while not part.exists() or part.stat().st_size < 40_960:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not raw().exists()
    assert json.loads(raw(f".{NAME}.part.json").read_text())["total"] == len(data)
    (outcome,) = download(card, http=http)
    assert outcome.received == len(data) - 40_960
    assert server.sent(NAME) <= len(data) + 3  # and the bytes of three probes
    assert_whole(card, data)


def test_one_bad_file_does_not_keep_the_others(home, data, server, http, tmp_path):
    second = tiny_file(tmp_path, 20, seed=1)
    server.files["1D_Advection_b.hdf5"] = second
    missing = "1D_Advection_c.hdf5"
    card = write_card(
        home, server.address, {NAME: data, missing: b"never there", "1D_Advection_b.hdf5": second}
    )
    with pytest.raises(DataError, match=f"{missing}: not fetched: .*404"):
        download(card, http=http)
    assert [checksum_state(card, f) for f in card.source.files] == [
        "verified",
        "absent",
        "verified",
    ]


def test_connections_are_bounded(home, data, server, tmp_path):
    contents = {f"1D_Advection_{i}.hdf5": tiny_file(tmp_path, 20, seed=i) for i in range(8)}
    server.files.update(contents)
    card = write_card(home, server.address, contents, sizes=True)
    seen: list[int] = []
    open_now = [0]

    def choose(path: str, start: int, stop: int) -> Fault:
        return Fault(stall=30_000) if start == 0 else Fault()

    server.choose = choose
    body = server.next_fault

    def counted(path: str, start: int, stop: int, *, probe: bool) -> Fault | None:
        open_now[0] += 1 if start == 0 else -1
        seen.append(open_now[0])
        return body(path, start, stop, probe=probe)

    server.next_fault = counted
    with Http(QUICK, connections=3) as http:
        download(card, http=http, connections=3)
    assert max(seen) == 3
    assert all(raw(name).read_bytes() == content for name, content in contents.items())


def test_progress_of_each_file_and_of_all_ends_at_the_size(card, data, http):
    calls: dict[str, tuple[int, int | None]] = {}
    download(
        card, http=http, progress=lambda what, done, total: calls.update({what: (done, total)})
    )
    assert calls[NAME] == calls["total"] == calls[f"check {NAME}"] == (len(data), len(data))


def test_variants_select_by_number_and_label(home, server, tmp_path):
    card = write_card(home, server.address, {f"{i}.hdf5": bytes([i]) for i in range(4)})
    assert [f.name for f in select(card, ["beta=2e-1"])] == ["1.hdf5"]
    assert [f.name for f in select(card, ["beta=0.1", "beta=0.4"])] == ["0.hdf5", "3.hdf5"]
    assert [f.name for f in select(card, ["initial=Kind2"])] == ["2.hdf5"]
    assert [f.name for f in select(card, limit=2)] == ["0.hdf5", "1.hdf5"]
    for pair, message in {
        "beta=0.7": r"beta is one of 0.1, 0.2, 0.3, 0.4",
        "initial=shock": "initial is one of kind0, kind1, kind2, kind3",
        "betta=1": r"unknown name \(did you mean 'beta'\?\); the files differ by beta, initial",
        "beta": "expected NAME=VALUE",
    }.items():
        with pytest.raises(UsageError, match=message):
            select(card, [pair])
    with pytest.raises(UsageError, match=r"no published file has beta=0.1 and initial=kind1"):
        select(card, ["beta=0.1", "initial=kind1"])


def test_a_dataset_without_files_says_what_to_do(home, server):
    card = write_card(home, server.address, {})
    with pytest.raises(UsageError, match="publishes no files"):
        select(card)
    generated = load_card("burgers1d").model_copy(update={"source": card.source})
    with pytest.raises(UsageError) as caught:
        select(generated)
    assert caught.value.hint == "ups data generate burgers1d"


def test_the_plan_counts_what_is_still_to_come(card, data, server, http):
    server.faults[NAME] = [Fault(drop=20_480), Fault(status=403)]
    with pytest.raises(DataError):
        download(card, http=http)
    plan = make_plan(card, select(card), http)
    assert (plan.needed, plan.items[0].size) == (len(data) - 20_480, len(data))


def test_a_proxy_is_used_and_no_proxy_obeyed(card, data, server, monkeypatch):
    for name in ("http_proxy", "no_proxy", "all_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as proxy:  # a request through a proxy names the whole address
        proxy.files[NAME] = data
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        with Http(QUICK) as http:
            download(card, http=http)
        assert proxy.sent(NAME) == len(data) + 1
        assert server.log == []
        raw().unlink()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with Http(QUICK) as http:
            download(card, http=http)
        assert server.sent(NAME) == len(data) + 1


def test_an_unusable_proxy_is_named(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "gopher://nowhere")
    with pytest.raises(UsageError, match="HTTP_PROXY"):
        Http()


def test_a_second_process_is_refused_while_the_file_is_locked(card, server, http):
    with files.exclusive(raw(), "downloading"), pytest.raises(DataError, match="another process"):
        download(card, http=http)
    assert server.sent(NAME) <= 1


def random_faults(seed: int, size: int) -> list[Fault | None]:
    """A few faults of every kind; wrong bytes at most once, as they cost one of two rounds."""
    draw = random.Random(seed)
    kinds = [
        lambda: Fault(drop=draw.randrange(size)),
        lambda: Fault(stall=draw.randrange(size)),
        lambda: Fault(status=draw.choice([429, 500, 502, 503, 504])),
        lambda: Fault(status=503, retry_after="0"),
        lambda: Fault(ignore_range=True, drop=draw.randrange(size)),
        lambda: Fault(announce=draw.choice([-1, 1]) * draw.randrange(1, 999)),
    ]
    faults: list[Fault | None] = [draw.choice(kinds)() for _ in range(draw.randrange(1, 6))]
    faults.insert(draw.randrange(len(faults) + 1), Fault(flip=draw.randrange(size)))
    return faults


@pytest.mark.parametrize("seed", range(6))
def test_random_faults_never_get_a_wrong_byte_through(card, data, server, seed):
    server.faults[NAME] = random_faults(seed, len(data))
    patience = Patience(attempts=12, first_wait=0.001, longest_wait=0.002, stall=0.1)
    with Http(patience) as http:
        download(card, http=http)
    assert_whole(card, data)


class TestFirstTrajectories:
    def test_only_their_bytes_are_fetched(self, home, server, http, tmp_path):
        data = tiny_file(tmp_path, 400, points=1024)
        server.files[NAME] = data
        card = write_card(home, server.address, {NAME: data}, trajectories=400)
        (outcome,) = download(card, trajectories=10, http=http)
        assert outcome.path == raw(NAME.replace(".hdf5", ".first10.hdf5"))
        payload = 10 * 11 * 1024 * 4
        assert payload < outcome.received < payload + 1_200_000 < len(data) / 10
        with h5py.File(outcome.path) as copy, h5py.File(self._whole(tmp_path, data)) as whole:
            assert copy["tensor"].shape == (10, 11, 1024)
            np.testing.assert_array_equal(copy["tensor"][()], whole["tensor"][:10])
            for name in ("t-coordinate", "x-coordinate"):
                np.testing.assert_array_equal(copy[name][()], whole[name][()])
            assert copy.attrs["beta"] == whole.attrs["beta"]
            assert copy.attrs["ups_partial"].startswith(f"first 10 of 400 from {server.url(NAME)};")

    @staticmethod
    def _whole(folder: Path, data: bytes) -> Path:
        path = folder / "whole.h5"
        path.write_bytes(data)
        return path

    def test_the_second_call_fetches_nothing(self, card, server, http):
        download(card, trajectories=3, http=http)
        requests = len(server.log)
        (outcome,) = download(card, trajectories=3, http=http)
        assert (outcome.state, len(server.log)) == ("present", requests)

    def test_a_whole_file_beside_them_is_told(self, card, http):
        download(card, trajectories=3, http=http)
        assert checksum_state(card, card.source.files[0]) == "partial"
        lines: list[str] = []
        download(card, http=http, notice=lines.append)
        assert ".first3.hdf5: the whole file is here now" in lines[-1]
        assert download(card, trajectories=4, http=http)[0].path == raw()

    def test_faults_are_outlived(self, card, data, server, http, tmp_path):
        server.faults[NAME] = [
            Fault(drop=0), Fault(drop=5_000), Fault(stall=100), Fault(status=503),
            Fault(drop=1_000), Fault(shift=3), Fault(drop=9_000),
        ]  # fmt: skip
        (outcome,) = download(card, trajectories=19, http=http)
        assert server.faults[NAME] == []
        with h5py.File(outcome.path) as copy, h5py.File(self._whole(tmp_path, data)) as whole:
            np.testing.assert_array_equal(copy["tensor"][()], whole["tensor"][:19])

    def test_a_file_that_changes_midway_is_refused(self, home, server, http, tmp_path):
        old, new = (tiny_file(tmp_path, 60, seed=seed, points=1024) for seed in (1, 2))
        server.files[NAME] = old
        server.faults[NAME] = [None, None, Fault(change=new)]
        card = write_card(home, server.address, {NAME: old}, trajectories=60)
        with pytest.raises(DataError, match="changed at its source"):
            download(card, trajectories=20, http=http)
        assert list(raw().parent.glob("1D*")) == []

    def test_a_server_without_ranges_is_refused(self, card, server, http):
        server.always = Fault(ignore_range=True)
        with pytest.raises(DataError, match="serves no byte ranges") as caught:
            download(card, trajectories=3, http=http)
        assert "whole files" in caught.value.hint

    def test_as_many_as_the_file_holds_is_refused(self, card, server, http):
        with pytest.raises(UsageError, match=f"{NAME} holds 20"):
            download(card, trajectories=20, http=http)
        assert server.log == []

    def test_what_is_no_hdf5_file_is_said_in_one_line(self, home, server, http):
        server.files[NAME] = bytes(range(256)) * 99
        card = write_card(home, server.address, {NAME: server.files[NAME]})
        with pytest.raises(DataError, match="HDF5 cannot read it") as caught:
            download(card, trajectories=3, http=http)
        assert "\n" not in str(caught.value)
