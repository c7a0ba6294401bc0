"""``--network`` and all that a client asks of the network when it creates a container. Sans-I/O."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec

from lading.containers.request import Config, HostConfig, NetworkingConfig
from lading.core import networks
from lading.core.networks import PortMapping
from lading.errors import InvalidArgumentError, UnsupportedError

DEFAULT: Final = "default"
PREFIX: Final = "container:"
_PROTOCOLS: Final = ("tcp", "udp", "sctp")
PORTS_DISCARDED: Final = "Published ports are discarded when using host network mode"


class Kind(Enum):
    """What a container's network namespace is."""

    HOST = "host"
    NONE = "none"
    CONTAINER = "container"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """``NetworkMode``: its kind, and the container or network that it names."""

    kind: Kind
    name: str = ""


def mode_of(host: HostConfig) -> Mode:
    """Read ``NetworkMode``; the default is the predefined bridge."""
    text = host.network_mode or DEFAULT
    if text in ("host", "none"):
        return Mode(kind=Kind(text))
    if text.startswith(PREFIX):
        return Mode(kind=Kind.CONTAINER, name=text.removeprefix(PREFIX))
    return Mode(kind=Kind.NETWORK, name=networks.BRIDGE if text == DEFAULT else text)


class Addresses(
    msgspec.Struct, rename={"ipv4": "IPv4Address", "ipv6": "IPv6Address", "local": "LinkLocalIPs"}
):
    """``IPAMConfig``."""

    ipv4: str = ""
    ipv6: str = ""
    local: list[str] | None = None


class Wish(msgspec.Struct, rename="pascal", omit_defaults=True):
    """``EndpointSettings`` as a client gives them; kept with the container, for every start."""

    ipam: Addresses | None = msgspec.field(name="IPAMConfig", default=None)
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: int = 0

    @property
    def ipv4(self) -> str:
        """The wanted IPv4 address."""
        return self.ipam.ipv4 if self.ipam else ""

    @property
    def ipv6(self) -> str:
        """The wanted IPv6 address."""
        return self.ipam.ipv6 if self.ipam else ""


_INTERFACE: Final = "com.docker.network.endpoint.ifname"


def interface_of(wish: Wish) -> str:
    """The wanted name of the interface."""
    return (wish.driver_opts or {}).get(_INTERFACE, "")


def read_wish(raw: Mapping[str, Any] | None, network: str) -> Wish:
    """Read and judge one endpoint. Raises `InvalidArgumentError`, `UnsupportedError`."""
    present = {key: value for key, value in (raw or {}).items() if value is not None}
    try:
        wish = msgspec.convert(present, Wish)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"invalid endpoint settings for {network}: {exc}") from exc
    for text, version in ((wish.ipv4, 4), (wish.ipv6, 6)):
        if text and not _is_address(text, version):
            raise InvalidArgumentError(
                f"invalid endpoint settings:\ninvalid IPv{version} address: {text[:64]}"
            )
    if wish.ipam and wish.ipam.local:
        raise UnsupportedError("IPAMConfig.LinkLocalIPs is not supported")
    for option in wish.driver_opts or {}:
        if option != _INTERFACE:
            raise UnsupportedError(f"EndpointsConfig.DriverOpts {option[:80]!r} is not supported")
    if network in (networks.BRIDGE, networks.HOST, networks.NONE):
        if wish.aliases:
            raise InvalidArgumentError(
                "invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks"
            )
        if wish.ipv4 or wish.ipv6:
            raise InvalidArgumentError(
                "invalid endpoint settings:\nuser specified IP address is supported on user defined networks only"
            )
    return wish


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def wishes(config: Config, host: HostConfig, asked: NetworkingConfig) -> dict[str, Wish]:
    """The networks that a container is to be on, the one of ``NetworkMode`` first; none for the other modes.

    Raises:
        InvalidArgumentError: Settings contradict each other.
        UnsupportedError: One is not offered.

    """
    mode = mode_of(host)
    given = {
        networks.BRIDGE if name == DEFAULT else name: raw
        for name, raw in (asked.endpoints_config or {}).items()
    }
    _check_conflicts(config, host, mode, given)
    if mode.kind is not Kind.NETWORK or config.network_disabled:
        for name, raw in given.items():  # what cannot be met is refused, though nothing is joined
            read_wish(raw, name)
        return {}
    made = {mode.name: read_wish(given.pop(mode.name, None), mode.name)}
    made |= {name: read_wish(raw, name) for name, raw in given.items()}
    first = made[mode.name]
    if config.mac_address:
        if first.mac_address and first.mac_address != config.mac_address:
            raise InvalidArgumentError(
                "conflicting MAC address: the container's and its endpoint's are not the same"
            )
        first.mac_address = config.mac_address
    return made


