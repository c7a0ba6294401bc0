"""``--pid container:X``, ``--ipc container:X`` and ``--ipc shareable``: what a container shares with others when it starts."""

from collections.abc import Callable

from lading.containers import namespaces, spec
from lading.containers.hostmounts import HostMounts
from lading.containers.model import Container
from lading.containers.namespaces import Joined
from lading.errors import ConflictError, InvalidArgumentError
from lading.kit import aio


async def join(container: Container, find: Callable[[str], Container], host_mounts: HostMounts) -> Joined:
    """Find the containers whose namespaces are to be joined; make the shared memory that others may join.

    Raises:
        NotFoundError: There is no such container.
        ConflictError: It does not run, or shares nothing.

    """
    host = container.host
    paths: dict[str, str] = {}
    shm = ""
    for kind, name in namespaces.wanted(host).items():
        other = find(name)
        if other is container:
            raise InvalidArgumentError(f"cannot join own {kind.upper()} namespace")
        if not other.state.running or other.task is None:
            raise ConflictError(
                f"cannot join {kind.upper()} namespace of a non running container: {other.id}"
            )
        if kind == "ipc":
            if other.host.ipc_mode != "shareable":
                raise ConflictError(
                    f"can't join IPC of container {other.id}: non-shareable IPC "
                    "(hint: use IpcMode:shareable for the donor container)"
                )
            shm = str(host_mounts.shm_path(other.id))
        paths[kind] = f"/proc/{other.state.pid}/ns/{kind}"
    if host.ipc_mode == "shareable":
        size = host.shm_size or spec.DEFAULT_SHM_SIZE
        shm = await aio.run(aio.DISK, host_mounts.make_shm, container.id, size)
    return Joined(paths=paths, shm=shm)
