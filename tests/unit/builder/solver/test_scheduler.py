"""The scheduler: what is done once, what is found again, who is told, and what ends when somebody leaves."""

import anyio
import pytest
from support.solving import MemoryRecorder, Silent, Value, Work, World

from lading.builder.errors import VertexError
from lading.builder.reports import LogEvent, VertexEvent
from lading.builder.solver.live import Edge, Node
from lading.builder.solver.scheduler import Scheduler
from lading.errors import CancelledError
from lading.oci.digest import Digest

pytestmark = pytest.mark.anyio


def node(work: Work, *inputs: Work, ignore_cache: bool = False, own: bool = False) -> Node[Value]:
    return Node(
        digest=digest(work),
        operation=work,
        inputs=tuple(Edge(vertex=digest(one)) for one in inputs),
        name=work.name,
        ignore_cache=ignore_cache,
        own=own,
    )


def digest(work: Work) -> Digest:
    return Digest.of(work.name.encode())


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def cache() -> MemoryRecorder:
    return MemoryRecorder()


@pytest.fixture
async def scheduler(cache):
    async with Scheduler(cache, max_parallelism=2) as scheduler:
        yield scheduler


async def build(scheduler, nodes, wanted, **options) -> tuple[str, Silent]:
    progress = Silent()
    async with scheduler.open_job(progress=progress, **options) as job:
        edge = scheduler.add(job, nodes, Edge(vertex=digest(wanted)))
        return (await scheduler.solve(job, edge)).result.content, progress


async def test_a_shared_input_runs_once(scheduler, world):
    base = Work(world, "base")
    left, right = (Work(world, name, by_content=[False]) for name in ("left", "right"))
    top = Work(world, "top", by_content=[False, False])
    nodes = [node(base), node(left, base), node(right, base), node(top, left, right)]
    made, _ = await build(scheduler, nodes, top)
    assert made == "top(left(base()),right(base()))"
    assert sorted(world.ran) == ["base", "left", "right", "top"]


async def test_what_was_made_is_found_by_the_next_build_without_its_inputs(scheduler, world):
    base, top = Work(world, "base"), Work(world, "top", by_content=[False])
    await build(scheduler, [node(base), node(top, base)], top)
    world.ran.clear()
    _, progress = await build(scheduler, [node(base), node(top, base)], top)
    assert world.ran == []
    last = {event.name: event for event in progress.events if isinstance(event, VertexEvent)}
    assert last["top"].cached
    assert last["base"].completed


async def test_the_same_content_made_otherwise_is_found(scheduler, world):
    def same(_):
        return "same"

    old, new = Work(world, "old", function=same), Work(world, "new", function=same)
    top = Work(world, "top", by_content=[True])
    after = Work(world, "after", by_content=[False])
    await build(scheduler, [node(old), node(top, old), node(after, top)], after)
    world.ran.clear()
    top2 = Work(world, "top again", key="top", by_content=[True])
    after2 = Work(world, "after again", key="after", by_content=[False])
    await build(scheduler, [node(new), node(top2, new), node(after2, top2)], after2)
    assert world.ran == ["new"]
    world.ran.clear()
    await build(scheduler, [node(new), node(top2, new), node(after2, top2)], after2)
    assert world.ran == []  # and now it is known by how it was made


async def test_volatile_inputs_are_made_each_time_and_count_by_content(scheduler, world):
    said = "one"
    client = Work(world, "client", volatile=True, function=lambda _: said)
    top = Work(world, "top", by_content=[True])
    after = Work(world, "after", by_content=[False])
    nodes = [node(client), node(top, client), node(after, top)]
    await build(scheduler, nodes, after)
    await build(scheduler, nodes, after)
    assert world.ran == ["client", "top", "after", "client"]
    said = "two"
    made, _ = await build(scheduler, nodes, after)
    assert made == "after(top(two))"
    assert world.ran[-3:] == ["client", "top", "after"]


async def test_ignoring_the_cache_makes_anew_what_stands_on_it(scheduler, world):
    count = 0

    def fresh(_):
        nonlocal count
        count += 1
        return f"made {count}"

    base, middle = Work(world, "base"), Work(world, "middle", by_content=[False], function=fresh)
    top = Work(world, "top", by_content=[False])
    nodes = [node(base), node(middle, base), node(top, middle)]
    await build(scheduler, nodes, top)
    made, _ = await build(
        scheduler, [node(base), node(middle, base, ignore_cache=True), node(top, middle)], top
    )
    assert made == "top(made 2)"
    made, _ = await build(scheduler, nodes, top)
    assert made == "top(made 2)"  # the newest record is the one that is found
    made, _ = await build(scheduler, nodes, top, no_cache=True)
    assert made == "top(made 3)"


async def test_two_names_for_the_same_work_do_it_once(scheduler, world):
    base = Work(world, "base")
    world.gates["one"] = anyio.Event()
    one, two = (Work(world, name, key="same", by_content=[False]) for name in ("one", "two"))
    top = Work(world, "top", by_content=[False, False])
    nodes = [node(base), node(one, base), node(two, base), node(top, one, two)]
    async with anyio.create_task_group() as group:
        group.start_soon(build, scheduler, nodes, top)
        while world.running == 0:
            await anyio.lowlevel.checkpoint()
        world.gates["one"].set()
    assert len([name for name in world.ran if name in ("one", "two")]) == 1


