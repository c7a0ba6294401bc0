"""What every `lading.core.devices.Devices` must do."""

import os
import random
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from lading.core.devices import FILLED_HEADER, Device, Devices, is_complete
from lading.errors import DataLossError
from lading.formats.compression import Compression
from lading.formats.seek.indexing import Indexer
from lading.oci.digest import Digest

SPACING: Final = 1 << 17
"""Bytes of a segment in these tests."""
_generator = random.Random(1)  # noqa: S311
_WORDS: Final = [_generator.randbytes(12).hex().encode() for _ in range(1000)]
CONTENT: Final = b"".join(_generator.choices(_WORDS, k=100_000))[: 2 << 20]


@cache
def _packed(content: bytes) -> tuple[bytes, bytes]:
    """A blob and its index."""
    # Little memory makes small blocks, so that there are many places where decoding can begin.
    packer = zlib.compressobj(6, zlib.DEFLATED, 31, 3)
    packed = packer.compress(content) + packer.flush()
    indexer = Indexer(Compression.GZIP, spacing=SPACING)
    for _ in (*indexer.feed(packed), *indexer.finish()):
        pass
    found = indexer.index(Digest.of(packed))
    assert found is not None
    return packed, found.encode()


class Sample:
    """A blob with its index, and the device that it makes."""

    def __init__(self, place: Path, number: int = 7, content: bytes = CONTENT) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.content = content + bytes(-len(content) % 512)
        self.blob = place / "blob"
        self.index = place / "index"
        self.data = place / "data"
        self.filled = place / "filled"
        self.number = number
        packed, index = _packed(content)
        self.blob.write_bytes(packed)
        self.index.write_bytes(index)

    def attach(self, devices: Devices) -> str:
        """Serve it; the path."""
        blob = os.open(self.blob, os.O_RDONLY)
        try:
            return devices.attach(
                Device(
                    number=self.number,
                    length=len(self.content),
                    blob=blob,
                    index=str(self.index),
                    data=str(self.data),
                    filled=str(self.filled),
                )
            )
        finally:
            os.close(blob)

    def damage(self, at: int) -> None:
        """Change a few bytes of the blob."""
        with self.blob.open("r+b") as file:
            file.seek(at)
            file.write(b"wrong bytes" * 5)

    def decoded(self) -> int:
        """Bytes that the data file takes on the disk."""
        return self.data.stat().st_blocks * 512


class Reader:
    """A file that is read past the page cache's memory of it."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY)

    def read(self, size: int, offset: int) -> bytes:
        """Bytes, from whoever serves them."""
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(self.fd, size, offset)


class DevicesSuite:
    """Subclass it, and give ``make``."""

    @pytest.fixture
    def place(self) -> Iterator[Path]:
        """A directory with a path that is not too short."""
        with tempfile.TemporaryDirectory(prefix="lading-devices-") as name:
            yield Path(name)

    @pytest.fixture
    def devices(self, make: Callable[[Path], Devices], place: Path) -> Iterator[Devices]:
        """An adapter with nothing left of an earlier one."""
        made = make(place)
        yield made
        made.close()

    @pytest.fixture
    def stack(self, devices: Devices) -> Iterator[ExitStack]:
        """Closes readers before the adapter."""
        assert devices
        with ExitStack() as stack:
            yield stack

    def _reader(self, stack: ExitStack, path: str) -> Reader:
        reader = Reader(path)
        stack.callback(os.close, reader.fd)
        return reader

    def test_all_bytes_in_any_order(self, devices: Devices, place: Path, stack: ExitStack) -> None:
        """Reads of any size and place."""
        sample = Sample(place)
        reader = self._reader(stack, sample.attach(devices))
        generator = random.Random(2)  # noqa: S311
        for _ in range(40):
            offset = generator.randrange(len(sample.content))
            size = generator.choice([1, 100, 5000, 300_000])
            assert reader.read(size, offset) == sample.content[offset : offset + size]
        assert reader.read(1 << 24, 0) == sample.content
        assert reader.read(10, len(sample.content)) == b""

    def test_the_length_is_there_before_the_bytes(self, devices: Devices, place: Path) -> None:
        """Also what lies behind the stream."""
        sample = Sample(place, content=CONTENT[:-100])
        path = sample.attach(devices)
        assert os.stat(path).st_size == len(sample.content)

    def test_a_blob_that_was_cut_is_refused(self, devices: Devices, place: Path) -> None:
        """It is not the blob that the index is of."""
        sample = Sample(place)
        os.truncate(sample.blob, 1000)
        with pytest.raises(DataLossError):
            sample.attach(devices)

    def test_a_damaged_index_is_refused(self, devices: Devices, place: Path) -> None:
        """Any byte of it."""
        sample = Sample(place)
        good = sample.index.read_bytes()
        for at in (0, 20, len(good) // 2, len(good) - 1):
            sample.index.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            with pytest.raises(DataLossError):
                sample.attach(devices)
        sample.index.write_bytes(good)
        sample.attach(devices)

    def test_what_was_decoded_stays(self, devices: Devices, place: Path, stack: ExitStack) -> None:
        """Attached again, a device does not ask for the blob's bytes."""
        sample = Sample(place)
        first = Reader(sample.attach(devices))
        assert first.read(1 << 24, 0) == sample.content
        assert is_complete(sample.filled.read_bytes())
        assert sample.data.read_bytes() == sample.content
        os.close(first.fd)
        sample.blob.write_bytes(bytes(sample.blob.stat().st_size))
        sample.number = 8
        assert self._reader(stack, sample.attach(devices)).read(1 << 24, 0) == sample.content

    def test_what_was_decoded_by_another_index_is_not_believed(
        self, devices: Devices, place: Path, stack: ExitStack
    ) -> None:
        """Its segments may have been others."""
        sample = Sample(place)
        sample.data.write_bytes(bytes(len(sample.content)))
        sample.filled.write_bytes(bytes(FILLED_HEADER) + b"\1" * 1000)
        assert self._reader(stack, sample.attach(devices)).read(1 << 24, 0) == sample.content

    def test_several(self, devices: Devices, place: Path, stack: ExitStack) -> None:
        """Each has its own bytes."""
        samples = [Sample(place / str(n), 1 + n, CONTENT[n * 100_000 :]) for n in range(3)]
        readers = [self._reader(stack, sample.attach(devices)) for sample in samples]
        for sample, reader in zip(samples, readers, strict=True):
            assert reader.read(1 << 24, 0) == sample.content
        # Attached twice, it is one.
        assert samples[0].attach(devices) == samples[0].attach(devices)


