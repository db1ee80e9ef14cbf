"""The first trajectories of every layout, taken from a server by byte ranges."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fault_server import Fault, FaultServer, serving

from ups.data.download.byte_ranges import RemoteFile
from ups.data.download.first_trajectories import copy_first
from ups.data.download.http import Http, Patience
from ups.errors import DataError
from ups.registry import RawFile

QUICK = Patience(attempts=4, first_wait=0.001, longest_wait=0.002, stall=0.3, connect=2.0)
RANDOM = np.random.default_rng(0)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving() as world:
        yield world


@pytest.fixture
def http() -> Iterator[Http]:
    with Http(QUICK) as client:
        yield client


@pytest.fixture
def first(tmp_path: Path, server: FaultServer, http: Http) -> Callable[..., tuple[Path, int]]:
    """first(path, count, layout, num_dims) -> the copy and the bytes that came."""

    def fetch(path: Path, count: int, layout: str, num_dims: int = 1) -> tuple[Path, int]:
        server.files[path.name] = path.read_bytes()
        url = server.url(path.name)
        original = RawFile(name=path.name, url=url, md5="0" * 32, trajectories=100)
        copy = tmp_path / "copy.h5"
        received = copy_first(
            [url], copy, original, count, layout=layout, num_dims=num_dims, http=http
        )
        return copy, received

    return fetch


def values(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def assert_first(copy: Path, whole: Path, count: int, cut: set[str], groups: bool = False) -> None:
    """Every array of the copy is the whole's, or its first rows where `cut` names it."""
    with h5py.File(copy) as made, h5py.File(whole) as source:
        kept = sorted(source)[:count] if groups else sorted(source)
        assert sorted(made) == kept
        names: list[str] = []
        made.visititems(lambda name, _: names.append(name))
        for name in names:
            one, other = made[name], source[name]
            assert dict(one.attrs.items()).keys() == dict(other.attrs.items()).keys()
            if isinstance(one, h5py.Dataset):
                expected = other[:count] if name in cut else other[()]
                np.testing.assert_array_equal(one[()], expected, err_msg=name)
                assert one.dtype == other.dtype
                assert (one.chunks, one.compression, one.shuffle) == (
                    other.chunks, other.compression, other.shuffle,
                )  # fmt: skip
        assert set(made.attrs) == set(source.attrs) | {"ups_partial"}


def test_one_array_per_field(tmp_path, first):
    path = tmp_path / "cfd.hdf5"
    with h5py.File(path, "w") as file:
        for name in ("Vx", "density", "pressure"):
            file[name] = values(40, 21, 256)
        file["t-coordinate"], file["x-coordinate"] = values(22), values(256)
        file.attrs.update({"eta": 0.1, "note": "text"})
    copy, received = first(path, 4, "pdebench_fields")
    assert_first(copy, path, 4, {"Vx", "density", "pressure"})
    assert received < path.stat().st_size / 4


def test_coefficient_and_solution(tmp_path, first):
    path = tmp_path / "darcy.hdf5"
    with h5py.File(path, "w") as file:
        file["nu"], file["tensor"] = values(30, 64, 64), values(30, 1, 64, 64)
        file["t-coordinate"] = values(10)
    copy, _ = first(path, 7, "pdebench_darcy", 2)
    assert_first(copy, path, 7, {"nu", "tensor"})


def test_compressed_chunks_are_taken_as_they_are_stored(tmp_path, first):
    path = tmp_path / "ns.h5"
    with h5py.File(path, "w") as file:
        for name, channels in (("particles", 1), ("velocity", 2)):
            file.create_dataset(
                name, data=values(4, 10, 64, 64, channels), chunks=(1, 1, 64, 64, channels),
                compression="lzf", shuffle=True,
            )  # fmt: skip
        file["force"], file["t"] = values(4, 64, 64, 2), values(4, 10)
        file.attrs["config"] = "domain_size: [1, 1]"
    copy, received = first(path, 1, "pdebench_ns_incompressible", 2)
    assert_first(copy, path, 1, {"particles", "velocity", "force", "t"})
    assert received < 0.45 * path.stat().st_size


