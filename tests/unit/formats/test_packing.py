"""A layer is packed as others unpack it, and known by what went in."""

import gzip
import hashlib

import pytest
from backports import zstd

from lading.errors import InvalidArgumentError
from lading.formats.compression import Compression
from lading.formats.packing import LayerPacker

DATA = bytes(range(256)) * 3000


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD, Compression.NONE])
def test_it_is_what_went_in(kind: Compression, algorithm: str):
    packer = LayerPacker(kind, algorithm=algorithm)
    blob = b"".join(
        part for start in range(0, len(DATA), 70_000) for part in packer.feed(DATA[start : start + 70_000])
    )
    blob += packer.finish()
    unpacked = {
        Compression.GZIP: gzip.decompress,
        Compression.ZSTD: zstd.decompress,
        Compression.NONE: bytes,
    }[kind](blob)
    assert unpacked == DATA
    assert packer.diff_id() == f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()}"


def test_another_algorithm_is_refused():
    with pytest.raises(InvalidArgumentError, match="md5"):
        LayerPacker(algorithm="md5")
