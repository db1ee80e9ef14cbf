"""Where tokens are: chosen from free memory, told in a line, and of no effect on any batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_runs import operator_stage

from ups.cli.train import describe
from ups.training.dtype_costs import dtype_costs
from ups.training.residence import Residence, choose_residence, free_memory

GB = 10**9
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def chosen(size, device, *, gpu=0, ram=0, asked="auto"):
    return choose_residence(
        asked, size, 3, device, free_on_device=lambda device: gpu, free_here=lambda: ram
    ).where


@pytest.mark.parametrize(
    ("size", "device", "where"),
    [(4, GPU, "device"), (40, GPU, "device"), (41, GPU, "memory"), (100, GPU, "memory"),
     (101, GPU, "stream"), (4, CPU, "memory"), (100, CPU, "memory"), (101, CPU, "stream")],
)  # fmt: skip
def test_tokens_take_at_most_half_of_what_is_free(size, device, where):
    assert chosen(size * GB, device, gpu=80 * GB, ram=200 * GB) == where


@pytest.mark.parametrize("asked", ["device", "memory", "stream"])
def test_what_is_asked_for_is_taken_whatever_is_free(asked):
    assert chosen(GB, GPU, asked=asked) == asked
    assert chosen(GB, CPU, asked=asked) == ("memory" if asked == "device" else asked)


def test_processes_on_a_machine_share_its_memory(monkeypatch):
    assert chosen(40 * GB, CPU, ram=100 * GB) == "memory"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert chosen(40 * GB, CPU, ram=100 * GB) == "stream"
    assert chosen(25 * GB, CPU, ram=100 * GB) == "memory"


def written(root, **files):
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_system_says_what_is_free(tmp_path):
    root = written(tmp_path, proc__meminfo="MemTotal: 99 kB\nMemAvailable:   50 kB\n")
    assert free_memory(root) == 50 * 1024


def test_a_group_above_ours_can_be_the_narrowest(tmp_path):
    """Cached files of a group count as free; `max` is no limit."""
    root = written(
        tmp_path,
        proc__meminfo="MemAvailable: 1000000 kB\n",
        proc__self__cgroup="0::/outer/inner\n",
        sys__fs__cgroup__outer__memory_dot_max="9000\n",
        sys__fs__cgroup__outer__memory_dot_current="6000\n",
        sys__fs__cgroup__outer__memory_dot_stat="anon 1\ninactive_file 1500\n",
        sys__fs__cgroup__outer__inner__memory_dot_max="max\n",
        sys__fs__cgroup__outer__inner__memory_dot_current="5000\n",
    )
    assert free_memory(root) == 9000 - 6000 + 1500


def test_groups_of_the_first_version_count_too(tmp_path):
    root = written(
        tmp_path,
        proc__meminfo="MemAvailable: 1000000 kB\n",
        proc__self__cgroup="7:cpu:/x\n5:memory:/job\n",
        sys__fs__cgroup__memory__job__memory_dot_limit_in_bytes="700\n",
        sys__fs__cgroup__memory__job__memory_dot_usage_in_bytes="800\n",
        sys__fs__cgroup__memory__job__memory_dot_stat="total_inactive_file 300\n",
    )
    assert free_memory(root) == 200


def test_a_silent_system_still_has_some_memory(tmp_path):
    assert free_memory(tmp_path) > 2**20


@pytest.mark.parametrize(
    ("where", "shards", "text"),
    [("device", 3, "1.2 GB on the device"), ("memory", 3, "1.2 GB in memory"),
     ("stream", 8, "1.2 GB streamed from 8 shards"), ("stream", 1, "1.2 GB streamed from 1 shard")],
)  # fmt: skip
def test_training_says_where_the_tokens_are(where, shards, text):
    assert describe(Residence(where, 1_200_000_000, shards)) == text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_windows_are_the_same_wherever_the_tokens_are(small, dtype):
    small("burgers1d")
    found = []
    for residence in ("device", "memory", "stream"):
        cache = {"dtype": dtype, "residence": residence, "shard_bytes": 3 * 9 * 32 * 4}
        (task,) = operator_stage("burgers1d", cache=cache).mixture.tasks
        assert task.residence.shards > 3
        rows, starts = np.array([0, 15, 7, 7]), np.array([-1, 3, 0, 4])
        found.append(task.windows("train", rows, starts, 3))
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_copies_that_run_beside_the_next_ones_arrive_whole(small, dtype):
    small("burgers1d")
    (task,) = operator_stage("burgers1d", cache={"dtype": dtype}).mixture.tasks
    rows, starts = np.arange(16).repeat(20), np.tile(np.arange(5), 64)
    expected = task.windows("train", rows, starts, 3)
    for where in ("device", "memory", "stream"):
        there = replace(task, device=GPU, residence=Residence(where, 0, 1))
        parts = [there.windows("train", rows[i::9], starts[i::9], 3) for i in range(9)]
        assert {part.device.type for part in parts} == {"cuda"}
        for i, part in enumerate(parts):
            assert torch.equal(part.cpu(), expected[i::9])


@pytest.mark.parametrize("key", ["burgers1d", "darcy2d_mesh", "particles_advect"])
def test_what_each_number_type_costs_is_measured_in_decoded_fields(small, key):
    small(key)
    (task,) = operator_stage(key).mixture.tasks
    half, brain, full = dtype_costs(task.data, task.coded, task.cache.manifest)
    assert (half.dtype, brain.dtype, full.dtype) == ("float16", "bfloat16", "float32")
    assert full.size_bytes == 2 * half.size_bytes == 2 * brain.size_bytes
    assert half.size_bytes == task.cache.manifest.size_bytes
    assert full.nrmse == 0
    assert 1e-5 < half.nrmse < 2e-3  # a mantissa of 11 bits
    assert 3 < brain.nrmse / half.nrmse < 16  # of 8 bits: eight times as much
    assert set(half.largest) == set(task.data.card.field_names)
    assert all(0 < half.largest[name] < brain.largest[name] for name in half.largest)
