"""The collector: what it keeps, what it deletes, what it says, and that nothing stops it."""

from datetime import UTC, datetime, timedelta

import anyio
import pytest
from support.stores import MOBY, NoFiles, describe, open_stores

from lading.core.content import IngestRef
from lading.core.labels import GC_EXPIRE, GC_REF_CONTENT
from lading.core.leases import FLAT, Resource
from lading.core.metadata import Graph, Node
from lading.core.snapshots import Kind, Usage
from lading.errors import DataLossError
from lading.gc.collector import Collector
from lading.gc.mark import condemned_order, path_to
from lading.oci.digest import Digest
from lading.testing.memory.rows import mark

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        self.now += timedelta(microseconds=1)
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def stores(tmp_path, clock):
    async with open_stores(tmp_path / "root", clock=clock) as stores:
        yield stores


async def blobs(stores):
    return {info.digest async for info in stores.content.walk()}


async def snapshot(stores, key, parent=None, *, snapshotter="native"):
    rows = stores.database.snapshots(MOBY, snapshotter)
    await rows.create(
        key,
        id=await rows.allocate(),
        kind=Kind.COMMITTED,
        parent=parent,
        labels={},
        usage=Usage(size=100, inodes=1),
    )


def graph_of(edges, roots, flat=()):
    nodes = {Node(*n) for n in edges} | {Node(*n) for targets in edges.values() for n in targets}
    return Graph(
        nodes=frozenset(nodes),
        roots={Node(*root): f"{root[0]} {root[1]}" for root in roots},
        edges={Node(*n): [Node(*t) for t in targets] for n, targets in edges.items()},
        flat=frozenset(Node(*n) for n in flat),
        version=0,
    )


async def test_an_image_keeps_its_tree_and_nothing_else(stores):
    layer = await stores.put(b"layer")
    manifest = await stores.put(b"manifest", labels={f"{GC_REF_CONTENT}.l.0": layer})
    garbage = await stores.put(b"garbage")
    await stores.database.images(MOBY).put("image", describe(b"manifest"))
    collected = await stores.collector.collect()
    assert [node.id for node in collected.nodes] == [garbage]
    assert collected.freed == len(b"garbage")
    assert await blobs(stores) == {layer, manifest}
    assert not stores.content.files.blob(garbage).exists()
    await stores.database.images(MOBY).delete("image")
    assert (await stores.collector.collect()).freed == len(b"layermanifest")
    assert await blobs(stores) == set()


async def test_what_expires_is_collected(stores, clock):
    layer = await stores.put(b"layer")
    lease = await stores.database.leases(MOBY).create(
        labels={GC_EXPIRE: (clock.now + timedelta(hours=1)).isoformat()}
    )
    await stores.content._blobs.hold(layer, lease.id)
    await stores.put(b"target")
    expiry = (clock.now + timedelta(hours=2)).isoformat()
    await stores.database.images(MOBY).put("image", describe(b"target"), labels={GC_EXPIRE: expiry})
    async with stores.content.open_writer(IngestRef("unfinished")):
        pass
    assert (await stores.collector.collect()).nodes == []
    clock.now += timedelta(hours=1)
    assert {node.kind for node in (await stores.collector.collect()).nodes} == {"lease", "content"}
    clock.now += timedelta(hours=1)
    assert {node.kind for node in (await stores.collector.collect()).nodes} == {"image", "content"}
    clock.now += timedelta(hours=22)
    assert {node.kind for node in (await stores.collector.collect()).nodes} == {"ingest"}
    assert list((stores.content.files.root / "ingest").iterdir()) == []


async def test_an_expired_ingest_that_is_being_written_keeps_its_files(stores, clock):
    async with stores.content.open_writer(IngestRef("slow")) as writer:
        clock.now += timedelta(hours=25)
        await stores.collector.collect()
        writer.write(b"data")
        await writer.commit()
    assert await blobs(stores) == {Digest.of(b"data")}


async def test_snapshots_go_children_first_and_foreign_snapshotters_are_left_alone(stores):
    for number in range(1000):
        await snapshot(stores, f"{number:04}", f"{number - 1:04}" if number else None)
        if number == 300:
            break
    await snapshot(stores, "foreign", snapshotter="unknown")
    assert len((await stores.collector.collect()).nodes) == 301
    assert await stores.database.snapshots(MOBY, "native").list() == []
    assert len(await stores.database.snapshots(MOBY, "unknown").list()) == 1


async def test_one_failure_does_not_stop_the_sweep(stores):
    class Failing:
        def __init__(self, real):
            self.real = real

        async def delete_file(self, digest):
            if digest == broken:
                raise DataLossError("the disk says no")
            return await self.real.delete_file(digest)

        async def delete_ingest(self, ref):
            await self.real.delete_ingest(ref)

    class FailingSweep:
        async def sweep(self):
            raise OSError(5, "the disk says no")

    broken = await stores.put(b"broken")
    for number in range(10):
        await stores.put(bytes([number]))
    await snapshot(stores, "s")
    collector = Collector(
        stores.database,
        MOBY,
        content=Failing(stores.content),
        snapshotters={"native": FailingSweep()},
        clock=stores.content._clock,
    )
    collected = await collector.collect()
    assert {node for node, _ in collected.failed} == {Node("content", broken), Node("snapshot", "", "native")}
    assert collected.freed == 10
    assert [path.name for path in (stores.content.files.root / "blobs/sha256").iterdir()] == [broken.hex]


