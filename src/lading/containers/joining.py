"""``--pid container:X``, ``--ipc container:X`` and ``--ipc shareable``: what a container shares with others when it starts."""

from collections.abc import Callable

from lading.containers import namespaces, spec
from lading.containers.hostmounts import HostMounts
from lading.containers.model import Container
from lading.containers.modes import PREFIX
from lading.containers.namespaces import Joined
from lading.containers.remapping import Remapping, of_process
from lading.core.idmap import IdMap
from lading.errors import ConflictError, InvalidArgumentError
from lading.kit import aio


async def join(
    container: Container,
    find: Callable[[str], Container],
    host_mounts: HostMounts,
    remapping: Remapping | None = None,
) -> Joined:
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
        owner = remapping.root if remapping else (0, 0)
        size = host.shm_size or spec.DEFAULT_SHM_SIZE
        shm = await aio.run(aio.DISK, host_mounts.make_shm, container.id, size, owner)
    return Joined(paths=paths, shm=shm)


def only_other(
    container: Container, find: Callable[[str], Container], remapping: Remapping
) -> Container | None:
    """The container whose user namespace this one has to be in, because it joins other namespaces that belong to that.

    Raises:
        NotFoundError: There is no such container.
        ConflictError: It does not run, or there are two, or it has the machine's.

    """
    names = list(namespaces.wanted(container.host).values())
    if container.host.network_mode.startswith(PREFIX):
        names.append(container.host.network_mode.removeprefix(PREFIX))
    others = {other.id: other for other in map(find, names)}
    if not others:
        return None
    other = next(iter(others.values()))
    if not other.state.running:
        raise ConflictError(f"cannot join namespaces of a non running container: {other.id}")
    if len(others) > 1 or remapped_as(other) != remapping.ids:
        raise ConflictError(
            "cannot join namespaces that belong to different user namespaces", hint="add --userns=host"
        )
    return other


def remapped_as(container: Container) -> IdMap | None:
    """The IDs of a running container; nothing if it has just ended."""
    try:
        return of_process(container.state.pid)
    except OSError:
        return None
