"""eStargz: one gzip stream with an index behind it, cut into chunks that can be read and checked alone."""

import gzip
import hashlib
import io
import json
import tarfile

import msgspec
import pytest

from lading.errors import InvalidArgumentError, UnsupportedError
from lading.formats import estargz
from lading.formats.compression import BombError
from lading.formats.estargz import Chunk, EstargzError, Toc, TocEntry
from lading.formats.tar import writer as tar
from lading.formats.tar.entry import Entry, EntryType, TruncatedTarError
from lading.oci.digest import Digest

BIG = bytes(range(256)) * 41  # 10,496 bytes: three chunks of 4,096
FILES = {"a/empty": b"", "a/small": b"hello\n", "a/big": BIG, "z": b"end"}


def archive() -> bytes:
    parts = [tar.header(Entry(name="a/", type=EntryType.DIRECTORY, mode=0o755, mtime=10**9))]
    for name, content in FILES.items():
        xattrs = {"user.x": b"\x00y"} if name == "z" else {}
        entry = Entry(
            name=name,
            type=EntryType.FILE,
            mode=0o644,
            uid=7,
            size=len(content),
            mtime=3 * 10**9 // 2,
            xattrs=xattrs,
        )
        parts += [tar.header(entry), content, tar.padding(len(content))]
    parts += [
        tar.header(Entry(name="a/link", type=EntryType.SYMLINK, linkname="small")),
        tar.header(Entry(name="a/hard", type=EntryType.HARDLINK, linkname="a/small")),
        tar.header(Entry(name="dev", type=EntryType.CHAR, devmajor=1, devminor=3)),
    ]
    return b"".join(parts) + tar.END


def written(data: bytes, *, step: int = 1 << 20, chunk: int = 4096) -> tuple[bytes, estargz.Writer]:
    writer = estargz.Writer(chunk=chunk)
    out = bytearray()
    for at in range(0, len(data), step):
        for part in writer.feed(data[at : at + step]):
            out += part
    for part in writer.finish():
        out += part
    return bytes(out), writer


def opened(blob: bytes) -> tuple[Toc, int]:
    place = estargz.parse_footer(blob[-estargz.FOOTER_SIZE :])
    return estargz.parse_toc(blob[place : -estargz.FOOTER_SIZE]), place


@pytest.mark.parametrize("step", [1, 511, 4097, 1 << 20])
def test_the_same_archive_gives_the_same_bytes_however_it_comes(step: int) -> None:
    blob, writer = written(archive(), step=step)
    assert blob == written(archive())[0]
    whole = gzip.decompress(blob)
    assert whole.startswith(archive())
    assert writer.diff_id() == Digest.of(whole)
    assert writer.uncompressed_size == len(whole)
    with tarfile.open(fileobj=io.BytesIO(blob)) as opened_:
        assert opened_.getnames()[-1] == "dev"  # the TOC stands behind the archive's end
    behind = io.BytesIO(whole[len(archive()) :])
    with tarfile.open(fileobj=behind) as opened_:
        member = opened_.extractfile(estargz.TOC_NAME)
        assert member is not None
        raw = member.read()
    assert writer.toc_digest == Digest.of(raw)
    assert json.loads(raw)["version"] == 1


def test_what_the_toc_says() -> None:
    blob, writer = written(archive())
    toc, place = opened(blob)
    kinds = [(each.name, each.type) for each in toc.entries]
    assert kinds == [
        ("a/", "dir"),
        ("a/empty", "reg"),
        ("a/small", "reg"),
        ("a/big", "reg"),
        ("a/big", "chunk"),
        ("a/big", "chunk"),
        ("z", "reg"),
        ("a/link", "symlink"),
        ("a/hard", "hardlink"),
        ("dev", "char"),
    ]
    by_name = {each.name: each for each in toc.entries if each.type != "chunk"}
    assert by_name["a/"].modtime == "1970-01-01T00:00:01Z"
    assert by_name["a/small"].modtime == "1970-01-01T00:00:02Z"
    assert (by_name["a/small"].uid, by_name["a/small"].mode) == (7, 0o644)
    assert by_name["z"].xattrs == {"user.x": b"\x00y"}
    assert (by_name["dev"].dev_major, by_name["dev"].dev_minor) == (1, 3)
    assert by_name["a/hard"].link_name == "a/small"
    for name, content in FILES.items():
        assert by_name[name].digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert [each.chunk_size for each in toc.entries if each.name == "a/big"] == [4096, 4096, 0]
    assert estargz.parse_toc(blob[place : -estargz.FOOTER_SIZE], expected=writer.toc_digest) == toc
    with pytest.raises(EstargzError, match="the TOC is not"):
        estargz.parse_toc(blob[place : -estargz.FOOTER_SIZE], expected=Digest.of(b""))