async def test_a_blob_written_between_mark_and_sweep_stays(stores):
    """A pull that takes up a condemned blob wins, whether before or after its row goes."""
    digest = await stores.put(b"data")
    graph = await stores.database.graph(MOBY, now=stores.content._clock())
    gone = await stores.database.condemn(
        MOBY, list(graph.nodes), version=graph.version, now=stores.content._clock()
    )
    assert [node.id for node in gone] == [digest]
    await stores.put(b"data", ref="again")
    assert await stores.content.delete_file(digest) == 0
    assert await stores.content.read(digest, limit=10) == b"data"


async def test_why_and_dry_run(stores):
    layer = await stores.put(b"layer")
    manifest = await stores.put(b"manifest", labels={f"{GC_REF_CONTENT}.l.0": layer})
    garbage = await stores.put(b"garbage")
    await snapshot(stores, "s")
    await stores.database.images(MOBY).put("image", describe(b"manifest"))
    chain = await stores.collector.why(Node("content", layer))
    assert [step.node.id for step in chain] == ["image", manifest, layer]
    assert [step.reason for step in chain] == ["image image", "", ""]
    assert await stores.collector.why(Node("content", garbage)) == []
    assert await stores.collector.why(Node("content", Digest.of(b"missing"))) == []
    planned = await stores.collector.dry_run()
    assert planned.nodes == {Node("snapshot", "s", "native"): 100, Node("content", garbage): len(b"garbage")}
    assert planned.freed == 100 + len(b"garbage")
    assert planned.kept == 3
    assert len(await blobs(stores)) == 3


async def test_it_runs_when_triggered_and_when_time_passes(tmp_path):
    async with open_stores(tmp_path / "root") as stores, anyio.create_task_group() as group:
        swept = anyio.Event()

        class Seen(NoFiles):
            async def sweep(self):
                swept.set()
                return 0

        await snapshot(stores, "one")
        collector = Collector(
            stores.database,
            MOBY,
            content=stores.content,
            snapshotters={"native": Seen()},
            clock=lambda: datetime.now(UTC),
            delay=0.01,
        )
        group.start_soon(collector.run)
        await anyio.wait_all_tasks_blocked()
        assert not swept.is_set()
        collector.trigger()
        collector.trigger()
        with anyio.fail_after(10):
            await swept.wait()
        swept = anyio.Event()
        await snapshot(stores, "two")
        collector = Collector(
            stores.database,
            MOBY,
            content=stores.content,
            snapshotters={"native": Seen()},
            clock=lambda: datetime.now(UTC),
            delay=0,
            interval=timedelta(milliseconds=10),
        )
        group.start_soon(collector.run)
        with anyio.fail_after(10):
            await swept.wait()
        group.cancel_scope.cancel()


async def test_a_flat_lease_keeps_its_resources_and_the_parents_of_snapshots(stores):
    layer = await stores.put(b"layer")
    manifest = await stores.put(b"manifest", labels={f"{GC_REF_CONTENT}.l.0": layer})
    await snapshot(stores, "parent")
    await snapshot(stores, "child", "parent")
    lease = (await stores.database.leases(MOBY).create(labels={FLAT: "x"})).id
    leases = stores.database.leases(MOBY)
    await leases.add(lease, Resource(kind="content", id=manifest))
    await leases.add(lease, Resource(kind="snapshot", id="child", snapshotter="native"))
    chain = await stores.collector.why(Node("snapshot", "parent", "native"))
    assert [step.node.id for step in chain] == [lease, "child", "parent"]
    assert await stores.collector.why(Node("content", layer)) == []
    assert [node.id for node in (await stores.collector.collect()).nodes] == [layer]


def test_mark_follows_circles_and_missing_nodes():
    a, b, c, d = ("content", "a"), ("content", "b"), ("content", "c"), ("content", "d")
    graph = graph_of({a: [b], b: [a], c: [d], d: [c]}, roots=[a, ("image", "missing")])
    assert mark(graph) == {Node(*c), Node(*d)}
    assert len(condemned_order(graph.edges, mark(graph))) == 2


def test_snapshots_in_a_circle_of_labels_are_still_ordered():
    s, t, u = (("snapshot", name, "native") for name in "stu")
    graph = graph_of({s: [t], t: [s], u: [s]}, roots=[])
    order = condemned_order(graph.edges, graph.nodes)
    assert order[0] == Node(*u)
    assert set(order) == graph.nodes


def test_why_prefers_what_lasts():
    image, lease, blob = ("image", "i"), ("lease", "l"), ("content", "b")
    graph = graph_of({lease: [blob], image: [blob]}, roots=[lease, image])
    assert [step.node.kind for step in path_to(graph, Node(*blob))] == ["image", "content"]
