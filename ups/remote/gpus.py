"""GPUs as people write them: `A100-80GB:2`, `rtx 4090`, `h100 sxm`, `24GB`, `none`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from ups.errors import UsageError
from ups.remote.spec import GpuRequest

MEMORY_GB: Mapping[str, tuple[int, ...]] = {
    "A10": (24,),
    "A10G": (24,),
    "A100": (40, 80),
    "A16": (16,),
    "A2": (16,),
    "A30": (24,),
    "A40": (48,),
    "A4000": (16,),
    "A5000": (24,),
    "A6000": (48,),
    "B200": (180,),
    "B300": (288,),
    "GH200": (96, 144),
    "H100": (80,),
    "H100NVL": (94,),
    "H200": (141,),
    "H200NVL": (141,),
    "L4": (24,),
    "L40": (48,),
    "L40S": (48,),
    "P100": (16,),
    "RTX2000Ada": (16,),
    "RTX3060": (8, 12),
    "RTX3070": (8,),
    "RTX3080": (10, 12),
    "RTX3080Ti": (12,),
    "RTX3090": (24,),
    "RTX3090Ti": (24,),
    "RTX4000Ada": (20,),
    "RTX4060": (8,),
    "RTX4060Ti": (8, 16),
    "RTX4070": (12,),
    "RTX4070Ti": (12,),
    "RTX4080": (16,),
    "RTX4090": (24,),
    "RTX5070": (12,),
    "RTX5070Ti": (16,),
    "RTX5080": (16,),
    "RTX5090": (32,),
    "RTX5000Ada": (32,),
    "RTX6000Ada": (48,),
    "RTXPRO6000": (96,),
    "T4": (16,),
    "V100": (16, 32),
}
"""Name as engines call it -> gigabytes it comes with."""

_NOISE = re.compile(r"(NVIDIA|GEFORCE|TESLA|QUADRO|TENSORCORE|SXM\d?|PCIE?|HGX|HBM\d?E?|GPU)")
_MEMORY = re.compile(r"(?<![A-Z0-9.])(\d+(?:\.\d+)?) ?(?:GB|GIB|G)\b", re.IGNORECASE)
_NONE = ("none", "cpu", "no", "0")
_NEAR = 4


def parse_gpu(text: str) -> GpuRequest:
    """What `--gpu` asks for.

    Args:
        text: A name with or without memory and number, only a memory (`24GB`), or `none`.
    Raises:
        UsageError: No such GPU is known; near names are listed. Or one that never had that memory.
    """
    name, colon, number = text.strip().rpartition(":")
    if not colon:
        name, number = number, "1"
    if not number.strip().isdigit() or int(number) < 1:
        raise UsageError(f"--gpu {text}: expected a number after ':'", hint="--gpu A100:2")
    count = int(number)
    if name.strip().lower() in _NONE and not colon:
        return GpuRequest()
    memory, rest = _memory_in(name)
    wanted = _bare(rest)
    if not wanted and memory is not None:
        return GpuRequest(memory_gb=memory, count=count)
    return _known(wanted, memory, count, text)


def _known(wanted: str, memory: float | None, count: int, text: str) -> GpuRequest:
    names = {name.upper(): name for name in MEMORY_GB}
    spellings = (wanted, f"RTX{wanted}", wanted.removeprefix("RTX"))
    found = next((names[one] for one in spellings if one in names), None)
    if found is None and memory is None:
        shorter = re.fullmatch(r"(.*?[A-Z0-9])(\d\d)", wanted)  # A10080 is an A100 of 80 GB
        if shorter and shorter[1] in names and int(shorter[2]) in MEMORY_GB[names[shorter[1]]]:
            found, memory = names[shorter[1]], float(shorter[2])
    if found is None:
        near = _near(wanted, names)
        raise UsageError(
            f"--gpu {text}: no such GPU is known" + (f"; near are {', '.join(near)}" * bool(near)),
            hint="ups remote offers --gpu 24GB lists all with so much memory",
        )
    sizes = MEMORY_GB[found]
    if memory is not None and memory > max(sizes):
        had = " or ".join(f"{found}-{size}GB" for size in sizes)
        raise UsageError(f"--gpu {text}: {found} has no {memory:g} GB", hint=f"--gpu {had}")
    return GpuRequest(name=found, memory_gb=memory, count=count)


def same_gpu(wanted: str, device: str) -> bool:
    """Whether a driver's name (`NVIDIA A100-SXM4-80GB`) is that of a GPU in the table."""
    found = _bare(_memory_in(device)[1])
    return found in (wanted.upper(), wanted.upper().removeprefix("RTX"))


def in_drivers_words(name: str) -> str:
    """A name of the table as drivers write it: `RTX4090` -> `RTX 4090`, `H100NVL` -> `H100 NVL`."""
    return re.sub(r"(?<=\d)(NVL|Ti|Ada)$", r" \1", re.sub(r"^RTX(?=\d)", "RTX ", name))


def _memory_in(text: str) -> tuple[float | None, str]:
    """A memory in a name, and the name without it."""
    found = _MEMORY.search(text)
    if found is None:
        return None, text
    return float(found[1]), text[: found.start()] + " " + text[found.end() :]


def _bare(text: str) -> str:
    """Capitals and digits only, without words that name no model."""
    return re.sub(r"[^A-Z0-9]", "", _NOISE.sub(" ", text.upper().replace("-", " ")))


def _near(wanted: str, names: Mapping[str, str]) -> list[str]:
    found = difflib.get_close_matches(wanted, names, n=_NEAR, cutoff=0.5)
    found += [one for one in names if wanted and (wanted in one or one in wanted)]
    return [names[one] for one in dict.fromkeys(found)][:_NEAR]
