"""The scheduler: what is known, what has to be done, and who wants it.

**Stages.** An edge is resolved in up to three stages, each of which may be the last. *Fast*: its keys follow from how its inputs
were made; nothing is done. *Slow*: the same with what is known of the inputs by then; and then inputs whose
content counts are made, and their content gives keys. *Done*: a record with one
of these keys is loaded, or all inputs are made and the operation runs. Each stage is done once (`Shared`) for all who wait.

**Who waits.** A stage of an edge waits for stages of its inputs, and builds wait for edges; the graph has no cycles, and nothing
is held while waiting but the waiting itself, so there can be no deadlock. Places of the limit on parallel work are held only
while an operation runs.

**Sharing.** A vertex lives as long as a build has it. Vertices with the same name are one, unless their outcome depends on the
build: one that ignores the cache, or reads from "the" client, is the build's own, and so is everything above it.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final, Generic, Self, TypeVar

import anyio
from anyio.abc import TaskGroup
from typing_extensions import override

from lading.builder.errors import VertexError
from lading.builder.reports import Progress
from lading.builder.solver.keys import Cache, ForeignCache, Found, Given, Keys, Recorder, output_key
from lading.builder.solver.live import Edge, Job, Known, LiveEdge, LiveVertex, Node, Solved, Stages
from lading.builder.solver.operation import CacheMap
from lading.core.session import Session
from lading.errors import CancelledError, LadingError
from lading.kit.tasks import KeyedLock, task_group
from lading.oci.digest import Digest

R = TypeVar("R")
T = TypeVar("T")
MAX_PARALLELISM: Final = max(16, 4 * (os.cpu_count() or 1))
"""Operations that run at a time. BuildKit has no bound by itself: most steps wait for a network or a disk, not for a processor.
What a build's own programs need beside each other is what bounds it.
"""


class Scheduler(Stages[R], Generic[R]):
    """All builds of one daemon. An async context manager; all builds have ended when it is left."""

    def __init__(self, cache: Recorder[R], *, max_parallelism: int = MAX_PARALLELISM) -> None:
        self._cache = cache
        self._live: dict[tuple[Digest, Job[R] | None], LiveVertex[R]] = {}
        self._locks = KeyedLock()
        self._max_parallelism = max_parallelism
        self._limiter: anyio.CapacityLimiter | None = None
        self._stack = AsyncExitStack()
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        self._limiter = anyio.CapacityLimiter(self._max_parallelism)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._group is not None:
            self._group.cancel_scope.cancel()
        await self._stack.aclose()

    # Builds.

    @asynccontextmanager
    async def open_job(
        self,
        *,
        progress: Progress,
        session: Session | None = None,
        no_cache: bool = False,
        entitlements: frozenset[str] = frozenset(),
    ) -> AsyncGenerator[Job[R]]:
        """A build. When the context is left, what only it wanted has been cancelled and is gone."""
        job: Job[R] = Job(progress=progress, session=session, no_cache=no_cache, entitlements=entitlements)
        try:
            yield job
        finally:
            job.closed = True
            for scope in list(job.scopes):
                scope.cancel()
            for key, vertex in list(self._live.items()):
                if job in vertex.jobs:
                    del vertex.jobs[job]
                    vertex.reporter.detach(job.progress)
                    if not vertex.jobs:
                        del self._live[key]
                        vertex.node.operation.close()

    def add(self, job: Job[R], nodes: Sequence[Node[R]], edge: Edge) -> LiveEdge[R]:
        """Bring a graph, inputs first, into a build; the edge that is wanted of it. Nothing is done yet."""
        for node in nodes:
            if node.digest not in job.places:
                job.places[node.digest] = self._place(job, node)
        return job.places[edge.vertex].edge(edge.index)

    def _place(self, job: Job[R], node: Node[R]) -> LiveVertex[R]:
        inputs = [job.places[edge.vertex].edge(edge.index) for edge in node.inputs]
        ignore = job.no_cache or node.ignore_cache
        own = node.own or ignore or any(self._owned(edge.vertex, job) for edge in inputs)
        key = (node.digest, job if own else None)
        vertex = self._live.get(key)
        if vertex is None:
            assert self._group is not None, "use `async with`"
            vertex = LiveVertex(node, inputs, self, self._group, ignore_cache=ignore)
            self._live[key] = vertex
        vertex.jobs[job] = None
        vertex.reporter.attach(job.progress)
        return vertex

    def _owned(self, vertex: LiveVertex[R], job: Job[R]) -> bool:
        return self._live.get((vertex.node.digest, job)) is vertex

    async def solve(self, job: Job[R], edge: LiveEdge[R]) -> Solved[R]:
        """The result of an edge.

        Raises:
            VertexError: An operation failed.
            CancelledError: The build ended meanwhile.

        """
        return await self._within(job, edge.done.join)

    async def _within(self, job: Job[R], call: Callable[[], Awaitable[T]]) -> T:
        if job.closed:
            raise CancelledError("the build has ended")
        with anyio.CancelScope() as scope:
            job.scopes.add(scope)
            try:
                return await call()
            finally:
                job.scopes.discard(scope)
        raise CancelledError("the build has ended")

    def in_use(self) -> set[str]:
        """Records of the local cache whose results a build has."""
        return {
            edge.done.value.record
            for vertex in self._live.values()
            for edge in vertex.edges.values()
            if edge.done.finished and edge.done.value.record
        }

    # Stages.

    @override
    async def map_of(self, vertex: LiveVertex[R], /) -> CacheMap[R]:
        if vertex.inputs:
            return await self._guarded(vertex, vertex.node.operation.cache_map(vertex))
        vertex.reporter.start()
        found = await self._guarded(vertex, vertex.node.operation.cache_map(vertex))
        vertex.reporter.complete()
        return found

    @override
    async def content_of(self, vertex: LiveVertex[R], number: int, /) -> Digest:
        found = (await vertex.cache_map.join()).dependencies[number]
        assert found.content is not None
        solved = await vertex.inputs[number].done.join()
        try:
            return await self._guarded(vertex, found.content(solved.result))
        except VertexError as exc:
            raise VertexError(f"failed to compute cache key: {exc.message}", vertex=exc.vertex) from exc

    @override
    async def fast(self, edge: LiveEdge[R], /) -> Known[R]:
        vertex = edge.vertex
        if vertex.ignore_cache:
            return Known()
        found = await vertex.cache_map.join()
        if found.volatile:
            return Known()
        known = await _gather([one.fast.join for one in vertex.inputs])
        pairs = zip(known, found.dependencies, strict=True)
        return await self._look(
            edge, [Given(keys=one.keys, selector=dependency.selector) for one, dependency in pairs]
        )

    @override
    async def slow(self, edge: LiveEdge[R], /) -> Known[R]:
        vertex = edge.vertex
        known = await edge.fast.join()
        if known.hit or vertex.ignore_cache or not vertex.inputs:
            return known
        # What is known of the inputs may be enough, so that none has to be made for the sake of its content. As soon as one of
        # them has no key in any cache it cannot be, and nothing waits for what is known of the others.
        async with task_group() as group:
            asked: _Asked[R] = _Asked([self._cache, *vertex.caches()], len(vertex.inputs))
            for one in vertex.inputs:
                group.start_soon(asked.ask, one)
            await asked.decided.wait()
            if asked.possible:
                found = await self._look(edge, await self._given(vertex, solved=False, by_content=False))
                if found.hit:
                    return found
            given = await self._given(vertex, solved=False)
        found = await self._look(edge, given)
        if found.hit and found.hit[0] is self._cache:
            links = [one.links(self._cache) for one in given]
            await self._cache.connect(_output(edge), links, found.keys.of(self._cache))
        return found

    async def _given(self, vertex: LiveVertex[R], *, solved: bool, by_content: bool = True) -> list[Given]:
        """What is known of each input: its keys, and its content where that counts."""
        dependencies = (await vertex.cache_map.join()).dependencies

        async def one(number: int) -> Given:
            edge, dependency = vertex.inputs[number], dependencies[number]
            counts = by_content and dependency.content is not None
            content = await vertex.contents[number].join() if counts else None
            whole = solved or content is not None
            keys = (await edge.done.join()).keys if whole else (await edge.slow.join()).keys
            return Given(keys=keys, selector=dependency.selector, content=content)

        return await _gather([partial(one, number) for number in range(len(vertex.inputs))])

    @override
    async def done(self, edge: LiveEdge[R], /) -> Solved[R]:
        known = await edge.slow.join()
        loaded = await self._load(edge, known)
        if loaded is not None:
            self._mark_cached(edge.vertex)
            return loaded
        return (await edge.vertex.outputs.join())[edge.index]

    async def _load(self, edge: LiveEdge[R], known: Known[R]) -> Solved[R] | None:
        if known.hit is None:
            return None
        cache, record = known.hit
        result = await self._guarded(edge.vertex, cache.load(record))
        if result is None:
            return None
        if cache is self._cache:
            return Solved(result=result, keys=known.keys, record=record)
        # What came from elsewhere is found here the next time.
        assert known.foreign is not None
        keys: frozenset[str] = frozenset()
        saved = Found()
        ways = await known.foreign.ways(record)
        for way in ways[:-1]:
            await self._cache.connect(way.output, way.inputs, frozenset({way.key}))
        for way in ways[-1:]:
            keys = frozenset({way.key})
            saved = await self._cache.save(
                way.output,
                way.inputs,
                result,
                keys=keys,
                vertex=edge.vertex.vertex,
                name=edge.vertex.node.name,
            )
        by_cache = {**known.keys.by_cache, self._cache: keys}
        return Solved(
            result=result,
            keys=Keys(everywhere=known.keys.everywhere, by_cache=by_cache),
            record=saved.record,
        )

    def _mark_cached(self, vertex: LiveVertex[R]) -> None:
        """A result was found: the vertex is done, and so are those that it would have needed."""
        pending, seen = [vertex], {vertex}
        while pending:
            one = pending.pop()
            if one is vertex or not one.reporter.begun:
                one.reporter.complete(cached=True)
            fresh = {edge.vertex for edge in one.inputs} - seen
            seen |= fresh
            pending.extend(fresh)

    @override
    async def run(self, vertex: LiveVertex[R], /) -> Mapping[int, Solved[R]]:
        found = await vertex.cache_map.join()
        inputs = await _gather([edge.done.join for edge in vertex.inputs])
        given = await self._given(vertex, solved=True)
        # Another vertex may be doing the same under another name.
        same = (found.digests[0], *(tuple(one.links(self._cache)) for one in given))
        async with self._locks.hold(vertex if found.volatile or vertex.ignore_cache else same):
            again = await self._found_meanwhile(vertex, given)
            if again is not None:
                self._mark_cached(vertex)
                return again
            results = await self._perform(vertex, [solved.result for solved in inputs])
            return {
                number: await self._save(vertex, number, given, result)
                for number, result in enumerate(results)
            }

    async def _found_meanwhile(
        self, vertex: LiveVertex[R], given: Sequence[Given]
    ) -> Mapping[int, Solved[R]] | None:
        if vertex.ignore_cache:
            return None
        found: dict[int, Solved[R]] = {}
        for index, edge in list(vertex.edges.items()):
            solved = await self._load(edge, await self._look(edge, given))
            if solved is None:
                return None
            found[index] = solved
        return found

    async def _perform(self, vertex: LiveVertex[R], inputs: Sequence[R]) -> Sequence[R]:
        operation = vertex.node.operation
        if not operation.slots:
            return await self._perform_now(vertex, inputs)
        assert self._limiter is not None
        async with self._limiter:
            return await self._perform_now(vertex, inputs)

    async def _perform_now(self, vertex: LiveVertex[R], inputs: Sequence[R]) -> Sequence[R]:
        vertex.reporter.start()
        results = await self._guarded(vertex, vertex.node.operation.run(inputs, vertex))
        vertex.reporter.complete()
        return results

    async def _save(self, vertex: LiveVertex[R], number: int, given: Sequence[Given], result: R) -> Solved[R]:
        found = vertex.cache_map.value
        if found.volatile:
            return Solved(result=result)
        outputs = [output_key(digest, number) for digest in found.digests]
        links = [one.links(self._cache) for one in given]
        keys: frozenset[str] = frozenset()
        if not links:
            keys = frozenset(outputs)
        elif not vertex.ignore_cache:
            # What was made in spite of the cache may differ: nothing that stands on an older result is found by it.
            keys = (await self._cache.find(outputs[0], links)).keys
        saved = await self._cache.save(
            outputs[0], links, result, keys=keys, vertex=vertex.vertex, name=vertex.node.name
        )
        if not links:
            return Solved(result=result, keys=Keys(everywhere=keys), record=saved.record)
        return Solved(result=result, keys=Keys(by_cache={self._cache: saved.keys}), record=saved.record)

    async def _look(self, edge: LiveEdge[R], given: Sequence[Given]) -> Known[R]:
        """Look for an edge in every cache that its builds have."""
        digests = edge.vertex.cache_map.value.digests
        outputs = [output_key(digest, edge.index) for digest in digests]
        by_cache: dict[object, frozenset[str]] = {}
        hit: tuple[Cache[R], str] | None = None
        foreign: ForeignCache[R] | None = None
        for other in (None, *edge.vertex.caches()):
            cache: Cache[R] = self._cache if other is None else other
            links = [one.links(cache) for one in given]
            if not all(links):
                continue
            for output in outputs if not given else outputs[:1]:
                found = await cache.find(output, links)
                by_cache[cache] = by_cache.get(cache, frozenset()) | found.keys
                if hit is None and found.record is not None:
                    hit, foreign = (cache, found.record), other
        everywhere = frozenset[str](outputs) if not given else frozenset[str]()
        return Known(keys=Keys(everywhere=everywhere, by_cache=by_cache), hit=hit, foreign=foreign)

    async def _guarded(self, vertex: LiveVertex[R], call: Awaitable[T]) -> T:
        """Let an operation's failure be the vertex's, with its name."""
        try:
            return await call
        except VertexError as exc:
            if exc.vertex == vertex.vertex:
                vertex.reporter.complete(error=exc.message)
            raise
        except LadingError as exc:
            vertex.reporter.complete(error=str(exc))
            raise VertexError(str(exc), vertex=vertex.vertex) from exc
        except anyio.get_cancelled_exc_class():
            if vertex.reporter.begun:
                vertex.reporter.complete(error="context canceled")
            raise


class _Asked(Generic[R]):
    """Whether the keys of inputs alone may lead to a record: ``possible`` are caches in which every input known has a key."""

    def __init__(self, caches: Sequence[object], inputs: int) -> None:
        self.possible = list(caches)
        self.decided = anyio.Event()
        self._left = inputs

    async def ask(self, edge: LiveEdge[R]) -> None:
        """Take in what is known of one input."""
        keys = (await edge.slow.join()).keys
        self.possible = [cache for cache in self.possible if keys.of(cache)]
        self._left -= 1
        if not self._left or not self.possible:
            self.decided.set()


def _output(edge: LiveEdge[R]) -> Digest:
    return output_key(edge.vertex.cache_map.value.digests[0], edge.index)


async def _gather(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What all calls give, made at once; if one fails, the others are cancelled and its error is raised."""
    if len(calls) == 1:
        return [await calls[0]()]
    results: dict[int, T] = {}
    async with task_group() as group:

        async def run(number: int) -> None:
            results[number] = await calls[number]()

        for number in range(len(calls)):
            group.start_soon(run, number)
    return [results[number] for number in range(len(calls))]