class OnDemandDevicesSuite(DevicesSuite):
    """Of those that decode when somebody reads, as the port promises to whoever uses them in earnest."""

    def test_only_what_is_read_is_decoded(self, devices: Devices, place: Path, stack: ExitStack) -> None:
        """One segment, or those that the kernel reads ahead."""
        sample = Sample(place)
        reader = self._reader(stack, sample.attach(devices))
        os.posix_fadvise(reader.fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert reader.read(100, 1 << 20) == sample.content[1 << 20 :][:100]
        assert 0 < sample.decoded() <= 3 * SPACING

    def test_what_is_read_in_sequence_is_decoded_ahead(
        self, devices: Devices, place: Path, stack: ExitStack
    ) -> None:
        """And of a device that was read by half, the rest."""
        content = CONTENT * 3
        sample = Sample(place, content=content)
        reader = self._reader(stack, sample.attach(devices))
        os.posix_fadvise(reader.fd, 0, 0, os.POSIX_FADV_RANDOM)
        begin = 2 << 20
        for offset in range(begin, begin + 6 * SPACING, 4096):
            assert os.pread(reader.fd, 4096, offset) == content[offset : offset + 4096]
        assert self._decoded(sample, 8 * SPACING)
        assert sample.decoded() < len(content) * 2 // 3
        for offset in range(0, len(content) // 2 + SPACING, 4096):
            assert os.pread(reader.fd, 4096, offset) == content[offset : offset + 4096]
        assert self._decoded(sample, len(content))
        assert is_complete(sample.filled.read_bytes())
        assert sample.data.read_bytes() == content

    def _decoded(self, sample: Sample, least: int) -> bool:
        """Whether so many bytes are there in a while, which nobody tells of."""
        until = time.monotonic() + 20
        while sample.decoded() < least and time.monotonic() < until:
            time.sleep(0.01)
        return sample.decoded() >= least

    def test_a_damaged_blob_is_an_error(self, devices: Devices, place: Path, stack: ExitStack) -> None:
        """Where it is damaged; and no longer than it is."""
        sample = Sample(place)
        good = sample.blob.read_bytes()
        sample.damage(len(good) // 2)
        reader = self._reader(stack, sample.attach(devices))
        os.posix_fadvise(reader.fd, 0, 0, os.POSIX_FADV_RANDOM)
        failed = 0
        for offset in range(0, len(sample.content), 65536):
            try:
                assert reader.read(4096, offset) == sample.content[offset : offset + 4096]
            except OSError:
                failed += 1
        assert 0 < failed < 20
        sample.blob.write_bytes(good)
        assert reader.read(1 << 24, 0) == sample.content

    def test_a_device_ends_with_its_last_reader(self, devices: Devices, place: Path) -> None:
        """And not before; nor before somebody has opened it."""
        sample = Sample(place)
        assert not devices.serves(sample.number)
        path = sample.attach(devices)
        assert path == devices.path(sample.number)
        readers = [Reader(path), Reader(path)]
        os.close(readers[0].fd)
        assert readers[1].read(100, 0) == sample.content[:100]
        assert devices.serves(sample.number)
        os.close(readers[1].fd)
        until = time.monotonic() + 20
        while devices.serves(sample.number) and time.monotonic() < until:
            time.sleep(0.01)
        assert not devices.serves(sample.number)
