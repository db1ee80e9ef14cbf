"""Open raw files, as a process of its own: see `ups.data.conversion.probing`.

python -m ups.data.layouts.probe < request.json
"""

from __future__ import annotations

import json
import sys
from contextlib import closing, suppress
from pathlib import Path

from ups.data.layouts import open_raw, open_raw_points
from ups.errors import UpsError
from ups.registry import DatasetCard


def main() -> None:
    """Open each file of the request on standard input; print its number before."""
    request = json.load(sys.stdin)
    card = DatasetCard.model_validate(request["card"])
    opened = open_raw if card.discretisation.kind == "grid" else open_raw_points
    for number, path in enumerate(request["paths"]):
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        with suppress(UpsError), closing(opened(Path(path), card)):
            pass


if __name__ == "__main__":
    main()
