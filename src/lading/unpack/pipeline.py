"""One layer, from compressed bytes to a tree: inflate on one thread, hash the tar stream and extract on another.

Between the two stands a `ChunkQueue`; before them stands the ingest itself (`lading.unpack.arriving`).
The C calls that do the work run outside the interpreter lock, so the stages use a core each.
"""

from typing import Final

import anyio

from lading.core.progress import Item, Phase
from lading.core.snapshots import LayerWriter
from lading.formats import compression
from lading.kit.queues import ChunkQueue
from lading.kit.tasks import run_stage, task_group
from lading.oci.digest import DiffID
from lading.unpack.arriving import Cursor

READ_BYTES: Final = 256 * 1024
"""Read size from the ingest: the C calls dominate, and the allocator recycles buffers of this size."""


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
