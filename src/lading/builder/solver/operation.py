"""What the solver asks of an operation. ``R`` is a result: one output's tree, opaque to the solver.

**Keys.** An operation is known by the digests of its `CacheMap`: what it does, without its inputs. An input is known by how it
was made (its own keys) and, if the map says how to compute it, by what is in it. An operation that was done before with any
known key of each input is not done again.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from lading.core.session import Session
from lading.oci.digest import Digest

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class Context(Protocol):
    """What an operation may use while it works: the builds that want it, and their screens."""

    @property
    def vertex(self) -> Digest:
        """The vertex's name."""
        ...

    def log(self, stream: int, data: bytes) -> None:
        """Pass on output of a process: stream 1 or 2. From any thread."""
        ...

    def status(
        self,
        id: str,
        *,
        name: str = "",
        current: int = 0,
        total: int = 0,
        started: int = 0,
        completed: int = 0,
    ) -> None:
        """Tell how far a part of the work is. From any thread."""
        ...

    def sessions(self) -> Sequence[Session]:
        """The sessions of the builds that want this vertex now, the oldest first."""
        ...

    def allowed(self, entitlement: str) -> bool:
        """Whether every build that wants this vertex was granted the entitlement."""
        ...

    async def with_session(self, call: Callable[[Session], Awaitable[T]]) -> T:
        """What ``call`` gives for the first session that can.

        Raises what the last one raised; `FailedPreconditionError` if there is no session.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency(Generic[R]):
    """How an input counts for the key. ``selector`` says which part of it is used."""

    selector: str = ""
    content: Callable[[R], Awaitable[Digest]] | None = None
    """Computes the digest of the part that is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMap(Generic[R]):
    """What an operation is known by; each of ``digests`` alone is enough.

    A ``volatile`` one is never recognised in a later build: what it made is known by its content alone.
    """

    digests: tuple[Digest, ...]
    dependencies: tuple[Dependency[R], ...] = ()
    volatile: bool = False


class Operation(Protocol[R]):
    """One operation. Both calls may be cancelled and then leave nothing behind."""

    @property
    def slots(self) -> int:
        """How many places of the solver's limit `run` takes; 0 for work that only waits."""
        ...

    async def cache_map(self, context: Context) -> CacheMap[R]:
        """What it is known by. Called once."""
        ...

    async def run(self, inputs: Sequence[R], context: Context) -> Sequence[R]:
        """Do it; a result for each output."""
        ...

    def close(self) -> None:
        """No build wants it any more, nor what it made. Called once, when nothing of it runs."""
        ...
