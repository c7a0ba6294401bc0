"""What netavark is told of an endpoint."""

from typing import Any

import pytest

from lading.core.networks import Endpoint, Network, NetworkID, SandboxID, Subnet
from lading.network.netavark import document

FOUR = Subnet(subnet="10.66.0.0/24", gateway="10.66.0.1")
SIX = Subnet(subnet="fd00:66::/64", gateway="fd00:66::1")


def told(*subnets: Subnet, ipv4: str = "10.66.0.7", ipv6: str = "fd00:66::7") -> dict[str, Any]:
    id_ = NetworkID("0" * 64)
    network = Network(id=id_, name="net", driver="bridge", created=0, interface="br", subnets=subnets)
    place = Endpoint(id="e", network=id_, interface="eth0", mac="02:00:00:00:00:01", ipv4=ipv4, ipv6=ipv6)
    return document(SandboxID("box"), network, place)


@pytest.mark.parametrize("subnets", [(FOUR, SIX), (SIX, FOUR)])
def test_addresses_stand_in_the_order_of_their_subnets(subnets: tuple[Subnet, ...]) -> None:
    said = told(*subnets)
    assert said["networks"]["net"]["static_ips"] == ["10.66.0.7", "fd00:66::7"]
    assert [each["subnet"] for each in said["network_info"]["net"]["subnets"]] == [FOUR.subnet, SIX.subnet]
    assert said["network_info"]["net"]["ipv6_enabled"]


def test_subnets_without_an_address_of_the_endpoint_are_left_out() -> None:
    said = told(FOUR, Subnet(subnet="10.67.0.0/24", gateway="10.67.0.1"), ipv6="")
    assert said["networks"]["net"]["static_ips"] == ["10.66.0.7"]
    assert [each["subnet"] for each in said["network_info"]["net"]["subnets"]] == [FOUR.subnet]
