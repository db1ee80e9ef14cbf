"""The commands: what they print, and the codes they leave with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from boards import PROTOCOL, judged
from typer.testing import CliRunner

from ups import paths
from ups.cli.main import app
from ups.evaluation.report import write_report
from ups.leaderboard import entries


def ups(*arguments, code=0):
    result = CliRunner().invoke(app, ["leaderboard", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def entered(tmp_path, *reports):
    for report in reports:
        ups("add", write_report(report, tmp_path / "run"))
    return entries.load_all(paths.leaderboard_dir())


def test_a_report_is_added_once_and_corrected_with_a_reason(tmp_path):
    (old,) = entered(tmp_path, judged(mean=0.5))
    path = write_report(judged(mean=0.5), tmp_path / "run")
    assert "already entered" in ups("add", path).stdout
    newer = write_report(judged(mean=0.2), tmp_path / "run")
    assert "for a reason" in ups("add", newer, "--supersedes", old.id[:8], code=2).stderr
    ups("add", newer, "--supersedes", old.id[:8], "--reason", "wrong split")
    (ranking,) = json.loads(ups("show", "--json").stdout)
    assert len([line for line in ranking["lines"] if line["kind"] == "model"]) == 1
    assert "superseded by" in " ".join(ups("show", "--all").stdout.split())


def test_show_filters_ranks_and_groups(tmp_path):
    start = replace(PROTOCOL, history=1, horizon=40)
    other = replace(PROTOCOL, dataset="advection1d")
    entered(
        tmp_path, judged("a", 0.1), judged("a", 0.2, seed=1),
        judged("b", 0.3, protocol=start, protocol_name="ic"),
        judged("pair", 0.4, task="burgers1d"), judged("pair", 0.4, task="advection1d",
                                                      protocol=other),
    )  # fmt: skip
    (ranking,) = json.loads(ups("show", "--protocol", "ic", "--json").stdout)
    assert ranking["lines"][0]["label"] == "b"
    assert len(json.loads(ups("show", "--task", "advection1d", "--json").stdout)) == 1
    assert "2 seeds" in ups("show", "--group-by", "run").stdout
    assert "average nRMSE" in ups("show", "--group-by", "task").stdout
    assert json.loads(ups("show", "--group-by", "task", "--json").stdout)[0]["lines"]
    assert "did you mean 'nrmse'" in ups("show", "--metric", "nrsme", code=2).stderr
    assert ups("show", "--group-by", "task", "--csv", code=2).stderr
    shown = ups("show", "--metric", "relative_l2", "--statistic", "median").stdout
    assert "rel. L2" in shown
    assert "empty" in ups("show", "--dataset", "darcy2d").stdout


def test_compare_prints_a_verdict_and_refuses_other_protocols(tmp_path):
    start = replace(PROTOCOL, history=1)
    known = entered(tmp_path, judged("a", 0.1), judged("b", 0.2), judged("c", protocol=start))
    ids = {entry.name: entry.id for entry in known}
    shown = ups("compare", ids["a"], ids["b"]).stdout
    assert "The difference is real: a (" in " ".join(shown.split())
    assert json.loads(ups("compare", ids["a"], ids["b"], "--json").stdout)["is_real"] is True
    refused = ups("compare", ids["a"], ids["c"], code=2).stderr
    assert "differ in history (10 and 1)" in refused
    assert "hint:" in refused


def test_references_push_pull_and_merge(tmp_path):
    entered(tmp_path, judged("a"))
    assert "51 new" in ups("import-references").stdout
    assert "0 new, 51 unchanged" in ups("import-references").stdout
    assert "Takamoto" in ups("show", "--references").stdout
    ups("push", "--to", tmp_path / "mounted")
    assert "0 new, 52 already there" in ups("pull", "--from", tmp_path / "mounted").stdout
    (tmp_path / "mounted" / "0123456789abcdef.json").write_text("{}")
    failed = ups("merge", tmp_path / "mounted", code=4)
    assert "0123456789abcdef.json" in failed.stderr
    ups("merge", tmp_path / "nowhere", code=2)


def test_html_writes_the_site_where_it_is_asked_for(tmp_path):
    entered(tmp_path, judged("a"))
    assert "index.html" in ups("html", "--out", tmp_path / "site").stdout
    assert (tmp_path / "site" / "index.html").is_file()
    ups("html")
    assert (paths.leaderboard_dir() / "html" / "index.html").is_file()
    assert len(entries.load_all(paths.leaderboard_dir())) == 1


@pytest.mark.parametrize("arguments", [["show"], ["show", "--group-by", "task"], ["html"]])
def test_an_empty_leaderboard_is_no_error(arguments):
    ups(*arguments)
