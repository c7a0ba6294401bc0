"""A client's content store, over containerd's service on the session."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Final

from typing_extensions import override

from lading.core.session import ClientContent
from lading.errors import AlreadyExistsError, DataLossError
from lading.formats.buildkit._pb.content_pb2 import (
    BlobInfoRequest,
    BlobInfoResponse,
    ReadContentRequest,
    ReadContentResponse,
    WriteContentRequest,
    WriteContentResponse,
)
from lading.kit.grpc.client import Channel
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.sessions.errors import translated

_SERVICE: Final = "/containerd.services.content.v1.Content"
_PIECE: Final = 1 << 20


class RemoteContent(ClientContent):
    """The store that the client calls ``store``."""

    def __init__(self, channel: Channel, store: str) -> None:
        self._channel = channel
        self._metadata = [("buildkit-attachable-store-id", store)]

    @override
    async def size(self, digest: Digest) -> int:
        async with translated():
            raw = await self._channel.call(
                f"{_SERVICE}/Info", BlobInfoRequest(digest=digest).SerializeToString(), self._metadata
            )
            return BlobInfoResponse.FromString(raw).info.size
        raise AssertionError  # the context raises

    @override
    async def read(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes]:
        async with translated(), self._channel.open(f"{_SERVICE}/Read", self._metadata) as call:
            await call.send(ReadContentRequest(digest=digest, offset=offset).SerializeToString())
            await call.close_send()
            while (message := await call.receive()) is not None:
                part = ReadContentResponse.FromString(message)
                if part.offset != offset:
                    raise DataLossError(f"the client sends {digest} from {part.offset}, not from {offset}")
                offset += len(part.data)
                yield part.data

    @override
    async def write(
        self, descriptor: Descriptor, source: AsyncIterable[bytes], *, labels: Mapping[str, str] | None = None
    ) -> None:
        digest, total = descriptor.digest, descriptor.size
        try:
            async with translated(), self._channel.open(f"{_SERVICE}/Write", self._metadata) as call:
                start = WriteContentRequest(
                    action=WriteContentRequest.STAT, ref=f"lading-{digest}", total=total, expected=digest
                )
                await call.send(start.SerializeToString())
                offset = WriteContentResponse.FromString(await call.receive() or b"").offset
                skip = offset
                async for data in source:
                    if skip >= len(data):
                        skip -= len(data)
                        continue
                    rest, skip = data[skip:], 0
                    for place in range(0, len(rest), _PIECE):
                        piece = rest[place : place + _PIECE]
                        write = WriteContentRequest(
                            action=WriteContentRequest.WRITE,
                            offset=offset,
                            data=piece,
                            total=total,
                            expected=digest,
                        )
                        await call.send(write.SerializeToString())
                        await call.receive()
                        offset += len(piece)
                commit = WriteContentRequest(
                    action=WriteContentRequest.COMMIT,
                    offset=offset,
                    total=total,
                    expected=digest,
                    labels=dict(labels or {}),
                )
                await call.send(commit.SerializeToString())
                await call.receive()
                await call.close_send()
        except AlreadyExistsError:
            return