def test_files_are_read_alone_and_checked() -> None:
    blob, _ = written(archive())
    toc, place = opened(blob)
    found = estargz.chunks(toc, end=place)
    assert set(found) == {"a/small", "a/big", "z"}
    for name, parts in found.items():
        content = b"".join(estargz.inflated(part, blob[part.start : part.end]) for part in parts)
        assert content == FILES[name]
    part = found["z"][0]
    wrong = Chunk(position=0, length=3, start=part.start, end=part.end, inner=0, digest=Digest.of(b"other"))
    with pytest.raises(EstargzError, match="a chunk of the layer is not"):
        estargz.inflated(wrong, blob[part.start : part.end])
    with pytest.raises(EstargzError, match="damaged"):
        estargz.inflated(part, b"no gzip member")
    with pytest.raises(EstargzError, match="is not"):
        estargz.inflated(part, blob[part.start : part.start + 12])


def test_an_empty_archive() -> None:
    blob, _ = written(tar.END)
    toc, place = opened(blob)
    assert not toc.entries
    assert not estargz.chunks(toc, end=place)
    assert opened(written(b"")[0])[0] == toc


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Entry(name="\udcff", type=EntryType.SYMLINK, linkname="x"), "no UTF-8"),
        (Entry(name="./stargz.index.json", type=EntryType.FILE), "stargz.index.json"),
    ],
)
def test_what_a_toc_cannot_express(entry: Entry, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        written(tar.header(entry) + tar.END)


def test_sparse_and_truncated_archives() -> None:
    sparse = Entry(name="s", type=EntryType.FILE, size=1, real_size=9, sparse=((8, 1),))
    with pytest.raises(UnsupportedError, match="sparse file"):
        estargz._line(sparse)
    with pytest.raises(TruncatedTarError):
        written(archive()[:700])


def test_times_that_no_date_has() -> None:
    lines = [estargz._line(Entry(name="x", type=EntryType.FIFO, mtime=time)) for time in (0, -5, 1 << 72)]
    assert [line.modtime for line in lines] == ["", "", ""]
    assert lines[0].type == "fifo"


# Hostile blobs.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(51),
        estargz.footer(1)[:-1],
        estargz.footer(1).replace(b"STARGZ", b"STARGX"),
        estargz.footer(1).replace(b"SG", b"XX"),
        estargz.footer(0).replace(b"0000000000000000", b"00000000000000zz"),
    ],
)
def test_footers_that_are_none(data: bytes) -> None:
    with pytest.raises(EstargzError, match="footer"):
        estargz.parse_footer(data)
    assert estargz.parse_footer(estargz.footer(0xABC)) == 0xABC


def toc_member(raw: bytes, name: str = estargz.TOC_NAME) -> bytes:
    entry = Entry(name=name, type=EntryType.FILE, size=len(raw))
    return gzip.compress(tar.header(entry) + raw + tar.padding(len(raw)) + tar.END)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (toc_member(b"{}", name="other"), "has no stargz.index.json"),
        (gzip.compress(tar.END), "has no stargz.index.json"),
        (toc_member(b"{"), "malformed"),
        (toc_member(b"[" * 100_000), "malformed"),
        (toc_member(b'{"version": 2, "entries": []}'), "version 2"),
    ],
    ids=["of another name", "no member", "cut", "too deep", "of another version"],
)
def test_tocs_that_are_none(member: bytes, said: str) -> None:
    with pytest.raises(EstargzError, match=said):
        estargz.parse_toc(member)


def test_a_toc_is_bounded() -> None:
    with pytest.raises(BombError):
        estargz.parse_toc(toc_member(bytes(1 << 20)), limit=1 << 16)
    with pytest.raises(InvalidArgumentError):
        estargz.parse_toc(b"no gzip")


def line(**more: object) -> TocEntry:
    values = {"name": "f", "type": "reg", "size": 8, "offset": 10, "chunk_digest": str(Digest.of(b""))}
    return TocEntry(**(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "entries",
    [
        [line(type="dir")],
        [line(type="chunk")],
        [line(chunk_offset=1)],
        [line(chunk_size=9)],
        [line(chunk_size=-1)],
        [line(chunk_size=4)],
        [line(inner_offset=-1)],
        [line(offset=100)],
        [line(offset=200)],
        [line(chunk_size=4), line(type="chunk", chunk_offset=2)],
        [line(size=8, chunk_digest="")],
    ],
)
def test_chunks_that_do_not_fit(entries: list[TocEntry]) -> None:
    with pytest.raises(EstargzError):
        estargz.chunks(Toc(version=1, entries=entries), end=100)


def test_a_chunk_within_a_member() -> None:
    entries = [line(size=2, inner_offset=5), line(name="g", size=3, inner_offset=700)]
    found = estargz.chunks(Toc(version=1, entries=entries), end=100)
    assert [(part.start, part.end, part.inner, part.length) for part in (*found["f"], *found["g"])] == [
        (10, 100, 5, 2),
        (10, 100, 700, 3),
    ]
    data = bytes(700) + b"abc" + bytes(9)
    whole = msgspec.structs.replace(entries[1], chunk_digest=str(Digest.of(b"abc")))
    (part,) = estargz.chunks(Toc(version=1, entries=[whole]), end=100)["g"]
    assert estargz.inflated(part, gzip.compress(data)) == b"abc"
