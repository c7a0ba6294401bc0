"""A layer of a classic store as a blob: its tar stream, made again from its tree, in gzip."""

from contextlib import aclosing

from lading.classic import assemble
from lading.classic.layerdb import SPLIT, LayerDatabase, LayerRecord
from lading.classic.layout import Layout
from lading.core import content
from lading.core.content import Info, IngestRef
from lading.core.leases import LeaseID
from lading.errors import DataLossError
from lading.formats.packing import LayerPacker
from lading.kit import aio


async def pack(layout: Layout, record: LayerRecord, blobs: content.Store, *, lease: LeaseID) -> Info:
    """Put a layer, in gzip, among ``blobs``; ``lease`` holds it. The same tree gives the same blob.

    Raises:
        DataLossError: The tree does not give the bytes that the layer had; nothing is stored.

    """
    packer = LayerPacker(algorithm=record.diff_id.algorithm)
    split = LayerDatabase(layout).directory(record.chain_id) / SPLIT
    stream = assemble.stream(layout.trees / record.tree / "diff", split)
    async with blobs.open_writer(IngestRef(f"classic-gzip-{record.chain_id}"), lease=lease) as writer:
        if writer.offset:
            await aio.run(aio.DISK, writer.truncate)

        def feed(data: bytes) -> None:
            for packed in packer.feed(data):
                writer.write(packed)

        async with aclosing(aio.each(aio.DATA, stream)) as pieces:
            async for data in pieces:
                await aio.run(aio.COMPRESS, feed, data)
        await aio.run(aio.COMPRESS, lambda: writer.write(packer.finish()))
        if packer.diff_id() != record.diff_id:
            raise DataLossError(
                f"the tree of layer {record.chain_id} does not give its bytes", subject=record.chain_id
            )
        return await writer.commit()
