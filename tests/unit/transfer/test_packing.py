"""Packing: what becomes an object, and that any `tar` reads it."""

from __future__ import annotations

import subprocess
import tarfile

import pytest

from ups import files
from ups.errors import DataError
from ups.transfer.packing import LocalPiece, Shard, hash_whole, pack, write_tar


@pytest.fixture
def local(tmp_path):
    """local(path, content) -> the piece that is a whole file."""

    def make(path: str, content: bytes, **more) -> LocalPiece:
        source = tmp_path / "source" / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(content)
        return LocalPiece(source, path, len(content), **more)

    return make


def paths(shards):
    return [[piece.path for piece in shard.pieces] for shard in shards]


def test_small_pieces_are_grouped_in_order_up_to_the_limit(local):
    pieces = [local(name, bytes(40)) for name in "abcde"]
    assert paths(pack(pieces, limit=100)) == [["a", "b"], ["c", "d"], ["e"]]
    assert paths(pack(pieces, limit=10)) == [[name] for name in "abcde"]


def test_splits_and_batches_share_no_object(local):
    splits = [local("a", b"1", split="train"), local("b", b"1", split="test")]
    assert paths(pack(splits)) == [["a"], ["b"]]
    batches = [local("a", b"1", batch=0), local("b", b"1", batch=1)]
    assert paths(pack(batches)) == [["a"], ["b"]]


def test_large_whole_files_are_sent_as_they_are(local):
    large, small = local("large", bytes(100)), local("small", bytes(99))
    run = LocalPiece(large.source, "large", 99, offset=1)
    shards = pack([small, large, run], large=100)
    assert [(paths([shard])[0], shard.whole) for shard in shards] == [
        (["large"], True),
        (["small", "large"], False),
    ]


def test_a_tar_holds_every_piece_where_it_says(local, tmp_path):
    pieces = [
        local("a", b"x" * 700),
        local("empty", b""),
        local("ünïcode/" + "deep/" * 30 + "$(touch x)", b"hello"),
        local("-dash", bytes(range(256)) * 4),
    ]
    run = LocalPiece(pieces[3].source, "-dash", 300, offset=100)
    made = write_tar(Shard((*pieces, run)), tmp_path / "out.tar")
    content = (tmp_path / "out.tar").read_bytes()
    assert (made.size, made.sha256) == (len(content), files.sha256_file(tmp_path / "out.tar"))
    for piece, source in zip(made.pieces, [*pieces, run], strict=True):
        expected = source.source.read_bytes()[source.offset : source.offset + source.size]
        assert content[piece.at : piece.at + piece.size] == expected
        assert (piece.path, piece.offset) == (source.path, source.offset)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getnames() == [*(piece.path for piece in pieces), "-dash@100"]


def test_tar_xf_unpacks_it(local, tmp_path):
    pieces = [local("c/0/0", b"zero"), local("c/0/1", b"one" * 1000)]
    write_tar(Shard(tuple(pieces)), tmp_path / "out.tar")
    (tmp_path / "into").mkdir()
    subprocess.run(["tar", "xf", tmp_path / "out.tar"], cwd=tmp_path / "into", check=True)
    for piece in pieces:
        assert (tmp_path / "into" / piece.path).read_bytes() == piece.source.read_bytes()


def test_the_same_files_give_the_same_object(local, tmp_path):
    shard = Shard((local("a", b"1"), local("b", b"2")))
    first = write_tar(shard, tmp_path / "1.tar")
    local("a", b"1")  # written again: another time, the same content
    assert write_tar(shard, tmp_path / "2.tar") == first


def test_a_large_file_is_named_by_its_sha256(local):
    piece = local("a", b"abc", split="train", trajectories=(0, 1))
    made = hash_whole(Shard((piece,), whole=True))
    assert made.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert made.pieces == (piece.at(0),)


def test_a_file_that_is_missing_or_too_short_is_named(local, tmp_path):
    with pytest.raises(DataError, match=r"gone: reading failed"):
        pack([LocalPiece(tmp_path / "gone", "gone", 1)])
    piece = local("a", b"123")
    shard = Shard((LocalPiece(piece.source, "a", 4),))
    with pytest.raises(DataError, match=r"a: 3 bytes, 4 were to be sent"):
        pack(shard.pieces)
    with pytest.raises(DataError, match="became shorter"):
        hash_whole(shard)
