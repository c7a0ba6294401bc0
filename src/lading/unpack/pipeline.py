"""One layer, from compressed bytes to a tree: inflate on one thread, hash the tar stream and extract on another.

Between the two stands a queue of at most `QUEUE_BYTES`; before them stands the ingest itself (`lading.unpack.arriving`).
The C calls that do the work run outside the interpreter lock, so the stages use a core each.
"""

import threading
from collections import deque
from typing import Final

import anyio
from typing_extensions import Buffer

from lading.core.progress import Item, Phase
from lading.core.snapshots import LayerWriter
from lading.formats import compression
from lading.kit.tasks import StoppedError, run_stage, task_group
from lading.oci.digest import DiffID
from lading.unpack.arriving import Cursor

READ_BYTES: Final = 256 * 1024
"""Read size from the ingest: the C calls dominate, and the allocator recycles buffers of this size."""
QUEUE_BYTES: Final = 4 * 1024 * 1024
"""Most inflated bytes between the two threads of one layer."""


class ChunkQueue:
    """A queue between two threads that is bounded in bytes."""

    def __init__(self, limit: int = QUEUE_BYTES) -> None:
        self._limit = limit
        self._chunks: deque[Buffer] = deque()
        self._bytes = 0
        self._closed = False
        self._aborted = False
        self._condition = threading.Condition()

    def put(self, chunk: Buffer, size: int) -> None:
        """Add ``size`` bytes; blocks while the queue is full. Raises `StoppedError` after `abort`."""
        with self._condition:
            while self._bytes and self._bytes + size > self._limit and not self._aborted:
                self._condition.wait()
            if self._aborted:
                raise StoppedError
            self._chunks.append(chunk)
            self._bytes += size
            self._condition.notify_all()

    def get(self) -> Buffer | None:
        """The next chunk; ``None`` after the last one. Raises `StoppedError` after `abort`."""
        with self._condition:
            while not self._chunks and not self._closed and not self._aborted:
                self._condition.wait()
            if self._aborted:
                raise StoppedError
            if not self._chunks:
                return None
            chunk = self._chunks.popleft()
            self._bytes -= memoryview(chunk).nbytes
            self._condition.notify_all()
            return chunk

    def close(self) -> None:
        """No more chunks will come."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def abort(self) -> None:
        """Drop everything and stop both ends; idempotent."""
        with self._condition:
            self._aborted = True
            self._chunks.clear()
            self._condition.notify_all()


async def unpack(cursor: Cursor, layer: LayerWriter, *, item: Item | None = None) -> DiffID:
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


def _extract(queue: ChunkQueue, layer: LayerWriter) -> DiffID:
    try:
        while (chunk := queue.get()) is not None:
            layer.write(chunk)
        return layer.finish()
    except BaseException:
        queue.abort()
        raise
