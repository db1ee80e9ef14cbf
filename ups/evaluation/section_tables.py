"""Sections of a report as rows of short tables, for the terminal: plain values in, text out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Rows = list[tuple[str, ...]]

UNCERTAINTY_COLUMNS = (
    "field", ">CRPS", ">MAE", ">spread/skill", ">in 50 %", ">in 90 %", ">calib. err.",
)  # fmt: skip
TTC_COLUMNS = ("", ">plain", ">searched")


def uncertainty_rows(content: Mapping[str, Any]) -> Rows:
    """One row for all fields and one for each, then the same after calibration.

    CRPS and the point forecast's MAE are in units of the field's standard deviation in the row
    'all', in the field's unit in the others. Where there is one field it has no row of its own.
    """
    found: Rows = []
    for key, suffix in (("before", ""), ("after", ", calibrated")):
        scores = content[key]
        several = scores["fields"] if len(scores["fields"]) > 1 else {}
        for name, one in {"all": scores["all"], **several}.items():
            found.append((
                name + suffix,
                _number(one["crps"]),
                _number(one["mae_deterministic"]),
                _number(one["spread_skill"]),
                _percent(one["coverage_50"]),
                _percent(one["coverage_90"]),
                _number(one["calibration_error"]),
            ))  # fmt: skip
    return found


def ttc_rows(content: Mapping[str, Any]) -> Rows:
    """nRMSE and evaluations of the plain rollout and of the searched one, then the gain."""
    nrmse, spent, gain = content["nrmse"], content["evaluations"], content["gain"]
    found: Rows = [
        (f"nRMSE {name}", _number(nrmse["plain"][name]), _number(nrmse["chosen"][name]))
        for name in ("mean", "median", "p90", "max")
    ]
    found.append(("evaluations", f"{spent['plain']:.0f}", f"{spent['used']:.0f}"))
    interval = ""
    if gain.get("low") is not None and gain.get("high") is not None:
        interval = f" ({_number(gain['low'])} to {_number(gain['high'])})"
    found.append(("gain in nRMSE", "", _number(gain["absolute"]) + interval))
    found.append(("gain, relative", "", _percent(gain["relative"])))
    found.append(("for each rollout's worth", "", _percent(content["gain_per_compute"])))
    found.append(("steps changed", "", _percent(content["changed"])))
    return found


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.3g} %"
