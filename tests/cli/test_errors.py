"""What goes wrong for users: one clear line, a remedy, the right code, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ups import runs
from ups.cli.main import app

TINY = [
    "operator.width=16", "operator.depth=1", "stages.codec.steps=4", "stages.operator.steps=4",
]  # fmt: skip


def fails(*arguments: str, code: int) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.output
    return result


def works(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result


def overrides(*more: str) -> list[str]:
    return [part for item in [*TINY, *more] for part in ("--set", item)]


def write_raw(path: Path, *, key: str = "tensor", trajectories: int = 12) -> Path:
    """A small file in PDEBench's layout: advected sines."""
    x, t = (np.arange(32) + 0.5) / 32, np.arange(9) * 0.25
    phase = np.random.default_rng(0).random((trajectories, 1, 1))
    fields = np.sin(2 * np.pi * (x - 0.4 * t[:, None] + phase))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file[key] = fields.astype(np.float32)
        file["x-coordinate"] = x.astype(np.float32)
        file["t-coordinate"] = np.append(t, 2.25).astype(np.float32)
        file.attrs["beta"] = 0.4
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_raw(tmp_path / "raw" / "1D_Advection_Sols_beta0.4.hdf5")


@pytest.fixture
def converted(raw: Path) -> Path:
    works("data", "convert", "advection1d", "--raw", str(raw))
    return raw


def versions(home: Path) -> list[str]:
    return [path.name for path in (home / "data" / "advection1d").glob("*.h5")]


