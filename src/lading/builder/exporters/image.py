"""The ``image`` and ``moby`` exporters: an image in our store, by a name or dangling, and in registries."""

import base64
from collections.abc import Callable, Mapping
from typing import Final

from typing_extensions import override

from lading.builder.exporters.assemble import Assembled, Assembler
from lading.builder.exporters.attributes import ImageOptions
from lading.builder.model import ExportContext, Exporter
from lading.builder.progress import Step, step
from lading.builder.results import Result
from lading.core.progress import Progress as TransferProgress
from lading.errors import InvalidArgumentError
from lading.kit.tasks import task_group
from lading.oci import platform as platforms
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.document import encode
from lading.oci.reference import Reference, dangling_name
from lading.transfer.service import TransferService

_PREFIX: Final = "moby-dangling"


class ImageExporter(Exporter):
    """Makes an image of a result."""

    def __init__(
        self,
        options: ImageOptions,
        transfer: TransferService,
        *,
        host: Platform,
        exported: Callable[[Descriptor, Reference | None], None],
    ) -> None:
        if options.push and not options.names:
            raise InvalidArgumentError("an image needs a name to be pushed", hint="add a tag with -t")
        if options.push_by_digest:
            raise InvalidArgumentError("push-by-digest is not offered", hint="push a tag")
        self._options = options
        self._transfer = transfer
        self._host = host
        self._exported = exported

    @override
    async def export(self, result: Result, context: ExportContext) -> Mapping[str, str]:
        options = self._options
        with step(context.progress, "exporting to image", key=f"{context.ref}/{context.index}") as vertex:
            assembled = await Assembler(
                self._transfer.documents,
                options=options,
                lease=context.lease,
                host=self._host,
                inline_only=True,
                step=vertex,
                inline_cache=context.inline_cache,
            ).assemble(result)
            async with task_group() as tasks:
                if options.store or options.push:
                    tasks.start_soon(self._name, assembled, vertex)
                if options.unpack:
                    tasks.start_soon(self._unpack, assembled, context, vertex)
            if options.push:
                for name in options.names:
                    await self._push(name, context, vertex)
        return response(assembled, options)

    async def _name(self, assembled: Assembled, vertex: Step) -> None:
        options, target = self._options, assembled.target
        for name in options.names:
            with vertex.part(f"naming to {name}"):
                await self._transfer.point(str(name), target)
                if options.canonical:
                    await self._transfer.point(str(name.without_tag().with_digest(target.digest)), target)
            self._exported(target, name)
        if not options.names and options.dangling_prefix:
            dangling = dangling_name(target.digest)
            if options.dangling_prefix != _PREFIX:
                dangling = f"{options.dangling_prefix}@{target.digest}"
            with vertex.part(f"naming to {dangling}"):
                await self._transfer.point(dangling, target)
            self._exported(target, None)

    async def _unpack(self, assembled: Assembled, context: ExportContext, vertex: Step) -> None:
        chosen = platforms.best(self._host, assembled.platforms, key=lambda each: each.platform)
        if chosen is None:
            return
        shown = self._options.names[0] if self._options.names else dangling_name(assembled.target.digest)
        with vertex.part(f"unpacking to {shown}"):
            await self._transfer.ensure_unpacked(chosen.manifest, lease=context.lease)

    async def _push(self, name: Reference, context: ExportContext, vertex: Step) -> None:
        credentials = await context.session.credentials(name.domain) if context.session else None
        with vertex.part("pushing layers"):
            pushed = await self._transfer.push(
                str(name), name, credentials=credentials, progress=TransferProgress()
            )
        with vertex.part(f"pushing manifest for {name}@{pushed.pushed.digest}"):
            pass


def response(assembled: Assembled, options: ImageOptions) -> dict[str, str]:
    """What the client is told of an image."""
    target = assembled.target
    told = {
        "containerimage.digest": str(target.digest),
        "containerimage.descriptor": base64.b64encode(encode(target)).decode(),
    }
    if options.names:
        told["image.name"] = ",".join(str(name) for name in options.names)
    if not assembled.is_index:
        told["containerimage.config.digest"] = str(assembled.platforms[0].config.digest)
    return told
