"""Random graphs, failures, leavers and shared vertices: the scheduler against a model that computes the value directly."""

from collections.abc import Sequence

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.solving import MemoryRecorder, Silent, Value, Work, World

from lading.builder.errors import VertexError
from lading.builder.solver.live import Edge, Node
from lading.builder.solver.scheduler import Scheduler
from lading.errors import CancelledError
from lading.oci.digest import Digest

Graph = list[tuple[tuple[int, ...], tuple[bool, ...], str, bool]]
"""Per vertex: its inputs (smaller numbers), which of them count by content, its key, whether it is volatile."""


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    made: Graph = []
    for number in range(draw(st.integers(1, 7))):
        inputs = tuple(draw(st.lists(st.integers(0, number - 1), max_size=3, unique=True))) if number else ()
        contents = tuple(draw(st.booleans()) for _ in inputs)
        key = draw(st.sampled_from(["a", "b", "c", "d", f"own {number}"]))
        volatile = not inputs and draw(st.booleans())
        made.append((inputs, contents, f"{key}{len(inputs)}{contents}{volatile}", volatile))
    return made


def value(graph: Graph, number: int) -> str:
    """What a vertex must give. Keys decide what is made; some ways of making lead to the same."""
    inputs, _, key, _ = graph[number]
    return make(key, [value(graph, one) for one in inputs])


def make(key: str, inputs: Sequence[str]) -> str:
    return key if key.startswith("a") else f"{key}({','.join(inputs)})"


def nodes(graph: Graph, world: World, ignored: frozenset[int]) -> list[Node[Value]]:
    digests: list[Digest] = []
    made: list[Node[Value]] = []
    for number, (inputs, contents, key, volatile) in enumerate(graph):
        digests.append(Digest.of(repr((key, [digests[one] for one in inputs])).encode()))
        work = Work(
            world,
            f"v{number}",
            key=key,
            function=lambda given, key=key: make(key, given),
            by_content=contents,
            volatile=volatile,
        )
        made.append(
            Node(
                digest=digests[-1],
                operation=work,
                inputs=tuple(Edge(vertex=digests[one]) for one in inputs),
                name=f"v{number}",
                ignore_cache=number in ignored,
            )
        )
    return made


builds = st.lists(
    st.tuples(
        st.integers(0, 6),  # the vertex wanted
        st.frozensets(st.integers(0, 6), max_size=2),  # those that ignore the cache
        st.one_of(st.none(), st.integers(0, 25)),  # after how many steps it leaves
        st.sets(st.integers(0, 6), max_size=1),  # those that fail
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(graphs(), st.lists(builds, min_size=1, max_size=3))
def test_every_build_gets_its_value_whatever_others_do(graph: Graph, rounds: list) -> None:
    anyio.run(_play, graph, rounds)


async def _play(graph: Graph, rounds: list) -> None:
    cache = MemoryRecorder()
    world = World()
    async with Scheduler(cache, max_parallelism=2) as scheduler:
        for wishes in rounds:
            world.failing = {f"v{number}" for wish in wishes for number in wish[3]}
            with anyio.fail_after(20):  # a deadlock
                async with anyio.create_task_group() as group:
                    for wish in wishes:
                        group.start_soon(_build, scheduler, graph, world, wish)
            assert world.running == 0
            assert not scheduler._live
    for record in cache.records.values():
        assert isinstance(record[1], Value)


async def _build(scheduler: Scheduler[Value], graph: Graph, world: World, wish: tuple) -> None:
    wanted, ignored, leaves_after, _ = wish
    wanted %= len(graph)
    made = nodes(graph, world, ignored)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            if leaves_after is not None:
                group.start_soon(_leave, scope, leaves_after)
            async with scheduler.open_job(progress=Silent()) as job:
                edge = scheduler.add(job, made, Edge(vertex=made[wanted].digest))
                try:
                    solved = await scheduler.solve(job, edge)
                except VertexError:
                    assert world.failing
                except CancelledError:
                    assert leaves_after is not None
                else:
                    assert solved.result.content == value(graph, wanted)
            group.cancel_scope.cancel()


async def _leave(scope: anyio.CancelScope, steps: int) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    scope.cancel()
