"""Registries in memory, for tests of whatever pulls and pushes.

``MemoryRegistries().registry("registry.test").repository("app")`` is filled with `MemoryRepository.add_blob` and
`MemoryRepository.add_manifest`; faults are set on the registry.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override

from lading.core import remotes
from lading.core.content import Reader
from lading.core.remotes import Credentials, Document, Fetcher, Known, Pusher, Resolver, SearchResult, Sink
from lading.errors import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from lading.kit import aio
from lading.oci import manifest
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import CONFIG_LIMIT
from lading.oci.reference import Reference

PIECE: Final = 64 << 10
"""Bytes per call of a sink."""


@dataclass(slots=True)
class MemoryRepository:
    """One repository: blobs and manifests by digest, tags."""

    blobs: dict[Digest, bytes] = field(default_factory=dict[Digest, bytes])
    manifests: dict[Digest, Document] = field(default_factory=dict[Digest, Document])
    tags: dict[str, Digest] = field(default_factory=dict[str, Digest])

    def add_blob(self, data: bytes, media_type: str = "application/octet-stream") -> Descriptor:
        """Store a blob; its descriptor."""
        digest = Digest.of(data)
        self.blobs[digest] = data
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def add_manifest(self, body: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Store a manifest or index, unchecked, and tag it; its descriptor."""
        descriptor = manifest.descriptor_of(body, media_type)
        self.manifests[descriptor.digest] = Document(descriptor=descriptor, body=body)
        if tag is not None:
            self.tags[tag] = descriptor.digest
        return descriptor


@dataclass(slots=True)
class MemoryRegistry:
    """One registry, its faults, and what was asked of it."""

    repositories: dict[str, MemoryRepository] = field(default_factory=dict[str, MemoryRepository])
    login: tuple[str, str] | None = None
    """User name and password that every request needs."""
    down: bool = False
    """Every request fails as if no host answered."""
    fail_fetch_at: int | None = None
    """The next fetch that passes this byte fails there, once, with `UnavailableError`."""
    calls: Counter[str] = field(default_factory=Counter[str])
    """How often each thing was asked: ``resolve``, ``document``, ``fetch``, ``push``, ``mount``, ``put`` and
    ``fetch sha256:…`` per digest."""

    def repository(self, path: str) -> MemoryRepository:
        """The repository of this path, made on first use."""
        return self.repositories.setdefault(path, MemoryRepository())


