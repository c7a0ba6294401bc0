"""What a bridge of the administrator says about the network on it."""

import ipaddress

import pytest

from lading.core.networks import NetworkRequest, Subnet
from lading.errors import InvalidArgumentError
from lading.network import lent
from lading.network.links import Link, find


def bridge(*addresses: str, kind: str = "bridge") -> Link:
    return Link(name="mybr", kind=kind, addresses=tuple(map(ipaddress.ip_interface, addresses)))


OWN = bridge("192.168.60.1/24", "192.168.61.1/24", "fd00:60::1/64")


def asked(*subnets: Subnet, ipv6: bool = False) -> list[tuple[str, str]]:
    made = lent.completed(NetworkRequest(name="net", ipv6=ipv6, subnets=subnets), OWN)
    return [(each.subnet, each.gateway) for each in made.subnets]


def test_its_addresses_are_the_gateways() -> None:
    first = ("192.168.60.0/24", "192.168.60.1")
    assert asked() == [first]
    assert asked(ipv6=True) == [first, ("fd00:60::/64", "fd00:60::1")]
    assert asked(Subnet(gateway="192.168.61.1"))[1:] == [("192.168.61.0/24", "192.168.61.1")]
    assert asked(Subnet(gateway="192.168.62.1"))[1:] == []  # left to be chosen, and refused by `check`
    named = Subnet(subnet="192.168.61.0/24", gateway="192.168.61.1")
    assert asked(named) == [(named.subnet, named.gateway)]


def test_a_gateway_that_it_does_not_have_is_refused_with_the_remedy() -> None:
    lent.check(OWN, [Subnet(subnet="192.168.61.0/24", gateway="192.168.61.1")])
    with pytest.raises(InvalidArgumentError, match=r"mybr has no address 192.168.60.2/24") as caught:
        lent.check(OWN, [Subnet(subnet="192.168.60.0/24", gateway="192.168.60.2")])
    assert caught.value.hint
    assert caught.value.hint.startswith("ip addr add 192.168.60.2/24 dev mybr")


def test_another_kind_of_link_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="existing interface mybr is not a bridge"):
        lent.completed(NetworkRequest(name="net"), bridge(kind="veth"))
    with pytest.raises(InvalidArgumentError, match="existing interface mybr is not a bridge"):
        lent.check(bridge(kind="veth"), ())


def test_links_are_found_by_name() -> None:
    loopback = find("lo")
    assert loopback
    assert (loopback.kind, loopback.addresses[0]) == ("", ipaddress.ip_interface("127.0.0.1/8"))
    assert find("no-such-link") is None
