"""containerd's content service, read-only: clients read what a build's history names."""

from collections.abc import AsyncIterator
from typing import Final

from lading.core import content
from lading.formats.buildkit._pb import content_pb2 as pb
from lading.kit import aio
from lading.kit.grpc.server import Handlers, Info, streaming, unary
from lading.oci.digest import Digest

SERVICE: Final = "/containerd.services.content.v1.Content"
_PIECE: Final = 1 << 20


class BlobService:
    """The service over one content store."""

    def __init__(self, store: content.Store) -> None:
        self._store = store

    def handlers(self) -> Handlers:
        """The methods."""
        return {
            f"{SERVICE}/Info": unary(pb.BlobInfoRequest, self.info),
            f"{SERVICE}/Read": streaming(pb.ReadContentRequest, self.read),
        }

    async def info(self, request: pb.BlobInfoRequest, info: Info) -> pb.BlobInfoResponse:
        """What is known of a blob."""
        del info
        found = await self._store.info(Digest(request.digest))
        return pb.BlobInfoResponse(
            info=pb.BlobInfo(digest=found.digest, size=found.size, labels=found.labels)
        )

    async def read(self, request: pb.ReadContentRequest, info: Info) -> AsyncIterator[pb.ReadContentResponse]:
        """Bytes of a blob."""
        del info
        async with self._store.open_reader(Digest(request.digest)) as reader:
            offset = request.offset
            end = min(reader.size, offset + request.size) if request.size else reader.size
            while offset < end:
                data = await aio.run(aio.DATA, reader.pread, min(_PIECE, end - offset), offset)
                if not data:
                    return
                yield pb.ReadContentResponse(offset=offset, data=data)
                offset += len(data)
