"""Versions as pieces, and which artefact of a dataset is pulled."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from transfer_samples import local_remote

from ups import paths
from ups.data.audit import audit
from ups.data.disk import disk_usage
from ups.data.partial import read_present
from ups.data.versions import find_version, open_path, open_store
from ups.errors import DataError, RemoteError, UsageError
from ups.files import sha256_file
from ups.registry import Artefact, load_card
from ups.transfer import dataset_pieces, datasets
from ups.transfer import pull as pulling
from ups.transfer.datasets import Part, find_dataset, prune_datasets, pull_datasets, push_dataset
from ups.transfer.packing import pack
from ups.transfer.stores import origin_of


@pytest.fixture
def remote(tmp_path):
    return local_remote(tmp_path / "remote")


@pytest.fixture(scope="module")
def _pushed_before(tmp_path_factory):
    return tmp_path_factory.mktemp("pushed") / "remote"


@pytest.fixture
def pushed(store, remote, _pushed_before):
    """`store` (advection1d/tiny: 16, 2, 2 of 20 trajectories) is on the remote, not here."""
    if not _pushed_before.exists():
        push_dataset("advection1d", "tiny", local_remote(_pushed_before))
    shutil.copytree(_pushed_before, remote.folder)
    kept = store.path.read_bytes()
    store.path.unlink()
    return kept


def pull(remote, *keys, **options):
    return pull_datasets(keys or ("advection1d",), remote.folder, **options)


def arrived(remote, **options):
    (outcome,) = pull(remote, **options)
    if outcome.error:
        raise outcome.error
    return outcome.arrived


def with_card(monkeypatch, card):
    monkeypatch.setattr(datasets, "load_card", lambda key: card)


def test_pieces_of_a_grid_store_cover_it_once_and_are_grouped_by_split(store):
    source = dataset_pieces.source_of(store.path)
    content, covered = bytearray(store.path.stat().st_size), 0
    for piece in source.pieces:
        content[piece.offset : piece.offset + piece.size] = b"1" * piece.size
        covered += piece.size
        if piece.trajectories is not None:
            rows = store.splits[slice(*piece.trajectories)]
            assert {dataset_pieces.SPLITS[split] for split in rows} == {piece.split}
    assert content == b"1" * len(content)
    assert covered == len(content)
    for shard in pack(source.pieces):
        assert len({piece.split for piece in shard.pieces}) == 1
    head = [piece for piece in source.pieces if not piece.split]
    assert sum(piece.size for piece in head) == len(content) - store.fields.nbytes


def test_the_first_sixteen_of_a_split_are_objects_of_their_own(tmp_path, advected, write_raw):
    from ups.data.convert import convert

    raw = write_raw(tmp_path / "1D_Advection_Sols_beta1.0.hdf5", advected(40, 5, 16, 1.0, 0),
                    {"beta": 1.0})  # fmt: skip
    store = convert(load_card("advection1d"), [raw], version="long").store
    shards = pack(dataset_pieces.source_of(store.path).pieces)
    small = set(store.split("train")[: dataset_pieces.SMALL].tolist())
    held = [{n for p in shard.pieces for n in range(*p.trajectories)} for shard in shards
            if shard.pieces[0].split == "train"]  # fmt: skip
    assert held == [small, set(store.split("train").tolist()) - small]


def test_pieces_of_a_mesh_store_are_its_files_with_the_trajectories_in_them(small):
    small("darcy2d_mesh")
    path = find_version("darcy2d_mesh")
    pieces = dataset_pieces.source_of(path).pieces
    assert sorted(p.path for p in pieces) == sorted(
        f"store.zarr/{p.relative_to(path)}" for p in path.rglob("*") if p.is_file()
    )
    bulk = {p.path: p.trajectories for p in pieces if p.trajectories is not None}
    assert bulk["store.zarr/fields/c/0/0"] == (0, 12)
    assert all(p.split == "" for p in pieces if "offsets" in p.path or "json" in p.path)
    assert dataset_pieces.splits_in(next(p for p in pieces if p.path in bulk)) == {
        "train", "valid", "test",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("start", "held"), [(0, (0, 2)), (10, (1, 2)), (20, (2, 4)), (30, (3, 4))], ids=str
)
def test_trajectories_are_found_in_the_shards_that_their_rows_touch(start, held):
    rows = np.array([[0, 5], [5, 20], [20, 25], [25, 40]])
    assert dataset_pieces._holders(rows, start, 10) == held


def test_a_whole_pull_gives_the_same_bytes(pushed, remote):
    got = arrived(remote)
    assert (got.here, got.trajectories) == (20, 20)
    assert got.path == paths.data_dir("advection1d") / "tiny.h5"
    assert got.path.read_bytes() == pushed
    assert origin_of(got.path)["remote"] == remote.describe()
    assert not got.path.with_name("tiny.parts").exists()
    again = arrived(remote)
    assert (again.received_bytes, again.path) == (0, got.path)


def test_parts_add_up_to_the_same_bytes(pushed, remote):
    sizes = [arrived(remote, part=Part((split,))).received_bytes for split in ("test", "valid")]
    store = open_store("advection1d", "tiny")
    assert sorted(np.flatnonzero(store.presence.here)) == sorted(
        [*store.split("test"), *store.split("valid")]
    )
    assert sizes[0] > 0
    assert arrived(remote, part=Part(("test",))).received_bytes == 0
    with pytest.raises(DataError, match=r"\(train\).*not here") as caught:
        store.fields[int(store.split("train")[0])]
    assert caught.value.hint == "ups data pull advection1d --version tiny --splits train"
    assert arrived(remote, part=Part(("train",))).path.read_bytes() == pushed
    head = len(pushed) - store.fields.nbytes
    assert sum(sizes) < head + 4 * store.fields.values[0].nbytes + 5 * 2048


def test_the_first_trajectories_come_alone(pushed, remote):
    got = arrived(remote, part=Part(first=1))
    assert got.here == 20  # batches of sixteen are the least that travels


def test_a_dry_run_moves_and_writes_nothing(pushed, remote, home):
    before = sorted(home.rglob("*"))
    got = arrived(remote, dry_run=True)
    assert got.received_bytes > len(pushed)
    assert sorted(home.rglob("*")) == before


def test_a_mesh_arrives_byte_for_byte(home, remote, small):
    small("darcy2d_mesh")
    path = find_version("darcy2d_mesh")
    want = {p.relative_to(path): sha256_file(p) for p in path.rglob("*") if p.is_file()}
    push_dataset("darcy2d_mesh", "latest", remote)
    (home / "data/darcy2d_mesh").unlink()
    (outcome,) = pull(remote, "darcy2d_mesh")
    got = outcome.arrived.path
    assert {p.relative_to(got): sha256_file(p) for p in got.rglob("*") if p.is_file()} == want
    assert all(f.verdict != "fail" for f in audit(open_path(got), load_card("darcy2d_mesh")))


def test_other_data_under_the_same_name_is_not_overwritten(store, pushed, remote, advected,
                                                           tmp_path, write_raw):  # fmt: skip
    from ups.data.convert import convert

    raw = write_raw(tmp_path / "other/1D_Advection_Sols_beta1.0.hdf5",
                    advected(20, 11, 32, 1.0, 9), {"beta": 1.0})  # fmt: skip
    other = convert(load_card("advection1d"), [raw], version="tiny").store
    kept = other.path.read_bytes()
    with pytest.raises(DataError, match="holds other data"):
        arrived(remote)
    assert other.path.read_bytes() == kept


def test_parts_of_other_data_are_refused(pushed, remote):
    folder = arrived(remote, part=Part(("test",))).path.parent
    record = folder / "present.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"data_sha256": "0" * 64}))
    with pytest.raises(DataError, match="trajectories of other data"):
        arrived(remote)


def test_what_was_written_to_meanwhile_is_not_believed(pushed, remote):
    path = arrived(remote, part=Part(("test",))).path
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"x" * 1000)
    arrived(remote, part=Part(("valid",)))
    here = read_present(path.parent).here
    store = open_path(path)
    assert here[store.split("valid")].all()
    assert not here[store.split("test")].any()
    assert arrived(remote).path.read_bytes() == pushed


def test_what_a_killed_process_left_at_the_end_is_tidied(pushed, remote):
    folder = arrived(remote, part=Part(("test",))).path.parent
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    whole = arrived(remote).path
    kept.rename(folder)
    kinds = {item.path.name: item.kind for item in disk_usage(["advection1d"])}
    assert kinds == {"tiny.h5": "version", "tiny.parts": "unfinished"}
    assert arrived(remote).path == whole
    assert not folder.exists()


def test_no_room_on_the_disk_is_said_before_anything_moves(pushed, remote, monkeypatch):
    monkeypatch.setattr(
        pulling.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1)
    )
    with pytest.raises(DataError, match="free") as caught:
        arrived(remote)
    assert "--splits" in (caught.value.hint or "")
    assert not (paths.data_dir("advection1d") / "tiny.parts" / "store.h5").exists()


def test_pushing_some_of_a_version_is_refused(pushed, remote):
    arrived(remote, part=Part(("test",)))
    with pytest.raises(DataError, match="only some trajectories"):
        push_dataset("advection1d", "tiny", remote)


def test_a_store_other_than_its_artefact_says_is_refused(pushed, remote, monkeypatch):
    lying = dataset_pieces.identity_of(open_path(arrived(remote).path)) | {"data_sha256": "0" * 64}
    monkeypatch.setattr(dataset_pieces, "identity_of", lambda store: lying)
    push_dataset("advection1d", "tiny", remote)
    (paths.data_dir("advection1d") / "tiny.h5").unlink()
    with pytest.raises(RemoteError, match="its store is advection1d/tiny with data"):
        arrived(remote)
    assert not list(paths.data_dir("advection1d").glob("tiny.h5"))


def test_without_a_card_entry_the_newest_version_counts(pushed, remote):
    assert find_dataset("advection1d", remote)[1] is False
    assert find_dataset("advection1d", remote, "tiny")[1] is True


def test_what_is_not_there_names_what_is(pushed, remote):
    with pytest.raises(RemoteError, match=r"no version 'tinny'.*did you mean 'tiny'"):
        find_dataset("advection1d", remote, "tinny")
    with pytest.raises(RemoteError, match=r"burgers1d is not there.*datasets there: advection1d"):
        find_dataset("burgers1d", remote)


def test_the_card_decides_which_manifest_counts(pushed, remote, monkeypatch):
    found, _ = find_dataset("advection1d", remote)
    card = load_card("advection1d")

    def entered(**change):
        entry = {"version": "tiny", "location": found.listing.folder,
                 "manifest_sha256": found.manifest.sha256} | change  # fmt: skip
        with_card(monkeypatch, card.model_copy(update={"artefacts": (Artefact(**entry),)}))

    entered()
    again, named = find_dataset("advection1d", remote)
    assert (again.manifest, named) == (found.manifest, True)
    entered(manifest_sha256="0" * 64)
    with pytest.raises(RemoteError, match="no manifest with the sha256"):
        find_dataset("advection1d", remote)
    entered(location=f"data/advection1d/tiny/{'0' * 16}")
    with pytest.raises(RemoteError, match="names, is not there"):
        find_dataset("advection1d", remote)
    entered(location="data/../../etc")
    with pytest.raises(RemoteError, match="no place of"):
        find_dataset("advection1d", remote)


def test_a_deprecated_version_has_to_be_named(pushed, remote):
    datasets.deprecate_dataset("advection1d", "tiny", "wrong dt", remote)
    with pytest.raises(RemoteError, match="deprecated; tiny: wrong dt"):
        find_dataset("advection1d", remote)
    (outcome,) = pull(remote, version="tiny")
    assert outcome.deprecated == "wrong dt"
    assert outcome.arrived.path.read_bytes() == pushed


def test_only_deprecated_versions_are_pruned_and_what_a_card_names_stays(
    pushed, remote, monkeypatch
):
    assert prune_datasets(remote).removed == ()
    found, _ = find_dataset("advection1d", remote)
    datasets.deprecate_dataset("advection1d", "tiny", "old", remote)
    for options, reason in (({"keep_last": 1}, "among the newest"),
                            ({"older_than_s": 3600.0}, "not that old")):  # fmt: skip
        assert [r for _, r in prune_datasets(remote, **options).kept] == [reason]
    assert len(prune_datasets(remote, dry_run=True).removed) == 1
    entry = Artefact(version="tiny", location=found.listing.folder, manifest_sha256="0" * 64)
    card = load_card("advection1d").model_copy(update={"artefacts": (entry,)})
    with monkeypatch.context() as context:
        with_card(context, card)
        assert [r for _, r in prune_datasets(remote).kept] == ["its registry card names it"]
    assert [item.name for item in prune_datasets(remote).removed] == ["advection1d/tiny"]
    assert not [p for p in (paths.home().parent / "remote").rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("trian", None, None), "did you mean 'train'"), (("", None, None), "--splits"),
     ((None, 3, "small"), "exclude each other"), ((None, None, "tiny"), "only subset is 'small'"),
     ((None, 0, None), "at least 1")],
)  # fmt: skip
def test_wrong_parts_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Part.of(*arguments)


def test_small_is_sixteen_of_every_split():
    assert Part.of("train, test", None, "small") == Part(("train", "test"), 16)


def test_one_failure_does_not_keep_the_others(pushed, remote):
    first, second = pull(remote, "burgers1d", "advection1d")
    assert isinstance(first.error, RemoteError)
    assert second.arrived.path.read_bytes() == pushed
