"""The in-memory networks keep the port's promises."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import pytest

from lading.core.networks import EndpointRequest, Networks, SandboxID
from lading.testing.memory.networks import MemoryNetworks, Wires
from lading.testing.networks import NetworksSuite

pytestmark = pytest.mark.anyio


class MemoryWorld:
    def __init__(self) -> None:
        self.wires = Wires()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Networks]:
        yield MemoryNetworks(self.wires)

    async def interfaces(self, path: str) -> Mapping[str, set[str]]:
        for sandbox in self.wires.sandboxes.values():
            if sandbox.path == path:
                return {each.interface: {f"{each.ipv4}/{each.ipv4_prefix}"} for each in sandbox.endpoints}
        raise FileNotFoundError(path)

    async def leftovers(self) -> list[str]:
        return [each.id for sandbox in self.wires.sandboxes.values() for each in sandbox.endpoints]

    async def cut(self, networks: Networks, id: SandboxID) -> None:
        endpoint = await networks.connect(id, networks.find("net").id, EndpointRequest())
        self.wires.incomplete.add(endpoint.id)


class TestMemoryNetworks(NetworksSuite):
    @pytest.fixture
    def world(self) -> MemoryWorld:
        return MemoryWorld()
