"""What can be asked for about networks: Docker's requests in, networks and the containers in them changed."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import msgspec

from lading.containers import listing, patterns
from lading.containers.model import Container
from lading.containers.networking import Networking
from lading.core.events import Bus
from lading.core.networks import BRIDGE, Network, NetworkRequest, Subnet
from lading.errors import (
    ConflictError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    UnsupportedError,
)
from lading.kit import times

_KINDS: Final = ("builtin", "custom")
LIST_FILTERS: Final = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type"})
PRUNE_FILTERS: Final = frozenset({"label", "label!", "until"})


class _Pool(msgspec.Struct, rename="pascal"):
    subnet: str = ""
    ip_range: str = msgspec.field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None
    aux_address: dict[str, str] | None = None


class _Ipam(msgspec.Struct, rename="pascal"):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[_Pool] | None = None


class _Create(msgspec.Struct, rename="pascal"):
    name: str = ""
    driver: str = ""
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: dict[str, str] | None = None
    ipv4: bool | None = msgspec.field(name="EnableIPv4", default=None)
    ipv6: bool | None = msgspec.field(name="EnableIPv6", default=None)
    ipam: _Ipam | None = msgspec.field(name="IPAM", default=None)
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class NetworkService:
    """Networks of one daemon, with their containers.

    Args:
        networking: The containers' places.
        bus: Where it is told.
        containers: All containers.
        save: Stores a container.

    """

    def __init__(
        self,
        networking: Networking,
        bus: Bus,
        containers: Callable[[], Sequence[Container]],
        save: Callable[[Container], Awaitable[None]],
    ) -> None:
        self._networking = networking
        self._networks = networking.networks
        self._bus = bus
        self._containers = containers
        self._save = save
        self._pruning = anyio.Lock()

    async def create(self, body: Mapping[str, Any]) -> Network:
        """Make a network from Docker's create body. Raises as `Networks.create`."""
        network = await self._networks.create(read_request(body))
        self._tell("create", network)
        return network

    async def remove(self, name: str) -> None:
        """Remove it. Raises as `Networks.remove`."""
        network = self._networks.find(name)
        await self._networking.settle()
        await self._networks.remove(network.id)
        self._tell("destroy", network)

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> list[str]:
        """Remove networks that nothing is connected to; their names. Raises `ConflictError` if a prune runs."""
        if self._pruning.locked():
            raise ConflictError("a prune operation is already running")
        before = listing.prune_before(filters, time.time_ns())
        removed: list[str] = []
        async with self._pruning:
            await self._networking.settle()
            for network in self._networks.list():
                if network.predefined or self._networks.endpoints(network.id):
                    continue
                if not _prunable(network, filters, before):
                    continue
                try:
                    await self._networks.remove(network.id)
                except (PermissionDeniedError, NotFoundError):
                    continue
                self._tell("destroy", network)
                removed.append(network.name)
        self._bus.publish("network", "prune", "", {"reclaimed": "0"})
        return removed

    async def connect(self, name: str, container: Container, raw: Mapping[str, Any] | None) -> None:
        """Put a container into a network. Raises as `Networking.connect`."""
        network = self._networks.find(name)
        async with container.lock:
            if container.removed.is_set() or container.state.removing or container.state.dead:
                raise ConflictError("container is marked for removal and cannot be connected")
            await self._networking.connect(container, network, raw)
            await self._save(container)

    async def disconnect(self, name: str, container: Container) -> None:
        """Take a container out of a network. Raises as `Networking.disconnect`."""
        network = self._networks.find(name)
        async with container.lock:
            await self._networking.disconnect(container, network)
            await self._save(container)

    def inspect(self, name: str) -> dict[str, Any]:
        """Docker's network object, with the containers in it."""
        network = self._networks.find(name)
        return _view(network) | {"Containers": self._members(network)}

    def list(self, filters: Mapping[str, Sequence[str]]) -> "list[dict[str, Any]]":
        """Docker's list; the containers are only told by `inspect`. Raises `InvalidArgumentError`."""
        listing.check_names(filters)
        for kind in filters.get("type", ()):
            if kind not in _KINDS:
                raise InvalidArgumentError(
                    f"invalid filter: 'type'='{kind[:80]}'", hint="use builtin or custom"
                )
        dangling = listing.flag(filters, "dangling")
        return [_view(each) for each in self._networks.list() if self._matches(each, filters, dangling)]

    def _members(self, network: Network) -> dict[str, Any]:
        names = {each.id: each.name for each in self._containers()}
        return {
            sandbox: {
                "Name": names.get(sandbox, sandbox),  # pyright: ignore[reportArgumentType, reportCallIssue]
                "EndpointID": each.id,
                "MacAddress": each.mac,
                "IPv4Address": f"{each.ipv4}/{each.ipv4_prefix}" if each.ipv4 else "",
                "IPv6Address": f"{each.ipv6}/{each.ipv6_prefix}" if each.ipv6 else "",
            }
            for sandbox, each in self._networks.endpoints(network.id)
            if not self._networking.is_leaving(sandbox)
        }

    def _matches(self, network: Network, filters: Mapping[str, Sequence[str]], dangling: bool | None) -> bool:
        def passes(key: str, values: Sequence[str]) -> bool:
            match key:
                case "name":
                    return patterns.finds(values, network.name)
                case "id":
                    return patterns.finds(values, network.id)
                case "driver":
                    return network.driver in values
                case "label":
                    return listing.matches_labels(network.labels, values)
                case "scope":
                    return "local" in values
                case "type":
                    return ("builtin" if network.predefined else "custom") in values
                case _:  # dangling
                    return dangling == (not network.predefined and not self._networks.endpoints(network.id))

        return all(passes(key, values) for key, values in filters.items() if values)

    def _tell(self, action: str, network: Network) -> None:
        self._bus.publish("network", action, network.id, {"name": network.name, "type": network.driver})


