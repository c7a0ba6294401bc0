"""Sessions: what a building client lends to the daemon while it builds (BuildKit's ``/session``).

**Terms.** A session is one client process; it *offers* gRPC methods over a connection that it opened, and we call them: files
of its build context, places for outputs, credentials, secrets, agents. It ends when the connection does; every call then
raises `UnavailableError`.

**Trust.** A session is the client's word. Paths that it sends are written below the given directory and nowhere else, whatever
they contain; secrets and credentials are never stored, logged, or part of a key.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from typing_extensions import Buffer

from lading.core.remotes import Credentials
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncWish:
    """Which files of a directory of the client are wanted: ``.dockerignore`` patterns, and paths with what they point to."""

    name: str
    """``context``, ``dockerfile``, or a named context."""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """What a sync did: whole counts of the tree, and what had to be moved."""

    files: int
    bytes: int
    transferred_files: int
    transferred_bytes: int
    changed: bool = True
    """Whether anything but times may be different from what was there before."""


@dataclass(slots=True)
class SyncMemory:
    """What a directory was made equal to, kept by its owner for the next sync into it, as long as nothing else changes it.

    Entries are as the client sent them, in order; there are none after a sync that was cut short, or of a very large tree.
    """

    entries: Sequence[bytes] = ()
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePart:
    """A part of a tree that is given to a client: what lies below the directory ``root``, and some files by name.

    Both appear below ``prefix`` (one name, or empty). Parts do not overlap.
    """

    prefix: str = ""
    root: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])


class ClientContent(Protocol):
    """A content store of the client, such as an OCI layout in a directory. Blobs are verified by whoever keeps them."""

    async def size(self, digest: Digest) -> int:
        """Bytes of a blob. Raises `NotFoundError`."""
        ...

    def read(self, digest: Digest, *, offset: int = 0) -> AsyncIterator[bytes]:
        """A blob from ``offset``, in parts. Raises `NotFoundError`."""
        ...

    async def write(
        self, descriptor: Descriptor, source: AsyncIterable[bytes], *, labels: Mapping[str, str] | None = None
    ) -> None:
        """Store a blob; nothing happens if it is there. Durable by the client's rules when the call returns."""
        ...


class Stream(Protocol):
    """A byte stream to the client or both ways; blocking is the callee's, both calls may be cancelled."""

    async def send(self, data: Buffer) -> None:
        """Pass on bytes."""
        ...

    async def receive(self) -> bytes:
        """The next bytes; empty at the end."""
        ...


class Session(Protocol):
    """One client."""

    @property
    def id(self) -> str:
        """Its UUID."""
        ...

    @property
    def shared_key(self) -> str:
        """Sessions with the same key sync into the same cached directory."""
        ...

    def offers(self, method: str) -> bool:
        """Whether the client serves ``/package.Service/Method``; compared without regard to case."""
        ...

    async def sync(
        self,
        wish: SyncWish,
        into: str,
        *,
        told: Callable[[int], None] | None = None,
        memory: SyncMemory | None = None,
    ) -> Synced:
        """Make the directory ``into`` equal to the client's files (fsutil, ``FileSync/DiffCopy``).

        What is there already with the same mode, owner, size, time and link is not fetched again; what the client does not have
        is removed. Owners are 0:0. ``told`` hears, from any thread, how many bytes have come. What is sent as ``memory`` has it
        is not looked at. Raises `InvalidArgumentError` for
        a path that leads out or an entry of a bad type; `NotFoundError` if the client has no such directory.
        """
        ...

    async def send_tree(self, index: int, parts: Sequence[TreePart], *, epoch: int | None = None) -> None:
        """Give a tree to the client's output ``index`` (``FileSend/DiffCopy``).

        With ``epoch`` (seconds since the epoch) every file has that time.
        """
        ...

    def open_output(self, index: int, metadata: Mapping[str, str]) -> AbstractAsyncContextManager[Stream]:
        """A byte stream into the client's output ``index``; complete when the context is left without an error."""
        ...

    async def credentials(self, host: str) -> Credentials | None:
        """The client's credentials for a registry's host, if it has any."""
        ...

    async def secret(self, id: str) -> bytes:
        """A secret. Raises `NotFoundError`."""
        ...

    async def check_agent(self, id: str) -> None:
        """Whether there is an SSH agent of this name. Raises `NotFoundError`."""
        ...

    def open_agent(self, id: str) -> AbstractAsyncContextManager[Stream]:
        """A connection to an SSH agent of the client."""
        ...

    def upload(self, path: str, host: str) -> AsyncIterator[bytes]:
        """A stream that the client holds ready, such as a context from standard input (``Upload/Pull``)."""
        ...

    def content(self, store: str) -> ClientContent:
        """One of the client's content stores: ``local:DIR``, ``oci:ID``, ``export``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a client says of itself when it opens a session. ``methods`` are ``/package.Service/Method``."""

    id: str
    shared_key: str = ""
    methods: Sequence[str] = ()


class Sessions(Protocol):
    """The sessions that are connected."""

    async def get(self, id: str, *, timeout: float = 5) -> Session:
        """The session with this ID; waits for it for ``timeout`` seconds. Raises `NotFoundError`."""
        ...
