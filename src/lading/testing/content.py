"""What every `lading.core.content.Store` must do. Subclass `ContentStoreSuite` and provide its fixtures."""

import os
from collections.abc import AsyncIterator, Callable

import anyio
import pytest
from typing_extensions import Buffer, override

from lading.core.content import DigestMismatchError, Info, IngestRef, Restorer, SizeMismatchError, Store
from lading.core.leases import LeaseID, Resource
from lading.core.metadata import Database, Namespace
from lading.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from lading.kit import aio
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

HERE = Namespace("here")
THERE = Namespace("there")
REF = IngestRef("layer-1")


def descriptor(data: bytes, algorithm: str = "sha256") -> Descriptor:
    """What describes ``data``."""
    return Descriptor(
        media_type="application/octet-stream", digest=Digest.of(data, algorithm), size=len(data)
    )


async def store_blob(store: Store, data: bytes, **labels: str) -> Info:
    """Put a blob into a store."""
    target = descriptor(data)
    async with store.open_writer(IngestRef(f"put-{target.digest}"), expected=target) as writer:
        await aio.run(aio.DATA, writer.write, data)
        return await writer.commit(labels=labels)


class Copies(Restorer):
    """Restores blobs that are labelled ``copy`` from copies, as they are."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {Digest.of(blob): blob for blob in blobs}
        self.restored: list[Digest] = []

    @override
    def can(self, info: Info) -> bool:
        return "copy" in info.labels

    @override
    async def restore(self, info: Info, write: Callable[[Buffer], None]) -> None:
        self.restored.append(info.digest)
        if info.digest not in self.blobs:
            raise UnavailableError("no copy")
        data = self.blobs[info.digest]
        await aio.run(aio.DATA, write, data[:10])
        await aio.run(aio.DATA, write, data[10:])


class ContentStoreSuite:
    """Every promise of the port."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    async def database(self) -> AsyncIterator[Database]:
        """The rows that belong to the stores."""
        raise NotImplementedError
        yield

    @pytest.fixture
    def store(self, database: Database) -> Store:
        """A store of namespace `HERE`."""
        raise NotImplementedError

    @pytest.fixture
    def other(self, store: Store, database: Database) -> Store:
        """A store of namespace `THERE` on the same bytes."""
        raise NotImplementedError

    async def damage(self, store: Store, digest: Digest, data: bytes | None) -> None:
        """Replace the bytes of a blob behind the store's back; ``None`` takes them away."""
        raise NotImplementedError

    # Writing

    async def test_a_blob_is_visible_after_commit_and_not_before(self, store: Store) -> None:
        data = os.urandom(100_000)
        target = descriptor(data)
        async with store.open_writer(REF, expected=target) as writer:
            await aio.run(aio.DATA, writer.write, memoryview(data)[:60_000])
            await aio.run(aio.DATA, writer.write, data[60_000:])
            assert writer.offset == len(data)
            assert writer.digest() == target.digest
            with pytest.raises(NotFoundError):
                await store.info(target.digest)
            info = await writer.commit(labels={"k": "v"})
        assert info == await store.info(target.digest)
        assert (info.size, dict(info.labels)) == (len(data), {"k": "v"})
        assert await store.read(target.digest, limit=len(data)) == data
        assert await store.statuses() == []

    async def test_a_blob_may_be_empty(self, store: Store) -> None:
        assert (await store_blob(store, b"")).size == 0
        assert await store.read(Digest.of(b""), limit=0) == b""

    async def test_without_expectations_whatever_was_written_is_committed(self, store: Store) -> None:
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"any")
            assert (await writer.commit()).digest == Digest.of(b"any")

    async def test_other_digest_algorithms(self, store: Store) -> None:
        target = descriptor(b"strong", "sha512")
        async with store.open_writer(REF, expected=target) as writer:
            await aio.run(aio.DATA, writer.write, b"strong")
            assert writer.digest("sha512") == target.digest
            assert await aio.run(aio.DATA, writer.digest, "sha256") == Digest.of(b"strong")
            await writer.commit()
        assert await store.read(target.digest, limit=10) == b"strong"

    async def test_wrong_digest_publishes_nothing_and_discards(self, store: Store) -> None:
        target = descriptor(b"right")
        with pytest.raises(DigestMismatchError):
            async with store.open_writer(REF, expected=target) as writer:
                await aio.run(aio.DATA, writer.write, b"wrong")
                await writer.commit()
        for digest in (target.digest, Digest.of(b"wrong")):
            with pytest.raises(NotFoundError):
                await store.info(digest)
        with pytest.raises(NotFoundError):
            await store.status(REF)

    @pytest.mark.parametrize("data", [b"shor", b"short and more"])
    async def test_wrong_size_publishes_nothing_and_discards(self, store: Store, data: bytes) -> None:
        with pytest.raises(SizeMismatchError):
            async with store.open_writer(REF) as writer:
                await aio.run(aio.DATA, writer.write, data)
                await writer.commit(size=5)
        assert await store.statuses() == []
        assert [info async for info in store.walk()] == []

    async def test_commit_arguments_override_nothing_that_is_not_given(self, store: Store) -> None:
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"data")
            info = await writer.commit(size=4, expected=Digest.of(b"data"))
        assert info.digest == Digest.of(b"data")

    async def test_a_committed_writer_is_closed(self, store: Store) -> None:
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"data")
            await writer.commit()
            with pytest.raises(FailedPreconditionError):
                await writer.commit()
            with pytest.raises(FailedPreconditionError):
                await aio.run(aio.DATA, writer.write, b"more")

    async def test_truncate_forgets(self, store: Store) -> None:
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"wrong bytes")
            await aio.run(aio.DATA, writer.truncate)
            assert writer.offset == 0
            await aio.run(aio.DATA, writer.write, b"right")
            assert (await writer.commit()).digest == Digest.of(b"right")

    async def test_a_writer_reads_what_it_holds(self, store: Store) -> None:
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"0123456789")
            assert await aio.run(aio.DATA, writer.pread, 4, 3) == b"3456"
            assert await aio.run(aio.DATA, writer.pread, 4, 8) == b"89"

    async def test_a_writer_reads_on_after_it_committed(self, store: Store) -> None:
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"0123456789")
            await writer.commit()
            assert await aio.run(aio.DATA, writer.pread, 4, 3) == b"3456"

    async def test_a_ref_is_needed(self, store: Store) -> None:
        with pytest.raises(InvalidArgumentError):
            async with store.open_writer(IngestRef("")):
                raise AssertionError

    # Ingests

    async def test_leaving_without_commit_keeps_the_ingest_to_resume(self, store: Store) -> None:
        data = os.urandom(3_000_000)
        target = descriptor(data)
        with pytest.raises(RuntimeError, match="left"):
            async with store.open_writer(REF, expected=target) as writer:
                await aio.run(aio.DATA, writer.write, data[:2_000_001])
                raise RuntimeError("left")
        status = await store.status(REF)
        assert (status.ref, status.offset, status.total) == (REF, 2_000_001, len(data))
        assert status.expected == target.digest
        assert await store.statuses() == [status]
        assert status.started_at <= status.updated_at
        async with store.open_writer(REF, expected=target) as writer:
            assert writer.offset == 2_000_001
            assert writer.digest() == Digest.of(data[:2_000_001])
            await aio.run(aio.DATA, writer.write, data[2_000_001:])
            await writer.commit()
        assert await store.read(target.digest, limit=len(data)) == data

    async def test_another_length_starts_again(self, store: Store) -> None:
        async with store.open_writer(REF, expected=descriptor(b"first promise")) as writer:
            await aio.run(aio.DATA, writer.write, b"first")
        async with store.open_writer(REF, expected=descriptor(b"second")) as writer:
            assert writer.offset == 0
            await aio.run(aio.DATA, writer.write, b"second")
            await writer.commit()

    async def test_refs_of_two_namespaces_are_two_ingests(self, store: Store, other: Store) -> None:
        async with store.open_writer(REF) as one, other.open_writer(REF) as two:
            await aio.run(aio.DATA, one.write, b"one")
            await aio.run(aio.DATA, two.write, b"two")
            await one.commit()
            await two.commit()
        assert await store.read(Digest.of(b"one"), limit=9) == b"one"
        assert await other.read(Digest.of(b"two"), limit=9) == b"two"

    async def test_statuses_are_in_order_of_ref(self, store: Store) -> None:
        for ref in ("c", "a", "b"):
            async with store.open_writer(IngestRef(ref)):
                pass
        assert [status.ref for status in await store.statuses()] == ["a", "b", "c"]

    async def test_abort(self, store: Store) -> None:
        with pytest.raises(NotFoundError):
            await store.abort(REF)
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"data")
            with pytest.raises(UnavailableError):
                await store.abort(REF)
        await store.abort(REF)
        with pytest.raises(NotFoundError):
            await store.status(REF)
        async with store.open_writer(REF) as writer:
            assert writer.offset == 0

    async def test_the_second_writer_of_a_ref_waits_and_finds_the_blob(self, store: Store) -> None:
        target = descriptor(b"data")
        outcome: list[str] = []
        opened = anyio.Event()

        async def second() -> None:
            await opened.wait()
            try:
                async with store.open_writer(REF, expected=target):
                    outcome.append("opened")
            except AlreadyExistsError:
                outcome.append("exists")

        async with anyio.create_task_group() as group:
            group.start_soon(second)
            async with store.open_writer(REF, expected=target) as writer:
                opened.set()
                await anyio.wait_all_tasks_blocked()
                outcome.append("first")
                await aio.run(aio.DATA, writer.write, b"data")
                await writer.commit()
        assert outcome == ["first", "exists"]

    async def test_the_second_writer_goes_on_where_the_first_failed(self, store: Store) -> None:
        target = descriptor(b"0123456789")
        opened = anyio.Event()

        async def second() -> None:
            await opened.wait()
            async with store.open_writer(REF, expected=target) as writer:
                assert writer.offset == 4
                await aio.run(aio.DATA, writer.write, b"456789")
                await writer.commit()

        async with anyio.create_task_group() as group:
            group.start_soon(second)
            async with store.open_writer(REF, expected=target) as writer:
                opened.set()
                await aio.run(aio.DATA, writer.write, b"0123")
        assert await store.read(target.digest, limit=10) == b"0123456789"

    # Blobs

    async def test_expected_that_exists(self, store: Store, other: Store) -> None:
        await store_blob(store, b"data")
        with pytest.raises(AlreadyExistsError):
            async with store.open_writer(REF, expected=descriptor(b"data")):
                raise AssertionError
        assert await store.statuses() == []
        await store_blob(other, b"data")  # not in that namespace yet

    async def test_two_refs_commit_the_same_blob(self, store: Store) -> None:
        async with store.open_writer(IngestRef("a")) as one, store.open_writer(IngestRef("b")) as two:
            for writer in (one, two):
                await aio.run(aio.DATA, writer.write, b"same")
            await one.commit(labels={"a": "1"})
            info = await two.commit(labels={"b": "2"})
        assert dict(info.labels) == {"a": "1", "b": "2"}
        assert await store.statuses() == []

    async def test_a_lease_holds_the_ingest_and_then_the_blob(self, store: Store, database: Database) -> None:
        leases = database.leases(HERE)
        lease = (await leases.create()).id
        async with store.open_writer(REF, lease=lease) as writer:
            assert await leases.resources(lease) == [Resource(kind="ingest", id=REF)]
            await aio.run(aio.DATA, writer.write, b"data")
            await writer.commit()
        held = [Resource(kind="content", id=Digest.of(b"data"))]
        assert await leases.resources(lease) == held
        second = (await leases.create()).id
        with pytest.raises(AlreadyExistsError):
            async with store.open_writer(REF, expected=descriptor(b"data"), lease=second):
                raise AssertionError
        assert await leases.resources(second) == held
        with pytest.raises(NotFoundError):
            async with store.open_writer(REF, lease=LeaseID("missing")):
                raise AssertionError

    async def test_many_at_once(self, store: Store, database: Database) -> None:
        lease = (await database.leases(HERE).create()).id
        await store_blob(store, b"one", k="v")
        blobs = {Digest.of(data): data for data in (b"one", b"two", b"")} | {Digest.of(b"x", "sha512"): b"x"}
        await store.put_many(blobs, labels={Digest.of(b"two"): {"l": "w"}}, lease=lease)
        for each, data in blobs.items():
            assert await store.read(each, limit=10) == data
        assert (await store.info(Digest.of(b"one"))).labels == {"k": "v"}
        assert (await store.info(Digest.of(b"two"))).labels == {"l": "w"}
        await store.put_many({Digest.of(b"one"): b"one"}, labels={Digest.of(b"one"): {"m": "x"}})
        assert (await store.info(Digest.of(b"one"))).labels == {"k": "v", "m": "x"}
        assert {r.id for r in await database.leases(HERE).resources(lease)} == set(blobs)
        assert await store.statuses() == []

    async def test_of_many_none_is_stored_if_one_is_wrong(self, store: Store) -> None:
        with pytest.raises(DigestMismatchError):
            await store.put_many({Digest.of(b"good"): b"good", Digest.of(b"bad"): b"BAD"})
        with pytest.raises(NotFoundError):
            await store.info(Digest.of(b"good"))

    async def test_labels_for_many(self, store: Store, database: Database) -> None:
        lease = (await database.leases(HERE).create()).id
        one = (await store_blob(store, b"one", k="v")).digest
        await store.label({one: {"l": "w"}, Digest.of(b"absent"): {"l": "w"}}, lease=lease)
        assert (await store.info(one)).labels == {"k": "v", "l": "w"}
        assert [r.id for r in await database.leases(HERE).resources(lease)] == [one]

    async def test_update_and_walk(self, store: Store, other: Store) -> None:
        blobs = sorted(
            [await store_blob(store, bytes([number])) for number in range(5)], key=lambda i: i.digest
        )
        assert [info async for info in store.walk()] == blobs
        assert [info async for info in other.walk()] == []
        assert dict((await store.update(blobs[0].digest, {"k": "v"})).labels) == {"k": "v"}
        with pytest.raises(InvalidArgumentError):
            await store.update(blobs[0].digest, {"k": "v" * 4096})
        with pytest.raises(NotFoundError):
            await store.update(Digest.of(b"missing"), {})

    async def test_delete_takes_the_bytes_with_the_last_owner(self, store: Store, other: Store) -> None:
        digest = (await store_blob(store, b"data")).digest
        await store_blob(other, b"data")
        await store.delete(digest)
        with pytest.raises(NotFoundError):
            await store.info(digest)
        with pytest.raises(NotFoundError):
            await store.delete(digest)
        assert await other.read(digest, limit=4) == b"data"
        await other.delete(digest)
        assert (await store_blob(store, b"data")).digest == digest
        assert await store.read(digest, limit=4) == b"data"

    # Reading

    async def test_reading(self, store: Store) -> None:
        data = os.urandom(50_000)
        digest = (await store_blob(store, data)).digest
        async with store.open_reader(digest) as reader:
            assert reader.size == len(data)
            assert await aio.run(aio.DATA, reader.pread, 100, 49_950) == data[49_950:]
            assert await aio.run(aio.DATA, reader.pread, 100, 60_000) == b""
            buffer = bytearray(40_000)
            assert await aio.run(aio.DATA, reader.readinto, buffer, 20_000) == 30_000
            assert buffer[:30_000] == data[20_000:]
        with pytest.raises(NotFoundError):
            async with store.open_reader(Digest.of(b"missing")):
                raise AssertionError

    async def test_reading_many(self, store: Store) -> None:
        one, two, absent = Digest.of(b"one"), Digest.of(b"two!"), Digest.of(b"absent")
        await store_blob(store, b"one")
        await store_blob(store, b"two!")
        assert await store.read_many([two, absent, one], limit=4) == {one: b"one", two: b"two!"}
        assert await store.sizes([two, absent, one]) == {one: 3, two: 4}
        infos = await store.infos([two, absent])
        assert infos == {two: await store.info(two)}
        assert await store.read_many([], limit=4) == await store.sizes([]) == {}
        with pytest.raises(ResourceExhaustedError):
            await store.read_many([one, two], limit=3)

    async def test_an_open_blob_stays_readable(self, store: Store) -> None:
        digest = (await store_blob(store, b"data")).digest
        async with store.open_reader(digest) as reader:
            await store.delete(digest)
            assert await aio.run(aio.DATA, reader.pread, 4, 0) == b"data"

    async def test_read_has_a_limit(self, store: Store) -> None:
        digest = (await store_blob(store, b"data")).digest
        with pytest.raises(ResourceExhaustedError):
            await store.read(digest, limit=3)

    @pytest.mark.parametrize("damaged", [b"dat!", b"longer", b"", None])
    async def test_damage_is_found_and_healed_by_writing_again(
        self, store: Store, damaged: bytes | None
    ) -> None:
        digest = (await store_blob(store, b"data")).digest
        await self.damage(store, digest, damaged)
        with pytest.raises(DataLossError):
            await store.read(digest, limit=10)
        async with store.open_writer(REF) as writer:
            await aio.run(aio.DATA, writer.write, b"data")
            await writer.commit()
        assert await store.read(digest, limit=10) == b"data"

    # Releasing

    async def test_released_bytes_come_back_when_they_are_opened(self, store: Store) -> None:
        data = os.urandom(5000)
        copies = Copies(data)
        store.restore_by(copies)
        digest = (await store_blob(store, data, copy="yes", k="v")).digest
        assert list(await store.last_used([digest])) == [digest]
        assert await store.release(digest) == len(data)
        assert await store.release(digest) == 0
        assert await store.last_used([digest]) == {}
        assert await store.intact([digest]) == {digest: await store.info(digest)}
        assert (await store.info(digest)).labels == {"copy": "yes", "k": "v"}
        assert copies.restored == []

        async def read() -> None:
            async with store.open_reader(digest) as reader:
                assert await aio.run(aio.DATA, reader.pread, 6000, 0) == data

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read)
        assert copies.restored[0] == digest
        assert list(await store.last_used([digest])) == [digest]
        assert (await store.info(digest)).labels == {"copy": "yes", "k": "v"}
        assert await store.statuses() == []

    async def test_a_released_blob_counts_as_there(self, store: Store) -> None:
        store.restore_by(Copies(b"some bytes"))
        await store_blob(store, b"some bytes", copy="yes")
        await store.release(Digest.of(b"some bytes"))
        with pytest.raises(AlreadyExistsError):
            async with store.open_writer(REF, expected=descriptor(b"some bytes")):
                pass
        assert await store.last_used([Digest.of(b"some bytes")]) == {}

    async def test_an_open_reader_outlives_a_release(self, store: Store) -> None:
        store.restore_by(Copies(b"some bytes"))
        digest = (await store_blob(store, b"some bytes", copy="yes")).digest
        async with store.open_reader(digest) as reader:
            await store.release(digest)
            assert await aio.run(aio.DATA, reader.pread, 100, 0) == b"some bytes"

    async def test_wrong_bytes_do_not_come_back(self, store: Store) -> None:
        copies = Copies()
        store.restore_by(copies)
        digest = (await store_blob(store, b"some bytes", copy="yes")).digest
        await store.release(digest)
        with pytest.raises(UnavailableError):
            async with store.open_reader(digest):
                pass
        for wrong in (b"SOME BYTES", b"some byt"):
            copies.blobs[digest] = wrong
            with pytest.raises(DataLossError):
                async with store.open_reader(digest):
                    pass
        assert await store.last_used([digest]) == {}
        assert await store.statuses() == []
        copies.blobs[digest] = b"some bytes"
        assert await store.read(digest, limit=100) == b"some bytes"

    async def test_what_nobody_can_make_again_is_not_released(self, store: Store) -> None:
        digest = (await store_blob(store, b"some bytes")).digest
        with pytest.raises(FailedPreconditionError):
            await store.release(digest)
        store.restore_by(Copies(b"some bytes"))
        with pytest.raises(FailedPreconditionError):
            await store.release(digest)
        assert await store.read(digest, limit=100) == b"some bytes"
        with pytest.raises(NotFoundError):
            await store.release(Digest.of(b"another"))
        assert not await store.intact([Digest.of(b"another")])

    async def test_what_another_namespace_has_is_not_released(self, store: Store, other: Store) -> None:
        store.restore_by(Copies(b"some bytes"))
        digest = (await store_blob(store, b"some bytes", copy="yes")).digest
        await store_blob(other, b"some bytes")
        assert await store.release(digest) == 0
        await other.delete(digest)
        assert await store.release(digest) == len(b"some bytes")

    async def test_lost_bytes_are_not_intact(self, store: Store) -> None:
        digest = (await store_blob(store, b"some bytes")).digest
        whole = await store_blob(store, b"other bytes")
        assert set(await store.intact([digest, whole.digest])) == {digest, whole.digest}
        await self.damage(store, digest, None)
        assert await store.intact([digest, whole.digest]) == {whole.digest: whole}
