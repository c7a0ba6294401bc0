"""What the machine already has under an interface's name, asked over rtnetlink(7). Blocking."""

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_RTM_GETLINK, _RTM_GETADDR = 18, 22
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 18, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_SCOPE_LINK: Final = 253
_HEADER, _LINK, _ADDRESS = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=BBBBI")
_SIZE: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface: its kind (``bridge``, ``veth`` …; empty for a real one), its addresses but the link-local ones."""

    name: str
    kind: str
    addresses: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...] = ()


def find(name: str) -> Link | None:
    """The interface of that name in this network namespace. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as route:
        asked = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        try:
            [answer] = _ask(route, _RTM_GETLINK, asked)
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise
        index = _LINK.unpack_from(answer)[2]
        info = dict(_attributes(dict(_attributes(answer[_LINK.size :])).get(_IFLA_LINKINFO, b"")))
        kind = info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode()
        dump = _ask(route, _RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0), _NLM_F_DUMP)
        return Link(name=name, kind=kind, addresses=tuple(_addresses(dump, index)))


def _addresses(
    messages: Iterator[bytes], index: int
) -> Iterator[ipaddress.IPv4Interface | ipaddress.IPv6Interface]:
    for message in messages:
        _, prefix, _, scope, of = _ADDRESS.unpack_from(message)
        if of == index and scope != _SCOPE_LINK:
            said = dict(_attributes(message[_ADDRESS.size :]))
            # Of a point-to-point link the plain address is the other end's.
            yield ipaddress.ip_interface((said.get(_IFA_LOCAL) or said[_IFA_ADDRESS], prefix))


def _ask(route: socket.socket, kind: int, body: bytes, flags: int = 0) -> Iterator[bytes]:
    """The bodies of what is answered: one, or of a dump all."""
    route.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body)
    while True:
        data = route.recv(_SIZE)
        while data:
            length, answered, *_ = _HEADER.unpack_from(data)
            message, data = data[_HEADER.size : length], data[_aligned(length) :]
            if answered == _NLMSG_ERROR:
                (number,) = struct.unpack_from("=i", message)
                raise OSError(-number, f"rtnetlink: {errno.errorcode.get(-number, number)}")
            if answered == _NLMSG_DONE:
                return
            yield message
        if not flags:
            return


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value.ljust(_aligned(len(value)), b"\0")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= struct.calcsize("=HH"):
        length, kind = struct.unpack_from("=HH", data)
        yield kind & 0x3FFF, data[4:length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
