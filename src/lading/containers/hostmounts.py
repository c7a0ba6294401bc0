"""Mounts that a container needs on the host while it runs: shared memory that others may join, mounted images, and with a user
namespace the root file system and the namespace itself.

They lie in one directory per container, below the exec-root. What a killed daemon left there is taken away when its container is
found not to run. All blocking.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from lading.containers.remapping import Remapping
from lading.containers.rootfs import Root
from lading.core.mounts import Mount
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.kit import linux


class HostMounts:
    """The directory of all containers' mounts."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def shm_path(self, container: str) -> Path:
        """Where its shared memory is while it runs."""
        return self._root / container / "shm"

    def make_shm(self, container: str, size: int, owner: tuple[int, int] = (0, 0)) -> str:
        """A tmpfs of ``size`` bytes; its path."""
        place = self.shm_path(container)
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        options = f"mode=1777,size={size},uid={owner[0]},gid={owner[1]}"
        self._mount(place, lambda: linux.mount("shm", str(place), "tmpfs", flags, options))
        return str(place)

    def make_namespace(self, container: str, remapping: Remapping) -> str:
        """A user namespace for a container; its path."""
        place = self._root / container / "user"
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        remapping.make_namespace(place)
        return str(place)

    def make_root(self, container: str, mounts: Sequence[Mount], remapping: Remapping) -> list[Mount]:
        """The root file system with the owners of a user namespace; how to mount it."""
        place = self._root / container / "root"
        self._mount(place, lambda: remapping.mount(mounts, place))
        return [Mount(type="bind", source=str(place), options=("rbind", "rw"))]

    def make_tree(
        self,
        container: str,
        name: str,
        mounts: Sequence[Mount],
        subpath: str,
        remapping: Remapping | None = None,
    ) -> str:
        """What ``mounts`` show, or a path in it; the path on the host. ``remapping`` gives the owners.

        Raises `InvalidArgumentError` if there is no such path.
        """
        place = self._root / container / name

        def mount() -> None:
            if remapping is not None:
                remapping.mount(mounts, place)
                return
            for each in mounts:
                linux.mount_with(each.source, str(place / each.target.lstrip("/")), each.type, each.options)

        self._mount(place, mount)
        if not subpath:
            return str(place)
        try:
            with Root.at(place) as root:
                fd = root.open(subpath, os.O_PATH)
                try:
                    return os.readlink(f"/proc/self/fd/{fd}")
                finally:
                    os.close(fd)
        except OSError as exc:
            raise InvalidArgumentError(
                f"cannot mount the image's path {subpath!r}: {exc.strerror}", subject=subpath
            ) from exc

    def make_bind(self, container: str, name: str, fd: int) -> str:
        """What an open descriptor stands for, at a path that nobody else can change; the path."""
        place = self._root / container / name
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
            place.touch()
        source = f"/proc/self/fd/{fd}"
        self._mount(place, lambda: linux.mount(source, str(place), "", linux.MS_BIND | linux.MS_REC))
        return str(place)

    def _mount(self, place: Path, mount: Callable[[], None]) -> None:
        if not place.exists():
            place.mkdir(parents=True, mode=0o711)
        try:
            mount()
        except OSError as exc:
            raise FailedPreconditionError(f"cannot mount at {place}: {exc.strerror}") from exc

    def drop(self, container: str) -> None:
        """Take all of a container's away; processes that still use one keep it. Idempotent."""
        place = self._root / container
        if not place.exists():
            return
        for point in linux.mount_points(str(place)):
            with contextlib.suppress(OSError):  # went with the one that it was on
                linux.unmount(point)
        if not linux.mount_points(str(place)):
            shutil.rmtree(place, ignore_errors=True)

    def sweep(self, keep: Collection[str]) -> None:
        """Take away what belongs to none of these containers."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._root):
                if name not in keep:
                    self.drop(name)
