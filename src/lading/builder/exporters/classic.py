"""The ``moby`` exporter of the classic store: an image is a config, and its layers are unpacked; one platform, no registry.

As dockerd has it without the containerd store (moby, ``builder-next/exporter/mobyexporter``): both digests that the client is
told are the image's ID.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import override

from lading.builder.exporters import configs
from lading.builder.exporters.assemble import INLINE_CACHE_KEY, config_of
from lading.builder.exporters.attributes import Attributes, parse_names, parse_times
from lading.builder.model import ExportContext, Exporter
from lading.builder.progress import Step, step
from lading.builder.results import Layer, LayerForm, Result
from lading.core import content
from lading.core.classic import ClassicStore
from lading.core.leases import LeaseID
from lading.core.remotes import Document
from lading.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from lading.oci import mediatypes
from lading.oci import platform as platforms
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT, encode
from lading.oci.manifest import Manifest, descriptor_of
from lading.oci.reference import Reference, dangling_name
from lading.transfer.service import TransferService

KNOWN: Final = "image.known"
"""Told of an image that was there before."""
_IGNORED: Final = (
    "unpack",
    "dangling-name-prefix",
    "danging-name-empty-only",
    "dangling-name-empty-only",
    "push",
)
"""What clients send to either store; here every image is unpacked, one without a name is dangling, and the client pushes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicOptions:
    """How the image is made. ``parent`` is the image that it was made from, ``None`` for nothing."""

    names: tuple[Reference, ...] = ()
    epoch: int | None = None
    form: LayerForm
    parent: Digest | None = None
    reuse: bool = False
    """Whether an image from the same parent that says the same is taken instead of a new one."""
    image: Digest | None = None
    """An image that only gets its names, if it is there."""


def parse_classic(attributes: Attributes) -> ClassicOptions:
    """The options of ``moby`` here. Raises `InvalidArgumentError`; `UnsupportedError` for what only the other store can do."""
    epoch, rewrite = parse_times(attributes)
    for name in _IGNORED:
        attributes.text(name)
    parent, image = attributes.text("parent"), attributes.text("image")
    if attributes.annotations().places:
        raise UnsupportedError("annotations need the containerd image store")
    return ClassicOptions(
        names=parse_names(attributes.text("name")),
        epoch=epoch,
        form=LayerForm(packed=False, epoch=rewrite),
        parent=Digest(parent) if parent else None,
        reuse=attributes.text("chain") == "reuse",
        image=Digest(image) if image else None,
    )


class ClassicImageExporter(Exporter):
    """Makes an image of the classic store of a result."""

    def __init__(
        self,
        options: ClassicOptions,
        transfer: TransferService,
        classic: ClassicStore,
        blobs: content.Store,
        *,
        host: Platform,
        exported: Callable[[Descriptor, Reference | None], None],
    ) -> None:
        self._options = options
        self._transfer = transfer
        self._classic = classic
        self._blobs = blobs
        self._host = host
        self._exported = exported

    @override
    async def export(self, result: Result, context: ExportContext) -> Mapping[str, str]:
        if len(result.refs) > 1:
            raise InvalidArgumentError(
                "exporting multiple references to image store is currently unsupported",
                hint="use the containerd image store",
            )
        place = next(iter(result.refs), "")
        with step(context.progress, "exporting to image", key=f"{context.ref}/{context.index}") as vertex:
            with vertex.part("exporting layers"):
                ref = result.refs.get(place)
                layers = [] if ref is None else await ref.layers(self._options.form, lease=context.lease)
            body = await self._config(result, place, layers, context)
            image = await self._known(body)
            known = image is not None
            if image is None:
                image = Digest.of(body)
                with vertex.part(f"writing image {image}"):
                    await self._make(image, body, layers, context.lease)
            await self._name(image, vertex)
        told = {"containerimage.digest": str(image), "containerimage.config.digest": str(image)}
        if known:
            told[KNOWN] = "true"
        if self._options.names:
            told["image.name"] = ",".join(str(name) for name in self._options.names)
        return told

    async def _config(
        self, result: Result, id: str, layers: Sequence[Layer], context: ExportContext
    ) -> bytes:
        cache = result.metadata.get(f"{INLINE_CACHE_KEY}/{id}" if id else INLINE_CACHE_KEY)
        ref = result.refs.get(id)
        if context.inline_cache is not None and ref is not None:
            cache = await context.inline_cache(ref, [layer.descriptor.digest for layer in layers])
        wanted = platforms.parse(id) if id else self._host
        return configs.make(
            config_of(result, id), layers, wanted, epoch=self._options.epoch, inline_cache=cache
        ).body

    async def _known(self, body: bytes) -> Digest | None:
        options = self._options
        if options.image is not None:
            return options.image if await self._classic.has(options.image) else None
        return await self._same(body) if options.reuse else None

    async def _make(self, image: Digest, body: bytes, layers: Sequence[Layer], lease: LeaseID) -> None:
        target = await self._manifest(body, layers, lease)
        await self._transfer.point(dangling_name(image), target)
        if self._options.parent is not None:
            with suppress(
                NotFoundError
            ):  # a base image that was fetched for this build only is no image here
                await self._classic.set_parent(image, self._options.parent)

    async def _name(self, image: Digest, vertex: Step) -> None:
        described = _described(image)
        if not self._options.names:
            self._exported(described, None)
        for name in self._options.names:
            with vertex.part(f"naming to {name}"):
                await self._transfer.point(str(name), described)
            self._exported(described, name)

    async def _manifest(self, body: bytes, layers: Sequence[Layer], lease: LeaseID) -> Descriptor:
        """A manifest to make the image of; the store keeps what it says, not it."""
        documents = self._transfer.documents
        config = descriptor_of(body, mediatypes.DOCKER_CONFIG)
        await documents.put(config, body, lease=lease)
        manifest = Manifest(
            schema_version=2,
            media_type=mediatypes.DOCKER_MANIFEST,
            config=config,
            layers=tuple(layer.descriptor for layer in layers),
        )
        raw = encode(manifest)
        target = descriptor_of(raw, mediatypes.DOCKER_MANIFEST)
        await documents.keep(Document(descriptor=target, body=raw), lease=lease)
        return target

    async def _same(self, body: bytes) -> Digest | None:
        """An image that was made from the same parent and says the same of itself, but for times."""
        wanted = undated(body)
        for image in await self._classic.made_from(self._options.parent):
            if undated(await self._blobs.read(image, limit=CONFIG_LIMIT)) == wanted:
                return image
        return None


def undated(config: bytes) -> dict[str, Any]:
    """What a config says, without times."""
    document: dict[str, Any] = json.loads(config)
    document.pop("created", None)
    for entry in document.get("history") or ():
        entry.pop("created", None)
    return document


def _described(image: Digest) -> Descriptor:
    return Descriptor(media_type=mediatypes.DOCKER_CONFIG, digest=image, size=0)
