"""The mark in SQL agrees with looking at every node, whatever refers to what."""

import tempfile
from datetime import UTC, datetime, timedelta

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.core.containers import ContainerRecord
from lading.core.content import IngestRef
from lading.core.labels import GC_EXPIRE, GC_ROOT
from lading.core.leases import FLAT, Resource
from lading.core.metadata import IngestRow, Namespace
from lading.core.snapshots import Kind, Usage
from lading.metadata.database import SqliteDatabase
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.testing.memory.rows import mark

HERE, THERE = Namespace("here"), Namespace("there")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = st.integers(0, 5)
SCOPES = st.sampled_from(["erofs", "native"])


def digest(number: int) -> Digest:
    return Digest.of(bytes([number]))


def values(key: str):
    return SNAPSHOT_NAMES if "snapshot" in key else IMAGE_NAMES if "image" in key else DIGESTS


DIGESTS = NAMES.map(digest)
SNAPSHOT_NAMES = NAMES.map(lambda number: f"s{number}")
IMAGE_NAMES = NAMES.map(lambda number: f"i{number}")
REFERENCES = st.sampled_from(
    [
        f"containerd.io/gc.{direction}.{rest}"
        for direction in ("ref", "bref")
        for rest in (
            "content",
            "content.l.0",
            "content/x",
            "snapshot.erofs",
            "snapshot.native/a",
            "image",
            "nothing",
            "snapshot.",
        )
    ]
).flatmap(lambda key: st.tuples(st.just(key), values(key)))
EXPIRY = st.sampled_from([-1, 1]).map(lambda hours: (GC_EXPIRE, (NOW + timedelta(hours=hours)).isoformat()))
OTHERS = st.sampled_from(
    [
        (GC_ROOT, "x"),
        (FLAT, "x"),
        ("containerd.io/gcx", "x"),
        ("a", "containerd.io/gc.root"),
        (GC_EXPIRE, "?"),
    ]
)
LABELS = st.lists(st.one_of(REFERENCES, REFERENCES, EXPIRY, OTHERS), max_size=3).map(dict)
ROWS = st.lists(
    st.one_of(
        st.tuples(st.just("blob"), NAMES, LABELS),
        st.tuples(st.just("image"), NAMES, NAMES, LABELS),
        st.tuples(st.just("lease"), NAMES, LABELS, st.lists(st.tuples(st.sampled_from(["content", "snapshot", "image"]), NAMES, SCOPES), max_size=2)),
        st.tuples(st.just("snapshot"), NAMES, st.none() | NAMES, SCOPES, LABELS),
        st.tuples(st.just("ingest"), NAMES, st.none() | NAMES, st.sampled_from([-1, 1])),
        st.tuples(st.just("container"), NAMES, NAMES, SCOPES, NAMES),
    ),
    max_size=14,
)  # fmt: skip


async def add(database: SqliteDatabase, row, number: int) -> None:
    match row:
        case ("blob", name, labels):
            await database.blobs(HERE).add(digest(name), 1, labels=labels)
        case ("image", name, target, labels):
            descriptor = Descriptor(media_type="x", digest=digest(target), size=1)
            await database.images(HERE).put(f"i{name}", descriptor, labels=labels)
        case ("lease", name, labels, held):
            known = {lease.id for lease in await database.leases(HERE).list()}
            if f"l{name}" not in known:
                await database.leases(HERE).create(f"l{name}", labels=labels)
            for kind, other, scope in held:
                id = digest(other) if kind == "content" else f"{kind[0]}{other}"
                resource = Resource(kind=kind, id=id, snapshotter=scope if kind == "snapshot" else "")
                await database.leases(HERE).add(f"l{name}", resource)
        case ("snapshot", name, parent, scope, labels):
            rows = database.snapshots(HERE, scope)
            there = {each.info.key for each in await rows.list()}
            if f"s{name}" not in there:
                above = f"s{parent}" if f"s{parent}" in there else None
                usage = Usage(size=1, inodes=1)
                await rows.create(
                    f"s{name}", id=number + 1, kind=Kind.COMMITTED, parent=above, labels=labels, usage=usage
                )
        case ("ingest", name, expected, hours):
            wanted = None if expected is None else digest(expected)
            await database.blobs(HERE).open_ingest(
                IngestRow(
                    ref=IngestRef(f"g{name}"),
                    expected=wanted,
                    total=0,
                    started_at=NOW,
                    expires_at=NOW + timedelta(hours=hours),
                )
            )
        case ("container", name, image, scope, key):
            if f"c{name}" not in {each.id for each in await database.containers(HERE).list()}:
                await database.containers(HERE).create(
                    ContainerRecord(
                        id=f"c{name}",
                        name=f"n{name}",
                        snapshotter=scope,
                        snapshot_key=f"s{key}",
                        image=digest(image),
                        target="",
                        document={},
                    )
                )
        case _:
            raise AssertionError(row)


def check(rows) -> None:
    async def run(path: str) -> None:
        async with SqliteDatabase.open(f"{path}/lading.db", reserve=1 << 16) as database:
            await database.blobs(THERE).add(digest(0), 1, labels={GC_ROOT: "x"})
            for number, row in enumerate(rows):
                await add(database, row, number)
            graph = await database.graph(HERE, now=NOW)
            marked = await database.mark(HERE, now=NOW)
            assert set(marked.garbage) == mark(graph)
            assert marked.kept == len(graph.nodes) - len(marked.garbage)
            snapshots = {node for node in marked.garbage if node.kind == "snapshot"}
            assert {node: set(others) for node, others in marked.edges.items()} == {
                node: kept
                for node in snapshots
                if (kept := {other for other in graph.edges.get(node, ()) if other in snapshots})
            }

    with tempfile.TemporaryDirectory() as path:
        anyio.run(run, path)


@settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(rows=ROWS)
def test_the_mark_is_right_for_any_rows(rows):
    check(rows)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(max_examples=3000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_the_mark_is_right_for_very_many_rows(rows):
    check(rows)
