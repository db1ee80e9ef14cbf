"""What makes two codecs the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn


def fingerprint_of(options: Mapping[str, Any], weights: nn.Module) -> str:
    """SHA-256 over options (JSON can say them), and name and value of every weight and buffer."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name, weight in sorted(weights.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
