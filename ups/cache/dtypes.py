"""How tokens are kept in a file: numpy has no bfloat16, whose bits are kept as uint16."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""Every number type of a cache, in the order in which they are shown."""
_BITS = np.dtype("<u2")


def stored_dtype(name: str) -> np.dtype[Any]:
    """What a shard's array is of: for bfloat16 its bits, as uint16."""
    return _BITS if name == "bfloat16" else np.dtype(name)


def to_stored(values: Array | Tensor, name: str) -> Array:
    """Round to a cache's number type, contiguous and in main memory.

    Bits of bfloat16, uint16, are taken as they are.
    """
    if isinstance(values, np.ndarray):
        if name != "bfloat16" or values.dtype == _BITS:
            return np.ascontiguousarray(values, dtype=stored_dtype(name))
        values = torch.from_numpy(np.ascontiguousarray(values))
    rounded = values.to(TORCH[name]).cpu().contiguous()
    if name == "bfloat16":
        return np.asarray(rounded.view(torch.uint16).numpy())
    return np.asarray(rounded.numpy())


def as_tensor(values: Array, name: str) -> Tensor:
    """The numbers of a stored array, without a copy."""
    found = torch.from_numpy(values)
    return found.view(torch.bfloat16) if name == "bfloat16" else found