async def test_builds_share_running_work_and_late_ones_hear_what_was_said(scheduler, world):
    world.gates["slow"] = anyio.Event()
    slow = Work(world, "slow")
    first, second = Silent(), Silent()
    async with (
        anyio.create_task_group() as group,
        scheduler.open_job(progress=first) as one,
        scheduler.open_job(progress=second) as two,
    ):
        edge = scheduler.add(one, [node(slow)], Edge(vertex=digest(slow)))
        group.start_soon(scheduler.solve, one, edge)
        while not world.running:
            await anyio.lowlevel.checkpoint()
        edge.vertex.log(1, b"said early\n")
        again = scheduler.add(two, [node(slow)], Edge(vertex=digest(slow)))
        assert again is edge
        world.gates["slow"].set()
        await scheduler.solve(two, again)
    assert world.ran == ["slow"]
    assert [event.data for event in second.events if isinstance(event, LogEvent)] == [b"said early\n"]


async def test_one_build_leaving_does_not_end_what_another_wants(scheduler, world):
    world.gates["slow"] = anyio.Event()
    slow, top = Work(world, "slow"), Work(world, "top", by_content=[False])
    nodes = [node(slow), node(top, slow)]
    outcome: list[object] = []

    async def left() -> None:
        async with scheduler.open_job(progress=Silent()) as job:
            edge = scheduler.add(job, nodes, Edge(vertex=digest(top)))
            async with anyio.create_task_group() as inner:
                inner.start_soon(solve, job, edge)
                while not world.running:
                    await anyio.lowlevel.checkpoint()
                inner.cancel_scope.cancel()
        outcome.append("left")

    async def solve(job, edge) -> None:
        await scheduler.solve(job, edge)

    async def stayed() -> None:
        outcome.append((await build(scheduler, nodes, top))[0])

    async with anyio.create_task_group() as group:
        group.start_soon(left)
        group.start_soon(stayed)
        while "left" not in outcome:
            await anyio.lowlevel.checkpoint()
        assert world.running == 1
        world.gates["slow"].set()
    assert outcome == ["left", "top(slow())"]


async def test_work_that_nobody_wants_any_more_is_gone_when_the_build_has_left(scheduler, world):
    world.gates["slow"] = anyio.Event()
    slow, top = Work(world, "slow"), Work(world, "top", by_content=[False])
    nodes = [node(slow), node(top, slow)]
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(build, scheduler, nodes, top)
            while not world.running:
                await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert world.running == 0
    assert sorted(world.closed) == ["slow", "top"]
    world.gates.clear()
    assert (await build(scheduler, nodes, top))[0] == "top(slow())"  # as if it had never been tried


async def test_a_failure_has_the_name_of_its_vertex_and_is_not_remembered(scheduler, world):
    base, top = Work(world, "base"), Work(world, "top", by_content=[False])
    world.failing.add("base")
    with pytest.raises(VertexError, match="base fails") as caught:
        await build(scheduler, [node(base), node(top, base)], top)
    assert caught.value.vertex == digest(base)
    world.failing.clear()
    assert (await build(scheduler, [node(base), node(top, base)], top))[0] == "top(base())"


async def test_a_build_that_has_ended_solves_nothing(scheduler, world):
    base = Work(world, "base")
    async with scheduler.open_job(progress=Silent()) as job:
        edge = scheduler.add(job, [node(base)], Edge(vertex=digest(base)))
    with pytest.raises(CancelledError):
        await scheduler.solve(job, edge)


async def test_no_more_runs_at_once_than_allowed(scheduler, world):
    works = [Work(world, f"work {number}") for number in range(6)]
    top = Work(world, "top", by_content=[False] * 6)
    await build(scheduler, [*map(node, works), node(top, *works)], top)
    assert world.most <= 2


async def test_what_each_of_a_chain_takes_by_content_is_made_at_once(scheduler, world):
    client = Work(world, "client", volatile=True)
    stages = [Work(world, f"stage {number}", by_content=[True]) for number in range(2)]
    first = Work(world, "first", by_content=[False, True])
    second = Work(world, "second", by_content=[False, True])
    base = Work(world, "base")
    world.gates = {one.name: anyio.Event() for one in stages}
    nodes = [
        *(node(one) for one in (client, base)),
        *(node(one, client) for one in stages),
        node(first, base, stages[0]),
        node(second, first, stages[1]),
    ]
    async with anyio.create_task_group() as group:
        group.start_soon(build, scheduler, nodes, second)
        with anyio.fail_after(10):
            while world.running < 2:
                await anyio.lowlevel.checkpoint()
        for gate in world.gates.values():
            gate.set()
    assert world.ran[-1] == "second"


async def test_a_lost_result_is_made_again(scheduler, world, cache):
    base, top = Work(world, "base"), Work(world, "top", by_content=[False])
    nodes = [node(base), node(top, base)]
    await build(scheduler, nodes, top)

    async def nothing(record: str) -> None:
        return None

    cache.load = nothing
    assert (await build(scheduler, nodes, top))[0] == "top(base())"
    assert world.ran == ["base", "top"] * 2
