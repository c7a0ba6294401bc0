"""The builder is loaded when somebody builds, and its routes are there before."""

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from lading.api.engine.routing import Router
from lading.api.engine.system import DiskUsage
from lading.core import leases
from lading.core.buildcache import BuildRecord
from lading.core.metadata import Namespace
from lading.daemon import building
from lading.daemon.builds import ROUTES, Builder, Builds, OpenBuilder, Parts
from lading.metadata.database import SqliteDatabase

pytestmark = pytest.mark.anyio
HERE = Namespace("here")


@pytest.fixture
async def database(tmp_path):
    async with SqliteDatabase.open(tmp_path / "lading.db") as found:
        yield found


class FakeBuilder(Builder):
    """Answers what it was asked."""

    def __init__(self) -> None:
        self._router = Router()
        self.asked: list[Any] = []

        async def serve(request: Any) -> Any:
            self.asked.append(request)
            return "answer"

        for method, path, _ in ROUTES:
            self._router.add(method, path, serve)

    @property
    def router(self) -> Router:
        return self._router

    async def disk_usage(self, version: Any) -> DiskUsage:
        return DiskUsage(size=7)


def loading(builder: Builder, loads: list[int]) -> Callable[[], OpenBuilder]:
    @asynccontextmanager
    async def opened(_: Parts) -> AsyncGenerator[Builder]:
        yield builder

    def load() -> OpenBuilder:
        loads.append(1)
        return opened

    return load


def parts(database: SqliteDatabase, state: Path = Path("/nonexistent")) -> Parts:
    return cast(
        "Parts",
        SimpleNamespace(database=database, namespace=HERE, leases=database.leases(HERE), state=state),
    )


def test_a_daemon_that_starts_does_not_load_the_builder() -> None:
    rooms = "('lading.builder', 'lading.api.buildkit', 'lading.formats.llb', 'lading.formats.dockerfile', 'lading.kit.grpc', 'h2')"
    program = (
        "import sys, lading.daemon.main, lading.daemon.wiring\n"
        f"print([name for name in sys.modules if name.startswith({rooms})])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_routes_that_stand_for_the_builder_are_its_own() -> None:
    router = building._routes(MagicMock(), MagicMock(), MagicMock())
    assert {(route.method, route.pattern, route.endless) for route in router.routes()} == set(ROUTES)


async def test_the_first_request_loads_it_once(database) -> None:
    loads: list[int] = []
    builder = FakeBuilder()
    router = Router()
    async with Builds(parts(database), loading(builder, loads)) as builds:
        builds.add_routes(router)
        assert not loads
        for path in ("grpc", "session", "build"):
            route, _ = router.find("POST", [path])
            assert await route.handler(path) == "answer"
    assert builder.asked == ["grpc", "session", "build"]
    assert loads == [1]


async def test_its_usage_is_asked_for_only_if_there_is_any(database) -> None:
    loads: list[int] = []
    async with Builds(parts(database), loading(FakeBuilder(), loads)) as builds:
        assert await builds.disk_usage((1, 51)) == DiskUsage()
        assert not loads
        await database.build_cache(HERE).add(BuildRecord(id="r", kind="regular"), keys=["k"])
        assert (await builds.disk_usage((1, 51))).size == 7
    assert loads == [1]


@pytest.mark.parametrize("left", ["", "lease", "directory"])
async def test_builds_that_a_daemon_left_unfinished_are_cleaned_up_after_at_the_start(
    database, left: str, tmp_path: Path
) -> None:
    loads: list[int] = []
    if left == "lease":
        await database.leases(HERE).create(labels={leases.BUILDS: "builds under way"})
    if left == "directory":  # that of a step, which goes after the lease
        (tmp_path / "private" / "private-1").mkdir(parents=True)
    async with Builds(parts(database, tmp_path), loading(FakeBuilder(), loads)) as builds:
        await builds.recover()
    assert len(loads) == bool(left)
