"""Importing and exporting the cache of one build, by the type and the attributes that a client gives."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from lading.builder.caching import exporting, places
from lading.builder.caching.exporting import CacheExporter, Exported
from lading.builder.caching.importing import ImportedCache, Origin
from lading.builder.ops.images import credentials_of
from lading.builder.ops.layouts import LayoutFetcher
from lading.builder.ops.trees import Tree
from lading.builder.reports import Progress, VertexEvent
from lading.builder.results import Compression, LayerForm
from lading.builder.solver.keys import ForeignCache
from lading.builder.solver.live import Solved
from lading.core import content
from lading.core.buildcache import BuildCache
from lading.core.leases import LeaseID
from lading.core.remotes import Credentials, Fetcher, Registries
from lading.core.session import Session
from lading.errors import InvalidArgumentError, LadingError, UnsupportedError
from lading.oci import reference as references
from lading.oci.digest import Digest
from lading.oci.document import encode
from lading.oci.reference import Reference
from lading.transfer.pull import Puller

_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}
MANIFEST: Final = "cache.manifest"
"""What a client is told of an exported cache: the descriptor of its manifest."""


class SharedCaches:
    """Imports and exports caches."""

    def __init__(
        self,
        *,
        exporter: CacheExporter,
        store: content.Store,
        cache: BuildCache,
        snapshotter: str,
        puller: Puller,
        registries: Registries,
        packed: bool = True,
    ) -> None:
        """Without ``packed`` layers are never blobs, and only inline caches can be written (the classic store)."""
        self._packed = packed
        self._exporter = exporter
        self._content = store
        self._cache = cache
        self._snapshotter = snapshotter
        self._puller = puller
        self._registries = registries

    # Imports.

    async def open(
        self,
        kind: str,
        attributes: Mapping[str, str],
        *,
        session: Session | None,
        progress: Progress,
        lease: LeaseID,
    ) -> list[ForeignCache[Tree]]:
        """The caches at a place. One that is not there is told of, and is no error: the build goes on without it.

        Raises `UnsupportedError` for a type that is not offered.
        """
        if kind not in ("registry", "local"):
            raise UnsupportedError(f"importing a cache of type {kind!r} is not supported", subject=kind)
        shown = attributes.get("ref") or attributes.get("src", "")
        try:
            async with _step(progress, f"importing cache manifest from {shown}"):
                return await self._open(kind, attributes, session, lease)
        except LadingError:
            return []

    async def _open(
        self, kind: str, attributes: Mapping[str, str], session: Session | None, lease: LeaseID
    ) -> list[ForeignCache[Tree]]:
        fetcher: Fetcher
        if kind == "registry":
            reference = references.parse(attributes.get("ref", "")).with_default_tag()
            resolver = self._registries.resolver(await _login(session, reference))
            document = await resolver.resolve(reference)
            fetcher = resolver.fetcher(reference)
        else:
            reference = Reference(domain="cache.invalid", path="local")
            layout = LayoutFetcher(_client(session).content(f"local:{attributes.get('src', '')}"))
            document = await layout.target(Digest(attributes.get("digest", "")))
            fetcher = layout
        origin = Origin(
            reference=reference,
            fetcher=fetcher,
            puller=self._puller,
            cache=self._cache,
            snapshotter=self._snapshotter,
            lease=lease,
        )
        found = await places.read(document.descriptor, document.body, fetcher)
        return [ImportedCache(one.config, one.blobs, origin) for one in found]

    # Exports.

    async def export(
        self,
        kind: str,
        attributes: Mapping[str, str],
        results: Sequence[Solved[Tree]],
        *,
        session: Session | None,
        progress: Progress,
        lease: LeaseID,
    ) -> dict[str, str]:
        """Write the cache of results to a place; what the client is told.

        Raises:
            UnsupportedError: A type that is not offered.
            InvalidArgumentError: An attribute is missing or malformed.

        """
        if kind not in ("registry", "local"):
            raise UnsupportedError(f"exporting a cache of type {kind!r} is not supported", subject=kind)
        if not self._packed:
            raise UnsupportedError(
                f"cache export of type {kind} needs the containerd image store", hint="use type=inline"
            )
        try:
            return await self._export(kind, attributes, results, session, progress, lease)
        except LadingError:
            if _flag(attributes, "ignore-error", default=False):
                return {}
            raise

    async def _export(
        self,
        kind: str,
        attributes: Mapping[str, str],
        results: Sequence[Solved[Tree]],
        session: Session | None,
        progress: Progress,
        lease: LeaseID,
    ) -> dict[str, str]:
        exported = await self.collect(attributes, results, progress=progress, lease=lease)
        if not exported.layers:
            return {}
        written = places.documents(
            exported,
            image_manifest=_flag(attributes, "image-manifest", default=True),
            oci=_flag(attributes, "oci-mediatypes", default=True),
        )
        if kind == "registry":
            reference = references.parse(attributes.get("ref", "")).with_default_tag()
            async with _step(progress, "exporting cache to registry"):
                resolver = self._registries.resolver(await _login(session, reference))
                pusher = resolver.pusher(reference)
                await places.push(written, exported.layers, self._content, pusher, reference.tag)
        else:
            async with _step(progress, "exporting cache to client directory"):
                client = _client(session).content(f"local:{attributes.get('dest', '')}")
                await places.write_to_client(written, exported.layers, self._content, client)
        return {MANIFEST: encode(written.manifest).decode()}

    async def collect(
        self,
        attributes: Mapping[str, str],
        results: Sequence[Solved[Tree]],
        *,
        progress: Progress,
        lease: LeaseID,
    ) -> Exported:
        """The cache of results, with its layers as blobs that ``lease`` holds."""
        mode = attributes.get("mode", "") or "min"
        if mode not in ("min", "max"):
            raise InvalidArgumentError(f"unknown cache export mode {mode!r}", hint="use min or max")
        async with _step(progress, "preparing build cache for export"):
            form = replace(_form(attributes), packed=self._packed)
            return await self._exporter.collect(results, form, everything=mode == "max", lease=lease)

    async def inline(
        self,
        attributes: Mapping[str, str],
        results: Sequence[Solved[Tree]],
        layers: Sequence[str],
        *,
        progress: Progress,
        lease: LeaseID,
    ) -> bytes | None:
        """The cache as it goes into the config of an image with these layer blobs; ``None`` if there is nothing to say."""
        exported = await self.collect(attributes, results, progress=progress, lease=lease)
        return exporting.inline(exported, layers)


async def _login(session: Session | None, reference: Reference) -> Credentials | None:
    return await credentials_of(session, reference) if session is not None else None


def _client(session: Session | None) -> Session:
    if session is None:
        raise InvalidArgumentError("a local cache needs a client that is connected")
    return session


def _flag(attributes: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = attributes.get(name, "")
    if not text:
        return default
    if text not in _FLAGS:
        raise InvalidArgumentError(f"cache attribute {name} is {text!r}, not true or false")
    return _FLAGS[text]


def _form(attributes: Mapping[str, str]) -> LayerForm:
    level = attributes.get("compression-level", "")
    if level and not level.isdecimal():
        raise InvalidArgumentError(f"compression-level is {level!r}, not a number")
    try:
        compression = Compression(attributes.get("compression", "") or "gzip")
    except ValueError as exc:
        raise InvalidArgumentError(f"unknown compression {attributes['compression']!r}") from exc
    return LayerForm(
        compression=compression,
        level=int(level) if level else None,
        force=_flag(attributes, "force-compression", default=False),
    )


@asynccontextmanager
async def _step(progress: Progress, name: str) -> AsyncGenerator[None]:
    """Work that is shown as a vertex."""
    digest, started = Digest.of(f"{name} {time.time_ns()}".encode()), time.time_ns()
    progress.tell(VertexEvent(digest=digest, name=name, started=started))
    error = ""
    try:
        yield
    except BaseException as exc:
        error = str(exc) or type(exc).__name__
        raise
    finally:
        progress.tell(
            VertexEvent(digest=digest, name=name, started=started, completed=time.time_ns(), error=error)
        )
