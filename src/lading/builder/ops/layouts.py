"""OCI layouts of the client as sources: a repository that the client's session serves."""

from collections.abc import AsyncIterator, Iterable

from typing_extensions import override

from lading.core.remotes import Document, Fetcher, Sink
from lading.core.session import ClientContent
from lading.errors import DataLossError, ResourceExhaustedError
from lading.kit import aio
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import MANIFEST_LIMIT
from lading.oci.manifest import media_type_of


class LayoutFetcher(Fetcher):
    """Reads a content store of the client."""

    def __init__(self, content: ClientContent) -> None:
        self._content = content

    async def target(self, digest: Digest) -> Document:
        """The document of a digest, verified. Raises `NotFoundError`."""
        size = await self._content.size(digest)
        if size > MANIFEST_LIMIT:
            raise ResourceExhaustedError(f"manifest {digest} is {size} bytes long", subject=digest)
        body = await _whole(self._content.read(digest), size)
        if not digest.matches(body):
            raise DataLossError(f"the client sent other bytes than {digest}", subject=digest)
        descriptor = Descriptor(media_type=media_type_of(body), digest=digest, size=len(body))
        return Document(descriptor=descriptor, body=body)

    @override
    async def document(self, descriptor: Descriptor) -> Document:
        return await self.target(descriptor.digest)

    @override
    async def fetch(self, descriptor: Descriptor, sink: Sink, *, offset: int = 0) -> None:
        done = offset
        async for data in self._content.read(descriptor.digest, offset=offset):
            done += len(data)
            if done > descriptor.size:
                raise DataLossError(
                    f"the client sends more than the {descriptor.size} bytes of {descriptor.digest}"
                )
            await aio.run(aio.DATA, sink, memoryview(data))
        if done != descriptor.size:
            raise DataLossError(f"the client sent {done} of {descriptor.size} bytes of {descriptor.digest}")

    @override
    async def referrers(
        self, descriptor: Descriptor, *, artifact_types: Iterable[str] = ()
    ) -> list[Descriptor]:
        return []


async def _whole(parts: AsyncIterator[bytes], size: int) -> bytes:
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > size:
            raise DataLossError("the client sends more bytes than it announced")
    return bytes(body)