def test_truncated_file_is_named_and_leaves_no_version(raw: Path, home: Path) -> None:
    content = raw.read_bytes()
    raw.write_bytes(content[: len(content) // 2])
    result = fails("data", "convert", "advection1d", "--raw", str(raw), code=3)
    assert f"{raw}: the file is truncated" in result.stderr
    assert versions(home) == []


def test_wrong_keys_are_listed(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "1D_Advection_Sols_beta0.4.hdf5", key="tensr")
    result = fails("data", "convert", "advection1d", "--raw", str(path), code=3)
    assert "no array 'tensor', found ['t-coordinate', 'tensr', 'x-coordinate']" in result.stderr


def test_nan_is_placed_and_can_be_excluded(raw: Path, home: Path) -> None:
    with h5py.File(raw, "r+") as file:
        file["tensor"][7, 3, 5] = np.nan
    result = fails("data", "convert", "advection1d", "--raw", str(raw), code=3)
    assert "trajectory 7: NaN or infinity first at frame 3" in result.stderr
    assert "--exclude-invalid" in result.stderr
    assert versions(home) == []
    works("data", "convert", "advection1d", "--raw", str(raw), "--exclude-invalid")
    assert "excluded from all splits" in works("data", "audit", "advection1d").stdout


def test_unknown_dataset_names_the_nearest() -> None:
    result = fails("data", "info", "burgers1", code=2)
    assert "burgers1: unknown dataset (did you mean 'burgers1d'?)" in result.stderr
    assert "hint: ups data list" in result.stderr


def test_typo_in_a_config_key_names_the_nearest(tmp_path: Path) -> None:
    result = fails("config", "show", "--set", "stages.operator.stpes=9", code=2)
    assert "stages.operator.stpes: unknown key (did you mean 'steps'?)" in result.stderr
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ndata: {dataset: burgers1d}\noperator: {widht: 32}\n")
    result = fails("train", "--config", str(path), code=2)
    assert f"{path}" in result.stderr
    assert "operator.widht: unknown key (did you mean 'width'?)" in result.stderr


def test_missing_data_names_the_commands_that_make_it() -> None:
    result = fails("train", code=3)
    assert "burgers1d: no converted version" in result.stderr
    assert "ups data generate burgers1d && ups data convert burgers1d" in result.stderr


def test_no_run_to_evaluate_names_the_command() -> None:
    assert "ups train --stage operator" in fails("eval", code=4).stderr


@pytest.mark.skipif(os.getuid() != 0, reason="drops root's rights to test without them")
def test_a_folder_without_permission_is_one_line(converted: Path, home: Path) -> None:
    """As nobody: root may write everywhere. (What is imported has been, by `converted`.)"""
    for folder in [home, *home.parents]:
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        arguments = ["data", "convert", "advection1d", "--raw", str(converted)]
        result = fails(*arguments, "--version", "other", code=3)
    finally:
        os.seteuid(0)
    assert "no permission" in result.stderr


def test_a_full_disk_is_one_line_and_leaves_no_version(raw: Path, home: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    arguments = ["data", "convert", "advection1d", "--raw", str(raw)]
    result = subprocess.run(
        [sys.executable, "-m", "ups", *arguments],
        capture_output=True, text=True, check=False, preexec_fn=limit,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # cut-off modules spoil later imports
    )  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert "the file-size limit is reached" in result.stderr
    assert "Traceback" not in result.stderr
    assert not [path for path in (home / "data").rglob("*") if path.suffix == ".h5"]
    assert not [path for path in (home / "data").rglob("*") if "partial" in path.name]


def test_a_cache_whose_manifest_is_of_other_data_stops_training(
    converted: Path, home: Path
) -> None:
    small = overrides("stages.codec.validate_every=2")
    works("train", "--config", "advection1d", "--stage", "codec", *small)
    works("cache", "build", "advection1d")
    (path,) = (home / "caches").rglob("manifest.json")
    content = json.loads(path.read_text())
    content["identity"]["data_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    result = fails("train", "--config", "advection1d", "--stage", "operator", *small, code=4)
    assert "fingerprint does not match: data_sha256 is '0000" in result.stderr
    assert "hint: ups cache build advection1d" in result.stderr


def test_a_checkpoint_cut_in_half_is_named(converted: Path) -> None:
    works("train", "--config", "advection1d", *overrides())
    path = runs.checkpoint_path(runs.find_run(None), "operator")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    result = fails("eval", code=4)
    assert f"{path}: cut off or damaged" in result.stderr


def test_a_truncated_shard_is_found(converted: Path, home: Path) -> None:
    works("train", "--config", "advection1d", *overrides())
    (shard,) = (home / "caches").rglob("train-00000.npy")
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)
    result = fails("cache", "verify", code=4)
    assert "truncated" in result.stdout + result.stderr
    assert "ups cache build" in result.stderr


def test_changed_data_is_not_evaluated_as_if_it_were_the_old(converted: Path) -> None:
    works("train", "--config", "advection1d", *overrides())
    with h5py.File(converted, "r+") as file:
        file["tensor"][0] = file["tensor"][1]
    works("data", "convert", "advection1d", "--raw", str(converted), "--force")
    result = fails("eval", code=3)
    assert "differ from those that the run was trained on" in result.stderr


def test_two_runs_started_at_once_keep_apart(converted: Path, home: Path) -> None:
    command = [sys.executable, "-m", "ups", "train", "--config", "advection1d", *overrides()]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in both]
    codes = sorted(process.returncode for process in both)
    # Both fit, or one met the other while it was building the cache and was told so.
    assert codes in ([0, 0], [0, 4]), outputs
    if codes == [0, 4]:
        assert any("is building this cache" in err for _, err in outputs)
    found = runs.list_runs("advection1d")
    assert len(found) == 2
    works("cache", "verify")


def test_bad_options_are_usage_errors() -> None:
    assert fails("data", "generate", "burgers1d", "--param", "nu", code=2)
    assert fails("data", "generate", "burgers1d", "--param", "mu=1", code=2)
    assert fails("leaderboard", "show", "--json", "--csv", code=2)
    assert fails("eval", "--split", "train", code=2)
    assert fails("train", "--resume", "nothing", code=4)


def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(converted: Path) -> None:
    command = [sys.executable, "-m", "ups", "train", "--config", "advection1d", "--set",
               "operator.width=16", "--set", "stages.codec.steps=100000"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not runs.list_runs("advection1d"):
            assert process.poll() is None
        run = runs.list_runs("advection1d")[0]
        while not runs.read_metrics(run / runs.METRICS):
            assert process.poll() is None
        process.send_signal(2)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert (run / "checkpoints" / "codec-last.pt").is_file()
    assert f"ups train --resume {runs.run_id(run)}" in stderr
