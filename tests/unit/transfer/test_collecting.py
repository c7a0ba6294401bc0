"""The collector is asked to come when a transfer left what nobody holds, and is left alone otherwise."""

import pytest
from support.world import World

from lading.core.content import IngestRef
from lading.core.leases import Lease, LeaseID
from lading.errors import LadingError
from lading.testing import images as make
from lading.transfer.holding import PURPOSE, RESUMABLE, Holder

pytestmark = pytest.mark.anyio


class Collector:
    def __init__(self) -> None:
        self.asked = 0

    def trigger(self) -> None:
        self.asked += 1


async def pieces(data: bytes):
    yield data


@pytest.mark.parametrize("packed", [True, False])
async def test_a_pull_that_succeeds(packed: bool):
    world, collector = World(), Collector()
    make.publish(world.repository, make.image([make.layer({"a": b"a"})]), "latest")
    await world.make_service(packed=packed, collect=collector.trigger).pull(world.reference)
    assert collector.asked == (0 if packed else 1)


async def test_a_load_that_is_refused():
    world, collector = World(), Collector()
    with pytest.raises(LadingError):
        await world.make_service(collect=collector.trigger).load(pieces(make.tar({"manifest.json": b"[{}]"})))
    assert collector.asked == 1


async def test_what_is_given_up_is_counted():
    world = World()
    holder = Holder(world.leases, world.content, collect=Collector().trigger, packed=True)
    with pytest.raises(OSError, match="interrupted"):
        async with holder.hold("pull it") as lease:
            async with world.content.open_writer(IngestRef("layer-x"), lease=lease) as writer:
                writer.write(b"12345")
            raise OSError("interrupted")
    assert await holder.abandon() == 5
    assert await holder.abandon() == 0


async def test_giving_up_goes_on_when_a_transfer_ends_meanwhile(monkeypatch: pytest.MonkeyPatch):
    world = World()
    holder = Holder(world.leases, world.content, collect=Collector().trigger, packed=True)
    listed = world.leases.list

    async def list_and_end() -> list[Lease]:
        found = await listed()
        await world.leases.delete(lease)
        return found

    async with holder.hold("pull it") as lease:
        monkeypatch.setattr(world.leases, "list", list_and_end)
        assert await holder.abandon() == 0
        monkeypatch.setattr(world.leases, "list", listed)


async def test_an_interrupted_pull_is_kept_until_it_is_given_up():
    world, collector = World(), Collector()
    image = make.image([make.layer({"a": b"a"})])
    make.publish(world.repository, image, "latest")
    world.snapshotter.failure = OSError("interrupted")
    with pytest.raises(OSError, match="interrupted"):
        await world.make_service(collect=collector.trigger).pull(world.reference)
    assert collector.asked == 0
    await world.make_service(collect=collector.trigger).abandon()
    assert collector.asked == 1


async def test_a_pull_that_was_killed_at_its_very_end_is_ended_by_the_next_one():
    """It had named the image, so the next one finds nothing to do."""
    world = World()
    make.publish(world.repository, make.image([make.layer({"a": b"a"})]), "latest")
    await world.make_service().pull(world.reference)
    left = LeaseID("left")
    await world.leases.create(left, labels={PURPOSE: f"pull {world.reference}", RESUMABLE: "true"})
    service = world.make_service()
    await service.recover()
    assert [lease.id for lease in await world.leases.list()] == [left]
    await service.pull(world.reference)
    assert await world.leases.list() == []