def test_chunks_that_hold_more_trajectories_than_wanted(tmp_path, first):
    path = tmp_path / "chunked.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "tensor", data=values(50, 21, 512), chunks=(8, 21, 512), compression="gzip"
        )
    copy, _ = first(path, 3, "pdebench_tensor")
    assert_first(copy, path, 3, {"tensor"})


@pytest.mark.parametrize("options", [{}, {"chunks": (13, 64, 1), "compression": "lzf"}])
def test_the_first_groups(tmp_path, first, options):
    path = tmp_path / "groups.h5"
    with h5py.File(path, "w") as file:
        for index in range(12):
            group = file.create_group(f"{index:04d}")
            group.create_dataset("data", data=values(101, 256, 1), **options)
            group["grid/x"], group["grid/t"] = values(256), values(101)
            group.attrs["config"] = f"sim: {{seed: {index}}}"
    copy, received = first(path, 3, "pdebench_groups")
    assert_first(copy, path, 3, set(), groups=True)
    with h5py.File(copy) as made:
        assert made["0002"].attrs["config"] == "sim: {seed: 2}"
    assert received < path.stat().st_size / 2  # small groups: their headers weigh much


def test_groups_count_by_their_numbers_and_the_rest_is_kept(tmp_path, first):
    path = tmp_path / "points.h5"
    with h5py.File(path, "w") as file:
        file["time"] = values(7)
        for number in range(12):
            file[f"{number}/coords"] = values(50, 2)
    copy, _ = first(path, 11, "points")
    with h5py.File(copy) as made:
        assert set(made) == {"time", *(str(number) for number in range(11))}


def test_the_wells_layout(tmp_path, first):
    path = tmp_path / "well.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["n_trajectories"] = 6
        for place, data, varying in (
            ("t0_fields/depth", values(6, 10, 64, 64), True),
            ("t0_fields/ground", values(64, 64), False),
            ("t1_fields/velocity", values(6, 10, 64, 64, 2), True),
            ("dimensions/time", values(10), False),
        ):
            file[place] = data
            file[place].attrs["sample_varying"] = varying
        file["boundary_conditions/x/mask"] = np.ones(64, bool)
        file["boundary_conditions/x"].attrs["sample_varying"] = False
        file["t1_fields"].attrs["field_names"] = ["velocity"]
    copy, _ = first(path, 2, "the_well", 2)
    assert_first(copy, path, 2, {"t0_fields/depth", "t1_fields/velocity"})
    with h5py.File(copy) as made:
        assert made.attrs["n_trajectories"] == 2


def test_odd_things_are_copied_or_left_out(tmp_path, first):
    path = tmp_path / "odd.hdf5"
    with h5py.File(path, "w") as file:
        file["tensor"] = values(9, 5, 32)
        file["names"] = ["one", "two"]
        file["nothing"] = h5py.Empty("f4")
        file["scalar"] = 3
        file.create_dataset("never_written", (500, 400), "f4", fillvalue=7.0)
        file.create_dataset("chunks_missing", (500, 400), "f4", chunks=(50, 400), fillvalue=2.0)
        file["chunks_missing"][100:120] = 1.0
        file["big_endian"] = np.arange(20_000, dtype=">i4")
        file["tensor"].attrs["unit"] = "m"
    copy, _ = first(path, 2, "pdebench_tensor")
    with h5py.File(copy) as made, h5py.File(path) as source:
        for name in ("names", "scalar", "never_written", "chunks_missing", "big_endian"):
            np.testing.assert_array_equal(made[name][()], source[name][()], err_msg=name)
        assert made["nothing"].shape is None
        assert made["tensor"].attrs["unit"] == "m"
        assert made["big_endian"].dtype == np.dtype(">i4")


def test_references_and_links(tmp_path, first):
    path = tmp_path / "links.hdf5"
    with h5py.File(path, "w") as file:
        file["tensor"] = values(9, 5, 32)
        file["x"] = values(32)
        file["x"].make_scale("x")
        file["tensor"].dims[2].attach_scale(file["x"])  # attributes that are references
    copy, _ = first(path, 2, "pdebench_tensor")
    with h5py.File(copy) as made:
        assert made["tensor"].shape == (2, 5, 32)
    with h5py.File(path, "a") as file:
        file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/x")
    with pytest.raises(DataError, match="a link to elsewhere"):
        first(path, 2, "pdebench_tensor")


