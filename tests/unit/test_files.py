"""Files that appear whole or not at all, and locks that end with their holder."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from ups import files
from ups.errors import CacheError, DataError, translated_os_errors

HOLD = """
    import sys, time
    from pathlib import Path
    from ups import files
    with files.exclusive(Path(sys.argv[1]), "making it"):
        print("held", flush=True)
        time.sleep(60)
"""


def fail_halfway(path):
    with files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError


def raise_under(lock, error):
    with lock:
        raise error


def visible(folder):
    return sorted(path.name for path in folder.iterdir())


def python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def test_a_failure_leaves_no_file(tmp_path):
    with pytest.raises(KeyError):
        fail_halfway(tmp_path / "x")
    assert visible(tmp_path) == []


def test_a_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(KeyError):
        fail_halfway(path)
    assert path.read_text() == "old"
    assert visible(tmp_path) == ["x"]


def test_the_name_appears_only_after_the_block(tmp_path):
    path = tmp_path / "deep" / "x"
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert visible(path.parent) == ["x"]


def test_json_that_is_not_a_number_is_refused_and_keeps_the_old_file(tmp_path):
    files.write_json(tmp_path / "x", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x", {"a": float("nan")})
    assert (tmp_path / "x").read_text() == '{\n  "a": 1\n}\n'


def test_a_kill_while_writing_leaves_the_old_file_and_a_leftover_that_can_be_removed(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    code = """
        import os, signal, sys
        from pathlib import Path
        from ups import files
        with files.atomic_path(Path(sys.argv[1])) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    process = python(code, path)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(visible(tmp_path)) == 2
    files.remove_leftovers(tmp_path, "x")
    assert visible(tmp_path) == ["x"]


def test_leftovers_of_another_file_are_not_touched(tmp_path):
    other = tmp_path / ".other.12.partial"
    other.write_text("")
    files.remove_leftovers(tmp_path, "x")
    assert other.exists()


def test_a_lock_refuses_a_second_process_and_ends_with_a_kill(tmp_path):
    target = tmp_path / "thing"
    holder = python(HOLD, target)
    try:
        assert holder.stdout.readline() == "held\n"
        told = rf"thing: another process \(pid {holder.pid}\) is making it"
        with pytest.raises(CacheError, match=told):
            raise_under(files.exclusive(target, "making it", CacheError), AssertionError())
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with files.exclusive(target, "waiting"):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_a_lock_is_free_after_an_error_in_its_block(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError):
            raise_under(files.exclusive(tmp_path / "x", "failing"), KeyError())


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
    assert files.sha256_json({"b": 1, "a": [2.5]}) == files.sha256_json({"a": [2.5], "b": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EFBIG, "the file-size limit is reached"),
    ],
)
def test_a_full_disk_is_one_line_with_a_remedy(tmp_path, number, reason):
    for error in (OSError(number, "x"), RuntimeError(f"HDF5 (errno = {number}, error message)")):
        with pytest.raises(DataError, match=f"writing failed: {reason}$") as caught:
            raise_under(translated_os_errors(tmp_path / "x", "writing"), error)
        assert "UPS_HOME" in caught.value.hint


def test_a_runtime_error_that_is_not_the_disks_stays_a_bug(tmp_path):
    with pytest.raises(RuntimeError, match="bug"):
        raise_under(translated_os_errors(tmp_path, "writing"), RuntimeError("a bug"))


def test_conversion_onto_a_full_disk_is_one_clear_error_and_leaves_nothing(
    tmp_path, home, advected, write_raw
):
    raw = write_raw(tmp_path / "raw.hdf5", advected(64, 21, 256, 1.0, 0), {"beta": 1.0})
    code = """
        import resource, sys
        from pathlib import Path
        from ups.data.convert import convert
        from ups.errors import DataError
        from ups.registry import load_card
        sys.dont_write_bytecode = True  # a cut-off module would spoil later imports
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            convert(load_card("advection1d"), [Path(sys.argv[1])], version="full")
        except DataError as error:
            print(error)
            sys.exit(error.exit_code)
    """
    process = python(code, raw, env={**os.environ, "UPS_HOME": str(home)})
    out, err = process.communicate()
    assert process.returncode == 3, err
    assert out.splitlines() == [
        f"{home}/data/advection1d/full.h5: writing failed: the file-size limit is reached"
    ]
    assert err == ""
    assert visible(home / "data" / "advection1d") == [".full.h5.lock"]


def test_the_same_conversion_without_the_limit_works(tmp_path, advected, write_raw):
    from ups.data.convert import convert
    from ups.registry import load_card

    tensor = advected(64, 21, 256, 1.0, 0)
    raw = write_raw(tmp_path / "raw.hdf5", tensor, {"beta": 1.0})
    converted = convert(load_card("advection1d"), [raw], version="full")
    with h5py.File(converted.store.path) as file:
        np.testing.assert_array_equal(file["fields"][..., 0], tensor)
