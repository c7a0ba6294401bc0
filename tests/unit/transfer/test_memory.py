"""However large a layer is, what is held of it is a few buffers."""

import contextlib
import hashlib
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Generator

import pytest
from support.world import NAMESPACE, World
from typing_extensions import Buffer, override

from lading.core import content
from lading.core.content import Info, IngestRef
from lading.core.leases import LeaseID
from lading.formats.tar.entry import Entry, EntryType
from lading.formats.tar.writer import END, header
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest
from lading.oci.document import encode
from lading.oci.manifest import Manifest, descriptor_of
from lading.testing import images as make
from lading.testing.memory.content import MemoryContentStore, MemoryReader, MemoryWriter
from lading.transfer.archive_out import SavedImage

pytestmark = pytest.mark.anyio

SIZE = 256 << 20
BOUND = 16 << 20
PIECE = bytes(1 << 20)


def zeros_digest() -> Digest:
    hasher = hashlib.sha256()
    for _ in range(SIZE // len(PIECE)):
        hasher.update(PIECE)
    return Digest(f"sha256:{hasher.hexdigest()}")


LARGE = Descriptor(media_type=mediatypes.OCI_LAYER, digest=zeros_digest(), size=SIZE)


class Zeros(MemoryReader):
    """The large blob, which is nowhere."""

    @property
    @override
    def size(self) -> int:
        return SIZE

    @override
    def pread(self, length: int, offset: int) -> bytes:
        return bytes(min(length, SIZE - offset))


class Counting(MemoryWriter):
    """Counts and forgets what is written; its bytes were all zeros."""

    count = 0

    @property
    @override
    def offset(self) -> int:
        return self.count

    @override
    def write(self, data: Buffer) -> None:
        self.count += memoryview(data).nbytes

    @override
    def pread(self, length: int, offset: int) -> bytes:
        return bytes(length)

    @override
    async def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: content.Labels = content.NO_LABELS,
    ) -> Info:
        assert self.count == SIZE
        return await self._store.rows.add(LARGE.digest, SIZE, labels=labels, ref=self.ref)


class LargeContent(MemoryContentStore):
    """Holds the large blob besides small ones, without its bytes."""

    @override
    @contextlib.asynccontextmanager
    async def open_reader(self, digest: Digest) -> AsyncGenerator[MemoryReader]:
        if digest == LARGE.digest:
            yield Zeros(b"")
            return
        async with super().open_reader(digest) as reader:
            yield reader

    @override
    @contextlib.asynccontextmanager
    async def open_writer(
        self, ref: IngestRef, *, expected: Descriptor | None = None, lease: LeaseID | None = None
    ) -> AsyncGenerator[MemoryWriter]:
        async with super().open_writer(ref, expected=expected, lease=lease) as writer:
            large = expected is not None and expected.digest == LARGE.digest
            yield Counting(self, ref, expected, lease) if large else writer


@pytest.fixture
def large() -> World:
    """A world whose store can hold the large blob."""
    return World(store=LargeContent)


IMAGE = make.image([], diff_ids=[DiffID(LARGE.digest)])
BODY = encode(
    Manifest(
        schema_version=2,
        media_type=mediatypes.OCI_MANIFEST,
        config=IMAGE.config_descriptor,
        layers=(LARGE,),
    )
)
TARGET = descriptor_of(BODY, mediatypes.OCI_MANIFEST)


async def fill(world: World) -> None:
    rows = world.database.blobs(NAMESPACE)
    world.bytes.blobs |= {IMAGE.config_descriptor.digest: IMAGE.config, TARGET.digest: BODY}
    for descriptor in (LARGE, IMAGE.config_descriptor, TARGET):
        await rows.add(descriptor.digest, descriptor.size, labels={})


@contextlib.contextmanager
def bounded() -> Generator[None]:
    """Fails if more than `BOUND` was allocated at any moment inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BOUND
    finally:
        tracemalloc.stop()


async def test_unpacking(large: World):
    await fill(large)
    with bounded():
        assert await large.service.ensure_unpacked(TARGET) == LARGE.digest
    assert large.snapshotter.written == SIZE


async def test_saving(large: World):
    await fill(large)
    written = 0

    async def sink(chunk: bytes) -> None:
        nonlocal written
        written += len(chunk)

    with bounded():
        await large.service.save([SavedImage(target=TARGET)], sink)
    assert written > SIZE


def member(path: str, body: bytes) -> bytes:
    return header(Entry(name=path, type=EntryType.FILE, size=len(body))) + body + bytes(-len(body) % 512)


async def archive() -> AsyncIterator[bytes]:
    yield header(Entry(name=f"blobs/sha256/{LARGE.digest.hex}", type=EntryType.FILE, size=SIZE))
    for _ in range(SIZE // len(PIECE)):
        yield PIECE
    yield member(f"blobs/sha256/{IMAGE.config_descriptor.digest.hex}", IMAGE.config)
    yield member(f"blobs/sha256/{TARGET.digest.hex}", BODY)
    index = f'{{"schemaVersion":2,"manifests":[{encode(TARGET).decode()}]}}'
    yield member("index.json", index.encode())
    yield END


async def test_loading(large: World):
    with bounded():
        [loaded] = await large.service.load(archive())
    assert loaded.target.digest == TARGET.digest
    assert large.snapshotter.written == SIZE
