"""Sessions: what a building client lends to the daemon while it builds (BuildKit's ``/session``).

**Terms.** A session is one client process; it *offers* gRPC methods over a connection that it opened, and we call them: files
of its build context, places for outputs, credentials, secrets, agents. It ends when the connection does; every call then
raises `UnavailableError`.

**Trust.** A session is the client's word. Paths that it sends are written below the given directory and nowhere else, whatever
they contain; secrets and credentials are never stored, logged, or part of a key.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import Buffer

from lading.core import content
from lading.core.remotes import Credentials


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

    async def sync(self, wish: SyncWish, into: str) -> Synced:
        """Make the directory ``into`` equal to the client's files (fsutil, ``FileSync/DiffCopy``).

        What is there already with the same mode, owner, size, time and link is not fetched again; what the client does not have
        is removed. Owners are 0:0. Raises `InvalidArgumentError` for a path that leads out or an entry of a bad type;
        `NotFoundError` if the client has no such directory.
        """
        ...

    async def send_tree(self, index: int, root: str) -> None:
        """Give the tree below ``root`` to the client's output ``index`` (``FileSend/DiffCopy``)."""
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

    def content(self, store: str) -> content.Store:
        """One of the client's content stores: ``local:DIR``, ``oci:ID``, ``export``."""
        ...


class Sessions(Protocol):
    """The sessions that are connected."""

    async def get(self, id: str, *, timeout: float = 5) -> Session:
        """The session with this ID; waits for it for ``timeout`` seconds. Raises `NotFoundError`."""
        ...
