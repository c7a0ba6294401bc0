"""Ports of EXPOSE: ``[[ip:]host:]port[-port][/protocol]``, where only the last part counts."""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError, Lines

_PROTOCOLS: Final = frozenset({"tcp", "udp", "sctp"})


def parse_ports(texts: Iterable[str], lines: Lines, report: rules.Report) -> list[str]:
    """``port/protocol`` for each port. Raises `DockerfileError`."""
    return [port for text in texts for port in _parse(text, lines, report)]


def _parse(text: str, lines: Lines, report: rules.Report) -> list[str]:
    rest, _, last = text.rpartition(":")
    ip, _, host = rest.rpartition(":")
    port, slash, protocol = last.partition("/")
    if not port:
        raise DockerfileError(f'invalid port: "{text}": no port specified')
    protocol = protocol if slash and protocol else "tcp"
    if protocol.lower() not in _PROTOCOLS:
        raise DockerfileError(f'invalid port: "{text}": invalid proto: {protocol}')
    if protocol != protocol.lower():
        message = f"Defined protocol '{text}' in EXPOSE instruction should be lowercase"
        report(rules.EXPOSE_PROTO_CASING, message, lines)
    if ip or host:
        message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
        report(rules.EXPOSE_INVALID_FORMAT, message, lines)
    _check_address(ip)
    first, final = _range(port, "containerPort")
    if host:
        low, high = _range(host, "hostPort")
        if final - first not in (0, high - low):
            raise DockerfileError(f"invalid ranges specified for container and host Ports: {port} and {host}")
    return [f"{number}/{protocol.lower()}" for number in range(first, final + 1)]


def _check_address(ip: str) -> None:
    bare = ip[1:-1] if ip.startswith("[") and ip.endswith("]") else ip
    if not bare:
        return
    try:
        ipaddress.ip_address(bare)
    except ValueError as exc:
        raise DockerfileError(f"invalid IP address: {bare}") from exc


def _range(text: str, what: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    parts = [first, last] if dash else [first]
    if not all(re.fullmatch("[0-9]{1,5}", part) and int(part) <= 65535 for part in parts):
        raise DockerfileError(f"invalid {what}: {text}")
    low, high = int(parts[0]), int(parts[-1])
    if high < low:
        raise DockerfileError(f"invalid {what}: {text}")
    return low, high
