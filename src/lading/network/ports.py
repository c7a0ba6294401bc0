"""Ports of the machine: taken before they are promised, so that two containers or another program cannot have the same one.

netavark leads packets on before they would reach a socket; a socket that is bound and never read only keeps the port.
"""

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, Protocol

from typing_extensions import override

from lading.core.networks import Endpoint, PortMapping
from lading.errors import ConflictError, InvalidArgumentError, UnsupportedError

_KINDS: Final = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_TRIES: Final = 64


class Ports(Protocol):
    """Who gives the machine's ports to endpoints."""

    async def reserve(
        self, holder: str, wanted: Sequence[PortMapping], endpoint: Endpoint
    ) -> tuple[PortMapping, ...]:
        """Take the ports; each with the port of the machine that it got. IPv6 addresses too, if the endpoint has one.

        Raises:
            ConflictError: One is taken; none is kept then.
            InvalidArgumentError: An address is none of this machine's, or of a version of IP that it does not have.
            UnsupportedError: Nothing leads from there into a container.

        """
        ...

    def local(self, holder: str) -> Sequence[socket.socket]:
        """Of the holder's sockets those that TCP connections to ``[::1]`` can be taken from."""
        ...

    async def release(self, holder: str) -> None:
        """Give up all that a holder has. Idempotent."""
        ...

    def close(self) -> None:
        """Give up what ends with this daemon."""
        ...


class Reservations(Ports):
    """Sockets that hold ports, by whom they are held for. Its system calls do not wait."""

    def __init__(self) -> None:
        self._held: dict[str, list[socket.socket]] = {}

    @override
    async def reserve(
        self, holder: str, wanted: Sequence[PortMapping], endpoint: Endpoint
    ) -> tuple[PortMapping, ...]:
        ipv6 = bool(endpoint.ipv6)
        taken: list[socket.socket] = []
        got: list[PortMapping] = []
        try:
            # Ports that were named go first, so that a free one chosen here cannot be one of them.
            for mapping in sorted(wanted, key=lambda each: not each.host_port):
                port, sockets = _take(mapping, ipv6=ipv6)
                taken += sockets
                got.append(replace(mapping, host_port=port, host_last=0))
        except BaseException:
            _close(taken)
            raise
        self._held.setdefault(holder, []).extend(taken)
        return tuple(sorted(got))

    @override
    def local(self, holder: str) -> Sequence[socket.socket]:
        return [
            each
            for each in self._held.get(holder, ())
            if each.type == socket.SOCK_STREAM and each.getsockname()[0] in ("::", "::1")
        ]

    @override
    async def release(self, holder: str) -> None:
        _close(self._held.pop(holder, []))

    @override
    def close(self) -> None:
        while self._held:
            _close(self._held.popitem()[1])


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _take(mapping: PortMapping, *, ipv6: bool) -> tuple[int, list[socket.socket]]:
    addresses = _addresses(mapping, ipv6=ipv6)
    if mapping.protocol not in _KINDS:  # nobody else keeps count of these
        if not mapping.host_port:
            raise InvalidArgumentError(f"a port of the machine must be named for {mapping.protocol}")
        return mapping.host_port, []
    if mapping.protocol != "tcp" and addresses == ["::1"]:
        raise UnsupportedError(
            f"cannot publish port {mapping.port}/{mapping.protocol} on [::1]: only TCP is passed on from there",
            hint="publish on 127.0.0.1, or on another IPv6 address",
        )
    problem: OSError | None = None
    for port in _candidates(mapping):
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                sockets.append(
                    _bind(address, sockets[0].getsockname()[1] if sockets else port, mapping.protocol)
                )
        except OSError as exc:
            _close(sockets)
            problem = exc
            continue
        return sockets[0].getsockname()[1], sockets
    shown = f"{mapping.host_ip or '0.0.0.0'}:{mapping.host_port or ''}"  # noqa: S104 - what was asked for
    if mapping.host_last > mapping.host_port:
        shown += f"-{mapping.host_last}"
    reason = problem.strerror if problem else "no port is free"
    if problem is not None and problem.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        raise InvalidArgumentError(f"failed to bind host port {shown}/{mapping.protocol}: {reason}")
    raise ConflictError(
        f"Bind for {shown} failed: port is already allocated",
        hint=f"the machine says: {reason}; choose another port, or stop what listens on it",
        subject=shown,
    )


def _candidates(mapping: PortMapping) -> Iterator[int]:
    if mapping.host_port:
        yield from range(mapping.host_port, max(mapping.host_port, mapping.host_last) + 1)
    else:
        yield from (0 for _ in range(_TRIES))  # the kernel's choice may be taken on the second address


def _addresses(mapping: PortMapping, *, ipv6: bool) -> list[str]:
    if mapping.host_ip:
        return [str(ipaddress.ip_address(mapping.host_ip))]
    return ["0.0.0.0", *(["::"] if ipv6 else [])]  # noqa: S104 - all addresses were asked for


def _bind(address: str, port: int, protocol: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, _KINDS[protocol])
    try:
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            made.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # not held up by connections in TIME_WAIT
        made.bind((address, port))
        if protocol == "tcp":
            made.listen(1)
    except BaseException:
        with contextlib.suppress(OSError):
            made.close()
        raise
    return made