def _check_conflicts(config: Config, host: HostConfig, mode: Mode, given: Mapping[str, Any]) -> None:
    others = [name for name in given if name != (host.network_mode or DEFAULT)]
    if mode.kind is not Kind.NETWORK and others:
        raise InvalidArgumentError(
            f"conflicting options: cannot attach {host.network_mode} to network {others[0]}"
        )
    if mode.kind is Kind.CONTAINER:
        if not mode.name:
            raise InvalidArgumentError("invalid container format container:<name|id>")
        for value, what in (
            (config.hostname, "hostname"),
            (host.dns, "dns"),
            (host.extra_hosts, "custom host-to-IP mapping"),
            (host.port_bindings or host.publish_all_ports, "port publishing"),
            (config.exposed_ports, "port exposing"),
            (config.mac_address, "mac-address"),
        ):
            if value:
                raise InvalidArgumentError(f"conflicting options: {what} and the container type network mode")
    if mode.kind is Kind.HOST and host.uts_mode == "host" and config.hostname:
        raise InvalidArgumentError("conflicting options: hostname and the UTS mode")


# Ports.


def split_port(text: str) -> tuple[int, str]:
    """``80/tcp`` as number and protocol. Raises `InvalidArgumentError`."""
    number, _, protocol = text.partition("/")
    protocol = (protocol or "tcp").lower()
    if not number.isdigit() or not 0 < int(number) <= 65535 or protocol not in _PROTOCOLS:
        raise InvalidArgumentError(f"invalid port specification: {text[:64]!r}")
    return int(number), protocol


def exposed(config: Config) -> list[tuple[int, str]]:
    """Exposed ports, in order. Raises `InvalidArgumentError`."""
    found: list[tuple[int, str]] = []
    for text in config.exposed_ports or {}:
        numbers, slash, protocol = text.partition("/")
        first, dash, last = numbers.partition("-")
        low, kind = split_port(first + slash + protocol)
        high = split_port(last + slash + protocol)[0] if dash else low
        found += [(number, kind) for number in range(low, high + 1)]
    return sorted(set(found))


def published(config: Config, host: HostConfig) -> list[PortMapping]:
    """Ports to publish, as asked for. Raises `InvalidArgumentError`."""
    found: list[PortMapping] = []
    for text, bindings in (host.port_bindings or {}).items():
        port, protocol = split_port(text)
        found += [_binding(port, protocol, each) for each in _bindings(bindings)]
    if host.publish_all_ports:
        named = {(each.port, each.protocol) for each in found}
        found += [
            PortMapping(port=port, protocol=protocol)
            for port, protocol in exposed(config)
            if (port, protocol) not in named
        ]
    return found


def _bindings(raw: Any) -> Sequence[Mapping[str, str]]:
    try:
        found = msgspec.convert(raw, list[dict[str, str] | None] | None)
    except msgspec.ValidationError as exc:
        raise InvalidArgumentError(f"invalid port binding: {exc}") from exc
    return [each or {} for each in found or (None,)]  # without one it is published on any free port


def _binding(port: int, protocol: str, binding: Mapping[str, str]) -> PortMapping:
    address = binding.get("HostIp", "").strip("[]")
    if address and not (_is_address(address, 4) or _is_address(address, 6)):
        raise InvalidArgumentError(f"invalid IP address: {address[:64]}")
    first, dash, last = binding.get("HostPort", "").partition("-")
    for text in (first, last):
        if text and (not text.isdigit() or int(text) > 65535):
            raise InvalidArgumentError(f"invalid port specification: {binding['HostPort'][:64]!r}")
    low = int(first or 0)
    return PortMapping(
        port=port,
        protocol=protocol,
        host_ip=address,
        host_port=low,
        host_last=int(last) if dash and last else low,
    )
