"""Containers in networks: what a start joins and an end leaves, and what is changed while it runs.

What a container wants is kept with it (`Document.networks`); what it has lives with its sandbox, whose ID is the container's.
"""

import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import anyio
import structlog

from lading.containers import links, netmodes
from lading.containers.environment import Resolving
from lading.containers.model import Container
from lading.containers.netmodes import Kind, Wish
from lading.containers.request import Config, HostConfig, NetworkingConfig
from lading.core.events import Bus
from lading.core.networks import (
    BRIDGE,
    HOST,
    NONE,
    Endpoint,
    EndpointRequest,
    Network,
    Networks,
    PortMapping,
    Sandbox,
    SandboxID,
)
from lading.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """What a start needs to know of the network.

    ``path`` is the namespace to join, empty for a new one or the host's. ``files_of`` is the container whose
    ``/etc/hosts`` and the like are shared. ``addresses`` are the container's own.
    """

    path: str = ""
    files_of: Container | None = None
    addresses: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    """Name servers of its networks."""
    gateway: str = ""
    embedded: bool = False
    """Whether those servers answer for names from outside too."""
    linked: tuple[tuple[str, str], ...] = ()
    """Addresses of linked containers, with their names."""


class Networking:
    """Networks of all containers. ``find`` gives the container of a name or ID; ``spawn`` runs something in the background."""

    def __init__(
        self,
        networks: Networks,
        bus: Bus,
        find: Callable[[str], Container],
        resolving: Resolving,
        spawn: Callable[[Callable[[], Awaitable[object]]], None],
    ) -> None:
        self.networks = networks
        self.resolving = resolving
        self._bus = bus
        self._find = find
        self._leaving: dict[str, anyio.Event] = {}
        self._spawn = spawn

    def wishes(self, config: Config, host: HostConfig, asked: NetworkingConfig) -> dict[str, Wish]:
        """The networks that a new container is to be on.

        Where the daemon has no default bridge, a container that names no network has none. Raises as `netmodes.wishes`.
        """
        made = netmodes.wishes(config, host, asked)
        netmodes.exposed(config)
        netmodes.published(config, host)
        if host.network_mode in ("", netmodes.DEFAULT) and self._known(BRIDGE) is None:
            made.pop(BRIDGE, None)
        return made

    # Start and end.

    async def enter(self, container: Container, owner: str = "") -> Joint:
        """Give a container that starts its network namespace, which is all that its task needs to be made. `join` does the rest.
        ``owner`` is the path of its user namespace, if it has one.

        Raises as `Networks.open_sandbox`; `ConflictError` if the container whose network is to be shared does not run.
        """
        mode = netmodes.mode_of(container.host)
        if mode.kind is Kind.CONTAINER:
            return self._share(container, mode.name)
        if mode.kind is Kind.HOST:
            return Joint(gateway="127.0.0.1")
        if self._isolated(container):
            return Joint(gateway=self._host_gateway())
        id_ = SandboxID(container.id)
        await self.settle(container.id)
        await self.networks.close_sandbox(id_)  # of a run whose end was not seen
        return Joint(path=(await self.networks.open_sandbox(id_, owner=owner)).path)

    def _isolated(self, container: Container) -> bool:
        """Whether it has no network and can be given none: one that was taken out of all its networks can."""
        mode = netmodes.mode_of(container.host)
        if container.document.networks or mode.kind not in (Kind.NETWORK, Kind.NONE):
            return False
        without_default = mode.name == BRIDGE and self._known(BRIDGE) is None
        return mode.kind is Kind.NONE or bool(container.config.network_disabled) or without_default

    async def join(self, container: Container, entered: Joint) -> Joint:
        """Connect what `enter` gave to the container's networks; nothing of it stays if that fails.

        Raises as `Networks.connect`.
        """
        if entered.files_of is not None or self.sandbox(container) is None:
            return entered
        try:
            await self._connect_all(container)
        except BaseException:
            await self.networks.close_sandbox(SandboxID(container.id))
            raise
        return self.joint(container)

    async def _connect_all(self, container: Container) -> None:
        ports = netmodes.published(container.config, container.host)
        for name, wish in container.document.networks.items():
            network = self.networks.find(name)
            publishes = _publishes(network)
            await self._connect(container, network, wish, ports if publishes else [])
            if publishes:
                ports = []

    def _share(self, container: Container, name: str) -> Joint:
        other = self._find(name)
        if other.id == container.id:
            raise InvalidArgumentError("cannot join own network namespace")
        if not other.state.running:
            raise ConflictError(f"cannot join network namespace of a non running container: {other.id}")
        sandbox = self.sandbox(other)
        path = sandbox.path if sandbox else f"/proc/{other.state.pid}/ns/net"
        return Joint(path=path, files_of=other)

    def joint(self, container: Container) -> Joint:
        """What a running container has, for its files."""
        sandbox = self.sandbox(container)
        if sandbox is None:
            return Joint()
        servers = tuple(dict.fromkeys(server for each in sandbox.endpoints for server in each.servers))
        addresses = tuple(a for each in sandbox.endpoints for a in (each.ipv4, each.ipv6) if a)
        gateways = (each.ipv4_gateway for each in sandbox.endpoints if each.ipv4_gateway)
        return Joint(
            path=sandbox.path,
            addresses=addresses,
            servers=servers,
            gateway=self._host_gateway(next(gateways, "")),
            embedded=bool(servers),
            linked=tuple(self._linked(container)),
        )

    def _host_gateway(self, own: str = "") -> str:
        """What ``host-gateway`` means to a container whose first gateway is ``own``.

        One that has none gets the default network's: the name is then there, as in Docker, though no way leads to it.
        """
        default = self._known(BRIDGE)
        gateways = (each.gateway for each in default.subnets if each.gateway) if default else iter(())
        return self.resolving.host_gateway or own or next(gateways, "")

    def _linked(self, container: Container) -> Iterator[tuple[str, str]]:
        for key in container.document.networks:
            for link in links.of(container, key):
                with contextlib.suppress(NotFoundError, InvalidArgumentError):  # it may come later
                    other = self._find(link.name)
                    if address := self.address_in(other, key):
                        yield address, links.names(link, other)

    def address_in(self, container: Container, network: str) -> str:
        """Its address in a network; empty if it has none there now."""
        known, sandbox = self._known(network), self.sandbox(container)
        endpoint = sandbox.endpoint(known.id) if sandbox and known else None
        return (endpoint.ipv4 or endpoint.ipv6) if endpoint else ""

    async def _connect(
        self, container: Container, network: Network, wish: Wish, ports: Collection[PortMapping]
    ) -> Endpoint:
        request = EndpointRequest(
            names=names_of(container, wish) if network.resolves_names else (),
            ipv4=wish.ipv4,
            ipv6=wish.ipv6,
            mac=wish.mac_address,
            interface=netmodes.interface_of(wish),
            ports=tuple(ports),
            resolvers=tuple(container.host.dns or self.resolving.servers) if network.resolves_names else (),
            priority=wish.gw_priority,
        )
        try:
            endpoint = await self.networks.connect(SandboxID(container.id), network.id, request)
        except (ConflictError, ResourceExhaustedError):
            if not self._leaving:
                raise
            await self.settle()  # what is wanted may be another one's that is just given up
            endpoint = await self.networks.connect(SandboxID(container.id), network.id, request)
        self._tell("connect", network, container)
        return endpoint

    async def leave(self, container: Container) -> None:
        """Take a container that ended out of its networks, in the background; `settle` waits for it. Idempotent."""
        sandbox = self.sandbox(container)
        if sandbox is None or container.id in self._leaving:
            return
        known = {each.id: each for each in self.networks.list()}
        for endpoint in sandbox.endpoints:
            if network := known.get(endpoint.network):
                self._tell("disconnect", network, container)
        done = self._leaving[container.id] = anyio.Event()

        async def close() -> None:
            try:
                await self.networks.close_sandbox(sandbox.id)
            finally:
                del self._leaving[container.id]
                done.set()

        self._spawn(close)

    def is_leaving(self, container: str) -> bool:
        """Whether it ended, and its networks are about to forget it."""
        return container in self._leaving

    async def settle(self, container: str = "") -> None:
        """Wait until one container, or every one, has left the networks that it is leaving."""
        leaving = [self._leaving.get(container)] if container else list(self._leaving.values())
        for done in leaving:
            if done is not None:
                await done.wait()

    async def recover(self, running: Collection[str]) -> None:
        """After a start of the daemon: keep the networks of running containers, clean up all others."""
        gone = await self.networks.recover([SandboxID(id_) for id_ in running])
        if gone:
            _log.info("networks_of_dead_containers_removed", count=len(gone))

    def sandbox(self, container: Container) -> Sandbox | None:
        """What it has now; ``None`` unless it runs in a network of ours."""
        try:
            return self.networks.sandbox(SandboxID(container.id))
        except NotFoundError:
            return None

    def _tell(self, action: str, network: Network, container: Container) -> None:
        attributes = {"container": container.id, "name": network.name, "type": network.driver}
        self._bus.publish("network", action, network.id, attributes)

    # While it is there.

    async def connect(self, container: Container, network: Network, raw: Mapping[str, Any] | None) -> None:
        """Put a container into one more network; at once if it runs, else at its next start. The caller stores it.

        Raises as `Networks.connect`; `PermissionDeniedError` if it has no network of its own, or is in this one;
        `InvalidArgumentError` if it is in ``none``.
        """
        document = container.document
        wish = netmodes.read_wish(raw, network.name)
        if network.name in document.networks:
            raise PermissionDeniedError(
                f"endpoint with name {container.name} already exists in network {network.name}"
            )
        kind = netmodes.mode_of(container.host).kind
        if kind is Kind.NONE and network.name == NONE and document.left_none and not document.networks:
            document.left_none = False
            return
        if network.name == NONE or (kind is Kind.NONE and not document.left_none):
            raise InvalidArgumentError(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
                hint=f"docker network disconnect {NONE} {container.name}",
            )
        if kind not in (Kind.NETWORK, Kind.NONE) or not network.interface:
            raise PermissionDeniedError(
                "container sharing network namespace with another container or host cannot be connected to any "
                "other network"
            )
        if container.state.running:
            # It may have begun without any network, in a namespace that the runtime made.
            existing = f"/proc/{container.state.pid}/ns/net"
            await self.networks.open_sandbox(SandboxID(container.id), existing=existing)
            await self._connect(container, network, wish, self._unpublished(container, network))
        document.networks[network.name] = wish

    async def rename(self, container: Container) -> None:
        """A container has another name: others find it by that from now on. Raises as `Networks.rename`."""
        for key, wish in container.document.networks.items():
            network = self._known(key)
            if network is not None and network.resolves_names and container.state.running:
                await self.networks.rename(SandboxID(container.id), network.id, names_of(container, wish))

    def _unpublished(self, container: Container, network: Network) -> list[PortMapping]:
        """Ports that wait for a network to be published on."""
        sandbox = self.sandbox(container)
        if sandbox is None or not _publishes(network):
            return []
        if any(each.ports for each in sandbox.endpoints):
            return []
        return netmodes.published(container.config, container.host)

    async def disconnect(self, container: Container, network: Network) -> None:
        """Take a container out of a network. The caller stores it. Raises `PermissionDeniedError` if it is in none such."""
        document = container.document
        if (
            network.name == NONE
            and netmodes.mode_of(container.host).kind is Kind.NONE
            and not document.left_none
        ):
            document.left_none = True
            return
        key = next((name for name in document.networks if name in (network.name, network.id)), None)
        if key is None:
            raise PermissionDeniedError(
                f"container {container.id} is not connected to network {network.name}"
            )
        del document.networks[key]
        if not container.state.running:
            return
        sandbox = self.sandbox(container)
        left = sandbox.endpoint(network.id) if sandbox else None
        await self.networks.disconnect(SandboxID(container.id), network.id)
        self._tell("disconnect", network, container)
        if left is not None and left.ports:
            await self._publish_elsewhere(container)

    async def _publish_elsewhere(self, container: Container) -> None:
        """Ports of a network that was left go to the next that can have them.

        An endpoint has its ports from when it is made, so that one is made anew as it was; what goes through it waits.
        """
        sandbox = self.sandbox(container)
        for endpoint in sandbox.endpoints if sandbox else ():
            network = self.networks.find(endpoint.network)
            if not _publishes(network):
                continue
            id_ = SandboxID(container.id)
            request = EndpointRequest(
                names=endpoint.names,
                ipv4=endpoint.ipv4,
                ipv6=endpoint.ipv6,
                mac=endpoint.mac,
                interface=endpoint.interface,
                resolvers=endpoint.resolvers,
                priority=endpoint.priority,
            )
            await self.networks.disconnect(id_, network.id)
            try:
                ports = tuple(netmodes.published(container.config, container.host))
                await self.networks.connect(id_, network.id, replace(request, ports=ports))
            except LadingError as exc:
                _log.warning(
                    "ports_not_moved", container=container.id, network=network.name, reason=exc.message
                )
                await self.networks.connect(id_, network.id, request)
            return

    # Showing.

    def placed(self, container: Container) -> "list[Placed]":
        """The container's networks, in order, with what it has there."""
        mode = netmodes.mode_of(container.host)
        if mode.kind is Kind.HOST or (self._isolated(container) and not container.document.left_none):
            name = HOST if mode.kind is Kind.HOST else NONE
            return [Placed(name=name, network=self._known(name))]
        sandbox = self.sandbox(container) if container.state.running else None
        found: list[Placed] = []
        for name, wish in container.document.networks.items():
            network = self._known(name)
            endpoint = sandbox.endpoint(network.id) if sandbox and network else None
            shown = network.name if network else name
            found.append(Placed(name=shown, network=network, wish=wish, endpoint=endpoint))
        return found

    def _known(self, name: str) -> Network | None:
        try:
            return self.networks.find(name)
        except LadingError:
            return None


def _publishes(network: Network) -> bool:
    """Whether ports of the machine can lead into it."""
    return network.driver == BRIDGE and not network.internal


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A container's place in a network; ``endpoint`` while it runs."""

    name: str
    network: Network | None = None
    wish: Wish = field(default_factory=Wish)
    endpoint: Endpoint | None = None


def names_of(container: Container, wish: Wish) -> tuple[str, ...]:
    """What other containers find it by."""
    hostname = container.config.hostname
    words = (container.name, *(wish.aliases or ()), container.id[:12], *([hostname] if hostname else ()))
    return tuple(dict.fromkeys(words))


__all__ = ["AlreadyExistsError", "Joint", "Networking", "Placed", "Resolving", "names_of"]
