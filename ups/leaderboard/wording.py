"""Numbers and names as people read them."""

from __future__ import annotations

from ups.leaderboard.lines import TRIVIAL, Line

METRICS = {
    "nrmse": "nRMSE", "relative_l2": "rel. L2", "vrmse": "VRMSE", "rmse": "RMSE",
    "max_error": "max. error", "brmse": "bRMSE", "crmse": "cRMSE", "frmse_low": "fRMSE low",
    "frmse_mid": "fRMSE mid", "frmse_high": "fRMSE high", "correlation_time": "corr. time",
    "mean_error": "mean error", "crps": "CRPS",
}  # fmt: skip
DASH = "–"


def metric_name(metric: str) -> str:
    return METRICS.get(metric, metric)


def digits(value: int | float | None, number: int) -> str:
    """`value` with so many significant digits; a dash where there is none."""
    return DASH if value is None else f"{value:#.{number}g}".rstrip(".")


def interval(low: int | float | None, high: int | float | None) -> str:
    """`0.0119–0.0135`; nothing where there is no interval."""
    return "" if low is None or high is None else f"{digits(low, 3)}{DASH}{digits(high, 3)}"


def count(value: int | None) -> str:
    """`1.23 M`."""
    if value is None:
        return ""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def hours(value: int | float | None) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if value is None:
        return DASH
    seconds = 3600 * value
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{value:.3g} h"


def milliseconds(seconds: int | float | None) -> str:
    """`1.2 ms`."""
    return DASH if seconds is None else f"{1e3 * seconds:.3g} ms"


def memory(num_bytes: int | None) -> str:
    """`1.2 GB`."""
    return DASH if num_bytes is None else f"{num_bytes / 1e9:.2g} GB"


def device(name: str) -> str:
    """`CPU` for a processor; the name of a GPU."""
    return "CPU" if name == "cpu" else name


def place(line: Line) -> str:
    """The rank; a dot for trivial predictors, a dash for what is not ranked."""
    if line.rank is not None:
        return str(line.rank)
    return "·" if line.kind == TRIVIAL else DASH
