"""The pages in a real browser: nothing is loaded from elsewhere, nothing is wrong, all is said."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from boards import PROTOCOL, enter, judged
from browser import DESKTOP, PHONE, open_page

from ups import paths
from ups.evaluation.report import report_path, write_report
from ups.leaderboard import entries, page, references, svg
from ups.leaderboard.page_parts import link

EVIL = 'a<script>alert("x")</script>&b'
SORT = """(() => {
  const table = document.querySelector('table.sortable');
  const names = () => [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.value || '');
  const press = (text) => [...table.tHead.rows[0].cells]
    .find((head) => head.textContent === text).querySelector('button').click();
  press('nRMSE'); const up = names(); press('nRMSE'); const down = names();
  press('one step'); const fast = names();
  return {up, down, fast};
})()"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("pages")
    found = enter(
        tmp_path,
        judged(EVIL, 0.02, model="fno", hours=2.0, device="NVIDIA H200"),
        judged("small", 0.0123, seed=1),
        judged("small", 0.0131),
        judged("broken", 0.5, broken="dead_parameters", model="unet"),
        judged("both", 0.03, task="burgers1d", width=1),
        judged("both", 0.01, task="advection1d", width=1, protocol=replace(
            PROTOCOL, dataset="advection1d", version="beta0.1-x4-t5")),
    )  # fmt: skip
    enter(tmp_path, judged("broken", 0.45), supersedes=found[3].id, reason="mended")
    references.import_references(tmp_path / "board")
    page.write_site(tmp_path / "board", tmp_path / "site")
    return tmp_path / "site"


@pytest.mark.parametrize(("width", "media"), [(PHONE, ""), (DESKTOP, ""), (1040, "print")])
def test_the_first_page_loads_nothing_complains_of_nothing_and_fits(site, width, media):
    seen = open_page(site / "index.html", width, media=media)
    assert seen.console == []
    assert seen.requests == []
    assert seen.overflow == 0
    for said in ("burgers1d (nu0.01-x4-t5)", "1000 test trajectories", "Takamoto et al. 2022",
                 "What each column means", "ups reproduce", "2 tasks: advection1d, burgers1d",
                 "Several seeds of one config", "Error against cost", EVIL):  # fmt: skip
        assert said in seen.text
    assert len(seen.screenshot) > 20_000


def test_pressing_a_heading_sorts_numbers_as_numbers(site, tmp_path):
    text = (site / "index.html").read_text()
    own = text.index(f'<h2 id="p{PROTOCOL.id}')
    alone = tmp_path / "sort.html"
    alone.write_text(text[: text.index("<h2")] + text[own:])
    seen = open_page(alone, script=SORT)
    up = seen.result["up"]
    assert up[:3] == ["small (seed 1)", "small (seed 0)", EVIL]
    assert seen.result["down"] == up[::-1]
    assert seen.result["fast"] != up
    assert seen.console == []


def test_the_page_of_an_entry_says_everything_and_loads_nothing(site):
    (file,) = [path for path in (site / "entries").glob("*.json")
               if entries.load(path).name == EVIL]  # fmt: skip
    seen = open_page(file.with_suffix(".html"), PHONE)
    assert (seen.console, seen.requests, seen.overflow) == ([], [], 0)
    for said in (EVIL, "95 % interval", "NVIDIA H200", "dead_parameters", "commit",
                 f"ups reproduce {file.stem}"):  # fmt: skip
        assert said in seen.text
    assert "alert(" in seen.text, "shown, not run"


def test_every_link_inside_the_site_leads_somewhere(site):
    for file in site.rglob("*.html"):
        text = file.read_text()
        for address in re.findall(r'href="([^"]+)"', text):
            if address.startswith("#"):
                assert f'id="{address[1:]}"' in text
            elif not address.startswith(("https:", "data:")):
                assert (file.parent / address).is_file(), (file, address)


def test_superseded_entries_keep_a_page_that_says_so(site):
    (old,) = [path for path in (site / "entries").glob("*.html")
              if "A correction supersedes this entry" in path.read_text()]  # fmt: skip
    assert old.stem not in (site / "index.html").read_text()


def test_the_page_of_the_very_report_is_copied_and_no_later_one(tmp_path):
    run = paths.runs_dir() / "small/20260101T000000Z-00000000"
    run.mkdir(parents=True)
    report = judged("small")
    write_report(report, run)
    report_path(run).with_suffix(".html").write_text("<p>the pictures</p>")
    (entry,) = enter(tmp_path, report)
    first = page.write_site(tmp_path / "board", tmp_path / "site")
    assert f"reports/{entry.id}.html" in first.read_text()
    assert (tmp_path / "site" / "reports" / f"{entry.id}.html").read_text() == "<p>the pictures</p>"
    write_report(judged("small", 0.7), run)
    later = page.write_site(tmp_path / "board", tmp_path / "later")
    assert "reports/" not in later.read_text()


def test_an_empty_leaderboard_says_how_to_begin(tmp_path):
    seen = open_page(page.write_site(tmp_path / "board", tmp_path / "site"))
    assert "ups leaderboard add" in seen.text
    assert seen.console == []


@pytest.mark.parametrize("address", ["javascript:alert(1)", "//elsewhere.org", "http://plain.org"])
def test_an_address_that_no_page_should_lead_to_is_only_text(address):
    assert link("here", address) == "here"


def test_the_front_passes_through_what_nothing_beats():
    points = [svg.Point(x, y, str(n), "", "fno") for n, (x, y) in
              enumerate([(1, 1.0), (2, 0.5), (3, 0.7), (4, 0.25)])]  # fmt: skip
    axis = svg.Axis("x", str)
    drawn = svg.scatter(points, axis, axis, ["fno"], None)
    (front,) = re.findall(r'd="(M[\d. ]+(?:H[\d.]+V[\d.]+)+)"', drawn)
    assert front.count("H") == 2, "0.7 at 3 is beaten by 0.5 at 2"
    assert "above, at 40" in svg.scatter(points, axis, axis, ["fno"], ("persistence", 40))
    assert 'stroke-dasharray="2 3"' in svg.scatter(points, axis, axis, ["fno"], ("p", 2.0))
