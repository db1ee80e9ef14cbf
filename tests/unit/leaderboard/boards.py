"""Reports with chosen numbers, for leaderboards that no model has to be trained for."""

from __future__ import annotations

import math

import numpy as np

from ups.evaluation.gates import Gate
from ups.evaluation.protocol import Protocol
from ups.evaluation.report import Report, Row, Section, write_report
from ups.leaderboard import entries

PROTOCOL = Protocol(
    dataset="burgers1d",
    version="nu0.01-x4-t5",
    split="test",
    split_hash="5" * 64,
    data_sha256="d" * 64,
    resolution=(256,),
    domain=((0.0, 1.0),),
    stride_x=4,
    stride_t=5,
    dt=0.05,
    stride=1,
    history=10,
    horizon=31,
    num_trajectories=1000,
)


def judged_row(name, kind, mean, *, trajectories=40, seed=0):
    """A row as `Row.of` makes it, of log-normal errors with this mean."""
    values = np.exp(0.4 * np.random.default_rng(seed).standard_normal(trajectories))
    values *= mean / values.mean()
    listed = [None if math.isnan(mean) else float(value) for value in values]
    reduced = {
        "mean": float(values.mean()), "median": float(np.median(values)),
        "p90": float(np.quantile(values, 0.9)), "max": float(values.max()),
    }  # fmt: skip
    names = ("nrmse", "relative_l2", "vrmse", "rmse", "max_error")
    return Row.of(
        name, kind,
        {"metrics": {one: reduced for one in names} | {"correlation_time": {"mean": 1 / mean}},
         "per_step": {"nrmse": [mean, mean]}, "per_channel": {"nrmse": {"u": mean}},
         "per_trajectory": {one: listed for one in names}},
        seconds_per_step=1e-4,
    )  # fmt: skip


def judged(
    name="small",
    mean=0.0123,
    *,
    seed=0,
    protocol=PROTOCOL,
    model="latent",
    task=None,
    hours=0.5,
    parameters=1_234_567,
    broken="",
    width=32,
    device="cpu",
    **changes,
) -> Report:
    """A whole report; `broken` names a health gate that was missed."""
    run = {
        "name": name, "id": f"{name}/20260101T000000Z-{seed:08x}", "seed": seed, "model": model,
        "num_parameters": parameters, "stage": "operator", "commit": "abc", "version": "0.1.0",
        "checkpoint_sha256": f"{name}{seed}".encode().hex().ljust(64, "0"),
        "config": f"name: {name}\nseed: {seed}\noperator: {{kind: {model}, width: {width}}}\n",
        **({"task": task} if task else {}),
    }  # fmt: skip
    gates = (
        Gate(name=broken or "dead_parameters", kind="health", passed=not broken,
             detail="12 of 40 parameters receive no gradient" if broken else "all learn"),
    )  # fmt: skip
    cost = {
        "train_hours": hours, "train_device": device, "latency_seconds": 0.002 * (1 + seed),
        "trajectories_per_second": 120.0, "peak_memory_bytes": 400_000_000, "device": device,
    }  # fmt: skip
    report = Report(
        run=run,
        protocol=protocol,
        rows=(
            judged_row("model", "model", mean, seed=seed + 1),
            judged_row("persistence", "trivial", 0.4),
            judged_row("spatial mean", "trivial", 0.9),
        ),
        gates=gates,
        trajectories=tuple(range(40)),
        environment={"platform": "Linux", "command": ["ups", "/home/someone/secret"]},
        created="2026-01-02T03:04:05Z",
        **changes,
    )
    sections = (
        Section(name="cost", content=cost),
        Section(name="spectra", content={"k": list(range(9))}),
        Section(name="long_rollout", content={"stable_share": 1.0, "rms": [0.5] * 99}),
    )
    return report.extended(sections)


def enter(folder, *reports, **options):
    """Put reports on the leaderboard in `folder`/board; the new entries."""
    found = []
    for one in reports:
        path = write_report(one, folder / "run")
        found.append(entries.add(path, folder / "board", **options)[0])
    return found
