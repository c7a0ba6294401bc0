"""The conformance suite of `lading.core.networks.Networks`.

Subclass `NetworksSuite` and give it a ``world`` fixture: a machine on which daemons come and go while sandboxes stay.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import pytest

from lading.core.networks import (
    BRIDGE,
    HOST,
    NONE,
    EndpointRequest,
    NetworkRequest,
    Networks,
    PortMapping,
    SandboxID,
    Subnet,
    joined,
)
from lading.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnsupportedError,
)

ONE, TWO = SandboxID("one"), SandboxID("two")
NET = NetworkRequest(name="net", subnets=(Subnet(subnet="10.251.1.0/29"),))


class World(Protocol):
    """The machine. Implementations clean up after themselves, whatever a test leaves."""

    def open(self) -> AbstractAsyncContextManager[Networks]:
        """Networks as a daemon that starts would have them; several in turn, never two at a time."""
        ...

    async def interfaces(self, path: str) -> Mapping[str, set[str]]:
        """Interface to its addresses with prefix, as a process in the namespace at ``path`` sees them; loopback left out.

        Raises `FileNotFoundError` if there is no such namespace.
        """
        ...

    async def leftovers(self) -> list[str]:
        """What the machine has for endpoints: links of bridges, rules, resolver entries. Empty when none is left."""
        ...

    async def cut(self, networks: Networks, id: SandboxID) -> None:
        """Leave an endpoint of the sandbox half made, as ``kill -9`` in the middle of `Networks.connect` would."""
        ...


class NetworksSuite:
    """Every promise of the port."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    @pytest.fixture
    async def networks(self, world: World) -> AsyncGenerator[Networks]:
        async with world.open() as networks:
            await networks.recover([])
            yield networks

    # Networks

    async def test_predefined_networks_are_there_and_stay(self, networks: Networks) -> None:
        assert [each.name for each in networks.list()][:2] == [HOST, NONE]
        assert networks.find(BRIDGE).subnets
        assert not networks.find(BRIDGE).resolves_names
        for name in (BRIDGE, HOST, NONE):
            with pytest.raises(PermissionDeniedError):
                await networks.remove(networks.find(name).id)
            with pytest.raises(PermissionDeniedError):
                await networks.create(NetworkRequest(name=name))

    async def test_what_is_left_out_is_chosen(self, networks: Networks) -> None:
        made = await networks.create(NetworkRequest(name="net", ipv6=True, labels={"a": "b"}))
        four, six = made.subnets
        assert four.gateway.endswith(".1")
        assert six.subnet.startswith("fd")
        assert (made.name, made.labels, made.resolves_names) == ("net", {"a": "b"}, True)
        other = await networks.create(NetworkRequest(name="other"))
        assert other.subnets[0].subnet not in (four.subnet, networks.find(BRIDGE).subnets[0].subnet)

    async def test_finding(self, networks: Networks) -> None:
        made = await networks.create(NET)
        for name in (made.id, made.name, made.id[:20]):
            assert networks.find(name) == made
        assert made in networks.list()
        for name in ("", "nothing"):
            with pytest.raises(NotFoundError):
                networks.find(name)

    async def test_a_name_is_taken_once(self, networks: Networks) -> None:
        await networks.create(NET)
        with pytest.raises(AlreadyExistsError):
            await networks.create(NetworkRequest(name="net"))

    @pytest.mark.parametrize(
        "subnet",
        [
            Subnet(subnet="10.251.1.3/29"),
            Subnet(subnet="300.1.1.0/24"),
            Subnet(subnet="10.251.1.0/32"),
            Subnet(subnet="10.251.1.0/29", gateway="10.251.2.1"),
            Subnet(subnet="10.251.1.0/29", range="10.251.0.0/16"),
            Subnet(subnet="10.251.1.0/29", reserved={"router": "10.9.9.9"}),
            Subnet(subnet="fd00::/64"),
        ],
    )
    async def test_wrong_subnets_are_refused(self, networks: Networks, subnet: Subnet) -> None:
        with pytest.raises(InvalidArgumentError):
            await networks.create(NetworkRequest(name="net", subnets=(subnet,)))
        with pytest.raises(NotFoundError):
            networks.find("net")

    async def test_a_bridge_has_one_subnet_of_each_version(self, networks: Networks) -> None:
        both = (*NET.subnets, Subnet(subnet="fd00:251::/64"))
        for extra in ("10.251.2.0/29", "fd00:252::/64"):
            with pytest.raises(PermissionDeniedError, match="multiple subnets"):
                await networks.create(
                    NetworkRequest(name="net", ipv6=True, subnets=(*both, Subnet(subnet=extra)))
                )
        made = await networks.create(NetworkRequest(name="net", ipv6=True, subnets=both))
        assert [each.subnet for each in made.subnets] == ["10.251.1.0/29", "fd00:251::/64"]

    async def test_networks_do_not_overlap(self, networks: Networks) -> None:
        await networks.create(NET)
        with pytest.raises(PermissionDeniedError):
            await networks.create(NetworkRequest(name="other", subnets=(Subnet(subnet="10.251.0.0/16"),)))

    @pytest.mark.parametrize(
        "request_",
        [
            NetworkRequest(name="net", driver="overlay"),
            NetworkRequest(name="net", options={"com.example.unheard": "1"}),
        ],
    )
    async def test_what_is_not_offered_is_refused(self, networks: Networks, request_: NetworkRequest) -> None:
        with pytest.raises(UnsupportedError):
            await networks.create(request_)

    @pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a\n"])
    async def test_a_name_is_a_word(self, networks: Networks, name: str) -> None:
        with pytest.raises(InvalidArgumentError):
            await networks.create(NetworkRequest(name=name))

    async def test_removing(self, networks: Networks) -> None:
        made = await networks.create(NET)
        async with joined(networks, ONE, "net"):
            with pytest.raises(PermissionDeniedError):
                await networks.remove(made.id)
        await networks.remove(made.id)
        with pytest.raises(NotFoundError):
            await networks.remove(made.id)
        await networks.create(NET)

    # Sandboxes and endpoints

    async def test_a_sandbox_begins_alone(self, networks: Networks, world: World) -> None:
        sandbox = await networks.open_sandbox(ONE)
        assert await networks.open_sandbox(ONE) == sandbox == networks.sandbox(ONE)
        assert await world.interfaces(sandbox.path) == {}
        await networks.close_sandbox(ONE)
        await networks.close_sandbox(ONE)
        with pytest.raises(NotFoundError):
            networks.sandbox(ONE)
        with pytest.raises(FileNotFoundError):
            await world.interfaces(sandbox.path)

    @pytest.mark.parametrize("id", ["", "..", "a/b", "-x", "a b", "x" * 200])
    async def test_an_id_that_is_none(self, networks: Networks, id: str) -> None:
        with pytest.raises(InvalidArgumentError):
            await networks.open_sandbox(SandboxID(id))

    async def test_an_endpoint_has_what_was_asked_for(self, networks: Networks, world: World) -> None:
        made = await networks.create(NET)
        request = EndpointRequest(names=("web", "www"), ipv4="10.251.1.5", mac="02:42:00:00:00:07")
        async with joined(networks, ONE, "net", request) as sandbox:
            [endpoint] = sandbox.endpoints
            assert (endpoint.ipv4, endpoint.ipv4_prefix, endpoint.ipv4_gateway) == (
                "10.251.1.5",
                29,
                "10.251.1.1",
            )
            assert (endpoint.mac, endpoint.interface) == ("02:42:00:00:00:07", "eth0")
            assert endpoint.names == ("web", "www")
            assert endpoint.servers
            assert (await world.interfaces(sandbox.path))["eth0"] >= {"10.251.1.5/29"}
            assert networks.endpoints(made.id) == [(ONE, endpoint)]
            assert sandbox.endpoint(made.id) == endpoint
            assert await world.leftovers()
        assert networks.endpoints(made.id) == []
        assert await world.leftovers() == []

    async def test_an_endpoint_gets_other_names(self, networks: Networks) -> None:
        made = await networks.create(NET)
        await networks.rename(ONE, made.id, ["nobody"])
        async with joined(networks, ONE, "net", EndpointRequest(names=("web", "www"))) as sandbox:
            await networks.rename(ONE, made.id, ["shop", "www"])
            [endpoint] = networks.sandbox(ONE).endpoints
            assert endpoint.names == ("shop", "www")
            assert (endpoint.ipv4, endpoint.id) == (sandbox.endpoints[0].ipv4, sandbox.endpoints[0].id)
            assert networks.endpoints(made.id) == [(ONE, endpoint)]

    async def test_addresses_are_given_out_once(self, networks: Networks) -> None:
        made = await networks.create(NET)
        got: list[str] = []
        for number in range(5):  # a /29 less network, gateway and broadcast
            id_ = SandboxID(f"box-{number}")
            await networks.open_sandbox(id_)
            got.append((await networks.connect(id_, made.id, EndpointRequest())).ipv4)
        assert got == [f"10.251.1.{number}" for number in range(2, 7)]
        await networks.open_sandbox(ONE)
        with pytest.raises(ResourceExhaustedError):
            await networks.connect(ONE, made.id, EndpointRequest())
        with pytest.raises(ConflictError):
            await networks.connect(ONE, made.id, EndpointRequest(ipv4="10.251.1.3"))
        with pytest.raises(InvalidArgumentError):
            await networks.connect(ONE, made.id, EndpointRequest(ipv4="10.9.9.9"))
        await networks.disconnect(SandboxID("box-1"), made.id)
        assert (await networks.connect(ONE, made.id, EndpointRequest())).ipv4 == "10.251.1.3"
        for id_ in (ONE, *(SandboxID(f"box-{number}") for number in range(5))):
            await networks.close_sandbox(id_)

    async def test_two_networks_and_one_again(self, networks: Networks, world: World) -> None:
        first = await networks.create(NET)
        second = await networks.create(NetworkRequest(name="second", internal=True))
        async with joined(networks, ONE, "net") as sandbox:
            endpoint = await networks.connect(ONE, second.id, EndpointRequest())
            assert (endpoint.interface, endpoint.ipv4_gateway) == ("eth1", "")
            assert sorted(await world.interfaces(sandbox.path)) == ["eth0", "eth1"]
            with pytest.raises(AlreadyExistsError):
                await networks.connect(ONE, second.id, EndpointRequest())
            await networks.disconnect(ONE, first.id)
            await networks.disconnect(ONE, first.id)
            assert sorted(await world.interfaces(sandbox.path)) == ["eth1"]
            assert (await networks.connect(ONE, first.id, EndpointRequest())).interface == "eth0"
        assert await world.leftovers() == []

    async def test_what_cannot_be_joined(self, networks: Networks) -> None:
        bridge = networks.find(BRIDGE)
        with pytest.raises(NotFoundError):
            await networks.connect(ONE, bridge.id, EndpointRequest())
        await networks.open_sandbox(ONE)
        for name in (HOST, NONE):
            with pytest.raises(InvalidArgumentError):
                await networks.connect(ONE, networks.find(name).id, EndpointRequest())
        await networks.close_sandbox(ONE)

    @pytest.mark.parametrize(
        "request_",
        [
            EndpointRequest(names=("a b",)),
            EndpointRequest(names=("a,b",)),
            EndpointRequest(names=("a\n10.0.0.1 evil",)),
            EndpointRequest(mac="no"),
            EndpointRequest(mac="01:00:00:00:00:00"),
            EndpointRequest(ipv4="no"),
            EndpointRequest(ports=(PortMapping(port=0),)),
            EndpointRequest(ports=(PortMapping(port=80, protocol="icmp"),)),
            EndpointRequest(ports=(PortMapping(port=80, host_port=70000),)),
            EndpointRequest(resolvers=("example.com",)),
        ],
    )
    async def test_wrong_requests_leave_nothing(
        self, networks: Networks, world: World, request_: EndpointRequest
    ) -> None:
        await networks.open_sandbox(ONE)
        with pytest.raises(InvalidArgumentError):
            await networks.connect(ONE, networks.find(BRIDGE).id, request_)
        assert networks.sandbox(ONE).endpoints == ()
        assert await world.leftovers() == []
        await networks.close_sandbox(ONE)

    async def test_ports_are_given_out_once(self, networks: Networks) -> None:
        bridge = networks.find(BRIDGE)
        wanted = EndpointRequest(ports=(PortMapping(port=80, host_ip="127.0.0.1"),))
        async with joined(networks, ONE, BRIDGE, wanted) as sandbox:
            [port] = sandbox.endpoints[0].ports
            assert (port.port, port.host_ip) == (80, "127.0.0.1")
            assert port.host_port > 0
            await networks.open_sandbox(TWO)
            with pytest.raises(ConflictError, match="already allocated"):
                await networks.connect(TWO, bridge.id, EndpointRequest(ports=(port,)))
            assert networks.sandbox(TWO).endpoints == ()
        taken = await networks.connect(TWO, bridge.id, EndpointRequest(ports=(port,)))
        assert taken.ports == (port,)
        await networks.close_sandbox(TWO)

    # After the daemon died

    async def test_what_is_kept_stays_and_the_rest_goes(self, world: World) -> None:
        async with world.open() as networks:
            await networks.recover([])
            net = await networks.create(NET)
            for id_ in (ONE, TWO):
                await networks.open_sandbox(id_)
                await networks.connect(id_, net.id, EndpointRequest(names=(id_,)))
            before, gone = networks.sandbox(ONE), networks.sandbox(TWO)
        async with world.open() as networks:
            assert networks.find("net") == net
            assert await networks.recover([ONE]) == [TWO]
            assert networks.sandbox(ONE) == before
            assert networks.endpoints(net.id) == [(ONE, before.endpoints[0])]
            assert "eth0" in await world.interfaces(before.path)
            with pytest.raises(FileNotFoundError):
                await world.interfaces(gone.path)
            await networks.open_sandbox(TWO)
            assert (await networks.connect(TWO, net.id, EndpointRequest())).ipv4 != before.endpoints[0].ipv4
            for id_ in (ONE, TWO):
                await networks.close_sandbox(id_)
        assert await world.leftovers() == []

    async def test_a_half_made_endpoint_goes(self, world: World) -> None:
        async with world.open() as networks:
            await networks.recover([])
            await networks.create(NET)
            await networks.open_sandbox(ONE)
            await world.cut(networks, ONE)
        async with world.open() as networks:
            assert await networks.recover([ONE]) == []
            assert networks.sandbox(ONE).endpoints == ()
            assert await world.leftovers() == []
            async with joined(networks, TWO, "net"):
                pass
            await networks.close_sandbox(ONE)

    async def test_joined_cleans_up_after_an_error(self, networks: Networks, world: World) -> None:
        with pytest.raises(LadingError):
            async with joined(networks, ONE, BRIDGE):
                raise LadingError("the step failed")
        with pytest.raises(NotFoundError):
            networks.sandbox(ONE)
        assert await world.leftovers() == []
