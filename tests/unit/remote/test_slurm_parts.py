"""What the Slurm engine renders and how it reads Slurm's answers; no Slurm is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ups.errors import UsageError
from ups.remote.drivers import slurm_answers as answers
from ups.remote.drivers import slurm_script as script
from ups.remote.drivers.slurm_convert import Conversion, render_conversion
from ups.remote.spec import EXIT_TIME_LIMIT, GpuRequest, JobSpec, Task

SINFO = """\
cpu|cpu|up|2-00:00:00|idle|64|257000+|(null)|4
gpu|gpu*|up|1-00:00:00|mixed|32|515000|gpu:a100-sxm4-80gb:4(S:0-3)|2
gpu|gpu*|up|1-00:00:00|down*|32|515000|gpu:a100-sxm4-80gb:4(S:0-3)|1
gpu|gpu*|up|1-00:00:00|allocated|32|515000|gpu:v100:2,lustre:1|3
old|old|up|infinite|idle~|16|64000|gpu:2|1
off|off|inact|infinite|idle|16|64000|gpu:h100:8|1
"""


def job(**changes: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "id": "job-aa", "engine": "slurm",
        "task": Task(config="name: tiny\n", run_name="tiny", run_id="run"),
    }  # fmt: skip
    return JobSpec(**(fields | changes))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("1:30", 90), ("01:30:00", 5400), ("2-12", 216000), ("1-00:30", 88200),
     ("1-00:00:01", 86401), ("infinite", None), ("UNLIMITED", None)],
)  # fmt: skip
def test_slurms_times(text: str, seconds: int | None) -> None:
    assert script.duration_s(text) == seconds


def test_a_time_that_is_none() -> None:
    with pytest.raises(UsageError, match="'soon' is no time"):
        script.duration_s("soon")


def test_nodes_are_counted_by_what_can_be_used() -> None:
    found = {(n.partition, n.gres): n for n in answers.nodes_of(SINFO)}
    assert set(found) == {("gpu", "gpu:a100-sxm4-80gb"), ("gpu", "gpu:v100"), ("cpu", ""),
                          ("old", "gpu")}  # fmt: skip
    a100 = found["gpu", "gpu:a100-sxm4-80gb"]
    assert (a100.total, a100.usable, a100.gpus, a100.gpu_memory_gb) == (2, 2, 4, 80.0)
    assert found["gpu", "gpu:v100"].usable == 0
    assert found["cpu", ""].memory_gb == pytest.approx(251, abs=1)
    assert found["old", "gpu"].limit_s is None


@pytest.mark.parametrize(
    ("request_", "first"),
    [
        (GpuRequest(name="A100", memory_gb=80), "gpu:a100-sxm4-80gb"),
        (GpuRequest(name="V100", count=2), "gpu"),  # free, though it does not say what it is
        (GpuRequest(name="A100", count=8), None),
        (GpuRequest(name="A100", memory_gb=96), "gpu"),
        (GpuRequest(), ""),
    ],
)
def test_the_nodes_that_a_job_gets(request_: GpuRequest, first: str | None) -> None:
    fitting = answers.choose(answers.nodes_of(SINFO), job(gpu=request_))
    assert (fitting[0].gres if fitting else None) == first


@pytest.mark.parametrize(
    ("kept", "fields", "expected"),
    [
        ({}, {"JobState": "PENDING", "Reason": "Resources"}, ("queued", None)),
        ({"folder": "here"}, {"JobState": "CONFIGURING"}, ("starting", None)),
        ({"attempts": "1"}, {"JobState": "RUNNING", "RunTime": "00:01:00"}, ("running", None)),
        ({"stop": ""}, {"JobState": "RUNNING"}, ("stopping", None)),
        ({"exit_code": "7"}, {"JobState": "COMPLETING"}, ("done", 7)),
        ({"exit_code": "0", "stop": ""}, {}, ("done", 0)),
        ({"exit_code": "8", "stop": ""}, {}, ("stopped", 8)),
        ({"exit_code": str(EXIT_TIME_LIMIT)}, {}, ("timed_out", EXIT_TIME_LIMIT)),
        ({}, {"JobState": "FAILED", "ExitCode": "7:0"}, ("done", 7)),
        ({}, {"JobState": "FAILED", "ExitCode": "0:9"}, ("failed", 137)),
        ({}, {"JobState": "OUT_OF_MEMORY", "ExitCode": "0:125"}, ("failed", None)),
        ({}, {"JobState": "NODE_FAIL"}, ("failed", None)),
        ({}, {"JobState": "TIMEOUT"}, ("timed_out", None)),
        ({"ending": "time limit"}, {}, ("timed_out", None)),
        ({"ending": "end of the allocation"}, {}, ("timed_out", None)),
        ({"stop": "", "folder": "here"}, {}, ("stopped", None)),
        ({"folder": "here"}, {}, ("failed", None)),
        ({}, {}, ("unknown", None)),
    ],
)
def test_how_a_job_is(
    kept: dict[str, str], fields: dict[str, str], expected: tuple[str, int | None]
) -> None:
    status = answers.status_of(kept, fields)
    assert (status.state, status.exit_code) == expected
    assert status.reason or status.state not in ("failed", "timed_out", "unknown")


def test_time_of_earlier_attempts_counts() -> None:
    running = {"JobState": "RUNNING", "RunTime": "00:01:00", "NodeList": "n1", "Partition": "gpu"}
    status = answers.status_of({"attempts": "2", "used_s": "3600"}, running)
    assert (status.running_s, status.attempts, status.machine) == (3660.0, 2, "n1 (gpu)")
    assert answers.status_of({"attempts": "1", "used_s": "30"}, running).running_s == 60.0


@pytest.mark.parametrize("value", ["plain", "it's % \\n $HOME `x` \" ü\nline", "trailing\\"])
def test_halves_of_secrets_make_a_whole_in_the_script_only(value: str, tmp_path: Path) -> None:
    text = script.render(job(secrets=("A_KEY",)), str(tmp_path), None, None)
    start = text.index("combine() {")
    function = text[start : text.index("\n}\n", start) + 3]
    first, second = script.split({"A_KEY": value})
    assert value.encode().hex() not in (first, second)
    done = subprocess.run(
        ["bash", "-c", f'{function}eval "$(combine "$1" "$2")"; printf %s "$A_KEY"', "", first,
         second], capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.decode() == value


def test_a_script_is_valid_shell(tmp_path: Path) -> None:
    spec = job(
        environment={"A": "b'c"}, nodes=2, cpus=8, options={"setup": "module load x || true"}
    )
    text = script.render(spec, str(tmp_path), "gpu:a100:2", 3600)
    assert "#SBATCH --gres=gpu:a100:2\n" in text
    assert "#SBATCH --time=60\n" in text
    assert "@" not in text.replace("USR1@150", "")
    for content in (text, script.render_nodes(spec)):
        subprocess.run(["bash", "-n"], input=content.encode(), check=True)


def test_conversions_are_an_array_and_a_merge_after_it() -> None:
    wanted = Conversion("burgers1d", ("--stride-t", "2"), shards=3, workers=2, at_once=2,
                        options={"partition": "cpu"})  # fmt: skip
    shares, merge = render_conversion(wanted, Path("/logs"), "17")
    assert "#SBATCH --array=1-3%2\n" in shares
    assert shares.endswith(
        "data convert burgers1d --stride-t 2 --workers 2 --shard $SLURM_ARRAY_TASK_ID/3\n"
    )
    assert "#SBATCH --dependency=afterok:17\n#SBATCH --kill-on-invalid-dep=yes\n" in merge
    assert "--array" not in merge
    assert merge.endswith("--merge 3 && touch /logs/merged\n")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arguments": ("--shard", "1/2")}, "--shard: the job array gives it itself"),
        ({"arguments": ("--merge=3",)}, "--merge"),
        ({"options": {"partitoin": "cpu"}}, "did you mean 'partition'"),
        ({"options": {"partition": "a b"}}, "characters"),
    ],
)
def test_what_a_conversion_may_not_be_given(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        render_conversion(Conversion("burgers1d", **changes), Path("/logs"))
