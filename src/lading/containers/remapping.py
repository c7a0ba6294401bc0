"""``userns-remap``: containers whose root is nobody on the machine.

Layers and writable layers lie on the disk with the IDs that containers know; a container with a user namespace sees them through
mounts that give other owners, one without sees them as they are. Volumes and bind mounts are not mapped: their files have the
machine's IDs, so that a set-user-ID file which root of a container puts there does not belong to root of the machine.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from lading.containers.request import HostConfig
from lading.core import idmap
from lading.core.idmap import IdMap
from lading.core.mounts import Mount
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.kit import idmapping, linux

Attach = Callable[[Sequence[idmapping.Piece], str, int, tuple[int, int]], None]
OWN_USERNS: Final = "host"
"""``--userns=host``: the machine's own user namespace."""


class Remapping:
    """The IDs of all containers of a daemon, but those that ask for the machine's. Blocking. ``close`` it in the end."""

    def __init__(self, ids: IdMap) -> None:
        self.ids = ids
        self._maps = idmap.text(ids.uids), idmap.text(ids.gids)
        try:
            self._namespace = idmapping.open_user_namespace(*self._maps)
        except OSError as exc:
            raise FailedPreconditionError(
                f"userns-remap: cannot make a user namespace: {exc.strerror}",
                hint="see /proc/sys/user/max_user_namespaces, and whether unshare(1) and nsenter(1) are installed",
            ) from exc

    @property
    def root(self) -> tuple[int, int]:
        """User and group of the machine that are root in containers."""
        return self.ids.root

    @property
    def stream_options(self) -> dict[str, int]:
        """Options of runc's shim: standard streams are its root's, else a process could not open /dev/stdout."""
        return {"IoUid": self.root[0], "IoGid": self.root[1]}

    def close(self) -> None:
        """Let go of the namespace; what was mounted with it stays."""
        os.close(self._namespace)

    def make_namespace(self, path: Path) -> None:
        """Make a user namespace for one container, held by the new file ``path``. Raises `FailedPreconditionError`."""
        try:
            idmapping.make_user_namespace(str(path), *self._maps)
        except OSError as exc:
            raise FailedPreconditionError(f"cannot make a user namespace: {exc.strerror}") from exc

    def mount(self, mounts: Sequence[Mount], place: Path) -> None:
        """Mount at ``place``, an existing directory or file, with the containers' owners. Raises `FailedPreconditionError`."""
        self._mount(idmapping.mount_mapped, mounts, place)

    def mount_here(self, mounts: Sequence[Mount], place: Path) -> None:
        """As `mount`, on a thread that has a mount namespace of its own and ends with it; it acts as the containers' root."""
        self._mount(idmapping.mount_mapped_here, mounts, place)

    def _mount(self, attach: Attach, mounts: Sequence[Mount], place: Path) -> None:
        try:
            attach([_piece(mount) for mount in mounts], str(place), self._namespace, self.root)
        except OSError as exc:
            raise FailedPreconditionError(
                f"cannot mount {exc.filename or place} with the owners of a user namespace: {exc.strerror}"
            ) from exc

    def probe(self, mounts: Sequence[Mount], place: Path) -> None:
        """Mount them where nobody sees it, and make a file in them. Raises `FailedPreconditionError`."""

        def write() -> None:
            self.mount_here(mounts, place)
            (place / "file").touch()

        try:
            linux.in_private_namespace(write)
        except OSError as exc:
            raise FailedPreconditionError(f"cannot make a file: {exc.strerror}") from exc


def acting(ids: IdMap) -> AbstractContextManager[None]:
    """What this thread makes within the context belongs to root of these IDs, which a mount with their owners demands."""
    return nullcontext() if ids.is_identity else idmapping.files_of(ids.root)


def of_process(pid: int) -> IdMap:
    """The IDs of the user namespace that a process is in. Raises `OSError`."""
    maps = [Path(f"/proc/{pid}/{name}").read_text("ascii") for name in ("uid_map", "gid_map")]
    found = IdMap(uids=idmap.parse(maps[0]), gids=idmap.parse(maps[1]))
    return idmap.IDENTITY if found.is_identity else found


def check(host: HostConfig) -> None:
    """Refuse what a container with a user namespace cannot have, in Docker's words. Raises `InvalidArgumentError`."""
    if host.userns_mode == OWN_USERNS:
        return
    if host.privileged:
        raise InvalidArgumentError(
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when "
            "running privileged mode"
        )
    # Docker takes the last, and the runtime fails: the queues cannot be mounted.
    shared = {
        "host's network": host.network_mode,
        "host PID": host.pid_mode,
        "host IPC": host.ipc_mode,
    }
    for what, mode in shared.items():
        if mode == "host":
            raise InvalidArgumentError(
                f"cannot share the {what} namespace when user namespaces are enabled",
                hint="add --userns=host",
            )


def _piece(mount: Mount) -> idmapping.Piece:
    return mount.source, mount.target, mount.type, mount.options
