"""The ``oci`` and ``docker`` exporters: an image as an archive, or as blobs in a store of the client."""

from collections.abc import AsyncIterator, Mapping
from typing import Final

from typing_extensions import override

from lading.builder.exporters.assemble import Assembled, Assembler
from lading.builder.exporters.attributes import ImageOptions
from lading.builder.exporters.image import response
from lading.builder.model import ExportContext, Exporter
from lading.builder.progress import step
from lading.builder.results import Result
from lading.core import content
from lading.core.session import ClientContent
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.kit import aio
from lading.oci.descriptor import Descriptor, Platform
from lading.transfer.archive_out import SavedImage
from lading.transfer.service import TransferService

_CHUNK: Final = 1 << 20


class ArchiveExporter(Exporter):
    """Sends an image to the client."""

    def __init__(
        self,
        options: ImageOptions,
        transfer: TransferService,
        *,
        host: Platform,
        docker: bool,
        tar: bool,
        blobs: content.Store,
    ) -> None:
        if options.push:
            raise InvalidArgumentError(
                "an archive cannot be pushed", hint="use --output type=image,push=true"
            )
        if options.unpack:
            raise InvalidArgumentError("an archive is not unpacked", hint="leave unpack out")
        self._options = options
        self._transfer = transfer
        self._host = host
        self._docker = docker
        self._tar = tar
        self._blobs = blobs

    @override
    async def export(self, result: Result, context: ExportContext) -> Mapping[str, str]:
        if context.session is None:
            raise FailedPreconditionError(
                "an archive needs a client that takes it", hint="build with a session"
            )
        name = f"exporting to {'docker image format' if self._docker else 'oci image format'}"
        with step(context.progress, name, key=f"{context.ref}/{context.index}") as vertex:
            assembled = await Assembler(
                self._transfer.documents,
                options=self._options,
                lease=context.lease,
                host=self._host,
                inline_only=False,
                step=vertex,
                inline_cache=context.inline_cache,
            ).assemble(result)
            if self._docker and assembled.is_index:
                raise InvalidArgumentError(
                    "docker exporter does not currently support exporting manifest lists",
                    hint="build for one platform without attestations, or use type=oci",
                )
            with vertex.part("sending tarball"):
                if self._tar:
                    await self._send_archive(assembled, context)
                else:
                    await self._send_blobs(assembled, context.session.content("export"))
        return response(assembled, self._options)

    async def _send_archive(self, assembled: Assembled, context: ExportContext) -> None:
        assert context.session is not None
        saved = [SavedImage(target=assembled.target, reference=name) for name in self._options.names]
        async with context.session.open_output(context.index, response(assembled, self._options)) as stream:
            await self._transfer.save(saved or [SavedImage(target=assembled.target)], stream.send)

    async def _send_blobs(self, assembled: Assembled, store: ClientContent) -> None:
        tree = await self._transfer.documents.tree(assembled.target)
        for node in tree.manifests:
            for descriptor in node.blobs():
                await store.write(descriptor, self._read(descriptor))
            await store.write(node.descriptor, self._read(node.descriptor))
        for descriptor, _ in reversed(tree.indexes):
            await store.write(descriptor, self._read(descriptor))

    async def _read(self, descriptor: Descriptor) -> AsyncIterator[bytes]:
        async with self._blobs.open_reader(descriptor.digest) as reader:
            for offset in range(0, reader.size, _CHUNK):
                yield await aio.run(aio.DATA, reader.pread, _CHUNK, offset)
