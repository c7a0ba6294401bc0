"""Whose address an address is now, said to all neighbours.

An endpoint that is made anew has another MAC address, while the machine and the other endpoints of the network go on sending to
the one that they remember, for a minute or more. netavark has the kernel announce an IPv4 address when the interface comes up,
which is often before the bridge passes anything on, and announces no IPv6 address.
"""

from pathlib import Path
from typing import Final

from lading.core.networks import Endpoint
from lading.kit import linux

_SECONDS: Final = 1.0
"""For the interface to have carrier; the kernel tells it within a second."""
_SYSCTLS: Final = Path("/proc/sys/net")


def announce(path: str, endpoint: Endpoint) -> None:
    """Announce the addresses of an endpoint from its namespace at ``path``. Blocking. Raises `OSError`.

    The kernel does it, by gratuitous ARP and unsolicited neighbour advertisements, when an interface gets a MAC address, also one
    that it has. It does so under the lock under which a bridge learns of a carrier, so that they are passed on. A packet socket
    would do as well, but closing one waits for every processor (``synchronize_net``), some 10 ms.
    """

    def renew() -> None:
        switches = [
            *(["ipv4/conf/{}/arp_notify"] if endpoint.ipv4 else []),
            *(["ipv6/conf/{}/ndisc_notify"] if endpoint.ipv6 else []),
        ]
        for name in switches:
            (_SYSCTLS / name.format(endpoint.interface)).write_text("1", encoding="ascii")
        linux.wait_until_running(endpoint.interface, _SECONDS)
        linux.set_mac(endpoint.interface, bytes.fromhex(endpoint.mac.replace(":", "")))

    linux.in_network_namespace(path, renew)
