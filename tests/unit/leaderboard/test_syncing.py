"""Leaderboards on a remote: a union that several people push to, with nothing lost or believed."""

from __future__ import annotations

import threading

import pytest
from boards import enter, judged
from tiny_commands import ups

from ups import paths
from ups.errors import RemoteError
from ups.leaderboard import entries, references
from ups.leaderboard.sync import pull_entries, push_entries
from ups.transfer import remotes
from ups.transfer.remotes import find_remote


@pytest.fixture
def place(tmp_path):
    return tmp_path / "place"


@pytest.fixture
def remote(place):
    return find_remote(str(place))


def test_one_push_and_one_pull_make_two_boards_the_same(tmp_path, remote, place):
    enter(tmp_path / "a", judged("one"), judged("both"))
    enter(tmp_path / "b", judged("two"), judged("both"))
    references.import_references(tmp_path / "a" / "board")
    ours, theirs = tmp_path / "a" / "board", tmp_path / "b" / "board"
    published = len(references.read_file())
    assert len(push_entries(ours, remote).new) == 2 + published
    again = push_entries(ours, remote)
    assert (again.new, again.known) == ([], 2 + published)
    second = push_entries(theirs, remote)
    assert (len(second.new), second.known) == (1, 1)
    pulled = pull_entries(remote, ours)
    assert (len(pulled.new), pulled.known) == (1, 2 + published)
    assert {entry.name for entry in entries.load_all(ours)} == {"one", "two", "both"}
    assert len(references.load_all(ours)) == published
    (there,) = [path.stem for path in (place / "leaderboard").glob("*.json")
                if path.stem in {entry.id for entry in entries.load_all(theirs)}
                and entries.load(path).name == "two"]  # fmt: skip
    assert there in {entry.id for entry in entries.load_all(ours)}


def test_two_who_push_at_once_lose_nothing(tmp_path, remote):
    boards = [tmp_path / name / "board" for name in "ab"]
    for index, board in enumerate(boards):
        enter(board.parent, *(judged(f"run{index}-{n}", seed=n) for n in range(3)), judged("both"))
    threads = [threading.Thread(target=push_entries, args=(board, remote)) for board in boards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fresh = tmp_path / "fresh"
    assert len(pull_entries(remote, fresh).new) == 7
    assert len(entries.load_all(fresh)) == 7


def test_damaged_ones_are_named_and_neither_sent_nor_taken(tmp_path, remote, place):
    good, bad, cut = enter(tmp_path / "a", judged("good"), judged("bad"), judged("cut"))
    ours = tmp_path / "a" / "board"
    push_entries(ours, remote)
    there = place / "leaderboard"
    bad.path(there).write_text(bad.path(there).read_text().replace("bad", "mad"))
    cut.path(there).write_text(cut.path(there).read_text()[:-40])
    fresh = tmp_path / "fresh"
    result = pull_entries(remote, fresh)
    assert result.new == [f"{good.id}.json"]
    assert [str(one.path(there)) in "\n".join(result.damaged) for one in (bad, cut)] == [True, True]
    assert not bad.path(fresh).exists()
    (named,) = push_entries(ours, remote).damaged
    assert f"{cut.id}.json" in named
    assert "one of the two is damaged" in named
    good.path(ours).write_text("{}")
    assert any(str(good.path(ours)) in line for line in push_entries(ours, remote).damaged)
    assert entries.load(good.path(there)).name == "good"


def test_names_that_are_no_entries_are_left_alone(tmp_path, remote, place):
    enter(tmp_path / "a", judged("one"))
    push_entries(tmp_path / "a" / "board", remote)
    for name in ("notes.txt", "-rf.json", "a\tb.json", ".hidden.json"):
        (place / "leaderboard" / name).write_text("{}")
    assert len(pull_entries(remote, tmp_path / "fresh").new) == 1


def test_the_default_remote_is_used_and_an_empty_one_is_no_error(s3, tmp_path, monkeypatch):
    s3.environment(monkeypatch)
    assert "0 new, 0 already there" in ups("leaderboard", "pull").stdout
    enter(tmp_path, judged("one"))
    (tmp_path / "board").rename(paths.leaderboard_dir())
    text = ups("leaderboard", "push").stdout
    assert "1 new, 0 already there -> s3://" in text
    monkeypatch.setenv("UPS_HOME", str(tmp_path / "other"))
    assert "1 new, 0 already there" in ups("leaderboard", "pull").stdout
    assert [entry.name for entry in entries.load_all(paths.leaderboard_dir())] == ["one"]
    assert "0 new, 1 already there" in ups("leaderboard", "pull", "--from", "b2").stdout


def test_a_folder_is_a_board_itself_and_a_named_one_holds_one(tmp_path):
    enter(tmp_path, judged("one"))
    paths.home().mkdir()
    (tmp_path / "board").rename(paths.leaderboard_dir())
    ups("leaderboard", "push", "--to", str(tmp_path / "mounted"))
    assert len(list((tmp_path / "mounted").glob("*.json"))) == 1
    remotes.add(remotes.make("disk", kind="local", folder=str(tmp_path / "disk")))
    ups("leaderboard", "push", "--to", "disk")
    assert len(list((tmp_path / "disk" / "leaderboard").glob("*.json"))) == 1


def test_without_a_remote_and_over_wandb_it_says_so(tmp_path):
    error = ups("leaderboard", "push", code=6).stderr
    assert "no remote is configured" in error
    with pytest.raises(RemoteError, match="do not travel through W&B"):
        push_entries(tmp_path, find_remote("wandb"))
