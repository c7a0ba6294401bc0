"""Every `Registries` against one suite."""

from collections.abc import AsyncGenerator, Generator

import pytest
from support.registry import docker_registry

from lading.core.remotes import Registries
from lading.remotes.registries import HttpRegistries
from lading.testing.memory.remotes import MemoryRegistries
from lading.testing.registry import FakeRegistry
from lading.testing.remotes import RemotesSuite

pytestmark = pytest.mark.anyio


class TestMemory(RemotesSuite):
    @pytest.fixture
    def host(self) -> str:
        return "registry.test"

    @pytest.fixture
    async def registries(self, host: str) -> Registries:
        world = MemoryRegistries()
        world.registry(host)
        return world


class _Http(RemotesSuite):
    @pytest.fixture
    async def registries(self) -> AsyncGenerator[Registries]:
        client = HttpRegistries()
        yield client
        await client.close()


@pytest.fixture(scope="module")
def fake_host() -> Generator[str]:
    with FakeRegistry() as registry:
        yield registry.host


@pytest.fixture(scope="module")
def docker_host() -> Generator[str]:
    with docker_registry() as host:
        yield host


class TestHttpAgainstFake(_Http):
    @pytest.fixture
    def host(self, fake_host: str) -> str:
        return fake_host


class TestHttpAgainstDockerRegistry(_Http):
    @pytest.fixture
    def host(self, docker_host: str) -> str:
        return docker_host
