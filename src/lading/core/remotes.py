"""Remotes: registries, as seen by a pull or a push (OCI distribution-spec v1.1).

A `Resolver` turns references into descriptors and opens fetchers and pushers; it knows hosts, mirrors and credentials.
Bytes move on data threads: a fetch calls its `Sink` there, in order, with buffers that are reused after the call returns.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lading.core.content import Reader
from lading.errors import LadingError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.reference import Reference

Sink = Callable[[memoryview], None]
"""Takes the next bytes of a blob, in order, on a data thread. What it raises ends the fetch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a client gave for one registry. Never logged, never stored in the database."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    server_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest or index as received: its descriptor and its exact bytes."""

    descriptor: Descriptor
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReply:
    """What one host said to a request that failed.

    ``status`` is 0 if it never answered; ``codes`` are the error codes of the reply (distribution-spec, "Error Codes"), in
    its order, such as ``NAME_UNKNOWN`` or ``DENIED``.
    """

    host: str
    status: int = 0
    codes: tuple[str, ...] = ()
    message: str = ""


def replies_of(error: LadingError) -> tuple[HostReply, ...]:
    """What each host said, if ``error`` came from a registry; else nothing."""
    found: object = getattr(error, "replies", ())
    return found if isinstance(found, tuple) else ()  # pyright: ignore[reportUnknownVariableType]


class Fetcher(Protocol):
    """Reads one repository."""

    async def document(self, descriptor: Descriptor) -> Document:
        """Fetch a manifest, index or other small blob by digest, verified. Raises `NotFoundError`, `DataLossError`."""
        ...

    async def fetch(self, descriptor: Descriptor, sink: Sink, *, offset: int = 0) -> None:
        """Stream a blob from ``offset`` to its end into ``sink``, exactly ``size - offset`` bytes, in order.

        Survives cut connections, stalls and expired tokens by resuming where it was, on any mirror; large blobs may be
        fetched over several connections. Does *not* verify the digest: whoever owns the sink does.
        Cancelling the call stops the sink within a second.

        Raises:
            NotFoundError: No host has the blob.
            UnavailableError: Every host failed, with what each one said.
            DataLossError: The registry sends a different number of bytes than the descriptor says.

        """
        ...

    async def referrers(
        self, descriptor: Descriptor, *, artifact_types: Iterable[str] = ()
    ) -> list[Descriptor]:
        """Manifests whose subject is ``descriptor``, by the referrers API or its tag scheme; empty if there are none."""
        ...


class Pusher(Protocol):
    """Writes one repository."""

    async def exists(self, descriptor: Descriptor, *, tag: str | None = None) -> bool:
        """Whether the repository has the blob or manifest; with ``tag``, whether that is the manifest under this tag."""
        ...

    async def size(self, digest: Digest) -> int | None:
        """Length in bytes of a blob that the repository has; ``None`` if it has none of that digest, or does not tell."""
        ...

    async def mount(self, descriptor: Descriptor, source: str) -> bool:
        """Try to mount the blob from repository path ``source`` of the same registry; False if it must be uploaded."""
        ...

    async def push(self, descriptor: Descriptor, content: Reader, *, on_bytes: Callable[[int], None]) -> None:
        """Upload a blob, resuming after a cut; ``on_bytes`` is called on a data thread with the absolute progress."""
        ...

    async def put(self, descriptor: Descriptor, body: bytes, *, tag: str | None = None) -> None:
        """Put a manifest or index under its digest or ``tag``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A repository that a search found; ``name`` is as users write it below the registry's name."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False


Known = Callable[[Digest, str], Awaitable[Document | None]]
"""Gives the document of a digest and media type if the caller has it, verified."""


class Resolver(Protocol):
    """All registries, with one caller's credentials."""

    async def resolve(self, reference: Reference, *, known: Known | None = None) -> Document:
        """The target of a tag or digest, verified.

        Where the registry tells the digest of a tag beforehand, a document that is ``known`` need not be fetched.

        Raises:
            NotFoundError: The registry has no such repository, tag or digest.
            UnauthenticatedError, PermissionDeniedError: The registry refused the credentials.
            UnavailableError: No host answered; the message says what each one said.

        """
        ...

    def tags(self, repository: Reference) -> AsyncIterator[str]:
        """All tags of a repository."""
        ...

    async def search(self, registry: str, term: str, *, limit: int) -> list[SearchResult]:
        """At most ``limit`` repositories of ``registry`` (a domain) that fit ``term``, in the registry's order.

        Raises `UnsupportedError` if it cannot be searched; `UnauthenticatedError`; `UnavailableError`.
        """
        ...

    def fetcher(self, repository: Reference) -> Fetcher:
        """A fetcher for the repository of this reference."""
        ...

    def pusher(self, repository: Reference) -> Pusher:
        """A pusher for the repository of this reference."""
        ...

    async def login(self, credentials: Credentials) -> str:
        """Check credentials against ``credentials.server_address``.

        The identity token, or empty. Raises `UnauthenticatedError`.
        """
        ...


class Registries(Protocol):
    """Makes resolvers. One per daemon; shares connections, tokens, limits and in-flight fetches between them."""

    def resolver(
        self, credentials: Credentials | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Resolver:
        """A resolver for one caller; ``headers`` are sent to the registry, e.g. ``X-Meta-*``."""
        ...

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        ...
