"""``/etc/hosts``, ``/etc/hostname`` and ``/etc/resolv.conf`` of containers: written as their networks and links are."""

import ipaddress
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from lading.containers import links
from lading.containers.directories import Directories
from lading.containers.environment import Environment, Resolving
from lading.containers.model import Container
from lading.containers.networking import Joint, Networking
from lading.containers.request import HOST_GATEWAY, HostConfig
from lading.errors import InvalidArgumentError
from lading.kit import aio

_LOCALHOST: Final = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_NAMES: Final = ("hosts", "hostname", "resolv.conf")
_PUBLIC: Final = ("8.8.8.8", "8.8.4.4")
"""As Docker: for a container that cannot reach the machine's own resolver, and whose machine knows no other."""


class HostFiles:
    """These files of all containers. ``find`` gives the container of a name or ID, ``every`` all of them."""

    def __init__(
        self,
        environment: Environment,
        directories: Directories,
        networking: Networking,
        find: Callable[[str], Container],
        every: Callable[[], Sequence[Container]],
    ) -> None:
        self._env = environment
        self._directories = directories
        self._networking = networking
        self._find = find
        self._all = every

    def reserve(self, container: Container, joint: Joint) -> dict[str, str]:
        """Its own, or those that it shares; they need not be written yet. Path in the container to path on the host. Blocking."""
        if joint.files_of is not None:
            return paths(self._directories.durable(joint.files_of))
        return reserve(self._directories.make(container), self._env.owner_of(container.host))

    def write(self, container: Container, joint: Joint) -> None:
        """Write them, as the network now is. Blocking."""
        if joint.files_of is not None:
            return
        write(
            self._directories.make(container),
            container.host,
            container.document.hostname,
            container.config.domainname,
            joint,
            self._env.resolving,
            self._env.owner_of(container.host),
        )

    async def refresh(self, container: Container) -> None:
        """A running container sees in its files that its networks changed."""
        await aio.run(aio.DISK, self.write, container, self._networking.joint(container))

    async def refresh_linked(self, container: Container) -> None:
        """Those that have a link to a container see that its address or name is another now."""
        for each in self._all():
            if each is not container and each.state.running and links.leads_to(each, container, self._find):
                await self.refresh(each)


def write(
    directory: Path,
    host: HostConfig,
    hostname: str,
    domainname: str,
    joint: Joint,
    resolving: Resolving,
    owner: tuple[int, int] = (0, 0),
) -> dict[str, str]:
    """Write the three files below ``directory``; path in the container to path on the host. Blocking.

    A file that is there keeps its inode, so that a running container sees the change.
    """
    texts = {
        "hosts": hosts(host, hostname, domainname, joint),
        "hostname": f"{hostname}\n",
        "resolv.conf": resolv_conf(host, joint, resolving),
    }
    for name, text in texts.items():
        path = directory / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        os.chown(path, *owner)
    return paths(directory)


def reserve(directory: Path, owner: tuple[int, int] = (0, 0)) -> dict[str, str]:
    """Have the files, empty if they are not there, for mounts that are made before they are written; as `write`. Blocking."""
    for name in _NAMES:
        (directory / name).touch(0o644)
        os.chown(directory / name, *owner)
    return paths(directory)


def paths(directory: Path) -> dict[str, str]:
    """Path in the container to path on the host."""
    return {f"/etc/{name}": str(directory / name) for name in _NAMES}


def hosts(host: HostConfig, hostname: str, domainname: str, joint: Joint) -> str:
    """``/etc/hosts``."""
    on_host_network = host.network_mode == "host"
    text = (_host_file("/etc/hosts") if on_host_network else "") or _LOCALHOST
    for entry in host.extra_hosts or ():
        name, address = split_extra_host(entry)
        if address == HOST_GATEWAY:
            if not joint.gateway:
                raise InvalidArgumentError(
                    f"unable to derive the IP value for {HOST_GATEWAY}: the container has no network with a gateway"
                )
            address = joint.gateway
        text += f"{address}\t{name}\n"
    if not on_host_network:
        full = f"{hostname}.{domainname} {hostname}" if domainname else hostname
        text += "".join(f"{address}\t{full}\n" for address in joint.addresses or ("127.0.0.1",))
        text += "".join(f"{address}\t{names}\n" for address, names in joint.linked)
    return text


def split_extra_host(entry: str) -> tuple[str, str]:
    """Name and address of ``name:address``. Raises `InvalidArgumentError`."""
    name, _, address = entry.partition(":")
    if not name or not address or any(char.isspace() for char in entry):
        raise InvalidArgumentError(f"bad format for add-host: {entry!r}")
    return name, address.strip("[]")


def resolv_conf(host: HostConfig, joint: Joint, resolving: Resolving) -> str:
    """The host's resolver configuration with what ``--dns``, ``--dns-search`` and ``--dns-option`` replace.

    In a network that resolves names its servers stand in for all others, and ask those themselves.
    """
    servers = joint.servers if joint.embedded else (host.dns or resolving.servers)
    search = host.dns_search or resolving.search
    options = host.dns_options or resolving.options
    if joint.embedded and not any(option.startswith("ndots:") for option in options):
        options = (*options, "ndots:0")
    replaced = {
        "nameserver": [f"nameserver {address}" for address in servers],
        "search": [f"search {' '.join(search)}"] if search else [],
        "options": [f"options {' '.join(options)}"] if options else [],
    }
    kept: list[str] = []
    for line in _host_file("/etc/resolv.conf").splitlines():
        keyword = line.split(maxsplit=1)[0] if line.strip() else ""
        if not replaced.get("search" if keyword == "domain" else keyword):
            kept.append(line)
    if joint.path and not servers:
        kept = _reachable(kept)
    lines = [*kept, *(line for lines in replaced.values() for line in lines)]
    text = "\n".join(line for line in lines if line != "search .")
    return text + "\n" if text else ""


def _reachable(lines: Sequence[str]) -> list[str]:
    """Leave out name servers on the machine's loopback, which a network namespace of its own cannot reach."""
    kept = [line for line in lines if not _on_loopback(line)]
    if not any(line.startswith("nameserver") for line in kept):
        kept += [f"nameserver {address}" for address in _PUBLIC]
    return kept


def _on_loopback(line: str) -> bool:
    keyword, _, address = line.strip().partition(" ")
    if keyword != "nameserver":
        return False
    try:
        return ipaddress.ip_address(address.strip().partition("%")[0]).is_loopback
    except ValueError:
        return False


def _host_file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
