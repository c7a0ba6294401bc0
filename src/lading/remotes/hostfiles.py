"""Reads what `lading.remotes.hosts` understands: ``<directory>/<host>/hosts.toml`` and Docker's certificate files."""

import os
from collections.abc import Callable

import structlog

from lading.errors import InvalidArgumentError
from lading.remotes import hosts
from lading.remotes.config import Config
from lading.remotes.dial import Resolve, Trust
from lading.remotes.errors import TransportError
from lading.remotes.hosts import DOCKER_HUB, Host
from lading.remotes.names import is_insecure, split_host

_log = structlog.get_logger()


def candidates(namespace: str) -> tuple[str, ...]:
    """The directories' names for a registry, best first (containerd docs/hosts.md)."""
    host, port = split_host(namespace)
    names = [namespace]
    if port is not None:
        bare = f"[{host}]" if ":" in host else host
        names = [f"{bare}_{port}_", namespace]
    return (*names, "_default")


def load(config: Config, namespace: str, resolve: Resolve) -> tuple[Host, ...]:
    """The hosts of a registry, in the order in which they are to be asked. Blocking; reads the files anew.

    A hosts.toml that cannot be understood is logged and passed over for the certificate files beside it.
    """
    insecure = _is_insecure(config, namespace, resolve)
    directory = _directory(config.host_directories, namespace)
    found: tuple[Host, ...] = ()
    if directory:
        path = os.path.join(directory, "hosts.toml")
        try:
            with open(path, encoding="utf-8") as file:
                found = hosts.parse(file.read(), directory=directory, namespace=namespace, insecure=insecure)
        except FileNotFoundError:
            pass
        except (OSError, UnicodeDecodeError, InvalidArgumentError) as exc:
            _log.error("hosts_file_ignored", path=path, error=str(exc))
    if not found:
        trust = certificates(directory) if directory else Trust()
        found = (hosts.default_host(namespace, insecure=insecure, trust=trust),)
    if len(found) == 1 and namespace == DOCKER_HUB and config.mirrors:
        found = (*hosts.mirror_hosts(config.mirrors, config.insecure), *found)
    return found


def _directory(roots: tuple[str, ...], namespace: str) -> str:
    for root in roots:
        for name in candidates(namespace):
            path = os.path.join(root, name)
            if os.path.isdir(path):
                return path
    return ""


def certificates(directory: str) -> Trust:
    """Docker's layout: ``*.crt`` are authorities, ``*.cert`` with ``*.key`` of the same name are our own. Blocking."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as exc:
        _log.error("certificates_ignored", path=directory, error=exc.strerror)
        return Trust()
    join: Callable[[str], str] = lambda name: os.path.join(directory, name)  # noqa: E731
    ca = tuple(join(name) for name in names if name.endswith(".crt"))
    client: list[tuple[str, str]] = []
    for name in names:
        if name.endswith(".cert"):
            key = name[: -len(".cert")] + ".key"
            if key not in names:
                raise InvalidArgumentError(f"{join(name)} has no key beside it", hint=f"add {key}")
            client.append((join(name), join(key)))
    return Trust(ca=ca, client=tuple(client))


def _is_insecure(config: Config, namespace: str, resolve: Resolve) -> bool:
    if is_insecure(namespace, config.insecure):
        return True
    if not any("/" in entry for entry in config.insecure) or namespace == DOCKER_HUB:
        return False
    host, port = split_host(namespace)
    try:
        addresses = [address[0] for _, address in resolve(host, port or 443)]
    except TransportError:
        return False
    return is_insecure(namespace, config.insecure, addresses)
