"""An endpoint before it is made: what may be asked for, and which addresses, interface and names it gets."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from lading.core import addresses
from lading.core.networks import (
    BRIDGE,
    Endpoint,
    EndpointRequest,
    Network,
    PortMapping,
    SandboxID,
    Subnet,
)
from lading.errors import AlreadyExistsError, InvalidArgumentError, UnavailableError, UnsupportedError
from lading.network.definitions import HOST_IP, PREFIX
from lading.network.state import Record

_NAME: Final = re.compile(r"[^\s,\x00-\x1f\x7f]{1,255}")
"""A name is a word of a line in the resolver's file, and one of several between commas."""
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_PROTOCOLS: Final = ("tcp", "udp", "sctp")


def check(request: EndpointRequest) -> None:
    """Judge a request as far as it can be judged alone. Raises `InvalidArgumentError`."""
    for name in request.names:
        if not _NAME.fullmatch(name):
            raise InvalidArgumentError(f"invalid network alias {name[:64]!r}")
    if request.mac and (not _MAC.fullmatch(request.mac) or int(request.mac[:2], 16) & 1):
        raise InvalidArgumentError(f"invalid MAC address: {request.mac[:32]}")
    if request.interface and not _INTERFACE.fullmatch(request.interface):
        raise InvalidArgumentError(f"invalid interface name {request.interface[:32]!r}")
    for text in request.resolvers:
        addresses.address(text, "nameserver address")
    for port in request.ports:
        _check_port(port)


def _check_port(port: PortMapping) -> None:
    if port.protocol not in _PROTOCOLS:
        raise InvalidArgumentError(f"invalid port protocol {port.protocol[:16]!r}")
    for number in (port.port, port.host_port, port.host_last):
        if not 0 <= number <= 65535:
            raise InvalidArgumentError(f"invalid port number {number}")
    if port.port == 0:
        raise InvalidArgumentError("invalid port number 0")
    if port.host_ip:
        addresses.address(port.host_ip, "host address")


def check_joinable(network: Network, record: Record) -> None:
    """Raise `InvalidArgumentError` for a network that nothing joins, `AlreadyExistsError` if it is joined."""
    if not network.interface:
        raise InvalidArgumentError(f"a sandbox cannot be connected to the network {network.name}")
    if record.place(network.id) is not None:
        raise AlreadyExistsError(f"endpoint already exists in network {network.name}", subject=record.id)


def choose(
    network: Network,
    record: Record,
    request: EndpointRequest,
    others: Sequence[tuple[SandboxID, Endpoint]],
) -> Endpoint:
    """The endpoint, complete but for its ports. Raises as `Networks.connect`."""
    used = {address for _, each in others for address in (each.ipv4, each.ipv6) if address}
    four, six = (addresses.of_version(network.subnets, version) for version in (4, 6))
    if request.ipv6 and six is None:
        raise InvalidArgumentError(f"network {network.name} has no IPv6 subnet for {request.ipv6}")
    ipv4 = addresses.choose(four, wanted=request.ipv4, used=used) if four else ""
    ipv6 = addresses.choose(six, wanted=request.ipv6, used=used) if six else ""
    return Endpoint(
        id=secrets.token_hex(32),
        network=network.id,
        interface=request.interface or _interface(network, record),
        mac=(request.mac or _random_mac()).lower(),
        ipv4=ipv4,
        ipv4_prefix=_prefix(four),
        ipv4_gateway=_gateway(network, four),
        ipv6=ipv6,
        ipv6_prefix=_prefix(six),
        ipv6_gateway=_gateway(network, six),
        names=tuple(dict.fromkeys(request.names)),
        servers=(four.gateway,) if four and network.resolves_names else (),
        resolvers=tuple(request.resolvers),
        priority=_priority(record, request.priority),
    )


def _priority(record: Record, asked: int) -> int:
    """Below all that asked for the same: of equals the first has the default route."""
    equals = [place.endpoint.priority for place in record.places if place.asked == asked]
    return min(equals, default=asked + 1) - 1


def _prefix(subnet: Subnet | None) -> int:
    return addresses.network(subnet.subnet).prefixlen if subnet else 0


def _gateway(network: Network, subnet: Subnet | None) -> str:
    return subnet.gateway if subnet and not network.internal else ""


def _interface(network: Network, record: Record) -> str:
    prefix = network.options.get(PREFIX, "eth")
    taken = {place.endpoint.interface for place in record.places}
    return next(name for number in range(len(taken) + 1) if (name := f"{prefix}{number}") not in taken)


def _random_mac() -> str:
    """Locally administered, unicast."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first & 0xFC) | 0x02, *rest))


def ports_of(network: Network, request: EndpointRequest, *, default: str) -> tuple[PortMapping, ...]:
    """Wanted ports with the address on which each is published. Raises `InvalidArgumentError` where none can be."""
    if network.driver != BRIDGE or network.internal:
        return ()
    fallback = network.options.get(HOST_IP, default)
    plain = "" if fallback == "0.0.0.0" else fallback  # noqa: S104 - it means all addresses
    made = tuple(replace(port, host_ip=_plain(port.host_ip) or plain) for port in request.ports)
    if addresses.of_version(network.subnets, 6) is None:
        for port in made:
            if ":" in port.host_ip:  # nothing here leads from one version of IP to the other
                raise UnsupportedError(
                    f"cannot publish port {port.port} on [{port.host_ip}]: the network {network.name} has no IPv6",
                    hint="create a network with --ipv6 for it, or publish on an IPv4 address",
                    subject=port.host_ip,
                )
    return made


def _plain(address: str) -> str:
    """As the machine writes it."""
    return str(addresses.address(address, "host address")) if address else ""


def with_ports(endpoint: Endpoint, ports: tuple[PortMapping, ...]) -> Endpoint:
    """The endpoint with its published ports."""
    return replace(endpoint, ports=ports)


def local_ports(endpoint: Endpoint) -> dict[int, int]:
    """TCP ports that are published on ``[::1]`` among others, with the endpoint's own."""
    return {
        each.host_port: each.port
        for each in endpoint.ports
        if endpoint.ipv6 and each.protocol == "tcp" and each.host_ip in ("", "::", "::1")
    }


def refused(what: str, exc: OSError) -> UnavailableError:
    """The machine does not let us."""
    return UnavailableError(
        f"cannot {what}: {exc.strerror}", hint="the daemon needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
    )
