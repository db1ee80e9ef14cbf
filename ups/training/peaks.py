"""Peak speeds of GPUs, from NVIDIA's data sheets. Imports nothing heavy."""

from __future__ import annotations

import re

# Dense bfloat16 peaks in FLOP/s (float16 where a chip has no bfloat16), by words of the name that
# the driver gives; the first that fits.
_PEAKS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A40": 150e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}


def peak_flops(name: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of a GPU by its name; None for one that is not in the table."""
    return next((peak for part, peak in _PEAKS.items() if re.search(rf"\b{part}\b", name)), None)
