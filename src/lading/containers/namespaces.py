"""Namespaces of a container: its own, the host's, or those of another container."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lading.containers.modes import PREFIX
from lading.containers.request import HostConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Namespaces of other containers that a container joins: type (``pid``, ``ipc`` …) to ``/proc/…/ns/…``.

    ``shm`` is the host's path of the shared memory that goes with a joined or shared IPC namespace.
    """

    paths: Mapping[str, str] = field(default_factory=dict[str, str])
    shm: str = ""

    def with_network(self, path: str) -> "Joined":
        """Joined to the network namespace at ``path`` too, unless that is empty."""
        return replace(self, paths={**self.paths, "network": path}) if path else self

    def with_user(self, path: str) -> "Joined":
        """In the user namespace at ``path`` too, unless that is empty."""
        return replace(self, paths={**self.paths, "user": path}) if path else self


def wanted(host: HostConfig) -> dict[str, str]:
    """Which container's namespace of which type is asked for: type to name or ID."""
    modes = {"pid": host.pid_mode, "ipc": host.ipc_mode}
    return {kind: mode.removeprefix(PREFIX) for kind, mode in modes.items() if mode.startswith(PREFIX)}


def cgroup_namespace(host: HostConfig, *, cgroup_v2: bool) -> str:
    """``private`` or ``host``; without a wish a cgroup namespace of its own on cgroup v2, unless privileged."""
    return host.cgroupns_mode or ("private" if cgroup_v2 and not host.privileged else "host")


def spec(host: HostConfig, joined: Joined, *, cgroup_v2: bool) -> list[dict[str, Any]]:
    """The runtime-spec namespaces."""
    has = {
        "mount": True,
        "network": host.network_mode != "host",
        "uts": host.uts_mode != "host",
        "pid": host.pid_mode != "host",
        "ipc": host.ipc_mode != "host",
        "cgroup": cgroup_namespace(host, cgroup_v2=cgroup_v2) == "private",
        "user": "user" in joined.paths,
    }
    return [
        {"type": name, "path": joined.paths[name]} if name in joined.paths else {"type": name}
        for name, wanted in has.items()
        if wanted
    ]
