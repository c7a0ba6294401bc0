"""What every `lading.core.metadata.Database` must do. Subclass `DatabaseSuite` and provide ``database``."""

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from lading.core.builds import BuildRecord
from lading.core.containers import ContainerRecord
from lading.core.content import IngestRef
from lading.core.facts import Kind as ManifestKind
from lading.core.facts import ManifestFacts, TargetFacts
from lading.core.images import Pointed
from lading.core.labels import GC_EXPIRE, GC_REF_CONTENT, GC_REF_SNAPSHOT, GC_ROOT
from lading.core.leases import LeaseID, Resource
from lading.core.metadata import TREE, Database, IngestRow, Namespace, Node, SnapshotRow
from lading.core.networks import Network, NetworkID, Subnet
from lading.core.snapshots import Kind, Usage
from lading.core.volumes import Volume
from lading.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)
from lading.oci.descriptor import Descriptor, Platform
from lading.oci.digest import ChainID, Digest
from lading.testing.memory.rows import mark

HERE = Namespace("here")
THERE = Namespace("there")
NOTHING = Usage(size=0, inodes=0)


def digest(text: str) -> Digest:
    """A digest that is easy to make."""
    return Digest.of(text.encode())


def target(text: str) -> Descriptor:
    """A descriptor that is easy to make."""
    return Descriptor(
        media_type="application/vnd.oci.image.index.v1+json",
        digest=digest(text),
        size=len(text),
        annotations={"a": "b"},
        platform=Platform(architecture="arm64", os="linux", variant="v8"),
    )


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def record(name: str, **fields: str) -> ContainerRecord:
    """A container."""
    defaults = {"id": f"id-{name}", "snapshotter": "", "snapshot_key": "", "image": "", "target": ""}
    return ContainerRecord(name=name, document={"n": 1, "deep": [None, True, "ü"]}, **{**defaults, **fields})


def known(
    name: str,
    *,
    blobs: Iterable[str],
    chain: Iterable[str] = (),
    here: Iterable[str] = (),
    absent: Iterable[str] = (),
) -> TargetFacts:
    """Facts of `target` ``name``: one manifest of these blobs, each as long as its name."""
    manifest = ManifestFacts(
        descriptor=target(name),
        kind=ManifestKind.IMAGE,
        platform=Platform(architecture="arm64", os="linux"),
        blobs={digest(blob): len(blob) for blob in blobs},
        chain=tuple(ChainID(digest(one)) for one in chain),
        document=True,
    )
    documents = {digest(one): True for one in here} | {digest(one): False for one in absent}
    return TargetFacts(
        target=target(name),
        manifests=(manifest,),
        documents=documents,
        best=0,
        created=17,
        labels={"tier": "web"},
    )


async def add(database: Database, *names: str) -> None:
    """Blobs, each as long as its name."""
    for name in names:
        await database.blobs(HERE).add(digest(name), len(name), labels={})


