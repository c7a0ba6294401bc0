"""Seek indexes: every segment decodes alone to what the whole stream holds there, or not at all."""

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from backports import zstd

from lading.formats.compression import BombError, Compression, CompressionError, sniff
from lading.formats.seek import decoding, index
from lading.formats.seek.decoding import DamagedSegmentError
from lading.formats.seek.index import SeekIndex, SeekIndexError
from lading.formats.seek.indexing import Indexer
from lading.oci.digest import Digest

BLOB = Digest("sha256:" + "0" * 64)
SPACING = 1 << 16
WORDS = [random.Random(number).randbytes(9).hex().encode() for number in range(500)]


def text(length: int, seed: int = 1) -> bytes:
    """Something that deflates about three to one, in many blocks."""
    chosen = random.Random(seed).choices(WORDS, k=length // 18 + 1)
    return b"".join(chosen)[:length]


def indexed(blob: bytes, step: int = 5000, *, spacing: int = SPACING) -> tuple[bytes, SeekIndex | None]:
    indexer = Indexer(sniff(blob), spacing=spacing)
    out = bytearray()
    for at in range(0, len(blob), step):
        for chunk in indexer.feed(blob[at : at + step]):
            out += chunk
    for chunk in indexer.finish():
        out += chunk
    assert indexer.taken == len(blob)
    assert indexer.given == len(out)
    return bytes(out), indexer.index(BLOB)


def segment(found: SeekIndex, number: int, blob: bytes) -> bytes:
    begin, end = found.source(number)
    return decoding.segment(found, number, blob[begin:end])


def members(content: bytes, length: int) -> bytes:
    return b"".join(gzip.compress(content[at : at + length]) for at in range(0, len(content), length))


def frames(content: bytes, length: int) -> bytes:
    skippable = b"\x5e\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"skipped"
    parts = [zstd.compress(content[at : at + length]) for at in range(0, len(content), length)]
    return skippable + skippable.join(parts) + skippable


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": lambda content: gzip.compress(content, 6),
    "gzip with stored blocks": lambda content: gzip.compress(content, 1),
    "gzip stored": lambda content: gzip.compress(content, 0),
    "gzip fast": lambda content: gzip.compress(content, 1),
    "gzip with a name": lambda content: zlib.compress(content, 9, 31),
    "large members": lambda content: members(content, 5 * SPACING + 77),
    "members about as large as segments": lambda content: members(content, SPACING + 3),
    "tiny members": lambda content: members(content, 777),
    "empty members": lambda content: gzip.compress(b"") * 3 + gzip.compress(content) + gzip.compress(b"") * 2,
    "members of two sizes": lambda content: gzip.compress(content[:200000]) + members(content[200000:], 999),
    "frames": lambda content: frames(content, SPACING + 1),
    "tiny frames": lambda content: frames(content, 3000),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("step", [1 << 20, 4099])
def test_each_segment_decodes_alone(form: str, step: int) -> None:
    content = text(2 << 20)
    if form == "gzip with stored blocks":
        noise = random.Random(4)
        parts = [noise.randbytes(50_000) + content[at : at + 150_000] for at in range(0, 1 << 20, 150_000)]
        content = b"".join(parts)
    blob = FORMS[form](content)
    out, found = indexed(blob, step)
    assert out == content
    assert found is not None
    assert found.length == len(content)
    assert len(found.segments) >= 2
    again = index.decode(found.encode())
    assert again.segments == found.segments
    assert (again.blob, again.compression, again.source_length) == (BLOB, found.compression, len(blob))
    order = list(range(len(again.segments)))
    random.Random(2).shuffle(order)
    for number in order:
        assert (
            segment(again, number, blob)
            == content[again.offsets[number] : again.offsets[number] + again.segments[number].length]
        )


def test_a_byte_at_a_time_gives_the_same_index() -> None:
    blob = members(text(150000), 70000)
    (_, whole), (_, slow) = indexed(blob, spacing=20000), indexed(blob, 1, spacing=20000)
    assert whole is not None
    assert slow is not None
    assert whole.encode() == slow.encode()


def test_the_index_is_small() -> None:
    blob = gzip.compress(text(24 << 20), 1)
    _, found = indexed(blob, 1 << 20, spacing=index.SPACING)
    assert found is not None
    assert len(found.segments) in (4, 5, 6)
    assert len(found.encode()) < len(blob) / 50


def test_one_long_frame_has_no_index() -> None:
    content = bytes(index.LARGEST + 1)
    out, found = indexed(zstd.compress(content))
    assert out == content
    assert found is None


@pytest.mark.parametrize("form", ["plain", "gzip", "tiny members", "frames"])
def test_damage_in_the_blob_is_never_shown(form: str) -> None:
    content = text(2 << 20)
    blob = FORMS[form](content)
    _, found = indexed(blob)
    assert found is not None
    generator = random.Random(3)
    refused = 0
    for _ in range(20):
        at = generator.randrange(len(blob))
        damaged = blob[:at] + bytes([blob[at] ^ (1 << generator.randrange(8))]) + blob[at + 1 :]
        for number in range(len(found.segments)):
            try:
                data = segment(found, number, damaged)
            except DamagedSegmentError:
                refused += 1
                continue
            assert data == content[found.offsets[number] :][: found.segments[number].length]
    assert refused


def test_too_few_bytes_are_refused() -> None:
    blob = gzip.compress(text(2 << 20))
    _, found = indexed(blob)
    assert found is not None
    for number in range(len(found.segments)):
        begin, end = found.source(number)
        for cut in (b"", blob[begin : begin + (end - begin) // 2]):
            with pytest.raises(DamagedSegmentError):
                decoding.segment(found, number, cut)


def test_a_damaged_index_is_not_believed() -> None:
    _, found = indexed(gzip.compress(text(2 << 20)))
    assert found is not None
    data = found.encode()
    for at in range(0, len(data), 397):
        with pytest.raises(SeekIndexError):
            index.decode(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    for length in (0, 1, 31, 40, len(data) - 1):
        with pytest.raises(SeekIndexError):
            index.decode(data[:length])


@pytest.mark.parametrize("form", ["gzip", "frames"])
def test_a_damaged_stream_is_refused_while_it_is_indexed(form: str) -> None:
    blob = FORMS[form](text(2 << 20))
    with pytest.raises(CompressionError):
        indexed(blob[:-3])
    with pytest.raises(CompressionError):
        indexed(blob + b"more")
    with pytest.raises(CompressionError):
        indexed(blob[: len(blob) // 2] + bytes(100) + blob[len(blob) // 2 + 100 :])


def test_no_more_comes_out_than_is_allowed() -> None:
    indexer = Indexer(Compression.GZIP, quota=1000)
    with pytest.raises(BombError):
        for _ in indexer.feed(gzip.compress(bytes(100000))):
            pass


@pytest.mark.parametrize(
    "change",
    [
        {"source": 1 << 40},
        {"length": index.LARGEST + 1},
        {"resumed": 1 << 40},
        {"resumed": 1, "resumed_at": 1},
        {"resumed_at": 1 << 20},
    ],
)
def test_an_index_of_what_cannot_be_is_not_believed(change: dict[str, int]) -> None:
    _, found = indexed(members(text(1 << 19), 70_000))
    assert found is not None
    segments = [*found.segments]
    segments[1] = segments[1]._replace(**change)
    wrong = SeekIndex(
        blob=BLOB, compression=found.compression, source_length=found.source_length, segments=segments
    )
    with pytest.raises(SeekIndexError, match="contradicts"):
        index.decode(wrong.encode())
