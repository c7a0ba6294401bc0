"""The rooms of containers are loaded when they are needed; until then there is no container."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from lading.api.engine.routing import Router
from lading.api.engine.system import ContainerCounts, DiskUsage
from lading.core.containers import ContainerRecord
from lading.core.metadata import Namespace
from lading.daemon import container_rooms, containers, wiring
from lading.daemon.config import Config
from lading.daemon.container_rooms import HEADS, ContainerRooms, OpenRooms, Rooms
from lading.errors import FailedPreconditionError
from lading.metadata.database import SqliteDatabase

pytestmark = pytest.mark.anyio
HERE = Namespace("here")


class FakeService:
    """A service without containers that counts what is asked of it."""

    def __init__(self) -> None:
        self.warmed = self.stopped = 0
        self.volumes = self

    def all(self) -> list[Any]:
        return []

    async def usage(self) -> list[Any]:
        return [{"UsageData": {"Size": 7, "RefCount": 0}}]

    async def warm(self) -> None:
        self.warmed += 1

    async def shut_down(self) -> None:
        self.stopped += 1


def opening(
    service: FakeService, loads: list[int], error: Exception | None = None
) -> Callable[[], OpenRooms]:
    async def answer(request: Any) -> Any:
        return request

    router = Router()
    router.add("GET", "/containers/{name}/logs", answer, endless=True)

    @asynccontextmanager
    async def opened() -> AsyncGenerator[Rooms]:
        if error is not None:
            raise error
        yield cast("Rooms", SimpleNamespace(service=service, router=router))

    def load() -> OpenRooms:
        loads.append(1)
        return opened

    return load


def test_a_daemon_that_starts_does_not_load_the_rooms_of_containers() -> None:
    rooms = "('lading.containers.service', 'lading.runtime', 'lading.network', 'lading.volumes', 'google.protobuf')"
    program = (
        "import sys, lading.daemon.main, lading.daemon.wiring\n"
        f"print([name for name in sys.modules if name.startswith({rooms})])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_opens_the_rooms_is_what_their_routes_begin_with() -> None:
    routes = containers.make_router(MagicMock()).routes()
    assert {route.segments[0] for route in routes} == set(HEADS)
    others = wiring.make_router(*(MagicMock() for _ in range(6))).routes()
    assert not {route.segments[0] for route in others} & set(HEADS)


async def test_the_first_request_loads_them_once() -> None:
    loads: list[int] = []
    router = Router()
    async with ContainerRooms(opening(FakeService(), loads)) as rooms:
        rooms.add_routes(router)
        assert not loads
        for name in ("one", "two"):
            route, params = await router.resolve("GET", ["containers", name, "logs"])
            assert route.endless
            assert params == {"name": name}
    assert loads == [1]


async def test_before_they_are_open_there_is_no_container_and_nothing_is_loaded_to_say_so() -> None:
    loads: list[int] = []
    service = FakeService()
    async with ContainerRooms(opening(service, loads)) as rooms:
        assert await rooms.counts() == ContainerCounts()
        assert await rooms.container_usage((1, 51)) == DiskUsage()
        assert not rooms.running()
        assert not rooms.uses()
        await rooms.shut_down()
        assert not loads
        assert not service.stopped
        assert (await rooms.volume_usage((1, 51))).reclaimable == 7
        await rooms.shut_down()
    assert loads == [1]
    assert service.stopped == 1


async def test_a_quiet_daemon_opens_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_rooms, "QUIET_SECONDS", 0)
    service = FakeService()
    async with ContainerRooms(opening(service, [])) as rooms:
        await rooms.warm()
        assert rooms.opened is not None
    assert service.warmed == 1


async def test_what_stands_in_the_way_of_containers_is_told_to_whoever_opens_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(container_rooms, "QUIET_SECONDS", 0)
    refused = FailedPreconditionError("there is no room")
    async with ContainerRooms(opening(FakeService(), [], refused)) as rooms:
        router = Router()
        rooms.add_routes(router)
        for ask in (lambda: router.resolve("GET", ["containers", "json"]), rooms.warm):
            with pytest.raises(FailedPreconditionError, match="there is no room"):
                await ask()


@pytest.mark.parametrize(
    ("config", "stored", "needed"),
    [
        (Config(), 0, False),
        (Config(), 1, True),
        (Config(userns_remap="default"), 0, True),
        (Config(storage_opts=("size=1g",)), 0, True),
        (Config(bip="10.200.0.1/24"), 0, True),
        (Config(bridge="br7"), 0, True),
        (Config(bridge="none"), 0, False),
    ],
)
async def test_a_daemon_opens_them_before_it_answers_if_there_are_containers_or_options_to_check(
    tmp_path, config: Config, stored: int, needed: bool
) -> None:
    async with SqliteDatabase.open(tmp_path / "lading.db") as database:
        store: Any = SimpleNamespace(database=database, namespace=HERE)
        for number in range(stored):
            await database.containers(HERE).create(
                ContainerRecord(
                    id=f"c{number}",
                    name="",
                    snapshotter="",
                    snapshot_key="",
                    image="",
                    target="",
                    document={},
                )
            )
        assert await wiring.needs_containers(config, store) is needed
