"""Announcements, bit by bit."""

import ipaddress
import struct

from lading.core.networks import Endpoint, NetworkID
from lading.network.announcing import frames

MAC = bytes.fromhex("02420a420007")


def endpoint(ipv4: str = "", ipv6: str = "") -> Endpoint:
    network = NetworkID("0" * 64)
    return Endpoint(id="e", network=network, interface="eth0", mac="02:42:0a:42:00:07", ipv4=ipv4, ipv6=ipv6)


def test_an_ipv4_address_is_announced_by_a_request_for_itself() -> None:
    [frame] = frames(endpoint(ipv4="10.66.0.7"))
    address = bytes((10, 66, 0, 7))
    assert frame == (
        b"\xff" * 6
        + MAC
        + bytes.fromhex("0806 0001 0800 06 04 0001")
        + (MAC + address)
        + (bytes(6) + address)
    )


def test_an_ipv6_address_is_announced_to_all_nodes() -> None:
    [frame] = frames(endpoint(ipv6="fd00:66::7"))
    link, head, message = frame[:14], frame[14:54], frame[54:]
    source, target = ipaddress.IPv6Address("fd00:66::7").packed, ipaddress.IPv6Address("ff02::1").packed
    assert link == bytes.fromhex("333300000001") + MAC + b"\x86\xdd"
    assert head == struct.pack("!IHBB", 0x60000000, len(message), 58, 255) + source + target
    assert (message[:2], message[4:8]) == (b"\x88\x00", b"\x20\x00\x00\x00")
    assert message[8:] == source + b"\x02\x01" + MAC
    summed = source + target + struct.pack("!II", len(message), 58) + message
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF  # RFC 1071: with the checksum in place


def test_each_address_is_announced() -> None:
    assert len(frames(endpoint(ipv4="10.66.0.7", ipv6="fd00:66::7"))) == 2
