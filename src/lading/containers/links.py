"""``--link``: names of other containers in ``/etc/hosts``, and on the default bridge variables that tell of their ports.

What Docker 28 does. On the default bridge, which resolves no names, a link needs a container that runs, and brings variables. In
other networks it is a name that only the container with the link knows; the linked one may come later.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from lading.containers import netmodes
from lading.containers.model import Container
from lading.containers.netmodes import Kind
from lading.core.networks import BRIDGE
from lading.errors import InvalidArgumentError, NotFoundError

_PRIVATE: Final = ("HOME", "PATH")
"""Variables of a linked container that are not passed on."""
Find = Callable[[str], Container]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link, as it was asked for."""

    name: str
    alias: str


def parse(text: str) -> Link:
    """``name``, ``name:alias`` or, as inspect shows it, ``/name:/own/alias``. Raises `InvalidArgumentError`."""
    name, colon, alias = text.partition(":")
    name = name.removeprefix("/")
    alias = alias.rpartition("/")[2] if colon else name
    if not name or not alias or ":" in alias or any(char.isspace() for char in text):
        raise InvalidArgumentError(f"bad format for links: {text[:200]}")
    return Link(name=name, alias=alias)


def of(container: Container, network: str) -> list[Link]:
    """The links that a container has in a network."""
    wish = container.document.networks.get(network)
    if wish is None:
        return []
    texts = [*(wish.links or ()), *((container.host.links or ()) if network == BRIDGE else ())]
    return [parse(text) for text in texts]


def check(container: Container, find: Find) -> None:
    """Judge the links of a new container.

    Raises:
        InvalidArgumentError: One is malformed, names no container, or its network has no links.

    """
    mode = netmodes.mode_of(container.host)
    for text in container.host.links or ():
        link = parse(text)
        if mode.kind is Kind.NETWORK and mode.name != BRIDGE:
            continue  # it stands with the endpoint, too
        if mode.kind is not Kind.NETWORK:
            raise InvalidArgumentError(
                f"conflicting options: {container.host.network_mode} type networking can't be used with links. "
                "This would result in undefined behavior"
            )
        try:
            other = find(link.name)
        except NotFoundError as exc:
            raise InvalidArgumentError(f"could not get container for {link.name}: {exc.message}") from exc
        if other.host.network_mode == "host":
            raise InvalidArgumentError(
                f"conflicting options: {link.name} uses the host network, and cannot be linked to"
            )
    for wish in container.document.networks.values():
        for text in wish.links or ():
            parse(text)


def running(container: Container, find: Find) -> list[tuple[Link, Container]]:
    """The containers that links of the default bridge lead to. Raises `InvalidArgumentError` if one does not run."""
    found: list[tuple[Link, Container]] = []
    for link in of(container, BRIDGE):
        other = find(link.name)
        if not other.state.running:
            raise InvalidArgumentError(
                f"Cannot link to a non running container: /{other.name} AS /{container.name}/{link.alias}"
            )
        found.append((link, other))
    return found


def leads_to(container: Container, other: Container, find: Find) -> bool:
    """Whether a container has a link to another one."""
    for network in container.document.networks:
        for link in of(container, network):
            try:
                if find(link.name) is other:
                    return True
            except (NotFoundError, InvalidArgumentError):
                continue
    return False


def names_given(containers: Iterable[Container], find: Find) -> dict[str, list[str]]:
    """Containers' IDs to the names that links on the default bridge give them: ``/app/db`` for one that app links to as db."""
    given: dict[str, list[str]] = {}
    for each in containers:
        for text in each.host.links or ():
            link = parse(text)
            with contextlib.suppress(NotFoundError, InvalidArgumentError):  # it was removed since
                given.setdefault(find(link.name).id, []).append(f"/{each.name}/{link.alias}")
    return given


def names(link: Link, other: Container) -> str:
    """What stands behind the address of a linked container in ``/etc/hosts``."""
    words = (link.alias, other.document.hostname, other.name)
    return " ".join(dict.fromkeys(word for word in words if word))


def environment(container: Container, linked: Iterable[tuple[Link, Container, str]]) -> list[str]:
    """Variables that tell of linked containers and their addresses."""
    made: list[str] = []
    for link, other, address in linked:
        prefix = link.alias.upper().replace("-", "_")
        ports = netmodes.exposed(other.config)
        made.append(f"{prefix}_NAME=/{container.name}/{link.alias}")
        if ports:
            made.append(f"{prefix}_PORT={_url(address, *ports[0])}")
        for port, protocol in ports:
            each = f"{prefix}_PORT_{port}_{protocol.upper()}"
            made += [
                f"{each}={_url(address, port, protocol)}",
                f"{each}_ADDR={address}",
                f"{each}_PORT={port}",
                f"{each}_PROTO={protocol}",
            ]
        made += [f"{prefix}_ENV_{entry}" for entry in other.document.env if _is_public(entry)]
    return made


def _url(address: str, port: int, protocol: str) -> str:
    return f"{protocol}://{address}:{port}"


def _is_public(entry: str) -> bool:
    name, equals, _ = entry.partition("=")
    return bool(equals) and name not in _PRIVATE


def shown(container: Container) -> list[str] | None:
    """Its links as inspect shows them."""
    parsed = [parse(text) for text in container.host.links or ()]
    return [f"/{each.name}:/{container.name}/{each.alias}" for each in parsed] or None
