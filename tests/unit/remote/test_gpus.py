"""GPU names as people write them."""

from __future__ import annotations

import pytest

from ups.errors import UsageError
from ups.remote.gpus import in_drivers_words, parse_gpu, same_gpu


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("A100", "A100"),
        ("a100-80gb", "A100-80GB"),
        ("a100 80GB:4", "A100-80GB:4"),
        ("A100_80G", "A100-80GB"),
        ("A10080", "A100-80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("RTX 4090", "RTX4090"),
        ("4090", "RTX4090"),
        ("GeForce RTX 3090 Ti", "RTX3090Ti"),
        ("RTX A6000", "A6000"),
        ("rtx 6000 ada", "RTX6000Ada"),
        ("H100:2", "H100:2"),
        ("h100 sxm", "H100"),
        ("H100 NVL", "H100NVL"),
        ("L40S", "L40S"),
        ("A10G", "A10G"),
        ("Tesla T4", "T4"),
        ("v100", "V100"),
        ("B200:8", "B200:8"),
        ("24GB", "24GB"),
        ("24 gb:2", "24GB:2"),
        ("none", "no GPU"),
        ("cpu", "no GPU"),
    ],
)
def test_names_are_understood_as_people_write_them(text: str, meant: str) -> None:
    assert str(parse_gpu(text)) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A1000", "near are A100"),
        ("RTX 4O90", "near are RTX4090"),
        ("H10", "near are H100"),
        ("quantum", "no such GPU is known"),
        ("A100:x", "expected a number after ':'"),
        ("A100:0", "expected a number after ':'"),
        ("A100-160GB", "A100 has no 160 GB"),
        ("none:2", "no such GPU"),
        ("", "no such GPU"),
    ],
)
def test_what_is_no_gpu_is_refused_with_near_names(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_gpu(text)


def test_drivers_names_are_recognised() -> None:
    assert same_gpu("A100", "NVIDIA A100-SXM4-80GB")
    assert same_gpu("H100", "NVIDIA H100 80GB HBM3")
    assert same_gpu("RTX4090", "NVIDIA GeForce RTX 4090")
    assert not same_gpu("A100", "NVIDIA A10")
    assert not same_gpu("A100", "cpu")
    assert in_drivers_words("RTX4090") == "RTX 4090"
    assert in_drivers_words("H100NVL") == "H100 NVL"
