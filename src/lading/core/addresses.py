"""Which subnets a network gets and which addresses its endpoints get: arithmetic on what is asked for and what is taken.

The first address of a subnet is its gateway unless one is named; network and broadcast address are never given out.
"""

import ipaddress
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from lading.core.networks import BRIDGE, NetworkRequest, Subnet
from lading.errors import (
    ConflictError,
    InvalidArgumentError,
    PermissionDeniedError,
    ResourceExhaustedError,
)

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Pools = Sequence[tuple[ipaddress.IPv4Network, int]]
"""Bases, and the prefix length of the subnets to cut from each."""

DEFAULT_POOLS: Final[Pools] = (
    *((ipaddress.IPv4Network(f"172.{number}.0.0/16"), 16) for number in range(17, 32)),
    (ipaddress.IPv4Network("192.168.0.0/16"), 20),
)
"""As Docker's."""
_SMALLEST: Final = {4: 30, 6: 126}
"""The longest prefix that leaves an address beside the gateway."""


def subnets_for(
    request: NetworkRequest, *, taken: Collection[IPNetwork], busy: Collection[IPNetwork], pools: Pools
) -> tuple[Subnet, ...]:
    """The subnets of a new network, complete.

    Args:
        request: What was asked for.
        taken: Subnets of other networks, which nobody may ask for again.
        busy: What the machine itself has routes to; not chosen, but given to who asks for it.
        pools: Where to take from what was left out.

    Raises:
        InvalidArgumentError: A subnet or an address in it is wrong.
        PermissionDeniedError: It overlaps one of another network, or a bridge is to have two of one IP version.
        ResourceExhaustedError: No pool is free.

    """
    asked = [subnet for subnet in request.subnets if subnet.subnet]
    _check(asked)
    given = [_completed(subnet) for subnet in asked]
    nets = [network(each.subnet) for each in given]
    versions = [each.version for each in nets]
    if request.driver == BRIDGE and len(versions) > len(set(versions)):
        raise PermissionDeniedError("bridge driver doesn't support multiple subnets", subject=request.name)
    for index, each in enumerate(nets):
        if any(overlap(each, other) for other in [*taken, *nets[:index]]):
            raise PermissionDeniedError(
                "invalid pool request: Pool overlaps with other one on this address space", subject=str(each)
            )
    if request.ipv4 and 4 not in versions:
        chosen = Subnet(subnet=str(_free_pool(pools, [*taken, *busy, *nets])))
        given.insert(0, _completed(_merged(chosen, request, 4)))
    if request.ipv6 and 6 not in versions:
        given.append(_completed(_merged(Subnet(subnet=str(_unique_local())), request, 6)))
    if not request.ipv6 and 6 in versions:
        raise InvalidArgumentError("an IPv6 subnet needs a network with IPv6", hint="give --ipv6")
    return tuple(given)


def _check(asked: Sequence[Subnet]) -> None:
    """Judge subnets that were named, and what was said about each. Raises `InvalidArgumentError` with all that is wrong."""
    problems = [problem for subnet in asked for problem in _problems(subnet)]
    if problems:
        shown = problems[0] if len(problems) == 1 else "* " + "\n* ".join(problems)
        raise InvalidArgumentError(f"invalid network config:\n{shown}")


def _problems(asked: Subnet) -> Iterator[str]:
    named = _block(asked.subnet)
    if named is None:
        yield f"invalid subnet {asked.subnet[:64]}: invalid CIDR block notation"
        return
    whole = named.network
    if named.ip != whole.network_address:
        yield f"invalid subnet {named}: it should be {whole}"
    yield from _range_problems(asked.range, whole)
    for what, text in (
        (f"gateway {asked.gateway[:64]}", asked.gateway),
        *((f"auxiliary address {name[:64]}", text) for name, text in asked.reserved.items()),
    ):
        if problem := _address_problem(text, whole):
            yield f"invalid {what}: {problem}"


def _range_problems(text: str, whole: IPNetwork) -> Iterator[str]:
    if not text:
        return
    named = _block(text)
    if named is None:
        yield f"invalid ip-range {text[:64]}: invalid CIDR block notation"
    elif named.version != whole.version:
        yield f"invalid ip-range {text[:64]}: parent subnet is an IPv{whole.version} block"
    else:
        if named.network.prefixlen < whole.prefixlen:
            yield f"invalid ip-range {text[:64]}: CIDR block is bigger than its parent subnet {whole}"
        if named.ip != named.network.network_address:
            yield f"invalid ip-range {named}: it should be {named.network}"
        if not overlap(named.network, whole):
            yield f"invalid ip-range {text[:64]}: parent subnet {whole} doesn't contain ip-range"


def _address_problem(text: str, whole: IPNetwork) -> str:
    if not text:
        return ""
    try:
        named = ipaddress.ip_address(text)
    except ValueError:
        return "invalid address"
    if named.version != whole.version:
        return f"parent subnet is an IPv{whole.version} block"
    return "" if named in whole else f"parent subnet {whole} doesn't contain this address"


