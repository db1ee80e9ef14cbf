"""Merging is the union of sound files; nothing that is here is touched."""

from __future__ import annotations

import pytest
from boards import enter, judged

from ups.errors import UsageError
from ups.leaderboard import entries, references
from ups.leaderboard.merge import merge


def test_merging_both_ways_gives_the_same_union(tmp_path):
    enter(tmp_path / "a", judged("one"), judged("both"))
    enter(tmp_path / "b", judged("two"), judged("both"))
    references.import_references(tmp_path / "b" / "board")
    ours, theirs = tmp_path / "a" / "board", tmp_path / "b" / "board"
    first = merge(theirs, ours)
    assert (len(first.new), first.known) == (1 + len(references.read_file()), 1)
    merge(ours, theirs)
    names = [sorted(path.relative_to(at) for path in at.rglob("*.json")) for at in (ours, theirs)]
    assert names[0] == names[1]
    assert {entry.name for entry in entries.load_all(ours)} == {"one", "two", "both"}
    assert merge(theirs, ours).new == []


def test_damaged_files_are_named_and_neither_taken_nor_overwritten(tmp_path):
    bad, good, shared = enter(tmp_path / "b", judged("bad"), judged("good"), judged("shared"))
    (same,) = enter(tmp_path / "a", judged("shared"))
    assert same == shared
    ours, theirs = tmp_path / "a" / "board", tmp_path / "b" / "board"
    bad.path(theirs).write_text(bad.path(theirs).read_text().replace("bad", "mad"))
    shared.path(ours).write_text("{}")
    result = merge(theirs, ours)
    assert result.new == [f"{good.id}.json"]
    assert [str(folder / f"{one.id}.json") in "".join(result.damaged)
            for folder, one in ((theirs, bad), (ours, shared))] == [True, True]  # fmt: skip
    assert shared.path(ours).read_text() == "{}"
    assert not bad.path(ours).exists()


def test_a_missing_folder_and_itself_are_refused(tmp_path):
    enter(tmp_path, judged())
    with pytest.raises(UsageError, match="no such folder"):
        merge(tmp_path / "nowhere", tmp_path / "board")
    with pytest.raises(UsageError, match="itself"):
        merge(tmp_path / "board", tmp_path / "board")
