"""run.sh as a machine runs it, and the bundle that it comes in."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from agent_jobs import job, prepared_environment

from ups import paths, runs
from ups.errors import RemoteError
from ups.remote import bundle as bundles
from ups.remote import script
from ups.remote.bundle import build_bundle
from ups.remote.spec import JobSpec
from ups.remote.wheel import build_wheel

TELLS = "import sys, ups\nprint(ups.__file__, *sys.argv[1:])\nsys.exit(7)\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with a wheel whose agent tells where it is, and exits with 7."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "requirements.lock").write_text("./absent-1.0-py3-none-any.whl\n")
    with zipfile.ZipFile(folder / "a.whl", "w") as wheel:
        for name in ("ups/__init__.py", "ups/remote/__init__.py", "ups/remote/agent/__init__.py"):
            wheel.writestr(name, "")
        wheel.writestr("ups/remote/agent/__main__.py", TELLS)
    (folder / "run.sh").write_text(script.render("a.whl"))
    return folder


def run(bundle: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", str(bundle / "run.sh")], env={"PATH": "/usr/bin:/bin"} | environment,
        cwd="/", capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_an_environment_that_is_there_is_used_with_the_code_that_was_sent(bundle, tmp_path):
    lock = (bundle / "requirements.lock").read_text()
    environment = prepared_environment(tmp_path / "environments", lock)
    for _ in range(2):
        done = run(bundle, **environment)
        assert (done.returncode, done.stderr) == (7, "")
        file, argument = done.stdout.split()
        assert argument == "job.json"
        assert file.startswith(str(tmp_path / "environments"))
    (made,) = (tmp_path / "environments").glob("*/ups-*")
    assert file == str(made / "ups" / "__init__.py")


def test_packages_that_cannot_be_installed_end_the_job_and_are_tried_again(bundle, tmp_path):
    environment = {"UPS_ENVIRONMENTS": str(tmp_path / "new"), "UPS_PYTHON": sys.executable}
    done = run(bundle, **environment)
    assert done.returncode == 14
    assert "error: the packages of requirements.lock could not be installed" in done.stderr
    assert list((tmp_path / "new").glob("*/ready")) == []


def test_a_machine_without_python_says_so(bundle, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("dirname", "cat"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    done = run(bundle, PATH=str(tmp_path / "bin"), UPS_ENVIRONMENTS=str(tmp_path))
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        14, "error: there is no Python 3.11 or newer"
    )  # fmt: skip


def test_the_bundle_holds_this_code_and_what_pip_takes_for_a_wheel(tmp_path, home):
    (home / "configs").mkdir(parents=True)
    (home / "configs" / "own.yaml").write_text("name: own\n")
    spec = JobSpec.model_validate_json(job(tmp_path / "job").read_text())
    built = build_bundle(spec, tmp_path / "bundle")
    assert build_bundle(spec, tmp_path / "bundle").size == built.size < bundles.MAX_BYTES
    assert JobSpec.model_validate_json((built.folder / "job.json").read_text()) == spec
    assert yaml.safe_load((built.folder / "config.yaml").read_text())["name"] == "tiny"
    lock = (built.folder / "requirements.lock").read_text()
    assert "\ntorch==" in lock
    assert "\nrclone-bin" in lock
    (wheel,) = built.folder.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile",
         "--target", tmp_path / "there", wheel], check=True,
    )  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-c", "from ups import runs, paths; print(runs.commit(), paths.home())"],
        env={"PYTHONPATH": str(tmp_path / "there"), "HOME": "/nowhere"}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.split() == [runs.commit(), "/nowhere/.ups"]
    assert built.commit == runs.commit()
    shipped = {path.name for path in (tmp_path / "there" / "ups/_packaged/configs").glob("*.yaml")}
    assert {"own.yaml", "burgers1d.yaml"} <= shipped
    assert (tmp_path / "there/ups/_packaged/registry/burgers1d.yaml").is_file()


def test_the_same_code_is_the_same_wheel(tmp_path):
    (tmp_path / "again").mkdir()
    assert build_wheel(tmp_path).read_bytes() == build_wheel(tmp_path / "again").read_bytes()


def test_a_bundle_that_engines_do_not_take_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundles, "MAX_BYTES", 1000)
    spec = JobSpec.model_validate_json(job(tmp_path / "job").read_text())
    with pytest.raises(RemoteError, match="engines take 2 MiB"):
        build_bundle(spec, tmp_path / "bundle")


def test_library_operators_take_their_library_with_them(tmp_path):
    task = {"config": "name: tiny\noperator: {kind: tfno}\n"}
    spec = JobSpec.model_validate_json(job(tmp_path / "job", task=task).read_text())
    built = build_bundle(spec, tmp_path / "bundle")
    assert "\nneuraloperator" in (built.folder / "requirements.lock").read_text()
    assert paths.packaged_commit() == ""
