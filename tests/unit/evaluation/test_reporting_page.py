"""The page says what the files of a run say, and needs nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from test_report import PROTOCOL, row

from ups.errors import CheckpointError, MissingExtraError
from ups.evaluation.gates import Gate
from ups.evaluation.report import Report, write_report
from ups.evaluation.reporting import charts, pdf
from ups.evaluation.reporting.page import load_reports, pictures_of, write_page
from ups.evaluation.reporting.results import summary

TIMES = [0.05 * (step + 1) for step in range(31)]
CURVE = [0.01 + 0.001 * step for step in range(31)]


def full_row(name, kind, mean):
    made = row(name, kind, mean)
    curve = [mean * (1 + step / 31) for step in range(31)]
    return replace(
        made,
        per_step={"nrmse": curve, "nrmse_median": curve, "nrmse_p10": curve, "nrmse_p90": curve},
        intervals={"nrmse": {"mean": (0.9 * mean, 1.2 * mean)}},
        per_trajectory={"nrmse": [mean, 2 * mean, None]},
        per_channel={"nrmse": {"density": mean, "pressure": 2 * mean}},
    )


SCORES = {
    "crps": 0.1, "mae_deterministic": 0.2, "spread_skill": 0.9, "coverage_50": 0.5,
    "coverage_90": 0.9, "calibration_error": 0.01, "rank_histogram": [0.5, 0.5],
    "reliability": {"nominal": [0.1, 0.5, 0.9], "observed": [0.1, 0.4, 0.8]},
    "per_step": {"crps": CURVE, "mae_deterministic": CURVE, "spread_skill": CURVE},
}  # fmt: skip
SECTIONS = {
    "one_step": {"metrics": {"nrmse": {"mean": 0.004}}},
    "long_rollout": {"num_trajectories": 32, "steps": 93, "times": TIMES * 3, "stable_share": 0.75,
                     "stable_steps": 80.5, "rms": {"density": CURVE * 3}},
    "physics": {
        "conservation_density": {
            "what": "drift of the mean", "prediction": 0.02, "reference": 0.001, "ratio": 20.0,
            "tolerance": 0.003, "times": TIMES,
            "per_step": {"prediction": CURVE, "reference": CURVE},
        },
        "divergence": {"absent": "the card states no incompressible flow"},
    },
    "spectra": {
        "wavenumbers": [0, 1, 2, 3], "complete_to": 3, "times": [0.05, 1.55],
        "fields": {"density": dict.fromkeys(("prediction", "reference", "error"), [[1.0] * 4] * 2)},
        "bands": {"density": {"low": {"error": [0.1, 0.2], "energy": [1.0, 0.5]}}},
        "limits": {"low": [0, 4]},
    },
    "energy": {"times": TIMES, "quantities": {"kinetic": {
        "what": "mean of v^2 / 2",
        **{kind: {"median": CURVE, "p10": CURVE, "p90": CURVE}
           for kind in ("prediction", "reference")},
    }}},
    "uncertainty": {
        "members": 8, "source": "residual model", "num_trajectories": 5, "times": TIMES,
        "calibration": {"num_trajectories": 7},
        **{key: {"all": SCORES, "fields": {"density": SCORES}} for key in ("before", "after")},
    },
    "pdebench_compat": {"batch_size": 50, "num_batches": 3, "divisor": 2,
                        "metrics": {"nRMSE": 0.0303}, "mean": {"nRMSE": 0.0202}},
    "super_resolution": {
        "own": {"space": [64], "metrics": {"nrmse": {"mean": 0.011, "median": 0.01, "p90": 0.02}}},
        "factors": [{
            "factor": 2, "space": [128],
            "metrics": {name: {"nrmse": {"mean": 0.0777, "median": 0.01, "p90": 0.02}}
                        for name in ("decoder", "interpolated", "floor")},
            "per_step": {"decoder": CURVE, "interpolated": CURVE, "floor": CURVE},
        }],
    },
    "cost": {"num_parameters": 1234567, "train_seconds": {"operator": 3725.0},
             "train_hours": 1.0347, "latency_seconds": 0.0123, "train_device": "NVIDIA H200",
             "device": "cpu", "steps_per_second": 812.0, "peak_memory_bytes": 2_000_000_000},
    "made_up_later": {"answer": 42.123456, "list": list(range(20))},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    """What is tested is not how sharp pictures are."""
    monkeypatch.setattr(charts, "DPI", 30)


@pytest.fixture
def report():
    gates = (
        Gate(name="nrmse_mean", kind="accuracy", passed=True, detail="nRMSE is fine"),
        Gate(name="dead_parameters", kind="health", passed=False, detail="3 of 4 never learn"),
    )
    return Report(
        run={"name": "small <b>", "id": "small/1", "seed": 3, "commit": "abc123", "model": "latent",
             "stage": "operator", "version": "0.9", "checkpoint_sha256": "c" * 64,
             "config": "name: small\nseed: 3\n"},
        protocol=PROTOCOL,
        rows=(full_row("model", "model", 0.0137), full_row("persistence", "trivial", 0.42),
              full_row("spatial mean", "trivial", 0.91)),
        gates=gates,
        sections=SECTIONS,
        environment={"python": "3.11", "packages": {"torch": "2.13"}, "command": ["ups", "eval"]},
    )  # fmt: skip


def written(run, *reports, **changes):
    for one in reports:
        write_report(one, run)
    return write_page(run, **changes).read_text(encoding="utf-8")


def test_the_page_holds_every_number_and_needs_nothing_else(tmp_path, report):
    card = {"burgers1d": {"native": {"nrmse": 0.000456, "low": 1e-5}}}
    (tmp_path / "codec_card.json").write_text(json.dumps(card))
    (tmp_path / "metrics.jsonl").write_text('{"stage": "operator", "step": 1, "loss": 0.5}\n')
    other = full_row("rival (seed 1)", "model", 0.0099)
    page = written(tmp_path, report, others={PROTOCOL.id: [other]})
    for text in (
        "0.0137",
        "0.0123 to 0.0164",
        "0.00685",
        "0.0326",
        "small &lt;b&gt;",
        "× persistence",
        "rival (seed 1)",
        "0.00990",
        PROTOCOL.id,
        "packages.torch",
        "2.13",
        "10 -&gt; 31 frames",
        "1 of 2 gates met",
        "3 of 4 never learn",
        "drift of the mean",
        "0.0200",
        "the card states no incompressible flow",
        "75 % of 32",
        "Spectrum of density",
        "mean of v^2 / 2",
        "8 members (residual model)",
        "0.0303",
        "NVIDIA H200",
        "1 h 02 min",
        "12.3 ms",
        "0.000456",
        "at the points of the data",
        "Made up later",
        "42.1",
        "git checkout abc123",
        "ups train --config config.yaml",
        "name: small",
    ):
        assert text in page, text  # fmt: skip
    assert "small <b>" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert not re.search(r"url\('(?!data:)", page)
    for tag in ("table", "section", "details", "figure"):
        assert page.count(f"<{tag}") == page.count(f"</{tag}>")
    missed, met = page.index("dead_parameters"), page.index("nrmse_mean")
    assert missed < met, "what is missed comes first"
    for target in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{target}"' in page


def test_what_was_not_measured_is_not_on_the_page(tmp_path, report):
    bare = replace(report, sections={}, gates=(), rows=(row("model", "model", 0.5),))
    page = written(tmp_path, bare)
    for text in ("Physics", "Spectra", "Uncertainty", "Gates", "Codec", "Training", "Cost",
                 "Energies over time", "By protocol"):  # fmt: skip
        assert text not in page, text
    assert "Provenance" in page


def test_the_summary_says_how_sure_and_compares_to_persistence(report):
    assert summary(report) == (
        "small <b>: nRMSE 0.0137 (95 % interval 0.0123 to 0.0164; median 0.00685, worst 0.123), "
        "0.0326 of persistence (0.420). 1 of 2 gates met."
    )
    assert "persistence" not in summary(replace(report, rows=report.rows[:1]))
    nan = replace(report.rows[0], metrics={"nrmse": {"mean": float("nan")}})
    assert "blew up" in summary(replace(report, rows=(nan,)))


def test_protocols_stand_side_by_side_and_tasks_one_after_the_other(tmp_path, report):
    report = replace(report, sections={"uncertainty": SECTIONS["uncertainty"]})
    ten = replace(report, protocol_name="pdebench", protocol=replace(PROTOCOL, history=3))
    page = written(tmp_path, report, ten)
    assert "By protocol" in page
    assert f"pdebench ({ten.protocol.id})" in page
    assert "of another checkpoint" not in page
    drawn = pictures_of(tmp_path)
    assert set(drawn) == {("burgers1d", "own"), ("burgers1d", "pdebench")}
    assert {path.name for path in drawn["burgers1d", "own"]} >= {"ranking.png", "ranks.png"}
    stale = replace(ten, run=ten.run | {"checkpoint_sha256": "f" * 64})
    assert "of another checkpoint" in written(tmp_path, stale)

    several = tmp_path / "several"
    two = [replace(report, run=report.run | {"task": name}) for name in ("slow", "fast")]
    page = written(several, *two)
    assert "mean over tasks" in page
    assert 'href="#task-slow"' in page
    assert "0.0326 of persistence" in page


def test_a_run_that_was_not_judged_or_a_damaged_report_is_an_error(tmp_path, report):
    with pytest.raises(CheckpointError, match="not been judged"):
        load_reports(tmp_path)
    path = write_report(report, tmp_path)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"report\.json"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_pdf_needs_a_browser_that_works(tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    page.write_text("<p>x</p>")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match="no Chromium") as found:
        pdf.write_pdf(page, tmp_path / "report.pdf")
    assert "apt-get install chromium" in (found.value.hint or "")
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(CheckpointError, match="it broke"):
        pdf.write_pdf(page, tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()


def test_numbers_of_one_trajectory_and_of_none_are_drawn(tmp_path, report):
    lonely = replace(
        report.rows[0], per_trajectory={"nrmse": [0.1]}, metrics={"nrmse": {"mean": np.nan}}
    )
    page = written(tmp_path, replace(report, rows=(lonely, *report.rows[1:]), sections={}))
    assert "blew up" in page
