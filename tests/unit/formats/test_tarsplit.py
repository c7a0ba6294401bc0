"""tar-split: a stream and its tree give the same bytes again; dockerd's own lines are in tests/unit/classic/test_recorded.py."""

import base64
import io
import json
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.errors import LadingError
from lading.formats.tar.entry import TarError, TruncatedTarError
from lading.formats.tarsplit import (
    LINE_LIMIT,
    DuplicatePathError,
    File,
    LineReader,
    Packer,
    Segment,
    TarSplitError,
    parse,
)
from lading.testing.layers import directory, file, hardlink, symlink, tar


def packed(archive: bytes, step: int = 1 << 20) -> tuple[bytes, Packer]:
    packer = Packer()
    lines = b"".join(packer.feed(archive[at : at + step]) for at in range(0, len(archive), step))
    return lines + packer.finish(), packer


def contents(archive: bytes) -> dict[str, bytes]:
    """The last content of each name, as a tree has it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        found = {each.name: opened.extractfile(each) for each in opened if each.isreg()}
        return {name: each.read() for name, each in found.items() if each is not None}


def rebuilt(lines: bytes, tree: dict[str, bytes], step: int = 1 << 20) -> bytes:
    reader = LineReader()
    pieces = [p for at in range(0, len(lines), step) for p in reader.feed(lines[at : at + step])]
    pieces += reader.finish()
    parts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Segment):
            parts.append(piece.data)
        elif piece.size:
            parts.append(tree[piece.name.removeprefix("./")])
    return b"".join(parts)


LAYER = tar(
    directory("d"),
    file("d/one", b"one" * 1000),
    file("d/empty", b""),
    symlink("l", "d/one"),
    hardlink("h", "d/one"),
    file("\udce9t\udce9", b"no UTF-8"),
    file("n" * 90 + "/" + "m" * 120, b"a long name"),
)


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 4096, 1 << 20])
def test_the_same_bytes_come_back(step: int) -> None:
    lines, packer = packed(LAYER, step)
    assert lines == packed(LAYER)[0]
    assert rebuilt(lines, contents(LAYER), step) == LAYER
    assert packer.size == 3000 + len("d/one") + len("no UTF-8") + len("a long name")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=2000), max_size=6), st.integers(1, 3000), st.integers(0, 5000))
def test_any_stream(files: list[bytes], step: int, padding: int) -> None:
    archive = tar(*[file(f"f{n}", data) for n, data in enumerate(files)]) + b"\0" * padding
    assert rebuilt(packed(archive, step)[0], contents(archive), step) == archive


def test_a_line_is_as_docker_writes_it() -> None:
    lines = [json.loads(line) for line in packed(tar(file("a", b"123456789")))[0].splitlines()]
    assert [line["position"] for line in lines] == [0, 1, 2]
    assert lines[1] == {"type": 1, "name": "a", "size": 9, "payload": "uQlWx3WkEAE=", "position": 1}
    assert (
        base64.b64decode(lines[1]["payload"]).hex() == "b90956c775a41001"
    )  # CRC-64/GO-ISO of the usual test text
    raw = json.loads(packed(tar(file("\udcff", b"")))[0].splitlines()[1])
    assert raw == {"type": 1, "name_raw": "/w==", "payload": None, "position": 1}


def test_what_follows_the_archive_is_cut_into_pieces() -> None:
    archive = tar(file("a", b"x")) + b"\0" * (3 << 20)
    lines, _ = packed(archive, 1 << 18)
    assert max(len(line) for line in lines.splitlines()) < 3 << 20
    assert rebuilt(lines, contents(archive)) == archive


def test_a_name_that_comes_twice() -> None:
    archive = tar(directory("a"), directory("a"), file("b", b""), file("b", b"second" * 300_000))
    lines, _ = packed(archive)
    names = [json.loads(line).get("name") for line in lines.splitlines()]
    assert sorted(name for name in names if name) == ["a/", "b"] or names.count("b") == 1
    assert rebuilt(lines, {}) == archive
    with pytest.raises(DuplicatePathError):
        packed(tar(file("a", b"first"), file("./a", b"second")))


def test_what_is_stored_of_a_sparse_file_is_kept_as_it_is() -> None:
    header = tarfile.TarInfo("s")
    header.pax_headers = {
        "GNU.sparse.map": "0,1,5,1",
        "GNU.sparse.numblocks": "2",
        "GNU.sparse.size": "6",
    }
    header.size = 2
    file_before = tar(file("before", b"before")).rstrip(b"\0")
    file_before += bytes(-len(file_before) % 512)
    archive = header.tobuf(tarfile.PAX_FORMAT) + b"xy".ljust(512, b"\0") + b"\0" * 1024
    lines, packer = packed(file_before + archive)
    names = [json.loads(line).get("name") for line in lines.splitlines()]
    assert [name for name in names if name] == ["before"]
    assert packer.size == 6 + 6
    assert rebuilt(lines, {"before": b"before"}) == file_before + archive


def test_a_damaged_stream_is_refused() -> None:
    with pytest.raises(TarError):
        packed(b"\xff" * 1024)
    with pytest.raises(TruncatedTarError):
        packed(LAYER[:700])


@pytest.mark.parametrize(
    "line",
    [
        b"nothing",
        b"[]",
        b'{"type":3,"payload":""}',
        b'{"type":2,"payload":"?"}',
        b'{"type":1,"name":"a","size":5,"payload":"AAAA"}',
        b'{"type":1,"name":"a","size":-5,"payload":null}',
        b'{"type":1,"name_raw":"?","payload":null}',
        b'{"type":"1"}',
        b"\xff",
    ],
)
def test_malformed_lines(line: bytes) -> None:
    with pytest.raises(TarSplitError):
        parse(line)


def test_what_lines_say() -> None:
    assert parse(b'{"type":2,"payload":"aGk="}') == Segment(b"hi")
    assert parse(b'{"type":1,"name":"a","payload":null}') == File("a", 0, 0)
    assert parse(b'{"type":1,"name_raw":"/w==","payload":null}') == File("\udcff", 0, 0)
    reader = LineReader()
    assert list(reader.feed(b'\n{"type":2,"payload":"aGk="}')) == []
    assert list(reader.finish()) == [Segment(b"hi")]
    with pytest.raises(LadingError):
        list(LineReader().feed(b"x" * (LINE_LIMIT + 1)))
