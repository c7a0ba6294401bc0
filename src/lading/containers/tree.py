"""The file tree of a container, as files are copied from and to it.

A `Tree` is two descriptors: the root directory, and the mount namespace that it is in, which lives as long as they are
open. Nothing is mounted where others could see it, and whatever happens to this process, nothing stays mounted.

* Of a running container it is the container's own namespace: volumes, bind mounts and tmpfs are where the container
  sees them.
* Of a stopped one it is a namespace made for the purpose, with the snapshot and the bind mounts.

Paths are resolved by the kernel inside the root (`lading.containers.rootfs.Root`). What the kernel shows as files (proc, sysfs,
cgroups, device numbers) is no part of a tree: nothing is copied from or to it.
"""

import ctypes
import os
import stat
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from lading.containers import remapping, rootfs
from lading.containers.binds import Bind
from lading.containers.remapping import Remapping
from lading.containers.rootfs import Root
from lading.core.idmap import IDENTITY, IdMap
from lading.core.mounts import Mount
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.kit import linux

T = TypeVar("T")
_SYS_OPEN_TREE: Final = 428
_OPEN_TREE_CLONE: Final = 1
_CLONE_FS: Final = 0x200
_CLONE_NEWNS: Final = 0x20000
_AT_FDCWD: Final = -100
_LINKS_MAX: Final = 40
_FIND: Final = os.O_PATH | os.O_NOFOLLOW
_KERNEL_FILES: Final = frozenset(
    {
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0xCAFE4A11,  # bpf
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x6E736673,  # nsfs
    }
)
"""Magic numbers (linux/magic.h) of file systems whose files are the kernel's."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Tree(Root):
    """The root of a container's files, and the namespace that it is in. A context manager. Blocking."""

    def __init__(self, fd: int, namespace: int, ids: IdMap = IDENTITY) -> None:
        super().__init__(fd)
        self._namespace = namespace
        self.ids = ids
        """How owners of the files are called in the container."""

    @property
    def namespace(self) -> int:
        """Descriptor of the mount namespace."""
        return self._namespace

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the tree, and of the namespace if nobody else has it. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._namespace)
            self._fd = -1

    def parent(self, path: str) -> tuple[int, str]:
        """A descriptor of the directory that a clean absolute path lies in, links on the way resolved, and the last name.

        The name of the root is ``.``. Raises `OSError`.
        """
        above, _, name = path.rpartition("/")
        fd = self.open(above or "/", os.O_PATH | os.O_DIRECTORY)
        return fd, name or "."

    def resolved(self, path: str) -> str:
        """The path without links, as far as it exists: the answer to "where does it lead", never a basis for access."""
        done: list[str] = []
        pending = [part for part in path.split("/") if part][::-1]
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            target = self._link("/" + "/".join([*done, part])) if links < _LINKS_MAX else None
            if target is None:
                done.append(part)
                continue
            links += 1
            if target.startswith("/"):
                done.clear()
            pending += target.split("/")[::-1]
        return "/" + "/".join(done)

    def _link(self, path: str) -> str | None:
        try:
            fd = self.open(path, _FIND)
        except OSError:
            return None
        try:
            return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
        finally:
            os.close(fd)


def is_kernels(fd: int) -> bool:
    """Whether an open file (``O_PATH`` too) belongs to a file system whose files are the kernel's."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return (struct.unpack_from("=q", buffer)[0] & 0xFFFFFFFF) in _KERNEL_FILES


def open_running(pid: int) -> Tree:
    """The tree of the container whose first process is ``pid``.

    Afterwards the caller makes sure that the process is still that one: a number may have been taken by another.

    Raises:
        FailedPreconditionError: There is no such process.

    """
    namespace = -1
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return Tree(root, namespace, remapping.of_process(pid))
    except OSError as exc:
        if namespace >= 0:
            os.close(namespace)
        raise FailedPreconditionError(f"cannot look into the container: {exc}") from exc


def open_stopped(
    mounts: Sequence[Mount], binds: Sequence[Bind], at: Path, remapped: Remapping | None = None
) -> Tree:
    """The tree that ``mounts`` show, with bind mounts in it; ``at`` is an existing empty directory; ``remapped`` gives owners.

    Raises:
        FailedPreconditionError: It cannot be mounted.

    """

    def work() -> Tree:
        rootfs.leave_namespace()
        (remapped.mount_here if remapped else rootfs.mount_all)(mounts, at)
        fd = os.open(at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            root = Root(fd)
            for bind in sorted(binds, key=lambda each: each.target.count("/")):
                _bind(root, bind)
            namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            return Tree(fd, namespace, remapped.ids if remapped else IDENTITY)
        except BaseException:
            os.close(fd)
            raise

    return _on_thread(work)


def _bind(root: Root, bind: Bind) -> None:
    """Mount one source where the container would see it; what would be missing there is missing here."""
    try:
        directory = stat.S_ISDIR(os.stat(bind.source).st_mode)
        target = _mount_point(root, bind.target, directory=directory)
    except (OSError, InvalidArgumentError):
        return
    try:
        linux.mount(bind.source, f"/proc/self/fd/{target}", "", linux.MS_BIND | linux.MS_REC)
    finally:
        os.close(target)
    if bind.read_only:
        mounted = root.open(bind.target, os.O_PATH)
        try:
            linux.mount(
                "", f"/proc/self/fd/{mounted}", "", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
            )
        finally:
            os.close(mounted)


def _mount_point(root: Root, path: str, *, directory: bool) -> int:
    if directory:
        root.make_directory(path)
    else:
        above, _, name = path.rpartition("/")
        root.make_directory(above or "/")
        parent = root.open(above or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o644, dir_fd=parent)
            os.fchmod(fd, 0o644)  # whatever the umask of the daemon is
            os.close(fd)
        except FileExistsError:
            pass
        finally:
            os.close(parent)
    return root.open(path, os.O_PATH)


def without_mounts(tree: Tree) -> Tree:
    """The same root file system alone, as a mount of its own: neither volumes nor anything else is on it.

    Raises:
        FailedPreconditionError: The kernel refuses.

    """

    def work() -> Tree:
        # A mount can be cloned by whoever is in its namespace; entering one takes working directory and root along.
        _check(_libc.unshare(_CLONE_FS))
        _check(_libc.setns(tree.namespace, _CLONE_NEWNS))
        os.fchdir(tree.fd)
        flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
        root = _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, b".", flags))
        return Tree(root, os.dup(tree.namespace), tree.ids)

    return _on_thread(work)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def _on_thread(function: Callable[[], T]) -> T:
    """Call on a thread that changes what belongs to threads, and ends. `OSError` becomes `FailedPreconditionError`."""
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as exc:  # noqa: BLE001 (carried to the caller's thread)
            failures.append(exc)

    thread = threading.Thread(target=body, name="tree")
    thread.start()
    thread.join()
    if failures:
        if isinstance(failures[0], OSError):
            raise FailedPreconditionError(f"cannot show the container's files: {failures[0]}") from failures[
                0
            ]
        raise failures[0]
    return results[0]
