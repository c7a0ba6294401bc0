"""Where a cache is: a registry's repository, a content store of the client, or the config of an image."""

import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from lading.builder.caching.exporting import Exported
from lading.core import content
from lading.core.content import Reader
from lading.core.remotes import Fetcher, Pusher
from lading.core.session import ClientContent
from lading.errors import InvalidArgumentError, NotFoundError, UnsupportedError
from lading.formats import cacheconfig
from lading.formats.cacheconfig import Config
from lading.kit import aio
from lading.oci import mediatypes
from lading.oci.config import parse as parse_config
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT, decode, encode
from lading.oci.manifest import Index, Manifest, is_attestation
from lading.oci.manifest import parse as parse_manifest

INLINE: Final = "moby.buildkit.cache.v0"
"""Key of an image config that holds a cache."""
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The documents of a cache: its config and its manifest (an image manifest, or an index for old readers)."""

    config: Descriptor
    config_body: bytes
    manifest: Descriptor
    manifest_body: bytes


def documents(exported: Exported, *, image_manifest: bool = True, oci: bool = True) -> Written:
    """The documents of a cache that is to be written."""
    config_body = cacheconfig.encode(exported.config)
    config = Descriptor(
        media_type=cacheconfig.MEDIA_TYPE, digest=Digest.of(config_body), size=len(config_body)
    )
    layers = list(exported.layers)
    unique = list({layer.digest: layer for layer in layers}.values())
    if image_manifest:
        kind = mediatypes.OCI_MANIFEST if oci else mediatypes.DOCKER_MANIFEST
        body = encode(Manifest(schema_version=2, media_type=kind, config=config, layers=tuple(unique)))
    else:
        kind = mediatypes.OCI_INDEX if oci else mediatypes.DOCKER_INDEX
        body = encode(Index(schema_version=2, media_type=kind, manifests=(*unique, config)))
    return Written(
        config=config,
        config_body=config_body,
        manifest=Descriptor(media_type=kind, digest=Digest.of(body), size=len(body)),
        manifest_body=body,
    )


class _Bytes(Reader):
    """A small blob in memory, for a push."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def fileno(self) -> int:
        raise UnsupportedError("these bytes are in no file")

    def pread(self, length: int, offset: int) -> bytes:
        return self._data[offset : offset + length]

    def readinto(self, buffer: Any, offset: int) -> int:
        view = memoryview(buffer).cast("B")
        part = self._data[offset : offset + len(view)]
        view[: len(part)] = part
        return len(part)


async def push(
    written: Written, layers: Sequence[Descriptor], store: content.Store, pusher: Pusher, tag: str | None
) -> None:
    """Write a cache into a registry. Blobs that are there are not sent."""
    for layer in {one.digest: one for one in layers}.values():
        plain = Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
        if not await pusher.exists(plain):
            async with store.open_reader(layer.digest) as reader:
                await pusher.push(plain, reader, on_bytes=lambda _: None)
    if not await pusher.exists(written.config):
        await pusher.push(written.config, _Bytes(written.config_body), on_bytes=lambda _: None)
    await pusher.put(written.manifest, written.manifest_body, tag=tag)


async def write_to_client(
    written: Written, layers: Sequence[Descriptor], store: content.Store, client: ClientContent
) -> None:
    """Write a cache into a content store of the client, which then names it in its ``index.json``."""
    for layer in {one.digest: one for one in layers}.values():
        plain = Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size)
        async with store.open_reader(layer.digest) as reader:
            await client.write(plain, _parts(reader))
    await client.write(written.config, _once(written.config_body))
    await client.write(written.manifest, _once(written.manifest_body))


async def _parts(reader: Reader) -> AsyncIterator[bytes]:
    offset = 0
    while data := await aio.run(aio.DATA, reader.pread, _CHUNK, offset):
        offset += len(data)
        yield data


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


class _Inlined(msgspec.Struct, frozen=True):
    """What an image config says of a cache: base64."""

    cache: str = msgspec.field(name=INLINE, default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A cache that was read: its config, and descriptors of its layers by digest, with diff IDs."""

    config: Config
    blobs: Mapping[str, Descriptor]


async def read(target: Descriptor, body: bytes, fetcher: Fetcher) -> list[Found]:
    """The caches below a target: that of a cache manifest or index, or those in the configs of an image's platforms.

    Raises `NotFoundError` if there is none.
    """
    found = [one async for one in _caches(target, body, fetcher)]
    if not found:
        raise NotFoundError(f"{target.digest} holds no build cache", subject=target.digest)
    return found


async def _caches(target: Descriptor, body: bytes, fetcher: Fetcher) -> AsyncIterator[Found]:
    document = _parse(body, target)
    if isinstance(document, Manifest):
        if document.config.media_type == cacheconfig.MEDIA_TYPE:
            yield await _open(document.config, document.layers, fetcher)
        elif (cache := await _inline(document, fetcher)) is not None:
            yield cache
        return
    configs = [one for one in document.manifests if one.media_type == cacheconfig.MEDIA_TYPE]
    if configs:
        blobs = [one for one in document.manifests if one.media_type != cacheconfig.MEDIA_TYPE]
        yield await _open(configs[0], blobs, fetcher)
        return
    for child in document.manifests:
        if mediatypes.is_manifest(child.media_type) and not is_attestation(child):
            async for one in _caches(child, (await fetcher.document(child)).body, fetcher):
                yield one


def _parse(body: bytes, target: Descriptor) -> Manifest | Index:
    return parse_manifest(body, target.media_type, what=f"cache manifest {target.digest}")


async def _blob(descriptor: Descriptor, limit: int, fetcher: Fetcher) -> bytes:
    """A small blob, verified."""
    if descriptor.size > limit:
        raise InvalidArgumentError(f"{descriptor.digest} is over {limit} bytes", subject=descriptor.digest)
    body = bytearray()
    await fetcher.fetch(descriptor, body.extend)
    if not descriptor.digest.matches(body):
        raise InvalidArgumentError(f"{descriptor.digest} is not what it is called", subject=descriptor.digest)
    return bytes(body)


async def _open(config: Descriptor, blobs: Sequence[Descriptor], fetcher: Fetcher) -> Found:
    body = await _blob(config, cacheconfig.LIMIT, fetcher)
    return Found(config=cacheconfig.parse(body), blobs={str(one.digest): one for one in blobs})


async def _inline(manifest: Manifest, fetcher: Fetcher) -> Found | None:
    """The cache in an image's config."""
    if not manifest.is_image or manifest.config.size > CONFIG_LIMIT:
        return None
    body = await _blob(manifest.config, CONFIG_LIMIT, fetcher)
    held = decode(body, _Inlined, what=f"image config {manifest.config.digest}", limit=CONFIG_LIMIT).cache
    if not held:
        return None
    try:
        records = base64.b64decode(held, validate=True)
    except binascii.Error as exc:
        raise InvalidArgumentError("the cache in the image config is not base64") from exc
    config = cacheconfig.parse_inline(records, [str(layer.digest) for layer in manifest.layers])
    diff_ids = parse_config(body, layers=len(manifest.layers)).rootfs.diff_ids
    blobs = {
        str(layer.digest): msgspec.structs.replace(
            layer, annotations={**layer.annotations, cacheconfig.DIFF_ID: str(diff_id)}
        )
        for layer, diff_id in zip(manifest.layers, diff_ids, strict=True)
    }
    return Found(config=config, blobs=blobs)
