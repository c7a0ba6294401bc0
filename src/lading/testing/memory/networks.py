"""`MemoryNetworks`: the port of networks without a machine. `Wires` is what outlives a daemon."""

import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import anyio.lowlevel
from typing_extensions import override

from lading.core import addresses, networks
from lading.core.networks import (
    BRIDGE,
    HOST,
    NONE,
    Endpoint,
    EndpointRequest,
    Network,
    NetworkID,
    NetworkRequest,
    PortMapping,
    Sandbox,
    SandboxID,
)
from lading.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnsupportedError,
)

_DRIVERS = {BRIDGE: "bridge", HOST: "host", NONE: "null"}


@dataclass(slots=True)
class Wires:
    """The machine: networks, sandboxes, and which endpoints are complete."""

    networks: dict[NetworkID, Network] = field(default_factory=dict[NetworkID, Network])
    sandboxes: dict[SandboxID, Sandbox] = field(default_factory=dict[SandboxID, Sandbox])
    incomplete: set[str] = field(default_factory=set[str])


class MemoryNetworks(networks.Networks):
    """`networks.Networks` in memory; without ``bridge`` there is no default network."""

    def __init__(self, wires: Wires | None = None, *, bridge: bool = True) -> None:
        self.wires = wires or Wires()
        for name, driver in _DRIVERS.items():
            if name == BRIDGE and not bridge:
                continue
            id_ = NetworkID(name.encode().hex().ljust(64, "0"))
            if id_ not in self.wires.networks:
                request = NetworkRequest(name=name, driver=driver, ipv4=name == BRIDGE)
                self._define(id_, request, predefined=True)

    def _define(self, id: NetworkID, request: NetworkRequest, *, predefined: bool = False) -> Network:
        taken = [addresses.network(s.subnet) for each in self.wires.networks.values() for s in each.subnets]
        made = Network(
            id=id,
            name=request.name,
            driver=request.driver,
            created=time.time_ns() if request.ipv4 else 0,
            subnets=addresses.subnets_for(request, taken=taken, busy=(), pools=addresses.DEFAULT_POOLS),
            ipv4=request.ipv4,
            ipv6=request.ipv6,
            internal=request.internal,
            attachable=request.attachable,
            labels=dict(request.labels),
            options=dict(request.options),
            interface=f"br-{id[:12]}" if request.ipv4 else "",
            predefined=predefined,
        )
        self.wires.networks[id] = made
        return made

    @override
    async def create(self, request: NetworkRequest) -> Network:
        await anyio.lowlevel.checkpoint()
        if request.name in _DRIVERS:
            raise PermissionDeniedError(request.name)
        if not request.name.replace("-", "a").replace("_", "a").isalnum() or request.name.startswith("-"):
            raise InvalidArgumentError(f"invalid network name {request.name!r}")
        if request.driver != BRIDGE or any(not name.startswith("com.docker.") for name in request.options):
            raise UnsupportedError(request.driver)
        if any(each.name == request.name for each in self.wires.networks.values()):
            raise AlreadyExistsError(request.name)
        return self._define(NetworkID(secrets.token_hex(32)), request)

    @override
    def find(self, name: str) -> Network:
        for each in self.wires.networks.values():
            if name in (each.id, each.name):
                return each
        matches = [each for id_, each in self.wires.networks.items() if name and id_.startswith(name)]
        if len(matches) != 1:
            raise NotFoundError(f"network {name} not found")
        return matches[0]

    @override
    def list(self) -> Sequence[Network]:
        return sorted(self.wires.networks.values(), key=lambda each: each.created)

    @override
    async def remove(self, id: NetworkID) -> None:
        await anyio.lowlevel.checkpoint()
        network = self._known(id)
        if network.predefined or self.endpoints(id):
            raise PermissionDeniedError(f"network {network.name} has active endpoints, or is predefined")
        del self.wires.networks[id]

    def _known(self, id: NetworkID) -> Network:
        if id not in self.wires.networks:
            raise NotFoundError(f"network {id} not found")
        return self.wires.networks[id]

    @override
    def endpoints(self, id: NetworkID) -> Sequence[tuple[SandboxID, Endpoint]]:
        return [
            (sandbox.id, each)
            for sandbox in self.wires.sandboxes.values()
            for each in sandbox.endpoints
            if each.network == id
        ]

    @override
    async def open_sandbox(self, id: SandboxID, *, owner: str = "", existing: str = "") -> Sandbox:
        await anyio.lowlevel.checkpoint()
        if not 0 < len(id) <= 128 or not all(c.isalnum() or c in "-_." for c in id) or not id[0].isalnum():
            raise InvalidArgumentError(f"invalid sandbox ID {id!r}")
        return self.wires.sandboxes.setdefault(id, Sandbox(id=id, path=f"/memory/{id}"))

    @override
    def sandbox(self, id: SandboxID) -> Sandbox:
        if id not in self.wires.sandboxes:
            raise NotFoundError(f"no sandbox {id}")
        return self.wires.sandboxes[id]

    @override
    async def connect(self, id: SandboxID, network: NetworkID, request: EndpointRequest) -> Endpoint:
        await anyio.lowlevel.checkpoint()
        sandbox, known = self.sandbox(id), self._known(network)
        _check(request)
        if not known.interface:
            raise InvalidArgumentError(f"a sandbox cannot be connected to {known.name}")
        if sandbox.endpoint(network):
            raise AlreadyExistsError(f"endpoint already exists in network {known.name}")
        subnet = known.subnets[0]
        ip = addresses.choose(
            subnet, wanted=request.ipv4, used=[each.ipv4 for _, each in self.endpoints(network)]
        )
        taken = {each.interface for each in sandbox.endpoints}
        endpoint = Endpoint(
            id=secrets.token_hex(32),
            network=network,
            interface=request.interface or next(n for i in range(9) if (n := f"eth{i}") not in taken),
            mac=request.mac or "02:00:00:00:00:01",
            ipv4=ip,
            ipv4_prefix=addresses.network(subnet.subnet).prefixlen,
            ipv4_gateway="" if known.internal else subnet.gateway,
            names=tuple(request.names),
            ports=self._ports(request.ports),
            servers=(subnet.gateway,) if known.resolves_names else (),
            resolvers=tuple(request.resolvers),
            priority=request.priority,
        )
        self.wires.sandboxes[id] = replace(sandbox, endpoints=(*sandbox.endpoints, endpoint))
        return endpoint

    def _ports(self, wanted: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        taken = {
            (port.protocol, port.host_port)
            for sandbox in self.wires.sandboxes.values()
            for each in sandbox.endpoints
            for port in each.ports
        }
        got: list[PortMapping] = []
        for each in wanted:
            first = each.host_port or 32768
            last = max(first, each.host_last) if each.host_port else 60999
            free = next((p for p in range(first, last + 1) if (each.protocol, p) not in taken), None)
            if free is None:
                raise ConflictError(f"Bind for {each.host_ip}:{first} failed: port is already allocated")
            taken.add((each.protocol, free))
            got.append(replace(each, host_port=free, host_last=0))
        return tuple(got)

    @override
    async def rename(self, id: SandboxID, network: NetworkID, names: Sequence[str]) -> None:
        await anyio.lowlevel.checkpoint()
        if sandbox := self.wires.sandboxes.get(id):
            endpoints = tuple(
                replace(each, names=tuple(names)) if each.network == network else each
                for each in sandbox.endpoints
            )
            self.wires.sandboxes[id] = replace(sandbox, endpoints=endpoints)

    @override
    async def disconnect(self, id: SandboxID, network: NetworkID) -> None:
        await anyio.lowlevel.checkpoint()
        if sandbox := self.wires.sandboxes.get(id):
            rest = tuple(each for each in sandbox.endpoints if each.network != network)
            self.wires.sandboxes[id] = replace(sandbox, endpoints=rest)

    @override
    async def close_sandbox(self, id: SandboxID) -> None:
        await anyio.lowlevel.checkpoint()
        self.wires.sandboxes.pop(id, None)

    @override
    async def recover(self, keep: Collection[SandboxID]) -> Sequence[SandboxID]:
        gone = [id_ for id_ in self.wires.sandboxes if id_ not in keep]
        for id_ in gone:
            await self.close_sandbox(id_)
        for id_, sandbox in self.wires.sandboxes.items():
            whole = tuple(each for each in sandbox.endpoints if each.id not in self.wires.incomplete)
            self.wires.sandboxes[id_] = replace(sandbox, endpoints=whole)
        return gone


def _check(request: EndpointRequest) -> None:
    words = all(name and not set(name) & set(" ,\n\t") for name in request.names)
    mac = not request.mac or (len(request.mac) == 17 and not int(request.mac[1], 16) & 1)
    if not words or not mac:
        raise InvalidArgumentError("invalid alias or MAC address")
    for port in request.ports:
        if port.protocol not in ("tcp", "udp", "sctp") or not port.port or port.host_port > 65535:
            raise InvalidArgumentError(f"invalid port {port}")
    for text in request.resolvers:
        addresses.address(text, "nameserver address")
