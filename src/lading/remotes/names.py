"""How hosts and addresses of registries are spelled (sans-I/O). Costs little to import: a command line is checked with it."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from lading.errors import InvalidArgumentError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_address(host: str) -> IPAddress | None:
    """The address that ``host`` spells, if it is one; an IPv4 address in IPv6 clothes is undressed."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped) or address


def split_host(text: str) -> tuple[str, int | None]:
    """Host (lower case, no brackets) and port of ``host[:port]``. Raises `InvalidArgumentError`."""
    try:
        parts = urlsplit("//" + text)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidArgumentError(f"malformed host {text!r}") from exc
    if not host or parts.path or parts.username is not None:
        raise InvalidArgumentError(f"malformed host {text!r}")
    return host, port


def is_loopback(host: str) -> bool:
    """Whether a host without port is this machine, by its spelling alone."""
    address = parse_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def is_insecure(name: str, insecure: Iterable[str], addresses: Iterable[str] = ()) -> bool:
    """Whether ``host[:port]`` may be spoken to in clear and without verification (Docker's rule).

    ``addresses`` are those that the host's name has, for the entries that are networks.
    """
    host, _ = split_host(name)
    if is_loopback(host):
        return True
    parsed = [address for text in (host, *addresses) if (address := parse_address(text)) is not None]
    for entry in insecure:
        if entry.lower() in {name.lower(), host}:
            return True
        if "/" in entry:
            wide = network(entry)
            if any(address in wide for address in parsed):
                return True
    return False


def network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network that an entry of ``insecure-registries`` spells. Raises `InvalidArgumentError`."""
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError as exc:
        raise InvalidArgumentError(
            f"insecure registry {entry!r} is neither a host nor a network",
            hint="use host, host:port or 10.0.0.0/8",
        ) from exc


def split_mirror(text: str) -> SplitResult:
    """The URL of a mirror. Raises `InvalidArgumentError`."""
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.username is not None:
        raise InvalidArgumentError(
            f"registry mirror {text!r} is not a URL of http or https", hint="use https://mirror.example"
        )
    return parts


def check(mirrors: Iterable[str], insecure: Iterable[str]) -> None:
    """Raise `InvalidArgumentError` for mirrors and insecure registries that could never be used."""
    for entry in insecure:
        if "/" in entry:
            network(entry)
    for text in mirrors:
        split_host(split_mirror(text).netloc)
