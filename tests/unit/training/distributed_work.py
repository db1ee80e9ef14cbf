"""What the two processes of `test_distributed.py` do; each writes what it saw as JSON."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from toy_stage import ToyCheckpoints, fit_of

from ups.errors import ConfigError, DataError
from ups.training import distributed, loop
from ups.training.loop import InterruptedRunError

OPTIONS = {"ema_decay": 0.7, "accumulate": 2, "bad_gradients": (3,)}
ADAMW = {"optimizer": {"kind": "adamw", "lr": 2e-2}}


def stop_after(step):
    """A progress callback of the first process alone that presses Ctrl-C there."""

    def progress(done, total, note):
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def train(folder, **options):
    """Train half of the way, stop, resume; what was logged, and what every process then holds."""
    half, records = fit_of(folder, **options)
    try:
        half.run(stop_after(5))
        stopped = 0
    except InterruptedRunError as error:
        stopped = error.exit_code
    if distributed.is_main():
        shutil.copy(half.last_path, folder / "half.pt")
    rest, more = fit_of(folder, **options)
    rest.restore()
    rest.run()
    return {
        "stopped": stopped,
        "loss": records.of("loss") + more.of("loss"),
        "norm": records.of("grad_norm") + more.of("grad_norm"),
        "error": records.of("error") + more.of("error"),
        "best": rest.best,
        "skipped": rest.skipped,
    }


def helpers():
    rank = distributed.rank()
    jobs = list(range(5))
    share = distributed.portion_of(jobs)
    order = []
    with distributed.main_first():
        order.append(time.monotonic())
        time.sleep(0.2 * (rank == 0))
    return {
        "share": share,
        "in_order": distributed.in_order([10 * job for job in share]),
        "objects": distributed.gather_objects({"rank": rank}),
        "gathered": distributed.gathered(torch.full((2,), float(rank))).tolist(),
        "portion": distributed.portion(torch.arange(8), 1, 2).tolist(),
        "equal": [distributed.all_equal_portions(8, n) for n in (2, 4, 8)],
        "from_main": distributed.on_main(lambda: f"said by {rank}"),
        "refused": refused(),
        "entered": order[0],
        "shared_error": shared_error(),
    }


def refused():
    try:
        fit_of("nowhere", batch_size=6, accumulate=2)
    except ConfigError as error:
        return str(error)


def shared_error():
    def fail():
        raise DataError("nothing here")

    try:
        distributed.on_main(fail)
    except (DataError, distributed.ElsewhereError) as error:
        return [type(error).__name__, str(error), error.exit_code]


def main(folder):
    torch.set_num_threads(1)
    loop.checkpoints = ToyCheckpoints
    with distributed.together("cpu"):
        found = {"helpers": helpers()}
        found["ddp"] = train(folder / "ddp", **OPTIONS)
        found["fsdp"] = train(folder / "fsdp", **OPTIONS, sharding="fsdp")
        found["fsdp_adamw"] = train(folder / "fsdp_adamw", **OPTIONS, **ADAMW, sharding="fsdp")
        from_one, records = fit_of(folder / "one", **OPTIONS, sharding="fsdp")
        from_one.restore()
        from_one.run()
        found["from_one"] = {"loss": records.of("loss")}
        (folder / f"{distributed.rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