class DatabaseSuite:
    """Every promise of the port."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    async def database(self) -> AsyncIterator[Database]:
        raise NotImplementedError
        yield

    # Blobs

    async def test_blob_comes_and_goes(self, database: Database) -> None:
        blobs = database.blobs(HERE)
        with pytest.raises(NotFoundError):
            await blobs.get(digest("a"))
        added = await blobs.add(digest("a"), 5, labels={"k": "v"})
        assert (added.digest, added.size, dict(added.labels)) == (digest("a"), 5, {"k": "v"})
        assert added.created_at == added.updated_at
        assert added == await blobs.get(digest("a"))
        assert await blobs.delete(digest("a"))
        with pytest.raises(NotFoundError):
            await blobs.delete(digest("a"))

    async def test_blob_added_again_keeps_and_gains_labels(self, database: Database) -> None:
        blobs = database.blobs(HERE)
        first = await blobs.add(digest("a"), 5, labels={"old": "1", "both": "1"})
        second = await blobs.add(digest("a"), 5, labels={"new": "2", "both": "2"})
        assert dict(second.labels) == {"old": "1", "new": "2", "both": "2"}
        assert second.created_at == first.created_at

    async def test_namespaces_share_bytes_and_nothing_else(self, database: Database) -> None:
        await database.blobs(HERE).add(digest("a"), 5, labels={"k": "v"})
        assert await database.blobs(THERE).list() == []
        assert await database.blobs(THERE).present(digest("a")) == 5
        assert not await database.blobs(HERE).elsewhere(digest("a"))
        assert await database.blobs(THERE).elsewhere(digest("a"))
        assert await database.blobs(THERE).present(digest("b")) is None
        await database.blobs(THERE).add(digest("a"), 5, labels={})
        assert not await database.blobs(HERE).delete(digest("a"))
        assert await database.blobs(THERE).delete(digest("a"))
        assert await database.namespaces() == []

    async def test_blobs_are_listed_by_digest(self, database: Database) -> None:
        wanted = sorted(digest(str(number)) for number in range(20))
        for one in reversed(wanted):
            await database.blobs(HERE).add(one, 1, labels={})
        assert [info.digest for info in await database.blobs(HERE).list()] == wanted
        sizes = {info.digest: info.size for info in await database.blobs(HERE).list()}
        assert await database.blobs(HERE).sizes([*wanted, digest("absent")]) == sizes
        assert await database.blobs(THERE).sizes(wanted) == {}

    async def test_labels_are_set_and_removed(self, database: Database) -> None:
        blobs = database.blobs(HERE)
        await blobs.add(digest("a"), 1, labels={"keep": "1", "drop": "1"})
        updated = await blobs.update(digest("a"), {"drop": None, "new": "2", "absent": None})
        assert dict(updated.labels) == {"keep": "1", "new": "2"}
        with pytest.raises(NotFoundError):
            await blobs.update(digest("b"), {"a": "b"})

    @pytest.mark.parametrize(("length", "fits"), [(4095, True), (4096, False)])
    async def test_a_label_has_at_most_4096_bytes(self, database: Database, length: int, fits: bool) -> None:
        blobs = database.blobs(HERE)
        await blobs.add(digest("a"), 1, labels={})
        if fits:
            await blobs.update(digest("a"), {"k": "v" * length})
        else:
            with pytest.raises(InvalidArgumentError):
                await blobs.update(digest("a"), {"k": "v" * length})

    async def test_ingest_rows(self, database: Database) -> None:
        blobs = database.blobs(HERE)
        moment = now()
        rows = [
            IngestRow(ref=IngestRef(ref), expected=expected, total=9, started_at=moment, expires_at=moment)
            for ref, expected in (("a", digest("a")), ("b", None))
        ]
        for row in reversed(rows):
            await blobs.open_ingest(row)
        await blobs.open_ingest(rows[0])
        assert await blobs.ingests() == rows
        await blobs.add(digest("a"), 9, labels={}, ref=IngestRef("a"))
        assert await blobs.ingests() == rows[1:]
        await blobs.close_ingest(IngestRef("b"))
        await blobs.close_ingest(IngestRef("b"))
        assert await blobs.ingests() == []

    # Images

    async def test_image_is_created_once(self, database: Database) -> None:
        images = database.images(HERE)
        created = await images.create("one", target("a"), labels={"k": "v"})
        assert created == await images.get("one")
        assert created.target == target("a")
        assert dict(created.labels) == {"k": "v"}
        with pytest.raises(AlreadyExistsError):
            await images.create("one", target("b"))
        with pytest.raises(NotFoundError):
            await database.images(THERE).get("one")

    async def test_put_switches_and_returns_what_it_replaced(self, database: Database) -> None:
        images = database.images(HERE)
        created = await images.put("one", target("a"), labels={"k": "v"})
        first = await images.get("one")
        assert created == Pointed(image=first, replaced=None)
        moved = await images.put("one", target("b"))
        assert moved == Pointed(image=await images.get("one"), replaced=first)
        second = await images.get("one")
        assert second.target == target("b")
        assert dict(second.labels) == {"k": "v"}
        assert second.created_at == first.created_at
        await images.put("one", target("b"), labels={})
        assert dict((await images.get("one")).labels) == {}

    async def test_put_names_the_displaced_target_only_if_it_lost_its_last_name(
        self, database: Database
    ) -> None:
        images = database.images(HERE)
        await images.put("one", target("a"))
        await images.put("two", target("a"))
        await images.put("one", target("b"), displaced="dangling@a")
        assert [image.name for image in await images.list()] == ["one", "two"]
        await images.put("two", target("b"), displaced="dangling@a")
        assert (await images.get("dangling@a")).target == target("a")
        await images.put("two", target("b"), displaced="dangling@b")
        assert [image.name for image in await images.list()] == ["dangling@a", "one", "two"]

    async def test_images_are_found_by_target(self, database: Database) -> None:
        images = database.images(HERE)
        for name in ("c", "a"):
            await images.put(name, target("x"))
        await images.put("b", target("y"))
        found = digest("x")
        for prefix in (found, found[:20], found.hex, found.hex[:12]):
            assert [image.name for image in await images.by_target(prefix)] == ["a", "c"]
        assert await images.by_target("0" * 64) == []
        assert await images.by_target("x%_") == []
        assert len(await images.by_target("sha256:")) == 3

    async def test_image_labels_and_delete(self, database: Database) -> None:
        images = database.images(HERE)
        await images.put("one", target("a"), labels={"drop": "1"})
        assert dict((await images.update("one", labels={"drop": None, "k": "v"})).labels) == {"k": "v"}
        with pytest.raises(NotFoundError):
            await images.delete("one", target=target("b"))
        assert (await images.delete("one", target=target("a"))).target == target("a")
        with pytest.raises(NotFoundError):
            await images.delete("one")
        with pytest.raises(NotFoundError):
            await images.update("one", labels={})

    # Leases

    async def test_leases(self, database: Database) -> None:
        leases = database.leases(HERE)
        first = await leases.create(LeaseID("first"), labels={"k": "v"})
        second = await leases.create()
        assert second.id
        assert await leases.list() == [first, second]
        with pytest.raises(AlreadyExistsError):
            await leases.create(LeaseID("first"))
        await leases.delete(first.id)
        with pytest.raises(NotFoundError):
            await leases.delete(first.id)
        assert await leases.list() == [second]

    async def test_resources_of_a_lease(self, database: Database) -> None:
        leases = database.leases(HERE)
        lease = await leases.create()
        snapshot = Resource(kind="snapshot", id="s", snapshotter="native")
        content = Resource(kind="content", id=digest("a"))
        for resource in (snapshot, content, snapshot):
            await leases.add(lease.id, resource)
        assert await leases.resources(lease.id) == [content, snapshot]
        await leases.remove(lease.id, content)
        await leases.remove(lease.id, content)
        assert await leases.resources(lease.id) == [snapshot]
        missing = LeaseID("missing")
        for call in (
            leases.add(missing, content),
            leases.remove(missing, content),
            leases.resources(missing),
        ):
            with pytest.raises(NotFoundError):
                await call

    async def test_what_is_made_under_a_lease_joins_it(self, database: Database) -> None:
        leases = database.leases(HERE)
        lease = (await leases.create()).id
        moment = now()
        row = IngestRow(ref=IngestRef("r"), expected=None, total=0, started_at=moment, expires_at=moment)
        await database.blobs(HERE).open_ingest(row, lease=lease)
        assert [resource.kind for resource in await leases.resources(lease)] == ["ingest"]
        await database.blobs(HERE).add(digest("a"), 1, labels={}, ref=IngestRef("r"), lease=lease)
        await database.images(HERE).create("i", target("a"), lease=lease)
        await self._snapshot(database, "s", kind=Kind.ACTIVE, lease=lease)
        held = await leases.resources(lease)
        assert [(resource.kind, resource.snapshotter) for resource in held] == [
            ("content", ""),
            ("image", ""),
            ("snapshot", "snap"),
        ]
        await database.snapshots(HERE, "snap").commit("S", "s", labels={}, usage=NOTHING)
        assert [resource.id for resource in await leases.resources(lease)][-1] == "S"

    async def test_a_missing_lease_undoes_the_whole_call(self, database: Database) -> None:
        with pytest.raises(NotFoundError):
            await database.blobs(HERE).add(digest("a"), 1, labels={}, lease=LeaseID("missing"))
        assert await database.blobs(HERE).list() == []

    async def test_hold(self, database: Database) -> None:
        lease = (await database.leases(HERE).create()).id
        assert not await database.blobs(HERE).hold(digest("a"), lease)
        await database.blobs(HERE).add(digest("a"), 1, labels={})
        assert await database.blobs(HERE).hold(digest("a"), lease)
        assert await database.leases(HERE).resources(lease) == [Resource(kind="content", id=digest("a"))]

    # Containers

    async def test_containers(self, database: Database) -> None:
        containers = database.containers(HERE)
        for name in ("b", "a"):
            await containers.create(record(name))
        assert await containers.list() == [record("b"), record("a")]
        assert await containers.get("id-a") == record("a")
        with pytest.raises(AlreadyExistsError):
            await containers.create(record("a", id="other"))
        with pytest.raises(AlreadyExistsError):
            await containers.create(record("other", id="id-a"))
        with pytest.raises(AlreadyExistsError):
            await containers.update(record("a", id="id-b"))
        await containers.update(record("c", id="id-b", image="x"))
        assert [one.name for one in await containers.list()] == ["c", "a"]
        # There at once: the flush is all that it does not wait for.
        await containers.create(record("soon"), durable=False)
        assert (await containers.list())[-1] == await containers.get("id-soon") == record("soon")
        await containers.delete("id-b")
        for call in (
            containers.get("id-b"),
            containers.delete("id-b"),
            containers.update(record("b")),
        ):
            with pytest.raises(NotFoundError):
                await call

    # Builds

    async def test_builds(self, database: Database) -> None:
        builds = database.builds(HERE)
        old = BuildRecord(ref="old", created=1, options={"target": "x"}, error=b"\x08\x05")
        new = BuildRecord(ref="new", created=2, response={"image.name": "x"})
        for each in (old, new):
            await builds.put(each)
        assert list(await builds.list()) == [new, old]
        pinned = BuildRecord(ref="old", created=1, pinned=True)
        await builds.put(pinned)
        assert await builds.get("old") == pinned
        assert list(await database.builds(THERE).list()) == []
        assert await builds.delete("old") == pinned
        for call in (builds.get("old"), builds.delete("old")):
            with pytest.raises(NotFoundError):
                await call

    # Networks and volumes

    async def test_networks(self, database: Database) -> None:
        networks = database.networks(HERE)
        nets = [
            Network(
                id=NetworkID(f"id-{name}"),
                name=name,
                driver="bridge",
                created=7,
                subnets=(Subnet(subnet="10.1.0.0/24", gateway="10.1.0.1", reserved={"router": "10.1.0.9"}),),
                labels={"a": "b"},
            )
            for name in ("b", "a")
        ]
        for network in nets:
            await networks.create(network)
        assert await networks.list() == nets
        with pytest.raises(AlreadyExistsError):
            await networks.create(replace(nets[0], id=NetworkID("other")))
        with pytest.raises(AlreadyExistsError):
            await networks.create(replace(nets[0], name="other"))
        await database.networks(THERE).create(nets[0])
        await networks.delete(nets[0].id)
        assert await networks.list() == nets[1:]
        assert await database.networks(THERE).list() == nets[:1]
        with pytest.raises(NotFoundError):
            await networks.delete(nets[0].id)

    async def test_volumes(self, database: Database) -> None:
        volumes = database.volumes(HERE)
        vols = [Volume(name=name, created=7, labels={"a": "b"}, options={"type": "tmpfs"}) for name in "ba"]
        for volume in vols:
            await volumes.create(volume)
        assert await volumes.list() == vols[::-1]
        with pytest.raises(AlreadyExistsError):
            await volumes.create(vols[0])
        assert await database.volumes(THERE).list() == []
        await volumes.delete("b")
        assert await volumes.list() == vols[1:]
        with pytest.raises(NotFoundError):
            await volumes.delete("b")

    # Snapshots

    async def _snapshot(
        self,
        database: Database,
        key: str,
        parent: str | None = None,
        *,
        kind: Kind = Kind.COMMITTED,
        boot_id: str = "",
        lease: LeaseID | None = None,
        labels: dict[str, str] | None = None,
    ) -> SnapshotRow:
        snapshots = database.snapshots(HERE, "snap")
        return await snapshots.create(
            key,
            id=await snapshots.allocate(),
            kind=kind,
            parent=parent,
            labels=labels or {},
            usage=NOTHING,
            boot_id=boot_id,
            extra={"e": key},
            lease=lease,
        )

    async def test_snapshot_life(self, database: Database) -> None:
        snapshots = database.snapshots(HERE, "snap")
        active = await self._snapshot(database, "key", kind=Kind.ACTIVE)
        assert active == await snapshots.get("key")
        assert active.info.created_at == active.info.updated_at
        assert dict(active.extra) == {"e": "key"}
        usage = Usage(size=7, inodes=3)
        committed = await snapshots.commit("name", "key", labels={"k": "v"}, usage=usage, boot_id="boot")
        assert (committed.id, committed.usage, committed.boot_id) == (active.id, usage, "boot")
        assert (committed.info.key, committed.info.kind, dict(committed.info.labels)) == (
            "name",
            Kind.COMMITTED,
            {"k": "v"},
        )
        with pytest.raises(NotFoundError):
            await snapshots.get("key")
        with pytest.raises(NotFoundError):
            await database.snapshots(HERE, "other").get("name")
        await snapshots.mark_lost([committed.id])
        assert [row.boot_id == "boot" for row in await snapshots.list()] == [False]
        assert (await snapshots.get("name")).boot_id
        await snapshots.mark_durable([committed.id])
        changed = await snapshots.update("name", {"k": None})
        assert (changed.usage, changed.boot_id, dict(changed.info.labels)) == (usage, "", {})
        assert await snapshots.delete("name") == changed
        for call in (
            snapshots.delete("name"),
            snapshots.update("name", {}),
        ):
            with pytest.raises(NotFoundError):
                await call

    async def test_snapshot_keys_and_parents_are_checked(self, database: Database) -> None:
        snapshots = database.snapshots(HERE, "snap")
        await self._snapshot(database, "base")
        await self._snapshot(database, "active", "base", kind=Kind.ACTIVE)
        await self._snapshot(database, "view", "base", kind=Kind.VIEW)
        with pytest.raises(AlreadyExistsError):
            await self._snapshot(database, "base")
        with pytest.raises(NotFoundError):
            await self._snapshot(database, "new", "missing")
        with pytest.raises(InvalidArgumentError):
            await self._snapshot(database, "new", "active")
        with pytest.raises(AlreadyExistsError):
            await snapshots.commit("base", "active", labels={}, usage=NOTHING)
        with pytest.raises(NotFoundError):
            await snapshots.commit("new", "missing", labels={}, usage=NOTHING)
        for key in ("view", "base"):
            with pytest.raises(FailedPreconditionError):
                await snapshots.commit("new", key, labels={}, usage=NOTHING)
        with pytest.raises(FailedPreconditionError):
            await snapshots.delete("base")

    async def test_snapshot_chain(self, database: Database) -> None:
        snapshots = database.snapshots(HERE, "snap")
        parent = None
        for number in range(130):
            await self._snapshot(database, f"{number:03}", parent)
            parent = f"{number:03}"
        chain = await snapshots.chain("129")
        assert [row.info.key for row in chain] == [f"{number:03}" for number in reversed(range(130))]
        assert [row.info.key for row in await snapshots.list()] == [f"{number:03}" for number in range(130)]
        with pytest.raises(NotFoundError):
            await snapshots.chain("missing")

    async def test_snapshot_ids_are_never_reused(self, database: Database) -> None:
        first = await self._snapshot(database, "a")
        await database.snapshots(HERE, "snap").delete("a")
        second = await self._snapshot(database, "a")
        assert second.id > first.id
        assert await database.snapshots(THERE, "other").allocate() > second.id

    async def test_snapshots_of_another_boot_are_discarded_with_what_stands_on_them(
        self, database: Database
    ) -> None:
        snapshots = database.snapshots(HERE, "snap")
        await self._snapshot(database, "durable")
        await self._snapshot(database, "lost", "durable", boot_id="old")
        await self._snapshot(database, "above", "lost")
        await self._snapshot(database, "container", "above", kind=Kind.ACTIVE)
        await self._snapshot(database, "fresh", "durable", boot_id="new")
        gone = await snapshots.discard_foreign_boots("new")
        assert sorted(row.info.key for row in gone) == ["above", "lost"]
        assert [row.info.key for row in await snapshots.list()] == ["container", "durable", "fresh"]
        with pytest.raises(NotFoundError):
            await snapshots.chain("container")
        await self._snapshot(database, "lost", "durable")
        await self._snapshot(database, "above", "lost")
        assert len(await snapshots.chain("container")) == 4

    async def test_hold_snapshot(self, database: Database) -> None:
        lease = (await database.leases(HERE).create()).id
        snapshots = database.snapshots(HERE, "snap")
        assert not await snapshots.hold("s", lease)
        await self._snapshot(database, "s")
        assert await snapshots.hold("s", lease)
        assert await database.leases(HERE).resources(lease) == [
            Resource(kind="snapshot", id="s", snapshotter="snap")
        ]

    async def test_a_copy_takes_a_layers_place(self, database: Database) -> None:
        snapshots = database.snapshots(HERE, "snap")
        await self._snapshot(database, "base")
        old = await self._snapshot(database, "layer", "base", labels={"k": "v"})
        await self._snapshot(database, "above", "layer")
        usage = Usage(size=70, inodes=7)
        copy = await snapshots.create(
            "copy",
            id=await snapshots.allocate(),
            kind=Kind.COMMITTED,
            parent="base",
            labels={},
            usage=usage,
            boot_id="boot",
            extra={"new": "y"},
        )
        for wrong in (("layer", "base"), ("layer", "above"), ("base", "layer")):
            with pytest.raises(FailedPreconditionError):
                await snapshots.replace(*wrong)
        for missing in (("layer", "z"), ("z", "copy")):
            with pytest.raises(NotFoundError):
                await snapshots.replace(*missing)
        assert (await snapshots.replace("layer", "copy")).id == old.id
        row = await snapshots.get("layer")
        assert (row.id, row.usage, row.boot_id, dict(row.extra)) == (copy.id, usage, "boot", {"new": "y"})
        assert dict(row.info.labels) == {"k": "v"}
        assert [each.info.key for each in await snapshots.list()] == ["above", "base", "layer"]
        assert [each.info.key for each in await snapshots.chain("above")] == ["above", "layer", "base"]
        await self._snapshot(database, "active", "base", kind=Kind.ACTIVE)
        with pytest.raises(FailedPreconditionError):
            await snapshots.replace("layer", "active")

    async def test_trees_of_removed_layers_are_remembered(self, database: Database) -> None:
        snapshots = database.snapshots(HERE, "snap")
        for key in "abcd":
            await snapshots.create(
                key,
                id=await snapshots.allocate(),
                kind=Kind.ACTIVE if key == "d" else Kind.COMMITTED,
                parent=None,
                labels={},
                usage=NOTHING,
                boot_id="old" if key == "c" else "",
                extra={TREE: f"tree of {key}"},
            )
        await self._snapshot(database, "without")
        assert await snapshots.removed() == set()
        await snapshots.delete("a")
        version = (await database.graph(HERE, now=now())).version
        await database.condemn(HERE, [Node("snapshot", "b", "snap")], version=version, now=now())
        await snapshots.discard_foreign_boots("new")
        await snapshots.delete("d")
        await snapshots.delete("without")
        assert await snapshots.removed() == {(key, f"tree of {key}") for key in "abc"}
        assert await database.snapshots(HERE, "other").removed() == set()
        await snapshots.forget_removed({("a", "tree of a"), ("b", "another"), ("z", "tree of z")})
        assert await snapshots.removed() == {("b", "tree of b"), ("c", "tree of c")}

    # The collector's view

    async def test_graph_follows_containerds_rules(self, database: Database) -> None:
        a, b, c, d = (Node("content", digest(name)) for name in "abcd")
        blobs = database.blobs(HERE)
        await blobs.add(
            digest("a"),
            1,
            labels={
                f"{GC_REF_CONTENT}.m.0": b.id,
                f"{GC_REF_CONTENT}/x": c.id,
                f"{GC_REF_SNAPSHOT}snap/y": "s",
                "other": d.id,
            },
        )
        await blobs.add(digest("b"), 1, labels={GC_ROOT: "", "containerd.io/gc.bref.content": d.id})
        await blobs.add(digest("d"), 1, labels={})
        await self._snapshot(database, "p")
        await self._snapshot(database, "s", "p")
        await database.images(HERE).put("i", target("a"))
        await database.images(HERE).put(
            "old", target("c"), labels={GC_EXPIRE: "2020-01-01T00:00:00.123456789Z"}
        )
        lease = await database.leases(HERE).create(labels={"containerd.io/gc.flat": "x"})
        await database.leases(HERE).add(lease.id, Resource(kind="snapshot", id="p", snapshotter="snap"))
        await database.containers(HERE).create(
            record("c", snapshotter="snap", snapshot_key="s", image=c.id, target=d.id)
        )
        moment = now()
        for ref, hours in (("live", 1), ("stale", -1)):
            await blobs.open_ingest(
                IngestRow(
                    ref=IngestRef(ref),
                    expected=digest("d"),
                    total=0,
                    started_at=moment,
                    expires_at=moment + timedelta(hours=hours),
                )
            )
        graph = await database.graph(HERE, now=moment)
        s, p = Node("snapshot", "s", "snap"), Node("snapshot", "p", "snap")
        assert sorted(graph.edges[a]) == sorted([b, c, s])
        assert graph.edges[d] == [b]
        assert graph.edges[s] == [p]
        assert graph.edges[Node("image", "i")] == [a]
        assert sorted(graph.edges[Node("container", "id-c")]) == sorted([c, d, s])
        assert graph.edges[Node("ingest", "live")] == [d]
        assert graph.edges[Node("lease", lease.id)] == [p]
        assert graph.flat == {Node("lease", lease.id)}
        assert set(graph.roots) == {
            b,
            Node("image", "i"),
            Node("lease", lease.id),
            Node("container", "id-c"),
            Node("ingest", "live"),
        }
        marked = await database.mark(HERE, now=moment)
        assert set(marked.garbage) == mark(graph)
        assert (marked.kept, marked.version) == (len(graph.nodes) - len(marked.garbage), graph.version)
        without = set((await database.mark(HERE, now=moment, without=["i", "absent"])).garbage)
        assert without == {*marked.garbage, Node("image", "i"), a}
        assert Node("image", "old") in graph.nodes
        assert Node("ingest", "stale") in graph.nodes
        assert (await database.graph(THERE, now=moment)).nodes == frozenset()

    async def test_version_rises_with_every_mutation(self, database: Database) -> None:
        before = await database.graph(HERE, now=now())
        await database.images(HERE).put("i", target("a"))
        after = await database.graph(HERE, now=now())
        await database.images(THERE).put("i", target("a"))
        assert after.version > before.version
        assert (await database.graph(HERE, now=now())).version == after.version

    async def test_condemn_deletes_rows_children_first(self, database: Database) -> None:
        await self._snapshot(database, "a")
        await self._snapshot(database, "b", "a")
        await self._snapshot(database, "c", "b")
        await database.blobs(HERE).add(digest("a"), 1, labels={})
        graph = await database.graph(HERE, now=now())
        deleted = await database.condemn(HERE, sorted(graph.nodes), version=graph.version, now=now())
        assert set(deleted) == graph.nodes
        assert [node.id for node in deleted if node.kind == "snapshot"] == ["c", "b", "a"]
        assert await database.namespaces() == []
        assert await database.condemn(HERE, sorted(graph.nodes), version=graph.version, now=now()) == []

    async def test_condemn_spares_what_came_to_be_needed(self, database: Database) -> None:
        chain = [digest(name) for name in "abc"]
        blobs = database.blobs(HERE)
        for one, following in zip(chain, [*chain[1:], None], strict=True):
            await blobs.add(one, 1, labels={GC_REF_CONTENT: following} if following else {})
        await blobs.add(digest("z"), 1, labels={})
        await self._snapshot(database, "p")
        await self._snapshot(database, "s", "p")
        graph = await database.graph(HERE, now=now())
        await database.images(HERE).put("i", target("b"))
        lease = (await database.leases(HERE).create()).id
        assert await database.snapshots(HERE, "snap").hold("s", lease)
        deleted = await database.condemn(HERE, sorted(graph.nodes), version=graph.version, now=now())
        assert {node.id for node in deleted} == {digest("a"), digest("z")}

    async def test_condemn_spares_a_parent_that_got_a_child(self, database: Database) -> None:
        await self._snapshot(database, "p")
        graph = await database.graph(HERE, now=now())
        await self._snapshot(database, "child", "p", kind=Kind.ACTIVE)
        assert await database.condemn(HERE, sorted(graph.nodes), version=graph.version, now=now()) == []

    async def test_a_condemned_blob_can_come_back(self, database: Database) -> None:
        await database.blobs(HERE).add(digest("a"), 1, labels={})
        graph = await database.graph(HERE, now=now())
        await database.blobs(HERE).add(digest("a"), 1, labels={})
        assert await database.condemn(HERE, sorted(graph.nodes), version=graph.version, now=now()) == []
        graph = await database.graph(HERE, now=now())
        assert await database.condemn(HERE, sorted(graph.nodes), version=graph.version, now=now()) == sorted(
            graph.nodes
        )
        await database.blobs(HERE).add(digest("a"), 1, labels={})
        assert await database.blobs(HERE).present(digest("a")) == 1

    # Facts and sizes

    async def test_facts_live_with_the_image(self, database: Database) -> None:
        store = database.facts(HERE)
        assert await store.put(known("a", blobs="ab")) is False
        assert await store.get(digest("a")) is None
        await add(database, "a", "b")
        await database.images(HERE).put("one", target("a"))
        await database.images(HERE).put("two", target("a"))
        facts = known("a", blobs="ab", here="ab")
        assert await store.put(facts) is True
        assert await store.get(digest("a")) == facts
        assert list(await store.list()) == [facts]
        (row,) = await store.summaries()
        assert row == (digest("a"), True, 17, {"tier": "web"}, 2, 0)
        await database.images(HERE).delete("one")
        assert len(await store.summaries()) == 1
        await database.images(HERE).put("two", target("b"))
        assert (await store.get(digest("a")), list(await store.summaries())) == (None, [])
        assert await store.total() == 0
        assert list(await database.facts(THERE).summaries()) == []

    async def test_facts_are_stale_when_a_document_comes_or_goes(self, database: Database) -> None:
        store = database.facts(HERE)
        await add(database, "a")
        await database.images(HERE).put("one", target("a"))
        assert await store.put(known("a", blobs="ab", here="a", absent="b"))
        await add(database, "c")
        assert await store.get(digest("a")) is not None
        await add(database, "b")
        assert await store.get(digest("a")) is None
        assert list(await store.summaries()) == []
        assert not await store.put(known("a", blobs="ab", here="a", absent="b"))
        assert await store.put(known("a", blobs="ab", here="ab"))
        await database.blobs(HERE).delete(digest("b"))
        assert await store.get(digest("a")) is None
        assert await store.put(known("a", blobs="ab", here="a", absent="b"))
        await store.forget_all()
        assert await store.get(digest("a")) is None

    async def test_sizes_follow_blobs_and_snapshots(self, database: Database) -> None:
        store = database.facts(HERE)
        await add(database, "a", "bb")
        await database.images(HERE).put("one", target("a"))
        await store.put(known("a", blobs=["a", "bb", "ccc"], chain=["s"], here="a"))

        async def size() -> int:
            found = await store.inventory(digest("a"))
            total = sum(found.blobs.values()) + sum(found.snapshots.values())
            assert total == await store.total() == (await store.summaries())[0].size
            (listed,) = await store.manifests(digest("a"))
            assert listed.content + listed.unpacked == total
            assert listed.available == (found.blobs.keys() == {digest("a"), digest("bb"), digest("ccc")})
            assert list(await store.manifests()) == [listed]
            return total

        assert await size() == 3
        await add(database, "ccc")
        assert await size() == 6
        await database.blobs(HERE).delete(digest("bb"))
        assert await size() == 4
        for number, snapshotter in enumerate(("erofs", "native")):
            rows = database.snapshots(HERE, snapshotter)
            await rows.create("key", id=number + 1, kind=Kind.ACTIVE, parent=None, labels={}, usage=NOTHING)
            assert await size() == 4 + 100 * number
            await rows.commit(digest("s"), "key", labels={}, usage=Usage(size=100, inodes=1))
            assert await size() == 104 + 100 * number
        await database.snapshots(HERE, "erofs").delete(digest("s"))
        assert await size() == 104
        graph = await database.graph(HERE, now=now())
        await database.condemn(HERE, [Node("content", digest("ccc"))], version=graph.version, now=now())
        assert await size() == 101

    async def test_what_is_away_has_no_size(self, database: Database) -> None:
        store, blobs = database.facts(HERE), database.blobs(HERE)
        await add(database, "a", "bb", "dddd")
        await database.images(HERE).put("one", target("a"))
        await blobs.set_away({digest("bb"): True, digest("dddd"): True, digest("unknown"): True})
        assert await blobs.away() == {digest("bb"), digest("dddd")}
        await store.put(known("a", blobs=["a", "bb", "ccc"], here="a"))
        assert await store.total() == (await store.summaries())[0].size == 1
        assert not (await store.manifests(digest("a")))[0].available
        await add(database, "ccc")
        assert (await store.manifests(digest("a")))[0].available
        assert await store.total() == 4
        assert (await store.exclusive([digest("a")])).total == 4
        marked = await database.mark(HERE, now=now(), without=["one"])
        sizes = [marked.garbage[Node("content", digest(name))] for name in ("a", "bb", "ccc", "dddd")]
        assert sizes == [1, 0, 3, 0]
        await blobs.set_away({digest("bb"): False})
        assert await store.total() == 6
        await blobs.set_away({digest("bb"): True, digest("a"): True})
        await add(database, "bb")
        await database.blobs(THERE).add(digest("a"), 1, labels={})  # the file is both namespaces'
        assert await store.total() == 6
        assert await blobs.away() == {digest("dddd")}
        await blobs.set_away({digest("ccc"): True})
        await blobs.delete(digest("ccc"))
        assert await store.total() == 3
        await add(database, "ccc")
        assert await store.total() == 6

    async def test_shared_sizes_and_what_a_removal_frees(self, database: Database) -> None:
        store = database.facts(HERE)
        await add(database, "a", "bb", "base", "common")
        images = {"a": ["a", "base"], "bb": ["bb", "base", "common"], "ccc": ["ccc", "common", "base"]}

        async def shared() -> dict[str, int]:
            return {row.digest: row.shared for row in await store.summaries()}

        expected = [{"a": 0}, {"a": 4, "bb": 4}, {"a": 4, "bb": 10, "ccc": 10}]
        for (name, blobs), sizes in zip(images.items(), expected, strict=True):
            await database.images(HERE).put(name, target(name))
            await store.put(known(name, blobs=blobs))
            assert await shared() == {digest(n): size for n, size in sizes.items()}
        assert await store.total() == 13
        assert (await store.exclusive([digest("a")])).total == 1
        assert (await store.exclusive([digest("bb"), digest("ccc")])).total == 8
        assert (await store.exclusive([digest(name) for name in images])).total == 13
        await store.put(known("bb", blobs=["bb", "base"]))
        assert await shared() == {digest("a"): 4, digest("bb"): 4, digest("ccc"): 4}
        await database.images(HERE).delete("a")
        await database.images(HERE).delete("ccc")
        assert await shared() == {digest("bb"): 0}
        await database.blobs(HERE).delete(digest("base"))
        assert await shared() == {digest("bb"): 0}
        assert await store.total() == 2

    # The rest

    async def test_settings(self, database: Database) -> None:
        assert await database.setting("id") is None
        await database.set_setting("id", "1")
        await database.set_setting("id", "2")
        assert await database.setting("id") == "2"

    async def test_namespaces_that_hold_anything(self, database: Database) -> None:
        await database.images(THERE).put("i", target("a"))
        await database.leases(HERE).create()
        assert await database.namespaces() == [HERE, THERE]

    async def test_exclusive_holds_off_others_and_not_its_holder(self, database: Database) -> None:
        order: list[str] = []
        held = anyio.Event()

        async def other() -> None:
            await held.wait()
            await database.set_setting("who", "other")
            order.append("other")

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            async with database.exclusive():
                held.set()
                await anyio.wait_all_tasks_blocked()
                await database.set_setting("who", "holder")
                assert await database.setting("who") == "holder"
                order.append("holder")
        assert order == ["holder", "other"]
        assert await database.setting("who") == "other"

    async def test_many_tasks_write_at_once(self, database: Database) -> None:
        images = database.images(HERE)
        refused = 0

        async def create(number: int) -> None:
            nonlocal refused
            try:
                await images.create(f"image-{number % 50:02}", target(str(number)))
            except AlreadyExistsError:
                refused += 1

        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(create, number)
        assert refused == 50
        assert len(await images.list()) == 50

    async def test_close_is_idempotent(self, database: Database) -> None:
        await database.close()
        await database.close()