@pytest.mark.parametrize(
    ("layout", "message"),
    [("pdebench_darcy", "no trajectories found"), ("xarray", "cannot be taken out")],
)
def test_another_layout_is_refused(tmp_path, first, layout, message):
    path = tmp_path / "other.hdf5"
    with h5py.File(path, "w") as file:
        file["something"] = values(9, 5, 32)
    with pytest.raises(DataError, match=message):
        first(path, 2, layout)
    assert not (tmp_path / "copy.h5").exists()


def test_a_damaged_file_gives_one_line(tmp_path, first, server):
    path = tmp_path / "damaged.hdf5"
    with h5py.File(path, "w") as file:
        file["tensor"] = values(9, 50, 320)
    whole = path.read_bytes()
    said: list[str] = []
    for seed in range(30):
        damage = np.random.default_rng(seed)
        data = bytearray(whole)
        for place in damage.integers(0, 2400, size=20):
            data[place] = damage.integers(256)
        path.write_bytes(data)
        try:
            first(path, 2, "pdebench_tensor")
        except DataError as error:
            said.append(str(error))
    assert len(said) > 3
    assert not any("\n" in line for line in said)


SAMPLES = {
    "1D_Advection_Sols_beta0.4.hdf5": ("pdebench_tensor", 1, {"tensor"}),
    "1D_CFD_Rand_Eta0.01_Zeta0.01_periodic_Train.hdf5":
        ("pdebench_fields", 1, {"Vx", "density", "pressure"}),
    "2D_DarcyFlow_beta1.0_Train.hdf5": ("pdebench_darcy", 2, {"nu", "tensor"}),
    "1D_diff-sorp_NA_NA.h5": ("pdebench_groups", 1, set()),
    "ns_incom_inhom_2d_512-0.h5":
        ("pdebench_ns_incompressible", 2, {"particles", "velocity", "force", "t"}),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_files_made_by_pdebench(shared_pdebench, first, name):
    layout, num_dims, cut = SAMPLES[name]
    copy, received = first(shared_pdebench / name, 1, layout, num_dims)
    assert_first(copy, shared_pdebench / name, 1, cut, groups=layout == "pdebench_groups")
    assert received < (shared_pdebench / name).stat().st_size


class TestRemoteFile:
    def test_reads_like_the_file(self, server, http):
        data = server.files["x"] = RANDOM.bytes(1_000_003)
        server.faults["x"] = [None, Fault(drop=100), Fault(stall=70_000), Fault(status=503)]
        with RemoteFile(server.url("x"), http) as remote:
            assert remote.size == len(data)
            reference = io.BytesIO(data)
            for place in RANDOM.integers(0, len(data), size=200):
                length = int(RANDOM.choice([1, 7, 4096, 300_000]))
                remote.seek(int(place))
                reference.seek(int(place))
                assert remote.read(length) == reference.read(length)
                assert remote.tell() == reference.tell()
            assert remote.seek(-3, io.SEEK_END) == len(data) - 3
            assert remote.read() == data[-3:]
            assert remote.read(1) == b""

    def test_reading_forward_takes_few_requests(self, server, http):
        data = server.files["x"] = RANDOM.bytes(4_000_000)
        with RemoteFile(server.url("x"), http) as remote:
            pieces = [remote.read(10_000) for _ in range(400)]
        assert b"".join(pieces) == data
        assert remote.received == len(data)
        assert len(server.log) <= 8

    def test_pieces_of_two_states_never_mix(self, server, http):
        server.files["x"] = bytes(1_000_000)
        with RemoteFile(server.url("x"), http) as remote:
            remote.read(1000)
            server.files["x"] = b"1" * 1_000_000
            remote.seek(900_000)
            with pytest.raises(DataError, match="changed at its source"):
                remote.read(10)
