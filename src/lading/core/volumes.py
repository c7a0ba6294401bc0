"""Volumes: directories with a life of their own, which containers mount.

**Terms.** A *volume* is a directory with a name, labels and options, kept by a *driver*; ``local`` keeps it on this machine.
With the options ``type``, ``o`` and ``device`` the directory is a mount point, and the volume is what mount(8) finds for
them: a tmpfs, a bind mount, a disk, an NFS export. An *anonymous* volume was made for one container that named none.

**Life.** A volume is there from `create` until `remove`, also after a reboot. A plain one is durable when `create` returns;
removing it deletes the row first, so that after a crash it is either there, whole, or gone. `acquire` makes it usable for a
holder, which mounts what has options; `release` by the last holder unmounts. Holders are not remembered: after a restart the
daemon tells `recover` who still holds what, and every other mount is taken away. All three are idempotent.

**Who may remove what** is the business of the caller, who knows the containers; a volume that is held is refused here too.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

LOCAL: Final = "local"
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume as it is kept. ``created`` is nanoseconds since the epoch."""

    name: str
    created: int
    driver: str = LOCAL
    labels: Labels = field(default_factory=dict[str, str])
    options: Labels = field(default_factory=dict[str, str])
    anonymous: bool = False


class Store(Protocol):
    """The volume records of one namespace. Every call is one durable transaction."""

    async def list(self) -> list[Volume]:
        """In order of name."""
        ...

    async def create(self, volume: Volume) -> None:
        """Raises `AlreadyExistsError` if the name is taken."""
        ...

    async def delete(self, name: str) -> None:
        """Raises `NotFoundError`."""
        ...


class Volumes(Protocol):
    """Volumes of one daemon."""

    async def create(
        self,
        name: str = "",
        *,
        driver: str = LOCAL,
        labels: Labels | None = None,
        options: Labels | None = None,
        anonymous: bool = False,
    ) -> tuple[Volume, bool]:
        """The volume of that name, made if there is none, and whether it was made. Without a name a random one is chosen.

        Raises:
            InvalidArgumentError: The name or an option is malformed.
            ConflictError: There is one of that name, with other options or another driver.
            UnsupportedError: No such driver.

        """
        ...

    def find(self, name: str) -> Volume:
        """Raises `NotFoundError`."""
        ...

    def list(self) -> "Sequence[Volume]":
        """All, in order of name."""
        ...

    def path(self, name: str) -> str:
        """Where its files are on the machine, while it is held. Raises `NotFoundError`."""
        ...

    async def acquire(self, name: str, holder: str) -> str:
        """Make it usable until ``holder`` releases it; its path.

        Raises:
            NotFoundError: No such volume.
            FailedPreconditionError: It cannot be mounted, in the kernel's words; or its files are gone.

        """
        ...

    async def release(self, name: str, holder: str) -> None:
        """The holder needs it no more."""
        ...

    async def fill(self, name: str, copy: Callable[[str], None]) -> bool:
        """Call ``copy`` with a directory that becomes the volume's, if it is empty and nobody holds it; whether it did.

        ``copy`` runs on a thread, and nobody can acquire the volume meanwhile. It may set owner and mode of the directory. If
        it fails, and after a crash, a volume without options is empty as before.

        Raises `NotFoundError`; what ``copy`` raises.
        """
        ...

    def holders(self, name: str) -> Collection[str]:
        """Who holds it now; nobody holds one that is not there."""
        ...

    async def recover(self, held: Mapping[str, Sequence[str]]) -> None:
        """After a start: volume to those who hold it.

        Whatever else is mounted is unmounted, and the rests of removals go.
        """
        ...

    async def remove(self, name: str) -> None:
        """Delete it with everything in it; what it is mounted from stays.

        Raises `NotFoundError`; `ConflictError` while it is held.
        """
        ...

    async def usage(self, name: str) -> int:
        """Bytes that its files take on the disk; 0 for one that is mounted from elsewhere. Raises `NotFoundError`."""
        ...
