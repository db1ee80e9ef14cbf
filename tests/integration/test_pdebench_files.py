"""Every PDEBench-made file: converted and audited by the commands a user would type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ups.cli.main import app
from ups.data.versions import open_store

FILES = {
    "1D_Advection_Sols_beta0.4.hdf5": ("advection1d", (12, 201, 1024, 1)),
    "1D_Burgers_Sols_Nu0.001.hdf5": ("burgers1d", (12, 201, 1024, 1)),
    "ReacDiff_Nu0.5_Rho1.0.hdf5": ("reaction_diffusion1d", (6, 101, 1024, 1)),
    "1D_diff-sorp_NA_NA.h5": ("diffusion_sorption1d", (5, 101, 1024, 1)),
    "1D_CFD_Rand_Eta0.01_Zeta0.01_periodic_Train.hdf5": ("compressible_ns1d", (3, 101, 256, 3)),
    "2D_CFD_Rand_M0.1_Eta0.01_Zeta0.01_periodic_128_Train.hdf5":
        ("compressible_ns2d", (2, 21, 128, 128, 4)),
    "3D_CFD_Rand_M1.0_Eta1e-08_Zeta1e-08_periodic_Train.hdf5":
        ("compressible_ns3d", (1, 21, 24, 24, 24, 5)),
    "2D_DarcyFlow_beta1.0_Train.hdf5": ("darcy2d", (8, 1, 128, 128, 1)),
    "2D_diff-react_NA_NA.h5": ("reaction_diffusion2d", (1, 101, 128, 128, 2)),
    "2D_rdb_NA_NA.h5": ("shallow_water2d", (2, 101, 128, 128, 1)),
    "ns_incom_inhom_2d_512-0.h5": ("navier_stokes2d", (2, 25, 64, 64, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_file_converts_and_passes_its_audit(shared_pdebench: Path, name: str) -> None:
    key, shape = FILES[name]
    few = ["--test-only"] if shape[0] < 3 else []
    command = ["data", "convert", key, "--raw", str(shared_pdebench / name), *few]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    store = open_store(key)
    assert store.fields.shape == shape
    result = CliRunner().invoke(app, ["data", "audit", key, "--json"])
    assert result.exit_code == 0, result.output
    found = {f["check"]: f["verdict"] for f in json.loads(result.stdout)}
    assert "warn" not in found.values(), found
