"""What is said of subnets that cannot be, in Docker's words."""

import pytest

from lading.core import addresses
from lading.core.networks import NetworkRequest, Subnet
from lading.errors import LadingError

NET = "10.9.1.0/24"


def refusal(*subnets: Subnet) -> str:
    request = NetworkRequest(name="net", ipv6=True, subnets=subnets)
    with pytest.raises(LadingError) as caught:
        addresses.subnets_for(request, taken=(), busy=(), pools=addresses.DEFAULT_POOLS)
    return caught.value.message


@pytest.mark.parametrize(
    ("subnet", "words"),
    [
        (Subnet(subnet="10.9.1.5/24"), "invalid subnet 10.9.1.5/24: it should be 10.9.1.0/24"),
        (Subnet(subnet="10.9.1.0"), "invalid subnet 10.9.1.0: invalid CIDR block notation"),
        (Subnet(subnet="10.0.0.0/255.0.0.0"), "invalid CIDR block notation"),
        (Subnet(subnet=NET, gateway="10.9.2.1"), f"invalid gateway 10.9.2.1: parent subnet {NET} doesn't contain this address"),
        (Subnet(subnet=NET, gateway="fd00::1"), "invalid gateway fd00::1: parent subnet is an IPv4 block"),
        (Subnet(subnet=NET, gateway="x"), "invalid gateway x: invalid address"),
        (Subnet(subnet=NET, reserved={"router": "10.8.1.1"}), "invalid auxiliary address router: parent subnet"),
        (Subnet(subnet=NET, range="10.9.0.0/16"), f"invalid ip-range 10.9.0.0/16: CIDR block is bigger than its parent subnet {NET}"),
        (Subnet(subnet=NET, range="10.9.2.0/25"), f"invalid ip-range 10.9.2.0/25: parent subnet {NET} doesn't contain ip-range"),
        (Subnet(subnet=NET, range="fd00::/64"), "invalid ip-range fd00::/64: parent subnet is an IPv4 block"),
        (Subnet(subnet=NET, gateway="10.9.1.255"), "failed to allocate gateway (10.9.1.255): Address already in use"),
    ],
)  # fmt: skip
def test_a_subnet_that_cannot_be(subnet: Subnet, words: str) -> None:
    assert words in refusal(subnet)


def test_all_that_is_wrong_is_told_at_once() -> None:
    said = refusal(Subnet(subnet="10.9.1.5/24", gateway="10.8.0.1"), Subnet(subnet="fd00::1/64"))
    assert said.startswith("invalid network config:\n* invalid subnet 10.9.1.5/24")
    assert len(said.splitlines()) == 4


def test_a_bridge_has_one_subnet_of_each_version() -> None:
    assert "multiple subnets" in refusal(Subnet(subnet=NET), Subnet(subnet="10.9.2.0/24"))


@pytest.mark.parametrize(
    ("wanted", "words"), [("10.9.1.0", "no configured subnet"), ("10.9.1.255", "Address already in use")]
)
def test_network_and_broadcast_address_are_not_given_out(wanted: str, words: str) -> None:
    with pytest.raises(LadingError, match=words):
        addresses.choose(Subnet(subnet=NET, gateway="10.9.1.1"), wanted=wanted, used=())
    last = addresses.choose(Subnet(subnet="fd00::/126", gateway="fd00::1"), wanted="fd00::3", used=())
    assert last == "fd00::3"
