"""Networks on a bridge that the administrator made: its addresses are the gateways, and it stays when the last endpoint goes."""

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from lading.core import addresses
from lading.core.networks import BRIDGE, Network, NetworkRequest, Subnet
from lading.errors import InvalidArgumentError
from lading.kit import linux
from lading.network.links import Link

_SYSCTLS: Final = Path("/proc/sys/net")


def completed(request: NetworkRequest, link: Link) -> NetworkRequest:
    """The request with the bridge's own subnets where it names none. Raises `InvalidArgumentError` for another kind of link."""
    _check_kind(link)
    made: list[Subnet] = []
    for version, mark, wanted in ((4, ".", request.ipv4), (6, ":", request.ipv6)):
        said = [each for each in request.subnets if mark in each.subnet or mark in each.gateway]
        if not wanted or any(each.subnet for each in said):
            continue
        own = (each for each in link.addresses if each.version == version)
        first = next((each for each in own if not said or str(each.ip) == said[0].gateway), None)
        if first is not None:
            made.append(Subnet(subnet=str(first.network), gateway=str(first.ip)))
    return replace(request, subnets=[*request.subnets, *made])


def _check_kind(link: Link) -> None:
    if link.kind != BRIDGE:
        raise InvalidArgumentError(f"existing interface {link.name} is not a bridge", subject=link.name)


def check(link: Link, subnets: Sequence[Subnet]) -> None:
    """Raise `InvalidArgumentError` unless it is a bridge that has the gateways as its addresses."""
    _check_kind(link)
    for gateway in _gateways(subnets):
        if gateway not in link.addresses:
            raise InvalidArgumentError(
                f"the existing bridge {link.name} has no address {gateway}",
                hint=f"ip addr add {gateway} dev {link.name}, or name an address that it has with --subnet and --gateway",
                subject=link.name,
            )


def _gateways(subnets: Sequence[Subnet]) -> Iterator[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    for each in subnets:
        yield ipaddress.ip_interface(f"{each.gateway}/{addresses.network(each.subnet).prefixlen}")


def prepare(network: Network) -> None:
    """What netavark does for the bridges that it makes: up, and packets pass. Blocking. Raises `OSError`."""
    linux.bring_up(network.interface)
    if network.internal:
        return
    names = ["ipv4/ip_forward", f"ipv4/conf/{network.interface}/route_localnet"]
    if addresses.of_version(network.subnets, 6):
        names.append("ipv6/conf/all/forwarding")
    for name in names:
        (_SYSCTLS / name).write_text("1", encoding="ascii")
