import contextlib
import gzip
import random
import tracemalloc
import zlib

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.errors import InvalidArgumentError, LadingError
from lading.formats import compression
from lading.formats.compression import (
    BombError,
    Compression,
    CompressionError,
    UnsupportedCompressionError,
    compressor,
    decompressor,
    sniff,
)

NOISE = random.Random(1).randbytes(70_000)
TEXT = NOISE + b"layer " * 200_000 + NOISE
SKIPPABLE = b"\x50\x2a\x4d\x18\x05\0\0\0abcde"
EMPTY_SKIPPABLE = b"\x5f\x2a\x4d\x18\0\0\0\0"


def undo(stream, *arguments, step=1 << 20, **options):
    done = decompressor(*arguments, **options)
    out = bytearray()
    for at in range(0, len(stream), step):
        for chunk in done.feed(stream[at : at + step]):
            assert 0 < len(chunk) <= max(compression.CHUNK, step)
            out += chunk
    for chunk in done.finish():
        out += chunk
    assert (done.taken, done.given) == (len(stream), len(out))
    return bytes(out)


def do(kind, data, level=None, step=100_000):
    made = compressor(kind, level)
    out = b"".join(chunk for at in range(0, len(data), step) for chunk in made.feed(data[at : at + step]))
    return out + made.finish()


def test_sniff():
    assert sniff(gzip.compress(b"")) is Compression.GZIP
    assert sniff(zstd.compress(b"")) is Compression.ZSTD
    assert sniff(SKIPPABLE) is Compression.ZSTD
    assert sniff(b"\xfd7zXZ\0\0") is Compression.XZ
    assert sniff(b"BZh91AY") is Compression.BZIP2
    assert sniff(b"") is sniff(b"\x1f") is sniff(b"\x50\x2a\x4d") is sniff(bytes(512)) is Compression.NONE


@pytest.mark.parametrize(("kind", "level"), [
    (Compression.GZIP, None), (Compression.GZIP, 1), (Compression.GZIP, 6), (Compression.ZSTD, None), (Compression.ZSTD, 1),
])  # fmt: skip
def test_round_trips(kind, level):
    made = do(kind, TEXT, level)
    assert len(made) < len(TEXT)
    assert do(kind, TEXT, level, step=len(TEXT)) == made
    other = gzip.decompress if kind is Compression.GZIP else zstd.decompress
    assert other(made) == TEXT
    for step in (977, 1 << 20):
        assert undo(made, step=step) == undo(made, kind, step=step) == TEXT


def test_gzip_headers_tell_no_time():
    for level in (2, 6):
        made = do(Compression.GZIP, b"x", level)
        assert made[3] == 0
        assert made[4:8] == bytes(4)


def test_plain():
    assert do(Compression.NONE, TEXT) == undo(TEXT) == undo(TEXT, Compression.NONE, step=7000) == TEXT
    assert undo(b"") == undo(b"", Compression.NONE) == b""
    assert undo(b"abc", step=1) == b"abc"
    assert list(decompressor(Compression.NONE).feed(b"")) == []


@pytest.mark.parametrize("step", [1, 2, 5, 100, 1 << 20])
def test_members_and_frames_in_a_row(step):
    text = TEXT[:3000]
    assert undo(gzip.compress(text) + gzip.compress(b"") + gzip.compress(text), step=step) == text * 2
    frames = (
        SKIPPABLE + zstd.compress(text) + EMPTY_SKIPPABLE + SKIPPABLE + zstd.compress(text) + EMPTY_SKIPPABLE
    )
    assert undo(frames, step=step) == text * 2
    assert undo(SKIPPABLE, Compression.ZSTD, step=step) == b""


def test_gzip_headers_with_names_and_extra_fields():
    body = gzip.compress(b"hello")[10:]
    start = b"\x1f\x8b\x08"
    for header in (
        b"\x08" + bytes(6) + b"name\0",
        b"\x04" + bytes(6) + b"\x03\0abc",
        b"\x10" + bytes(6) + b"comment\0",
    ):
        for step in (1, 100):
            assert undo(start + header + body, step=step) == b"hello"


@pytest.mark.parametrize("step", [1, 5, 512, 1 << 20])
@pytest.mark.parametrize("length", [0, 3, 300, 65_000])
@pytest.mark.parametrize("flags", range(0, 32, 2))
def test_every_form_of_gzip_header_in_whatever_pieces(flags, length, step):
    if step == 1 and length > 300:
        return  # the same again, for seconds
    head = bytes([0x1F, 0x8B, 8, flags, 0, 0, 0, 0, 0, 255])
    if flags & 4:
        head += length.to_bytes(2, "little") + b"e" * length
    head += b"".join([text * length + b"\0" for flag, text in ((8, b"n"), (16, b"c")) if flags & flag])
    if flags & 2:
        head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    member = head + gzip.compress(TEXT[:5000], mtime=0)[10:]
    assert undo(member * 2, step=step) == TEXT[:5000] * 2


def test_a_gzip_header_without_end_is_refused():
    with pytest.raises(CompressionError, match="too long a header"):
        undo(bytes([0x1F, 0x8B, 8, 8, 0, 0, 0, 0, 0, 255]) + b"n" * (1 << 20))


