"""Streams that are made again byte by byte, and those that are not."""

import gzip
import random
import zlib

import pytest
from backports import zstd

from lading.errors import InvalidArgumentError
from lading.formats import compression, recipes
from lading.formats.compression import Compression
from lading.formats.recipes import PROBE, STEP, Recipe, candidates, content_length, load

WORDS = [bytes(random.Random(n).choices(b"abcdefgh \n", k=n % 9 + 2)) for n in range(4000)]
CONTENT = b"".join(random.Random(7).choices(WORDS, k=600_000))[: PROBE + 3 * STEP + 512]


def ours(kind, level=None):
    packing = compression.compressor(kind, level)
    made = b"".join(
        chunk for at in range(0, len(CONTENT), 50_000) for chunk in packing.feed(CONTENT[at : at + 50_000])
    )
    return made + packing.finish()


def named(level):
    packing = zlib.compressobj(level, zlib.DEFLATED, -15)
    body = packing.compress(CONTENT) + packing.flush()
    head = b"\x1f\x8b\x08\x08\x01\x02\x03\x04\x00\x03layer.tar\0"
    return head + body + zlib.crc32(CONTENT).to_bytes(4, "little") + len(CONTENT).to_bytes(4, "little")


def sized(level):
    return zstd.compress(CONTENT, options={zstd.CompressionParameter.compression_level: level})


STREAMS = {
    "zlib 1": lambda: gzip.compress(CONTENT, 1, mtime=0),
    "zlib 6": lambda: gzip.compress(CONTENT, 6, mtime=0),
    "zlib 9 with a time": lambda: gzip.compress(CONTENT, 9, mtime=1234567890),
    "a name in the header": lambda: named(6),
    "our default": lambda: ours(Compression.GZIP),
    "our fastest": lambda: ours(Compression.GZIP, 1),
    "our zstd": lambda: ours(Compression.ZSTD),
    "zstd that tells its length": lambda: sized(3),
}


def made(recipe, content=CONTENT):
    packer = recipe.packer(len(content))
    chunks = [chunk for at in range(0, len(content), STEP) for chunk in packer.feed(content[at : at + STEP])]
    return b"".join([*chunks, *packer.finish()])


def found(stream, content=CONTENT):
    return [
        recipe
        for recipe in candidates(stream[: PROBE + STEP])
        if recipe.begins(content[:PROBE], stream[: PROBE + STEP], length=len(content))
    ]


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_made_again_byte_by_byte(stream):
    blob = stream()
    recipe = found(blob)[0]
    assert made(recipe) == blob
    assert load(recipe.document()) == recipe


@pytest.mark.parametrize("level", [1, 6])
def test_a_content_that_is_shorter_than_the_probe(level):
    content = CONTENT[:1024]
    blob = gzip.compress(content, level, mtime=0)
    assert made(found(blob, content)[0], content) == blob


def test_another_compressor_is_recognised():
    half = len(CONTENT) // 2
    packing = zlib.compressobj(6, zlib.DEFLATED, 31)
    flushed = packing.compress(CONTENT[:1000]) + packing.flush(zlib.Z_SYNC_FLUSH)
    blob = flushed + packing.compress(CONTENT[1000:]) + packing.flush()
    assert gzip.decompress(blob) == CONTENT
    assert found(blob) == []
    # What begins alike and goes on otherwise is told by the digest, which the caller compares.
    members = gzip.compress(CONTENT[:half], 6, mtime=0) + gzip.compress(CONTENT[half:], 6, mtime=0)
    assert all(made(recipe) != members for recipe in found(members))


@pytest.mark.parametrize("stream", [b"\x1f", b"\x1f\x8b\x08\x08" + b"x" * 2000, b"\x28\xb5\x2f\xfd", b"BZh9"])
def test_what_is_neither_can_only_be_its_own_content(stream):
    assert [recipe.engine for recipe in candidates(stream)] == ["none"]
    assert found(stream) == []


def test_a_layer_that_is_not_compressed():
    assert made(found(CONTENT)[0]) == CONTENT


def test_a_header_that_is_too_long_to_be_kept():
    assert candidates(b"\x1f\x8b\x08\x08\0\0\0\0\0\0" + b"n" * 2000 + b"\0") == []


def test_the_length_of_a_content_that_is_padded_to_blocks():
    assert content_length(gzip.compress(b"x" * 1000)[-4:], 1024) == 1000
    assert content_length(b"\0\0\0\0", 1 << 32) == 1 << 32
    assert content_length((5).to_bytes(4, "little"), 1024) == 1024


@pytest.mark.parametrize("change", [{"engine": "lzma"}, {"level": "x"}, {"head": "zz"}, {"memory": None}])
def test_a_document_that_is_no_recipe(change):
    document = Recipe(engine="zlib", level=6).document() | change
    with pytest.raises(InvalidArgumentError):
        load(document)
    with pytest.raises(InvalidArgumentError):
        load({})
    assert recipes.HEAD_MAX < STEP
