"""Whose address an address is now, said to all neighbours: gratuitous ARP, and an unsolicited neighbour advertisement.

An endpoint that is made anew has another MAC address, while the machine and the other endpoints of the network go on sending to
the one that they remember, for a minute or more. netavark has the kernel announce an IPv4 address when the interface comes up,
which is often before the bridge passes anything on.
"""

import ipaddress
import socket
import struct
from typing import Final

from lading.core.networks import Endpoint
from lading.kit import linux

_SECONDS: Final = 1.0
"""For the interface to have carrier; the kernel tells it within a second."""
_BROADCAST: Final = b"\xff" * 6
_ALL_NODES: Final = (bytes.fromhex("333300000001"), ipaddress.IPv6Address("ff02::1").packed)
"""RFC 2464, section 7."""


def announce(path: str, endpoint: Endpoint) -> None:
    """Announce the addresses of an endpoint from its namespace at ``path``. Blocking. Raises `OSError`."""

    def send() -> None:
        linux.wait_until_running(endpoint.interface, _SECONDS)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
            link.bind((endpoint.interface, 0))
            for frame in frames(endpoint):
                link.send(frame)

    linux.in_network_namespace(path, send)


def frames(endpoint: Endpoint) -> list[bytes]:
    """What announces its addresses, as Ethernet frames."""
    mac = bytes.fromhex(endpoint.mac.replace(":", ""))
    made: list[bytes] = []
    if endpoint.ipv4:
        made.append(_gratuitous_arp(mac, ipaddress.IPv4Address(endpoint.ipv4).packed))
    if endpoint.ipv6:
        made.append(_advertisement(mac, ipaddress.IPv6Address(endpoint.ipv6).packed))
    return made


def _gratuitous_arp(mac: bytes, address: bytes) -> bytes:
    """RFC 5227, section 3: a request for the sender's own address."""
    head = _BROADCAST + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    return head + mac + address + bytes(6) + address


def _advertisement(mac: bytes, address: bytes) -> bytes:
    """RFC 4861, section 4.4: with the override flag, and the target's link-layer address as the option."""
    link, all_nodes = _ALL_NODES
    body = struct.pack("!I", 0x20000000) + address + b"\x02\x01" + mac
    length = 4 + len(body)
    message = (
        b"\x88\x00"
        + _checksum(address + all_nodes + struct.pack("!II", length, 58) + b"\x88\x00" + body)
        + body
    )
    return (
        link + mac + struct.pack("!HIHBB", 0x86DD, 6 << 28, length, 58, 255) + address + all_nodes + message
    )


def _checksum(data: bytes) -> bytes:
    """RFC 1071, of an even number of bytes; the field itself is left out, as it would be zero."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
