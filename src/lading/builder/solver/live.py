"""Vertices and edges that some build wants, and the builds."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup
from typing_extensions import override

from lading.builder.reports import Progress
from lading.builder.solver.keys import NO_KEYS, Cache, ForeignCache, Keys
from lading.builder.solver.operation import CacheMap, Context, Operation
from lading.builder.solver.reporting import Reporter
from lading.builder.solver.sharing import Shared
from lading.core.session import Session
from lading.errors import FailedPreconditionError, LadingError, NotFoundError, UnavailableError
from lading.oci.digest import Digest

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Output ``index`` of a vertex."""

    vertex: Digest
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Generic[R]):
    """One vertex of a graph that a build brings. ``own`` says that its outcome depends on the build."""

    digest: Digest
    operation: Operation[R]
    inputs: tuple[Edge, ...] = ()
    name: str = ""
    ignore_cache: bool = False
    own: bool = False
    progress_group: tuple[str, str, bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Known(Generic[R]):
    """What is known of an edge before it is done. ``hit`` is a cache with a record of its result."""

    keys: Keys = NO_KEYS
    hit: tuple[Cache[R], str] | None = None
    foreign: ForeignCache[R] | None = None
    """The same cache, if it is not our own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved(Generic[R]):
    """The result of an edge and its keys. ``record`` is that of the local cache, if it has one."""

    result: R
    keys: Keys = NO_KEYS
    record: str | None = None


@dataclass(eq=False, kw_only=True)
class Job(Generic[R]):
    """One build. ``caches`` are those that it imported."""

    progress: Progress
    session: Session | None = None
    no_cache: bool = False
    entitlements: frozenset[str] = frozenset()
    caches: list[ForeignCache[R]] = field(default_factory=list[ForeignCache[R]])
    places: "dict[Digest, LiveVertex[R]]" = field(default_factory=dict[Digest, "LiveVertex[R]"])
    """What each vertex of its graphs became."""
    scopes: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])
    closed: bool = False

    def sessions(self) -> list[Session]:
        """Its client's, if it has one."""
        return [self.session] if self.session is not None and not self.closed else []

    async def with_session(self, call: Callable[[Session], Awaitable[T]]) -> T:
        """As `Context.with_session`, for this build alone."""
        return await first_able(self.sessions, call)


class Stages(Protocol[R]):
    """The work behind what is shared; the scheduler."""

    async def map_of(self, vertex: "LiveVertex[R]", /) -> CacheMap[R]:
        """The cache map of a vertex."""
        ...

    async def content_of(self, vertex: "LiveVertex[R]", number: int, /) -> Digest:
        """The content digest of an input, as far as the vertex uses it."""
        ...

    async def fast(self, edge: "LiveEdge[R]", /) -> Known[R]:
        """What is known without doing anything."""
        ...

    async def slow(self, edge: "LiveEdge[R]", /) -> Known[R]:
        """What is known by the content of inputs."""
        ...

    async def done(self, edge: "LiveEdge[R]", /) -> Solved[R]:
        """The result."""
        ...

    async def run(self, vertex: "LiveVertex[R]", /) -> Mapping[int, Solved[R]]:
        """All results of a vertex that is not in any cache."""
        ...


class LiveEdge(Generic[R]):
    """One output of a live vertex, and what is known of it."""

    def __init__(self, vertex: "LiveVertex[R]", index: int, stages: Stages[R], group: TaskGroup) -> None:
        self.vertex = vertex
        self.index = index
        self.fast: Shared[Known[R]] = Shared(group, partial(stages.fast, self))
        self.slow: Shared[Known[R]] = Shared(group, partial(stages.slow, self))
        self.done: Shared[Solved[R]] = Shared(group, partial(stages.done, self))


class LiveVertex(Context, Generic[R]):
    """A vertex that some build wants; the context of its operation."""

    def __init__(
        self,
        node: Node[R],
        inputs: Sequence[LiveEdge[R]],
        stages: Stages[R],
        group: TaskGroup,
        *,
        ignore_cache: bool,
    ) -> None:
        self.node = node
        self.inputs = tuple(inputs)
        self.ignore_cache = ignore_cache
        self.jobs: dict[Job[R], None] = {}
        self.reporter = Reporter(
            node.digest,
            name=node.name,
            inputs=tuple(dict.fromkeys(edge.vertex for edge in node.inputs)),
            group=node.progress_group,
        )
        self.edges: dict[int, LiveEdge[R]] = {}
        self._stages = stages
        self._group = group
        self.cache_map: Shared[CacheMap[R]] = Shared(group, partial(stages.map_of, self))
        self.contents: list[Shared[Digest]] = [
            Shared(group, partial(stages.content_of, self, number)) for number in range(len(inputs))
        ]
        self.outputs: Shared[Mapping[int, Solved[R]]] = Shared(group, partial(stages.run, self))

    def edge(self, index: int) -> LiveEdge[R]:
        """One output, made on first use."""
        if index not in self.edges:
            self.edges[index] = LiveEdge(self, index, self._stages, self._group)
        return self.edges[index]

    def caches(self) -> list[ForeignCache[R]]:
        """The caches that builds which want it have imported."""
        return list(dict.fromkeys(cache for job in self.jobs for cache in job.caches))

    # The context of its operation.

    @property
    @override
    def vertex(self) -> Digest:
        return self.node.digest

    @override
    def log(self, stream: int, data: bytes) -> None:
        self.reporter.log(stream, data)

    @override
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
        self.reporter.status(
            id, name=name, current=current, total=total, started=started, completed=completed
        )

    @override
    def sessions(self) -> list[Session]:
        return [session for job in self.jobs for session in job.sessions()]

    @override
    def allowed(self, entitlement: str) -> bool:
        return all(entitlement in job.entitlements for job in self.jobs)

    @override
    async def with_session(self, call: Callable[[Session], Awaitable[T]]) -> T:
        return await first_able(self.sessions, call)


async def first_able(sessions: Callable[[], Sequence[Session]], call: Callable[[Session], Awaitable[T]]) -> T:
    """What ``call`` gives for the first session that can; ``sessions`` are those that there are now.

    Raises what the last one raised; `FailedPreconditionError` if there is none.
    """
    tried: list[Session] = []
    error: LadingError | None = None
    while fresh := [session for session in sessions() if session not in tried]:
        tried.append(fresh[0])
        try:
            return await call(fresh[0])
        except (NotFoundError, UnavailableError) as exc:  # this client has it not, or has left
            error = exc
    raise error or FailedPreconditionError(
        "the build has no session", hint="this operation needs a client that is connected"
    )