@pytest.mark.parametrize("made", [gzip.compress(TEXT[:2000]), zstd.compress(TEXT[:2000]), SKIPPABLE])
def test_truncation(made):
    for keep in (*range(4, 30), len(made) - 1):
        kind = sniff(made)
        if keep < len(made):
            with pytest.raises(CompressionError, match="truncated"):
                undo(made[:keep], kind)
    with pytest.raises(CompressionError, match="truncated"):
        undo(b"", kind)
    with pytest.raises(CompressionError, match="truncated"):
        undo(made[:1], kind)
    with pytest.raises(CompressionError, match="truncated"):
        undo(made + made[:3], kind)


@pytest.mark.parametrize("tail", [b"garbage", bytes(4), b"\x1f\x8c\0\0", b"\x28\xb5\x2f\xfe"])
@pytest.mark.parametrize("make", [gzip.compress, zstd.compress])
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_garbage_behind(tail, make, step):
    with pytest.raises(CompressionError, match="followed by something else"):
        undo(make(b"hello") + tail, step=step)


def test_wrong_declaration():
    with pytest.raises(CompressionError, match="no header"):
        undo(zstd.compress(b"x"), Compression.GZIP)
    with pytest.raises(CompressionError, match="no header"):
        undo(gzip.compress(b"x"), Compression.ZSTD)
    assert undo(gzip.compress(b"x")) == b"x"


@pytest.mark.parametrize("at", [-6, -2, 3000])
def test_damage(at):
    for made in (gzip.compress(NOISE), do(Compression.ZSTD, NOISE)):
        damaged = bytearray(made)
        damaged[at] ^= 0x55
        with pytest.raises(CompressionError, match=r"damaged|truncated"):
            undo(bytes(damaged))


def test_zstd_windows():
    def windowed(log):
        options = {zstd.CompressionParameter.window_log: log, zstd.CompressionParameter.compression_level: 1}
        stream = zstd.ZstdCompressor(options=options)
        return stream.compress(NOISE) + stream.flush()

    assert undo(windowed(27)) == NOISE
    with pytest.raises(CompressionError, match="memory"):
        undo(windowed(28))


@pytest.mark.parametrize("kind", [Compression.XZ, Compression.BZIP2])
def test_other_compressions_are_refused_by_name(kind):
    with pytest.raises(UnsupportedCompressionError, match=kind.value):
        decompressor(kind)
    with pytest.raises(UnsupportedCompressionError, match=kind.value):
        compressor(kind)
    with pytest.raises(UnsupportedCompressionError, match=kind.value):
        undo(b"\xfd7zXZ\0" if kind is Compression.XZ else b"BZh91AY")


def test_levels():
    for kind, level in ((Compression.GZIP, 0), (Compression.GZIP, 10), (Compression.ZSTD, 20)):
        with pytest.raises(InvalidArgumentError, match="level"):
            compressor(kind, level)


def test_quota():
    made = do(Compression.GZIP, TEXT)
    assert undo(made, quota=len(TEXT)) == TEXT
    for stream in (made, TEXT):
        with pytest.raises(BombError, match="allowed"):
            undo(stream, quota=len(TEXT) - 1)


def test_bombs_and_their_twins(monkeypatch):
    monkeypatch.setattr(compression, "BOMB_FLOOR", 1 << 20)
    for kind in (Compression.GZIP, Compression.ZSTD):
        bomb = do(kind, bytes(16 << 20))
        assert len(bytes(16 << 20)) > 200 * len(bomb)
        with pytest.raises(BombError, match="200 times"):
            undo(bomb)
        small = do(kind, bytes(1 << 20))
        assert undo(small) == bytes(1 << 20)
        # Zeros first and the rest later is no bomb if the whole size was announced.
        late = bomb + do(kind, random.Random(2).randbytes(200_000))
        assert len(undo(late, compressed_size=len(late))) == (16 << 20) + 200_000


def test_a_bomb_takes_no_memory():
    bomb = do(Compression.GZIP, bytes(64 << 20))
    tracemalloc.start()
    for chunk in decompressor().feed(bomb):
        assert len(chunk) <= compression.CHUNK
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "member",
    [gzip.compress(b"", mtime=0), zstd.compress(b""), EMPTY_SKIPPABLE],
    ids=["gzip", "zstd", "skippable"],
)
def test_floods_of_tiny_members_take_linear_time(member):
    assert undo(member * 20_000, sniff(member)) == b""


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [
            gzip.compress(NOISE[:500]),
            zstd.compress(NOISE[:500]),
            gzip.compress(b"a" * 9000) * 2,
            SKIPPABLE * 2,
        ]
    ),
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), max_size=4),
    st.integers(1, 700),
)
def test_damaged_streams_never_surprise(seed, changes, step):
    stream = bytearray(seed)
    for at, value in changes:
        stream[at % len(stream)] = value
    with contextlib.suppress(LadingError):
        undo(bytes(stream), step=step)


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=600),
    st.sampled_from([b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"\x51\x2a\x4d\x18"]),
)
def test_noise_never_surprises(noise, head):
    with contextlib.suppress(LadingError):
        undo(head + noise)


def test_zlib_agrees():
    stream = zlib.decompressobj(31)
    assert stream.decompress(do(Compression.GZIP, TEXT)) == TEXT
    assert stream.eof
