"""What every `lading.core.buildcache.BuildCache` must do. Subclass `BuildCacheSuite` and provide ``database``.

How keys are found, what a record holds and lets go of, what goes with a snapshot.
"""

from datetime import UTC, datetime
from typing import Any

import pytest

from lading.core.buildcache import BuildCache, BuildRecord, LayerBlob, Step
from lading.core.metadata import Database, Namespace, Node, reachable
from lading.core.snapshots import Kind, Usage
from lading.errors import NotFoundError
from lading.oci.descriptor import Descriptor
from lading.oci.digest import DiffID, Digest

HERE = Namespace("here")
BASE, CONTENT, COPY = (str(Digest.of(name)) for name in (b"base", b"content", b"copy"))


def record(name: str, created: int = 1, **more: Any) -> BuildRecord:
    """A record, as made and used at a time."""
    return BuildRecord(id=name, kind="regular", snapshotter="s", created_at=created, used_at=created, **more)


async def snapshot(database: Database, name: str, parent: str | None = None) -> None:
    """Have a committed snapshot."""
    rows = database.snapshots(HERE, "s")
    await rows.create(
        name,
        id=await rows.allocate(),
        kind=Kind.COMMITTED,
        parent=parent,
        labels={},
        usage=Usage(size=1, inodes=1),
    )


@pytest.mark.anyio
class BuildCacheSuite:
    """The rows of one namespace, through ``database``."""

    @pytest.fixture
    async def database(self) -> Database:
        """The database under test."""
        raise NotImplementedError

    @pytest.fixture
    def cache(self, database: Database) -> BuildCache:
        """The build cache under test."""
        return database.build_cache(HERE)

    async def test_a_key_is_found_when_a_link_leads_from_every_input(self, cache: BuildCache) -> None:
        inputs = [[Step(BASE)], [Step(CONTENT), Step("by-name", "part")]]
        await cache.add(record("one"), keys=["key"], output=COPY, inputs=inputs)
        assert await cache.find(COPY, [[Step(BASE)], [Step(CONTENT)]]) == ({"key"}, "one")
        assert await cache.find(COPY, [[Step(BASE)], [Step("by-name", "part"), Step("other")]]) == (
            {"key"},
            "one",
        )
        assert await cache.find(COPY, [[Step(BASE)], [Step("by-name", "another part")]]) == (set(), None)
        assert await cache.find(COPY, [[Step(CONTENT)], [Step(BASE)]]) == (set(), None)
        assert await cache.find("elsewhere", inputs) == (set(), None)
        assert await cache.find(BASE, []) == ({BASE}, None)
        for known in (0, 1, 2):  # no link, some, all of them
            later = [[Step(BASE)], [Step(f"later{number}") for number in range(max(1, known))]]
            await cache.connect(COPY, later, ["key"])
            for step in later[1]:
                assert await cache.find(COPY, [[Step(BASE)], [step]]) == ({"key"}, "one")
        many = [[Step(BASE)], [Step(f"one of {number}") for number in range(100)]]
        await cache.connect(COPY, many, ["key"])
        assert await cache.find(COPY, [[Step(BASE)], many[1][-1:]]) == ({"key"}, "one")

    async def test_the_newest_record_of_the_keys_is_the_one(self, cache: BuildCache) -> None:
        await cache.add(record("old", 1), keys=["a"], output=COPY, inputs=[[Step(BASE)]])
        await cache.add(record("new", 2), keys=["b"], output=COPY, inputs=[[Step(BASE)]])
        assert await cache.find(COPY, [[Step(BASE)]]) == ({"a", "b"}, "new")
        await cache.add(record("newest", 3), keys=["a"], output=COPY, inputs=[[Step(BASE)]])
        assert [one.id for one in await cache.list()] == ["new", "newest"]

    async def test_deleting_takes_links_that_lead_nowhere_and_no_others(self, cache: BuildCache) -> None:
        await cache.add(record("lower"), keys=["lower"], output=COPY, inputs=[[Step(BASE)]])
        await cache.add(record("upper"), keys=["upper"], output=COPY, inputs=[[Step("lower")]])
        assert await cache.delete(["lower", "absent"]) == ["lower"]
        assert await cache.find(COPY, [[Step(BASE)]]) == ({"lower"}, None)  # it still leads on
        assert await cache.delete(["upper"]) == ["upper"]
        assert await cache.find(COPY, [[Step(BASE)]]) == (set(), None)
        with pytest.raises(NotFoundError):
            await cache.get("upper")

    async def test_the_history_of_a_key(self, cache: BuildCache) -> None:
        await cache.add(record("lower"), keys=["lower"], output=COPY, inputs=[[Step(BASE)]])
        await cache.add(record("upper"), keys=["upper"], output=COPY, inputs=[[Step("lower", "part")]])
        await cache.add(record("beside"), keys=["beside"], output=COPY, inputs=[[Step("x")]])
        links, records = await cache.history(["upper"])
        assert [(link.source, link.selector, link.target) for link in links] == [
            (BASE, "", "lower"),
            ("lower", "part", "upper"),
        ]
        assert records == {"lower": "lower", "upper": "upper"}

    async def test_a_record_keeps_its_snapshots_until_it_goes(
        self, database: Database, cache: BuildCache
    ) -> None:
        await snapshot(database, "below")
        await snapshot(database, "top", "below")
        await cache.add(record("one", layers=("below", "top"), blobs=(Digest.of(b"manifest"),)), keys=["key"])

        async def kept() -> set[Node]:
            graph = await database.graph(HERE, now=datetime.now(UTC))
            return reachable(graph.roots, graph.edges)

        wanted = {Node("snapshot", "top", "s"), Node("snapshot", "below", "s")}
        assert wanted <= await kept()
        assert Node("content", Digest.of(b"manifest")) in await kept()
        await cache.delete(["one"])
        assert wanted.isdisjoint(await kept())

    async def test_what_is_known_of_a_snapshot_goes_with_it(
        self, database: Database, cache: BuildCache
    ) -> None:
        layer = LayerBlob(
            descriptor=Descriptor(media_type="m", digest=Digest.of(b"blob"), size=4),
            diff_id=DiffID(Digest.of(b"tar")),
        )
        await cache.put_layer("s", "top", "gzip", layer)  # nothing to say it of
        assert await cache.layer("s", "top", "gzip") is None
        await snapshot(database, "top")
        await cache.put_layer("s", "top", "gzip", layer)
        await cache.put_digest("s", "top", "/", Digest.of(b"x"))
        assert await cache.layer("s", "top", "gzip") == layer
        assert await cache.digest("s", "top", "/") == Digest.of(b"x")
        assert await cache.layer("s", "top", "") is None
        await database.snapshots(HERE, "s").delete("top")
        await snapshot(database, "top")
        assert await cache.layer("s", "top", "gzip") is None
        assert await cache.digest("s", "top", "/") is None

    async def test_uses_and_sizes_are_kept(self, cache: BuildCache) -> None:
        await cache.add(record("one", 5, size=7, extra={"name": "n"}))
        await cache.touch(["one"], now=9)
        await cache.resize("one", 8)
        found = await cache.get("one")
        assert (found.used_at, found.uses, found.size, found.extra) == (9, 1, 8, {"name": "n"})
