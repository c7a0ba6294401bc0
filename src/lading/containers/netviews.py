"""Networks of a container as the Engine API shows them. Sans-I/O."""

from collections.abc import Sequence
from typing import Any

import msgspec

from lading.containers import netmodes
from lading.containers.model import Container
from lading.containers.networking import Placed, names_of
from lading.core.networks import BRIDGE, Endpoint, PortMapping, Sandbox

_NOWHERE = Endpoint(id="", network="", interface="", mac="")  # pyright: ignore[reportArgumentType]


def endpoint(container: Container, placed: Placed) -> dict[str, Any]:
    """``EndpointSettings``."""
    wish, has = placed.wish, placed.endpoint or _NOWHERE
    resolves = placed.network is not None and placed.network.resolves_names
    return {
        "IPAMConfig": msgspec.to_builtins(wish.ipam) if wish.ipam else None,
        "Links": wish.links,
        "Aliases": wish.aliases,
        "MacAddress": has.mac or wish.mac_address,
        "DriverOpts": wish.driver_opts,
        "GwPriority": wish.gw_priority,
        "NetworkID": placed.network.id if placed.network else "",
        "EndpointID": has.id,
        "Gateway": has.ipv4_gateway,
        "IPAddress": has.ipv4,
        "IPPrefixLen": has.ipv4_prefix,
        "IPv6Gateway": has.ipv6_gateway,
        "GlobalIPv6Address": has.ipv6,
        "GlobalIPv6PrefixLen": has.ipv6_prefix,
        "DNSNames": list(names_of(container, wish)) if resolves else None,
    }


def networks(container: Container, places: Sequence[Placed]) -> dict[str, Any]:
    """``Networks``."""
    return {placed.name: endpoint(container, placed) for placed in places}


def settings(container: Container, places: Sequence[Placed], sandbox: Sandbox | None) -> dict[str, Any]:
    """``NetworkSettings`` of inspect."""
    bridge = next((p.endpoint for p in places if p.name == BRIDGE and p.endpoint), None) or _NOWHERE
    return {
        "Bridge": "",
        "SandboxID": sandbox.id if sandbox else "",
        "SandboxKey": sandbox.path if sandbox else "",
        "Ports": ports(container, places),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": bridge.id,
        "Gateway": bridge.ipv4_gateway,
        "GlobalIPv6Address": bridge.ipv6,
        "GlobalIPv6PrefixLen": bridge.ipv6_prefix,
        "IPAddress": bridge.ipv4,
        "IPPrefixLen": bridge.ipv4_prefix,
        "IPv6Gateway": bridge.ipv6_gateway,
        "MacAddress": bridge.mac,
        "Networks": networks(container, places),
    }


def _published(places: Sequence[Placed]) -> list[tuple[PortMapping, str]]:
    """Published ports, each with every address of the machine on which it is."""
    found: list[tuple[PortMapping, str]] = []
    for placed in places:
        for port in placed.endpoint.ports if placed.endpoint else ():
            found.append((port, port.host_ip or "0.0.0.0"))  # noqa: S104 - what is shown
            if not port.host_ip and placed.endpoint and placed.endpoint.ipv6:
                found.append((port, "::"))
    return found


def published_ports(places: Sequence[Placed]) -> set[tuple[int, str]]:
    """Number and protocol of the container's ports that are published."""
    return {(port.port, port.protocol) for port, _ in _published(places)}


def ports(container: Container, places: Sequence[Placed]) -> dict[str, Any]:
    """``Ports`` of inspect: exposed and published ones; none unless it runs."""
    if not container.state.running:
        return {}
    made: dict[str, Any] = {
        f"{port}/{protocol}": None for port, protocol in netmodes.exposed(container.config)
    }
    for port, address in _published(places):
        key = f"{port.port}/{port.protocol}"
        made[key] = [*(made.get(key) or ()), {"HostIp": address, "HostPort": str(port.host_port)}]
    return made


def port_rows(container: Container, places: Sequence[Placed]) -> list[dict[str, Any]]:
    """``Ports`` of the container list."""
    if not container.state.running:
        return []
    published = _published(places)
    rows: list[dict[str, Any]] = [
        {"IP": address, "PrivatePort": port.port, "PublicPort": port.host_port, "Type": port.protocol}
        for port, address in published
    ]
    named = {(port.port, port.protocol) for port, _ in published}
    rows += [
        {"PrivatePort": port, "Type": protocol}
        for port, protocol in netmodes.exposed(container.config)
        if (port, protocol) not in named
    ]
    return rows
