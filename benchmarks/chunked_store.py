"""Why the grid store is contiguous: windows through h5py from chunks against a memory map.

python benchmarks/chunked_store.py
"""

from __future__ import annotations

import h5py
import numpy as np
from _common import paired, scratch_home

SHAPE = (400, 201, 1024, 1)
CHUNKS = (1, 8, 1024, 1)
WINDOWS, LENGTH = 512, 5


def main() -> None:
    random = np.random.default_rng(0)
    places = list(zip(random.integers(SHAPE[0], size=WINDOWS).tolist(),
                      random.integers(SHAPE[1] - LENGTH, size=WINDOWS).tolist(),
                      strict=True))  # fmt: skip
    with scratch_home() as home:
        with h5py.File(home / "store.h5", "w") as file:
            values = random.random(SHAPE, np.float32)
            file["contiguous"] = values
            file.create_dataset("chunked", data=values, chunks=CHUNKS)
            file.create_dataset("packed", data=values, chunks=CHUNKS, compression="lzf")
        with h5py.File(home / "store.h5") as file:
            offset = file["contiguous"].id.get_offset()
            mapped = np.memmap(home / "store.h5", np.float32, "r", offset, SHAPE)
            out = np.empty((WINDOWS, LENGTH, *SHAPE[2:]), np.float32)

            def gather(array: h5py.Dataset | np.memmap) -> None:
                for row, (trajectory, start) in enumerate(places):
                    out[row] = array[trajectory, start : start + LENGTH]

            for name in ("contiguous", "chunked", "packed"):
                data = file[name]
                print(f"h5py {name:10} / memory map:",
                      paired(lambda data=data: gather(data), lambda: gather(mapped)))  # fmt: skip


if __name__ == "__main__":
    main()
