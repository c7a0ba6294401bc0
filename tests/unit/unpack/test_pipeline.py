"""The pipeline: bounded between its threads, stopped by either end, gone within a moment of being cancelled."""

import gzip
import threading
from collections.abc import Callable

import anyio
import pytest
from typing_extensions import Buffer

from lading.core import snapshots
from lading.errors import InvalidArgumentError
from lading.kit.queues import QUEUE_BYTES, ChunkQueue
from lading.kit.tasks import StoppedError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest
from lading.unpack.arriving import Arriving
from lading.unpack.pipeline import unpack

pytestmark = pytest.mark.anyio


class Layer(snapshots.LayerWriter):
    """Collects what is written; ``on_write`` may block or raise."""

    def __init__(self, on_write: Callable[[], None] = lambda: None) -> None:
        self.data = bytearray()
        self.on_write = on_write

    def write(self, data: Buffer) -> None:
        self.on_write()
        self.data += data

    def finish(self) -> DiffID:
        return DiffID(Digest.of(bytes(self.data)))

    async def commit(self, *, labels: snapshots.Labels = snapshots.NO_LABELS) -> None:
        raise NotImplementedError


def stored(blob: bytes) -> Arriving:
    arriving = Arriving(Descriptor(media_type="x", digest=Digest.of(blob), size=len(blob)))
    arriving.attach(lambda length, offset: blob[offset : offset + length], len(blob))
    return arriving


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: gzip.compress(data) * 2])
async def test_what_goes_in_packed_comes_out(pack: Callable[[bytes], bytes]):
    data = bytes(range(256)) * 10_000
    layer = Layer()
    diff_id = await unpack(stored(pack(data)).follow(), layer)
    assert diff_id == Digest.of(bytes(layer.data))
    assert bytes(layer.data[: len(data)]) == data


async def test_an_empty_blob_is_an_empty_stream():
    assert await unpack(stored(b"").follow(), Layer()) == Digest.of(b"")


async def test_a_damaged_stream_is_refused_with_its_reason():
    blob = bytearray(gzip.compress(bytes(100_000) + b"x"))
    blob[-20] ^= 255
    with pytest.raises(InvalidArgumentError, match="gzip"):
        await unpack(stored(bytes(blob)).follow(), Layer())


async def test_a_truncated_stream_is_refused():
    with pytest.raises(InvalidArgumentError, match="truncated"):
        await unpack(stored(gzip.compress(bytes(100_000))[:-4]).follow(), Layer())


async def test_an_error_of_the_layer_stops_both_threads():
    def refuse() -> None:
        raise InvalidArgumentError("hostile")

    before = threading.active_count()
    with pytest.raises(InvalidArgumentError, match="hostile"):
        await unpack(stored(gzip.compress(bytes(50_000_000), 1)).follow(), Layer(refuse))
    assert threading.active_count() <= before + 3  # anyio keeps idle workers


async def test_cancelling_while_nothing_arrives():
    arriving = Arriving(Descriptor(media_type="x", digest=Digest.of(b""), size=100))
    with anyio.move_on_after(0.05) as scope:
        await unpack(arriving.follow(), Layer())
    assert scope.cancelled_caught


async def test_cancelling_while_the_layer_is_slow():
    go = threading.Event()
    began = threading.Event()

    def wait() -> None:
        began.set()
        assert go.wait(10)

    async with anyio.create_task_group() as group:
        group.start_soon(unpack, stored(bytes(20_000_000)).follow(), Layer(wait))
        with anyio.fail_after(10):
            while not began.is_set():
                await anyio.sleep(0.001)
        group.cancel_scope.cancel()
        go.set()


async def test_a_slow_layer_holds_up_the_inflating_thread():
    """The bytes between the threads are bounded however slow the layer is."""
    data = bytes(64 << 20)
    reads: list[int] = []

    def pread(length: int, offset: int) -> bytes:
        reads.append(offset)
        return data[offset : offset + length]

    arriving = Arriving(Descriptor(media_type="x", digest=Digest.of(b""), size=len(data)))
    arriving.attach(pread, len(data))
    ahead: list[int] = []
    layer = Layer()
    layer.on_write = lambda: ahead.append(reads[-1] - len(layer.data))
    await unpack(arriving.follow(), layer)
    assert max(ahead) <= QUEUE_BYTES + (1 << 20)


def test_the_queue_is_bounded_and_stops_both_ends():
    queue = ChunkQueue(10)
    queue.put(b"12345", 5)
    queue.put(b"12345", 5)
    blocked: list[type[BaseException]] = []

    def put() -> None:
        try:
            queue.put(b"x", 1)
        except StoppedError:
            blocked.append(StoppedError)

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    queue.abort()
    thread.join(10)
    assert blocked == [StoppedError]
    with pytest.raises(StoppedError):
        queue.get()


def test_a_chunk_larger_than_the_queue_passes_alone():
    queue = ChunkQueue(10)
    queue.put(bytes(100), 100)
    assert queue.get() == bytes(100)
    queue.close()
    assert queue.get() is None
