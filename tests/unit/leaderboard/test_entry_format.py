"""An entry says everything that a stranger needs, never changes, and is corrected in the open."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from boards import PROTOCOL, enter, judged

from ups import files
from ups.errors import CheckpointError, UsageError
from ups.evaluation.report import write_report
from ups.leaderboard import entries, table


def content_of(folder, entry):
    return json.loads(entry.path(folder / "board").read_text())


def rewritten(folder, entry, change):
    """The entry with tampered content under a name that fits it again."""
    content = content_of(folder, entry)
    change(content)
    path = folder / "board" / f"{files.sha256_json(content)[:16]}.json"
    path.write_text(json.dumps(content))
    return path


def test_an_entry_holds_what_judges_cost_and_repeats_it(tmp_path):
    (entry,) = enter(tmp_path, judged(seed=3))
    assert entries.load(entry.path(tmp_path / "board")) == entry
    row = entry.rows[0]
    low, high = row.intervals["nrmse"]["mean"]
    assert low < row.value("nrmse") < high
    assert len(row.per_trajectory["nrmse"]) == len(entry.trajectories) == 40
    assert entry.sections["cost"]["train_hours"] == 0.5
    assert [gate.kind for gate in entry.gates] == ["health"]
    assert entry.run["config"].startswith("name: small")
    assert entry.protocol.split_hash == PROTOCOL.split_hash


def test_long_curves_spectra_and_the_command_line_are_left_out(tmp_path):
    (entry,) = enter(tmp_path, judged())
    assert "spectra" not in entry.sections
    assert entry.sections["long_rollout"] == {"stable_share": 1.0}
    assert "command" not in entry.environment
    assert "secret" not in entry.path(tmp_path / "board").read_text()


def test_two_seeds_have_one_recipe_and_another_width_has_another(tmp_path):
    first, second, wider = enter(tmp_path, judged(seed=0), judged(seed=1), judged(width=64))
    assert first.recipe == second.recipe != wider.recipe
    assert entries.recipe_of({}) == ""


def test_a_correction_hides_the_old_entry_but_keeps_it(tmp_path):
    (old,) = enter(tmp_path, judged(mean=0.5))
    (new,) = enter(tmp_path, judged(mean=0.1), supersedes=old.id[:6], reason=" wrong split ")
    assert new.supersedes == entries.Supersedes(old.id, "wrong split")
    known = entries.load_all(tmp_path / "board")
    assert entries.current(known) == [new]
    assert {line.entry for one in table.rank(known) for line in one.lines} == {new.id}
    (ranking,) = table.rank(known, show_all=True)
    (stale,) = [line for line in ranking.lines if line.entry == old.id and line.kind == "model"]
    assert stale.rank is None
    assert stale.unranked == f"superseded by {new.id[:8]}"


@pytest.mark.parametrize(
    ("wanted", "reason", "said"),
    [("OLD", "", "for a reason"), ("zzzz", "because", "no such entry"),
     ("", "because", "no such entry"), ("OLD", "because", "is this very report")],
)  # fmt: skip
def test_a_correction_needs_an_entry_and_a_reason(tmp_path, wanted, reason, said):
    (old,) = enter(tmp_path, judged())
    with pytest.raises(UsageError, match=said):
        enter(tmp_path, judged(), supersedes=wanted.replace("OLD", old.id), reason=reason)


def test_what_is_superseded_cannot_be_superseded_again(tmp_path):
    (old,) = enter(tmp_path, judged(mean=0.5))
    (new,) = enter(tmp_path, judged(mean=0.1), supersedes=old.id, reason="split")
    with pytest.raises(UsageError, match=f"by {new.id}"):
        enter(tmp_path, judged(mean=0.2), supersedes=old.id, reason="again")


def test_entries_of_format_1_are_still_read_and_ranked(tmp_path):
    (entry,) = enter(tmp_path, judged())

    def aged(content):
        for key in set(content) - {"created", "run", "protocol", "rows"}:
            del content[key]
        content["format"] = 1
        for row in content["rows"]:
            del row["intervals"], row["per_trajectory"]

    old = entries.load(rewritten(tmp_path, entry, aged))
    assert old.format == 1
    assert old.gates == ()
    assert old.recipe == entry.recipe
    (ranking,) = table.rank([old])
    assert ranking.lines[0].value == entry.rows[0].value("nrmse")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(format=3), "install a newer ups|entry format 3"),
        (lambda content: content.update(extra=1), "extra"),
        (lambda content: content["protocol"].update(history=3), "edited"),
        (lambda content: content["rows"][0].update(metrics={"nrmse": {"mean": "low"}}), "rows"),
        (lambda content: content.update(rows=[]), "at least one row"),
        (lambda content: content.update(created="yesterday"), "isoformat"),
    ],
)
def test_an_entry_that_says_something_else_is_refused_even_under_a_fitting_name(
    tmp_path, change, said
):
    (entry,) = enter(tmp_path, judged())
    path = rewritten(tmp_path, entry, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        entries.load(path)
    assert caught.value.hint


def test_every_report_of_a_run_is_found_and_one_can_be_chosen(tmp_path):
    run = tmp_path / "runs" / "small" / "1"
    run.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="not evaluated yet"):
        entries.reports_to_add(run)
    start = replace(PROTOCOL, history=1, horizon=40)
    for task in ("burgers1d", "advection1d"):
        write_report(judged(task=task), run)
        write_report(judged(task=task, protocol=start, protocol_name="ic"), run)
    assert len(entries.reports_to_add(run)) == 4
    (chosen,) = entries.reports_to_add(run, task="advection1d", protocol="ic")
    assert chosen.name == "report-advection1d.ic.json"
    with pytest.raises(CheckpointError, match="protocol 'well'"):
        entries.reports_to_add(run, protocol="well")


def test_an_entry_is_found_by_the_beginning_of_its_id(tmp_path):
    found = enter(tmp_path, *(judged(seed=seed) for seed in range(20)))
    assert entries.find(found, found[3].id[:10]) == found[3]
    with pytest.raises(UsageError, match="entries begin so"):
        entries.find(found, next(
            digit for digit in "0123456789abcdef"
            if sum(one.id.startswith(digit) for one in found) > 1
        ))  # fmt: skip
