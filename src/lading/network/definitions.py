"""What a network may be: drivers, options, names, the interface; and the predefined ones."""

import contextlib
import hashlib
import ipaddress
import re
from pathlib import Path
from typing import Final

from lading.core.addresses import IPNetwork
from lading.core.networks import BRIDGE, HOST, NONE, Network, NetworkID, NetworkRequest, Subnet
from lading.errors import InvalidArgumentError, PermissionDeniedError, UnsupportedError

BRIDGE_NAME: Final = "com.docker.network.bridge.name"
MTU: Final = "com.docker.network.driver.mtu"
HOST_IP: Final = "com.docker.network.bridge.host_binding_ipv4"
PREFIX: Final = "com.docker.network.container_iface_prefix"
_ONLY: Final = {
    "com.docker.network.bridge.enable_icc": ("true",),
    "com.docker.network.bridge.enable_ip_masquerade": ("true",),
    "com.docker.network.bridge.inhibit_ipv4": ("false",),
    "com.docker.network.bridge.gateway_mode_ipv4": ("nat",),
    "com.docker.network.bridge.gateway_mode_ipv6": ("nat",),
    "com.docker.network.bridge.default_bridge": ("true", "false"),
    "com.docker.network.enable_ipv4": ("true",),
}
"""Options whose other values cannot be honoured."""
_FREE: Final = frozenset({BRIDGE_NAME, MTU, HOST_IP, PREFIX, "com.docker.network.enable_ipv6"})
_MODES: Final = {
    "macvlan": ("bridge", "private", "vepa", "passthru"),
    "ipvlan": ("l2", "l3", "l3s"),
}
_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _predefined(name: str, driver: str) -> Network:
    id_ = NetworkID(hashlib.sha256(b"lading network " + name.encode()).hexdigest())
    return Network(id=id_, name=name, driver=driver, created=0, predefined=True)


PREDEFINED: Final = (_predefined(HOST, "host"), _predefined(NONE, "null"))
"""Networks without a record; their IDs are the same everywhere."""


def bridge_request(interface: str, bip: str, mtu: int) -> NetworkRequest:
    """The predefined bridge. Raises `InvalidArgumentError` for a ``bip`` that is no address with a prefix."""
    options = {"com.docker.network.bridge.default_bridge": "true", BRIDGE_NAME: interface}
    if mtu:
        options[MTU] = str(mtu)
    subnets: tuple[Subnet, ...] = ()
    if bip:
        try:
            gateway = ipaddress.ip_interface(bip)
        except ValueError as exc:
            raise InvalidArgumentError(f"invalid bip {bip!r}: {exc}", hint="e.g. 10.200.0.1/24") from exc
        subnets = (Subnet(subnet=str(gateway.network), gateway=str(gateway.ip)),)
    return NetworkRequest(name=BRIDGE, subnets=subnets, options=options)


def is_same(network: Network, wanted: NetworkRequest) -> bool:
    """Whether the predefined bridge is still what is asked for."""
    same = all(
        (each.subnet, each.gateway) == (has.subnet, has.gateway)
        for each, has in zip(wanted.subnets, network.subnets, strict=False)
    )
    return same and dict(network.options) == dict(wanted.options)


def check(request: NetworkRequest) -> None:
    """Judge a request as far as it can be judged alone. Raises as `Networks.create`."""
    if not _NAME.fullmatch(request.name):
        raise InvalidArgumentError(
            f"invalid network name {request.name[:64]!r}",
            hint="letters, digits, '_', '.' and '-' are allowed, and it begins with a letter or digit",
        )
    if request.name in (BRIDGE, HOST, NONE, "default"):
        raise PermissionDeniedError(f"operation is not permitted on predefined {request.name} network")
    if request.driver not in (BRIDGE, *_MODES):
        offered = ", ".join((BRIDGE, *_MODES))
        raise UnsupportedError(f"network driver {request.driver!r} is not supported", hint=f"use {offered}")
    if not request.ipv4:
        raise UnsupportedError("networks without IPv4 are not supported")
    for subnet in request.subnets:
        if subnet.range and not subnet.subnet:
            raise InvalidArgumentError("an IP range needs its subnet", hint="give --subnet")
    for name, value in request.options.items():
        _check_option(request.driver, name, value)
    if request.driver != BRIDGE and not request.options.get("parent"):
        raise InvalidArgumentError(
            f"a {request.driver} network needs a parent interface", hint="give -o parent=eth0"
        )


def _check_option(driver: str, name: str, value: str) -> None:
    if name in _ONLY:
        if value not in _ONLY[name]:
            raise UnsupportedError(f"network option {name}={value} is not supported")
    elif name == MTU or (name == "mtu" and driver != BRIDGE):
        if not value.isdigit() or not 68 <= int(value) <= 65535:
            raise InvalidArgumentError(f"invalid MTU {value!r}", hint="a number of bytes from 68 to 65535")
    elif name in (BRIDGE_NAME, "parent"):
        if not _INTERFACE.fullmatch(value):
            raise InvalidArgumentError(f"invalid interface name {value[:32]!r}")
    elif name == HOST_IP:
        try:
            ipaddress.IPv4Address(value)
        except ValueError as exc:
            raise InvalidArgumentError(f"invalid {HOST_IP} {value!r}: {exc}") from exc
    elif name == PREFIX:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,11}", value):
            raise InvalidArgumentError(f"invalid {PREFIX} {value!r}")
    elif name == f"{driver}_mode":
        if value not in _MODES.get(driver, ()):
            raise UnsupportedError(f"{name} {value!r} is not supported")
    elif name not in _FREE:
        raise UnsupportedError(f"network option {name} is not supported")


def interface_of(request: NetworkRequest, id: NetworkID) -> str:
    """The bridge's name, or the parent's."""
    if request.driver == BRIDGE:
        return request.options.get(BRIDGE_NAME) or f"br-{id[:12]}"
    return request.options["parent"]


def machine_subnets() -> list[IPNetwork]:
    """IPv4 subnets that the machine has a route to. Blocking. proc(5), net/route."""
    found: list[IPNetwork] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            destination, mask = (int.from_bytes(bytes.fromhex(fields[n]), "little") for n in (1, 7))
            if mask:
                found.append(ipaddress.IPv4Network((destination, mask.bit_count())))
    return found
