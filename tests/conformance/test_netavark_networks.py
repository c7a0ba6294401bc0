"""`NetavarkNetworks` keeps the promises of its port, in a network namespace that stands for the machine."""

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.netns import Netns, addresses, netavark, new_netns

from lading.core.metadata import Namespace
from lading.core.networks import EndpointRequest, Networks, SandboxID
from lading.network.networks import NetavarkNetworks, Settings, open_networks
from lading.network.state import Place
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.networks import NetworksSuite

pytestmark = pytest.mark.anyio


class NetavarkWorld:
    def __init__(self, machine: Netns, directory: Path) -> None:
        self.machine = machine
        self.root = directory / "network"
        self.database = MemoryDatabase()
        program = netavark()
        assert program, "make setup installs netavark"
        self.settings = Settings(
            program=machine.wrapper(directory, program), nft=machine.wrapper(directory, "/usr/sbin/nft")
        )

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Networks]:
        store = self.database.networks(Namespace("moby"))
        async with open_networks(store, self.root, self.settings) as networks:
            yield networks

    async def interfaces(self, path: str) -> Mapping[str, set[str]]:
        if not Path(path).exists():
            raise FileNotFoundError(path)
        return addresses(Netns(Path(path)).links())

    async def leftovers(self) -> list[str]:
        rules = [
            line
            for line in self.machine.rules().splitlines()
            if any(word in line for word in ("10.251.", " nv_", "lading-"))
        ]
        names = list((self.root / "netavark/aardvark-dns").glob("*"))
        return [*[each["ifname"] for each in self.machine.links()], *rules, *map(str, names)]

    async def cut(self, networks: Networks, id: SandboxID) -> None:
        """The program ended half-way: the bridge and its rules are there, the namespace has no interface."""
        assert isinstance(networks, NetavarkNetworks)
        net = networks.find("net")
        endpoint = await networks.connect(id, net.id, EndpointRequest(names=("half",)))
        record = networks._live[id].record
        Netns(Path(networks.sandbox(id).path)).run("ip", "link", "del", "eth0")
        record.places[:] = [Place(endpoint=endpoint, network=net)]
        networks._state.save(record)

    def clean(self) -> None:
        for path in (self.root / "namespaces").glob("*"):
            from lading.kit import linux

            linux.remove_network_namespace(str(path))
        pid = self.root / "netavark/aardvark-dns/aardvark.pid"
        if pid.exists():
            import os
            import signal

            os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture
def machine() -> Generator[Netns]:
    with new_netns() as machine:
        yield machine


class TestNetavarkNetworks(NetworksSuite):
    @pytest.fixture
    def world(self, machine: Netns, tmp_path: Path) -> Generator[NetavarkWorld]:
        world = NetavarkWorld(machine, tmp_path)
        yield world
        world.clean()
