"""Networks: what containers and build steps talk through.

**Terms.** A *network* is a named set of subnets with a *driver*: ``bridge`` (a bridge of its own on this machine, with a
gateway to the outside unless it is internal), ``macvlan`` and ``ipvlan`` (the machine's own link). Two more are predefined
and can neither be made nor joined through this port: ``host`` and ``none``, for processes in the machine's network namespace
or alone in their own. A *sandbox* is a network namespace with a path, so that any process can be started in it; it begins
with a loopback interface only. An *endpoint* is a sandbox's place in a network: an interface, addresses, names, and the
ports of the machine that lead to it.

**Life.** Networks are durable: they are there until they are removed, also after a reboot. A sandbox and its endpoints live
from `open_sandbox` and `connect` to `disconnect` and `close_sandbox`, and outlive the daemon: after ``kill -9`` the
processes in it go on talking. The next daemon calls `recover` with the sandboxes that are still in use; all others are
cleaned up, with whatever a half-done call left, so that no namespace, address, port or rule of a dead one stays. Closing and
disconnecting are idempotent for the same reason, and go on as far as they can when a part is missing.

**Names.** In a network that resolves names (every bridge but the predefined one) an endpoint is found by each of its
names from every other endpoint; a name that several share resolves to all of their addresses. Other names are forwarded to
the machine's resolvers, or to those that the endpoint asked for.

**Builders.** A process needs three calls, which `joined` makes for it::

    async with joined(networks, SandboxID("build-1"), "bridge") as sandbox:
        ...  # start the process in the network namespace at sandbox.path
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NewType, Protocol

NetworkID = NewType("NetworkID", str)
"""64 hexadecimal digits."""
SandboxID = NewType("SandboxID", str)
"""Chosen by whoever opens it: letters, digits, ``-``, ``_`` and ``.``; a container's is the container's ID."""
Labels = Mapping[str, str]

BRIDGE: Final = "bridge"
HOST: Final = "host"
NONE: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """Addresses of a network: ``subnet`` in CIDR form, and what of it is given out (``range``, all if empty).

    ``gateway`` is the machine's own address in it; ``reserved`` are addresses that are never given out, by a name.
    """

    subnet: str = ""
    gateway: str = ""
    range: str = ""
    reserved: Labels = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """What `Networks.create` is asked for. Subnets, or parts of one, that are left out are chosen from free pools."""

    name: str
    driver: str = BRIDGE
    subnets: Sequence[Subnet] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    labels: Labels = field(default_factory=dict[str, str])
    options: Labels = field(default_factory=dict[str, str])
    """Docker's driver options: ``com.docker.network.bridge.name``, ``com.docker.network.driver.mtu``, ``parent`` …"""
    ipam_options: Labels = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network as it is kept. ``interface`` is the bridge, or the parent link; empty for ``host`` and ``none``.

    ``created`` is nanoseconds since the epoch.
    """

    id: NetworkID
    name: str
    driver: str
    created: int
    subnets: tuple[Subnet, ...] = ()
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    labels: Labels = field(default_factory=dict[str, str])
    options: Labels = field(default_factory=dict[str, str])
    ipam_options: Labels = field(default_factory=dict[str, str])
    interface: str = ""
    predefined: bool = False

    @property
    def resolves_names(self) -> bool:
        """Whether its endpoints find each other by name."""
        return self.driver == BRIDGE and not self.predefined


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PortMapping:
    """A port of the machine that leads to one of an endpoint.

    ``host_ip`` is empty for all addresses; ``host_port`` 0 is any free one, and ``host_last`` the end of a range to take one
    from.
    """

    port: int
    protocol: str = "tcp"
    """``tcp``, ``udp`` or ``sctp``."""
    host_ip: str = ""
    host_port: int = 0
    host_last: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRequest:
    """What `Networks.connect` is asked for. Addresses that are left out are chosen.

    ``resolvers`` are asked for names from outside instead of the machine's. The endpoint with the highest ``priority`` has
    the default route; of equals the first.
    """

    names: Sequence[str] = ()
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    interface: str = ""
    ports: Sequence[PortMapping] = ()
    resolvers: Sequence[str] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A sandbox's place in a network. Addresses are plain, prefixes in bits; empty and 0 for what it does not have.

    ``ports`` are as published, each with its port of the machine. ``servers`` answer its look-ups; none where names
    are not resolved.
    """

    id: str
    network: NetworkID
    interface: str
    mac: str
    ipv4: str = ""
    ipv4_prefix: int = 0
    ipv4_gateway: str = ""
    ipv6: str = ""
    ipv6_prefix: int = 0
    ipv6_gateway: str = ""
    names: tuple[str, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    servers: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A network namespace: the path to enter it by, and its endpoints in the order in which they were made."""

    id: SandboxID
    path: str
    endpoints: tuple[Endpoint, ...] = ()

    def endpoint(self, network: NetworkID) -> Endpoint | None:
        """Its place in a network."""
        return next((each for each in self.endpoints if each.network == network), None)


class Store(Protocol):
    """The network records of one namespace. Every call is one durable transaction."""

    async def list(self) -> list[Network]:
        """Oldest first."""
        ...

    async def create(self, network: Network) -> None:
        """Raises `AlreadyExistsError` if the ID or the name is taken."""
        ...

    async def delete(self, id: NetworkID) -> None:
        """Raises `NotFoundError`."""
        ...


class Networks(Protocol):
    """Networks, sandboxes and endpoints of one daemon."""

    # Networks.

    async def create(self, request: NetworkRequest) -> Network:
        """Make a network; it costs nothing of the machine until something joins it.

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidArgumentError: A subnet, an address or an option is wrong, or they contradict each other.
            PermissionDeniedError: A subnet overlaps one of another network, a bridge is to have two of one IP version, or the
                name is reserved.
            ResourceExhaustedError: No pool is free.
            UnsupportedError: No such driver, or an option is not offered.

        """
        ...

    def find(self, name: str) -> Network:
        """By full ID, name, or a unique prefix of an ID, in that order. Raises `NotFoundError`; `InvalidArgumentError`."""
        ...

    def list(self) -> "Sequence[Network]":
        """All, the predefined ones included, oldest first."""
        ...

    async def remove(self, id: NetworkID) -> None:
        """Remove a network without endpoints.

        Raises `NotFoundError`; `PermissionDeniedError` for a predefined one, and while it has endpoints.
        """
        ...

    def endpoints(self, id: NetworkID) -> "Sequence[tuple[SandboxID, Endpoint]]":
        """Everything that is connected to a network now."""
        ...

    # Sandboxes.

    async def open_sandbox(self, id: SandboxID, *, owner: str = "", existing: str = "") -> Sandbox:
        """The sandbox of that ID, made if need be.

        Its network namespace belongs to the user namespace at the path ``owner``, else to the daemon's; or it is that at the path
        ``existing``, of a process that runs without any network.

        Raises `InvalidArgumentError` for an ID that is none; `UnavailableError` if the machine refuses.
        """
        ...

    def sandbox(self, id: SandboxID) -> Sandbox:
        """A sandbox as it is. Raises `NotFoundError`."""
        ...

    async def connect(self, id: SandboxID, network: NetworkID, request: EndpointRequest) -> Endpoint:
        """Give a sandbox a place in a network. When it returns, packets and names find their way.

        After a failure nothing of the endpoint is left.

        Raises:
            NotFoundError: No such sandbox or network. AlreadyExistsError: It is connected to that network.
            InvalidArgumentError: An address is outside the network, a name or a port is wrong, or nothing can join the
            network. ConflictError: An address or a port is taken; the message names it. ResourceExhaustedError: The network
            has no free address. UnavailableError: The machine lacks a program, or refuses in its own words.

        """
        ...

    async def rename(self, id: SandboxID, network: NetworkID, names: Sequence[str]) -> None:
        """From now on the endpoint is found by these names, and by those it had no more. Without an endpoint nothing happens.

        Raises `InvalidArgumentError` for a wrong name; `UnavailableError` in the machine's words.
        """
        ...

    async def disconnect(self, id: SandboxID, network: NetworkID) -> None:
        """Take the endpoint away; idempotent."""
        ...

    async def close_sandbox(self, id: SandboxID) -> None:
        """Disconnect from every network and give up the network namespace; idempotent.

        A process that is still in it keeps its namespace, without a way out.
        """
        ...

    async def recover(self, keep: Collection[SandboxID]) -> "Sequence[SandboxID]":
        """After a start: keep these sandboxes of earlier daemons, clean up all others; returns those that were cleaned up.

        A kept one whose namespace is gone (after a reboot) is cleaned up too. To be called once, before anything is opened.
        """
        ...


@asynccontextmanager
async def joined(
    networks: Networks,
    id: SandboxID,
    network: str = BRIDGE,
    request: EndpointRequest | None = None,
    *,
    owner: str = "",
) -> AsyncGenerator[Sandbox]:
    """A sandbox for as long as the context lasts, with an endpoint in a network; with only loopback for ``none``.

    Raises as `Networks.find`, `Networks.open_sandbox` and `Networks.connect`.
    """
    found = None if network == NONE else networks.find(network)
    sandbox = await networks.open_sandbox(id, owner=owner)
    try:
        if found is not None:
            await networks.connect(id, found.id, request or EndpointRequest())
            sandbox = networks.sandbox(id)
        yield sandbox
    finally:
        await networks.close_sandbox(id)