def read_request(body: Mapping[str, Any]) -> NetworkRequest:
    """Docker's create body. Raises `InvalidArgumentError`, `UnsupportedError`."""
    present = {key: value for key, value in body.items() if value is not None}
    try:
        asked = msgspec.convert(present, _Create)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"invalid network configuration: {exc}") from exc
    for value, what in (
        (asked.ingress, "Ingress"),
        (asked.config_only, "ConfigOnly"),
        ((asked.config_from or {}).get("Network"), "ConfigFrom"),
        (asked.scope not in ("", "local"), f"Scope {asked.scope!r}"),
    ):
        if value:
            raise UnsupportedError(f"{what} is not supported: this engine has no Swarm")
    ipam = asked.ipam or _Ipam()
    if ipam.driver not in ("", "default"):
        raise UnsupportedError(f"IPAM.Driver {ipam.driver!r} is not supported", hint="leave it out")
    if ipam.options:
        raise UnsupportedError(f"IPAM.Options {next(iter(ipam.options))!r} is not supported")
    return NetworkRequest(
        name=asked.name,
        driver=asked.driver or BRIDGE,
        subnets=[
            Subnet(
                subnet=pool.subnet,
                gateway=pool.gateway,
                range=pool.ip_range,
                reserved=pool.auxiliary_addresses or pool.aux_address or {},
            )
            for pool in ipam.config or ()
        ],
        ipv4=asked.ipv4 is not False,
        ipv6=bool(asked.ipv6),
        internal=asked.internal,
        attachable=asked.attachable,
        options=asked.options or {},
        labels=asked.labels or {},
    )


def _view(network: Network) -> dict[str, Any]:
    pools = [
        {
            "Subnet": each.subnet,
            **({"IPRange": each.range} if each.range else {}),
            "Gateway": each.gateway,
            **({"AuxiliaryAddresses": dict(each.reserved)} if each.reserved else {}),
        }
        for each in network.subnets
    ]
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": times.format_nano(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {"Driver": "default", "Options": dict(network.ipam_options) or None, "Config": pools},
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


def _prunable(network: Network, filters: Mapping[str, Sequence[str]], before: int | None) -> bool:
    if before is not None and network.created > before:
        return False
    unwanted = filters.get("label!", ())
    if unwanted and any(listing.matches_labels(network.labels, [entry]) for entry in unwanted):
        return False
    return listing.matches_labels(network.labels, filters.get("label", ()))


__all__ = ["LadingError", "NetworkService", "read_request"]
