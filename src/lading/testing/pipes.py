"""Byte streams in memory, two ends of one connection; see `lading.kit.grpc.connection.Transport`."""

from typing import Final, Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from typing_extensions import override

from lading.errors import CancelledError
from lading.kit.grpc.connection import Transport

_HELD: Final = 64


class PipeEnd(Transport):
    """One end. What the other end does not read holds the writer up."""

    def __init__(
        self, incoming: MemoryObjectReceiveStream[bytes], outgoing: MemoryObjectSendStream[bytes]
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    @override
    async def read(self) -> bytes:
        try:
            return await self._incoming.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return b""

    @override
    async def write(self, data: bytes) -> None:
        try:
            await self._outgoing.send(data)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            raise CancelledError("the other end is closed") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End both directions, as a process that is killed does."""
        self._incoming.close()
        self._outgoing.close()


def pipe() -> tuple[PipeEnd, PipeEnd]:
    """The two ends of a connection."""
    to_b, from_a = anyio.create_memory_object_stream[bytes](_HELD)
    to_a, from_b = anyio.create_memory_object_stream[bytes](_HELD)
    return PipeEnd(from_b, to_b), PipeEnd(from_a, to_a)
