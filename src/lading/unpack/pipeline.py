"""One layer, from compressed bytes to a tree: inflate on one thread, hash the tar stream and extract on another.

Between the two stands a `ChunkQueue`; before them stands the ingest itself (`lading.unpack.arriving`).
The C calls that do the work run outside the interpreter lock, so the stages use a core each.
"""

from typing import Final, Protocol

import anyio
from typing_extensions import Buffer, override

from lading.core.progress import Item, Phase
from lading.formats import compression
from lading.kit.queues import ChunkQueue
from lading.kit.tasks import run_stage, task_group
from lading.oci.digest import DiffID, new_hasher
from lading.unpack.arriving import Cursor

READ_BYTES: Final = 256 * 1024
"""Read size from the ingest: the C calls dominate, and the allocator recycles buffers of this size."""


class TarSink(Protocol):
    """Where a layer's tar stream goes: the first half of `lading.core.snapshots.LayerWriter`."""

    def write(self, data: Buffer) -> None:
        """Take the next bytes; ``data`` may be reused when the call returns. Blocking."""
        ...

    def finish(self) -> DiffID:
        """No more bytes; the diff ID of all of them. Blocking."""
        ...


class Hashing(TarSink):
    """Keeps nothing: for a blob of which only the diff ID is wanted."""

    def __init__(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._hasher = new_hasher(algorithm)

    @override
    def write(self, data: Buffer) -> None:
        self._hasher.update(data)

    @override
    def finish(self) -> DiffID:
        return DiffID.from_hasher(self._hasher, self._algorithm)


async def unpack(cursor: Cursor, layer: TarSink, *, item: Item | None = None) -> DiffID:
    """Feed the blob under ``cursor`` through decompression into ``layer``; the diff ID that came out.

    Ends within a second of being cancelled, with both threads gone. The layer is finished, not committed.

    Raises:
        LadingError: Whatever the decompression or the layer writer found wrong, unchanged.

    """
    queue = ChunkQueue()
    async with task_group() as group:

        async def stop_threads_on_cancel() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cursor.close()
                queue.abort()

        group.start_soon(stop_threads_on_cancel)
        group.start_soon(run_stage, _inflate, cursor, queue, item)
        diff_id = await run_stage(_extract, queue, layer)
        group.cancel_scope.cancel()
    return diff_id


def _inflate(cursor: Cursor, queue: ChunkQueue, item: Item | None) -> None:
    try:
        decompressor = compression.decompressor(compressed_size=cursor.size)
        while data := cursor.read(READ_BYTES):
            for chunk in decompressor.feed(data):
                queue.put(chunk, memoryview(chunk).nbytes)
            if item is not None and item.phase is Phase.EXTRACTING:
                item.current = cursor.offset
        for chunk in decompressor.finish():
            queue.put(chunk, memoryview(chunk).nbytes)
        queue.close()
    except BaseException:
        queue.abort()
        raise


def _extract(queue: ChunkQueue, layer: TarSink) -> DiffID:
    try:
        while (chunk := queue.get()) is not None:
            layer.write(chunk)
        return layer.finish()
    except BaseException:
        queue.abort()
        raise