class MemoryRegistries(remotes.Registries):
    """All registries of a world without a network."""

    def __init__(self) -> None:
        self.registries: dict[str, MemoryRegistry] = {}

    def registry(self, domain: str) -> MemoryRegistry:
        """The registry of this domain, made on first use."""
        return self.registries.setdefault(domain, MemoryRegistry())

    @override
    def resolver(
        self, credentials: Credentials | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Resolver:
        return _Resolver(self, credentials)

    @override
    async def close(self) -> None:
        """Nothing is open."""


class _Resolver(Resolver):
    def __init__(self, registries: MemoryRegistries, credentials: Credentials | None) -> None:
        self._registries = registries
        self._credentials = credentials

    def _registry(self, domain: str) -> MemoryRegistry:
        registry = self._registries.registries.get(domain)
        if registry is None or registry.down:
            raise UnavailableError(f"no host of {domain} answered", subject=domain)
        return registry

    def open(self, reference: Reference, call: str) -> MemoryRepository:
        """The repository of a reference, for one counted call."""
        registry = self._registry(reference.domain)
        registry.calls[call] += 1
        given = self._credentials
        if registry.login is not None and (
            given is None or (given.username, given.password) != registry.login
        ):
            raise UnauthenticatedError(f"{reference.domain} refused the credentials", subject=reference.name)
        return registry.repository(reference.path)

    def calls(self, reference: Reference) -> "MemoryRegistry":
        """The registry of a reference."""
        return self._registry(reference.domain)

    @override
    async def resolve(self, reference: Reference, *, known: Known | None = None) -> Document:
        repository = self.open(reference, "resolve")
        digest = reference.digest or repository.tags.get(reference.tag or "latest")
        found = repository.manifests.get(digest) if digest else None
        if found is None:
            raise NotFoundError(f"{reference} not found", subject=str(reference))
        manifest.parse(found.body, found.descriptor.media_type, what=str(reference))
        have = await known(found.descriptor.digest, found.descriptor.media_type) if known else None
        return have or found

    @override
    async def tags(self, repository: Reference) -> AsyncIterator[str]:
        found = self.open(repository, "tags")
        if not found.tags and not found.manifests:
            raise NotFoundError(f"{repository.name} not found", subject=repository.name)
        for tag in sorted(found.tags):
            yield tag

    @override
    async def search(self, registry: str, term: str, *, limit: int) -> list[SearchResult]:
        found = sorted(self._registry(registry).repositories)
        return [SearchResult(name=name) for name in found if term in name][:limit]

    @override
    def fetcher(self, repository: Reference) -> Fetcher:
        return _Fetcher(self, repository)

    @override
    def pusher(self, repository: Reference) -> Pusher:
        return _Pusher(self, repository)

    @override
    async def login(self, credentials: Credentials) -> str:
        registry = self._registry(credentials.server_address)
        if registry.login is not None and (credentials.username, credentials.password) != registry.login:
            raise UnauthenticatedError(f"{credentials.server_address} refused the credentials")
        return ""


class _Fetcher(Fetcher):
    def __init__(self, resolver: _Resolver, reference: Reference) -> None:
        self._resolver = resolver
        self._reference = reference

    @override
    async def document(self, descriptor: Descriptor) -> Document:
        repository = self._resolver.open(self._reference, "document")
        found = repository.manifests.get(descriptor.digest)
        body = found.body if found else repository.blobs.get(descriptor.digest)
        if body is None:
            raise NotFoundError(f"{descriptor.digest} not found", subject=descriptor.digest)
        if len(body) > CONFIG_LIMIT or len(body) != descriptor.size or not descriptor.digest.matches(body):
            raise DataLossError(f"{descriptor.digest} is not what it says", subject=descriptor.digest)
        return Document(descriptor=descriptor, body=body)

    @override
    async def fetch(self, descriptor: Descriptor, sink: Sink, *, offset: int = 0) -> None:
        repository = self._resolver.open(self._reference, "fetch")
        registry = self._resolver.calls(self._reference)
        registry.calls[f"fetch {descriptor.digest}"] += 1
        found = repository.manifests.get(descriptor.digest)
        data = found.body if found else repository.blobs.get(descriptor.digest)
        if data is None:
            raise NotFoundError(f"{descriptor.digest} not found", subject=descriptor.digest)
        if len(data) != descriptor.size:
            raise DataLossError(
                f"{descriptor.digest} has {len(data)} bytes, not {descriptor.size}", subject=descriptor.digest
            )
        end = len(data)
        cut = registry.fail_fetch_at
        if cut is not None and offset < cut <= end:
            registry.fail_fetch_at, end = None, cut
        else:
            cut = None
        for start in range(offset, end, PIECE):
            await aio.run(aio.DATA, _deliver, sink, data[start : min(end, start + PIECE)])
        if cut is not None:
            raise UnavailableError(
                f"the connection for {descriptor.digest} was cut", subject=descriptor.digest
            )

    @override
    async def referrers(
        self, descriptor: Descriptor, *, artifact_types: Iterable[str] = ()
    ) -> list[Descriptor]:
        wanted = frozenset(artifact_types)
        found: list[Descriptor] = []
        for document in self._resolver.open(self._reference, "referrers").manifests.values():
            parsed = manifest.parse(document.body, document.descriptor.media_type)
            if parsed.subject is None or parsed.subject.digest != descriptor.digest:
                continue
            kind = parsed.artifact_type
            if not kind and isinstance(parsed, manifest.Manifest):
                kind = parsed.config.media_type
            if not wanted or kind in wanted:
                found.append(
                    Descriptor(
                        media_type=document.descriptor.media_type,
                        digest=document.descriptor.digest,
                        size=document.descriptor.size,
                        artifact_type=kind,
                        annotations=parsed.annotations,
                    )
                )
        return found


def _deliver(sink: Sink, piece: bytes) -> None:
    buffer = bytearray(piece)
    with memoryview(buffer) as view:
        sink(view)
    buffer[:] = bytes(len(buffer))  # a sink that keeps the view sees that it must not


class _Pusher(Pusher):
    def __init__(self, resolver: _Resolver, reference: Reference) -> None:
        self._resolver = resolver
        self._reference = reference

    @override
    async def exists(self, descriptor: Descriptor, *, tag: str | None = None) -> bool:
        repository = self._resolver.open(self._reference, "exists")
        if tag is not None:
            return repository.tags.get(tag) == descriptor.digest
        return descriptor.digest in repository.blobs or descriptor.digest in repository.manifests

    @override
    async def size(self, digest: Digest) -> int | None:
        body = self._resolver.open(self._reference, "exists").blobs.get(digest)
        return None if body is None else len(body)

    @override
    async def mount(self, descriptor: Descriptor, source: str) -> bool:
        repository = self._resolver.open(self._reference, "mount")
        registry = self._resolver.calls(self._reference)
        other = registry.repositories.get(source)
        if other is None or descriptor.digest not in other.blobs:
            return False
        repository.blobs[descriptor.digest] = other.blobs[descriptor.digest]
        return True

    @override
    async def push(self, descriptor: Descriptor, content: Reader, *, on_bytes: Callable[[int], None]) -> None:
        repository = self._resolver.open(self._reference, "push")

        def read() -> bytes:
            data = bytearray()
            while piece := content.pread(PIECE, len(data)):
                data += piece
                on_bytes(len(data))
            return bytes(data)

        data = await aio.run(aio.DATA, read)
        if len(data) != descriptor.size or not descriptor.digest.matches(data):
            raise InvalidArgumentError(
                f"{descriptor.digest} was refused: the bytes do not have this digest",
                subject=descriptor.digest,
            )
        repository.blobs[descriptor.digest] = data

    @override
    async def put(self, descriptor: Descriptor, body: bytes, *, tag: str | None = None) -> None:
        repository = self._resolver.open(self._reference, "put")
        parsed = manifest.parse(body, descriptor.media_type)
        for child in manifest.children(parsed):
            if child.digest not in repository.blobs and child.digest not in repository.manifests:
                raise InvalidArgumentError(
                    f"{self._reference.name} refused {descriptor.digest}: it has no {child.digest}",
                    subject=child.digest,
                )
        repository.add_manifest(body, descriptor.media_type, tag=tag)