def _block(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface | None:
    """An address with the length of its prefix; ``None`` for any other text."""
    if not text.rpartition("/")[2].isdecimal() or "/" not in text:
        return None
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        return None


def _merged(chosen: Subnet, request: NetworkRequest, version: int) -> Subnet:
    """What was said about a subnet that was left out, e.g. only its gateway, counts for the chosen one."""
    for each in request.subnets:
        said = each.gateway or each.range
        if not each.subnet and said and ipaddress.ip_network(said, strict=False).version == version:
            return replace(each, subnet=chosen.subnet)
    return chosen


def network(text: str) -> IPNetwork:
    """A subnet in CIDR form. Raises `InvalidArgumentError`."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as exc:
        raise InvalidArgumentError(f"invalid subnet {text[:64]}: {exc}", subject=text[:64]) from exc


def address(text: str, what: str) -> IPAddress:
    """An address. Raises `InvalidArgumentError`."""
    try:
        return ipaddress.ip_address(text)
    except ValueError as exc:
        raise InvalidArgumentError(f"invalid {what} {text[:64]!r}: it is no IP address") from exc


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two subnets share an address."""
    if isinstance(one, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and one.overlaps(other)
    return isinstance(other, ipaddress.IPv6Network) and one.overlaps(other)


def _completed(subnet: Subnet) -> Subnet:
    whole = network(subnet.subnet)
    if whole.prefixlen > _SMALLEST[whole.version]:
        raise InvalidArgumentError(f"invalid subnet {whole}: it has no room for a gateway and an endpoint")
    gateway = address(subnet.gateway, "gateway") if subnet.gateway else whole.network_address + 1
    named = {
        "gateway": gateway,
        **{name: address(text, "auxiliary address") for name, text in subnet.reserved.items()},
    }
    for name, each in named.items():
        if each not in whole:
            raise InvalidArgumentError(f"no matching subnet for {name} {each}", subject=str(whole))
    if whole.version == 4 and gateway in (whole.network_address, whole.broadcast_address):
        raise PermissionDeniedError(f"failed to allocate gateway ({gateway}): Address already in use")
    if subnet.range and not _inside(network(subnet.range), whole):
        raise InvalidArgumentError(f"no matching subnet for range {subnet.range}", subject=str(whole))
    return replace(subnet, subnet=str(whole), gateway=str(gateway))


def _inside(part: IPNetwork, whole: IPNetwork) -> bool:
    return overlap(part, whole) and part.prefixlen >= whole.prefixlen


def _free_pool(pools: Pools, taken: Collection[IPNetwork]) -> IPNetwork:
    for base, length in pools:
        for each in base.subnets(new_prefix=max(length, base.prefixlen)):
            if not any(overlap(each, other) for other in taken):
                return each
    raise ResourceExhaustedError(
        "all predefined address pools have been fully subnetted",
        hint="remove networks that are not needed, name a --subnet, or set default-address-pools",
    )


def _unique_local() -> IPNetwork:
    """A random unique local prefix, RFC 4193."""
    prefix = (0xFD << 120) | (secrets.randbits(40) << 80) | (secrets.randbits(16) << 64)
    return ipaddress.IPv6Network((prefix, 64))


def choose(subnet: Subnet, *, wanted: str = "", used: Collection[str]) -> str:
    """An address of a subnet: the wanted one, else the lowest that is free.

    Raises:
        InvalidArgumentError: The wanted one is none of the subnet's.
        ConflictError: It is in use.
        ResourceExhaustedError: None is free.

    """
    whole = network(subnet.subnet)
    held = {*used, subnet.gateway, *subnet.reserved.values()}
    if wanted:
        each = address(wanted, "IP address")
        if each not in whole or each == whole.network_address:
            raise InvalidArgumentError(
                f"invalid endpoint settings: no configured subnet contains IP address {each}"
            )
        if str(each) in held or each in _ends(whole):
            raise ConflictError(f"Address already in use: {each}", subject=str(each))
        return str(each)
    for each in _hosts(network(subnet.range) if subnet.range else whole, whole):
        if str(each) not in held:
            return str(each)
    raise ResourceExhaustedError(
        f"no available IPv{whole.version} addresses on this network's address pools: {whole}",
        subject=str(whole),
    )


def _hosts(part: IPNetwork, whole: IPNetwork) -> Iterator[IPAddress]:
    outside = _ends(whole)
    return (each for each in part if each not in outside)


def _ends(whole: IPNetwork) -> set[IPAddress]:
    """What is never given out: the network's address, and of IPv4 the broadcast address."""
    return {whole.network_address, *((whole.broadcast_address,) if whole.version == 4 else ())}


def of_version(subnets: Sequence[Subnet], version: int) -> Subnet | None:
    """The first subnet of an IP version."""
    return next((each for each in subnets if network(each.subnet).version == version), None)
