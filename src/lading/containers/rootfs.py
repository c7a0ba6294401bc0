"""Look into a container's root file system without trusting it.

Two tools. `Root` resolves paths *inside* a tree: symbolic links, ``..`` and magic links of an image never lead out of it
(openat2(2), ``RESOLVE_IN_ROOT``). `inside` makes a snapshot's mounts visible to one short-lived thread in a mount namespace of
its own, which disappears with the thread: nothing is left mounted, even if the daemon is killed half-way.
"""

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from lading.core.mounts import Mount
from lading.errors import FailedPreconditionError, InternalError, InvalidArgumentError, LadingError

T = TypeVar("T")

_SYS_OPENAT2: Final = 437  # the same number on every architecture (since Linux 5.6)
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_IN_ROOT: Final = 0x10
_CLONE_NEWNS: Final = 0x00020000
_OPTION_PAGE: Final = 4000
"""mount(2) takes at most a page of options."""
_FLAGS: Final = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "sync": 0x10,
    "noatime": 0x400,
    "bind": 0x1000,
    "rbind": 0x5000,
    "rw": 0,
}
_MS_REMOUNT: Final = 0x20
_MS_BIND: Final = 0x1000
_MS_PRIVATE_RECURSIVE: Final = 0x44000

_libc = ctypes.CDLL(None, use_errno=True)


class Root:
    """A directory that is the root for every path resolved here. Blocking."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    @contextmanager
    def at(cls, path: str | Path) -> "Generator[Root]":
        """The tree at a trusted path."""
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield cls(fd)
        finally:
            os.close(fd)

    @property
    def fd(self) -> int:
        """The directory's descriptor."""
        return self._fd

    def open(self, path: str, flags: int) -> int:
        """A file descriptor for ``path``, resolved as if this tree were ``/``. Raises `OSError`."""
        if "\0" in path:
            raise OSError(errno.EINVAL, "embedded NUL", path)
        how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
        while True:
            fd = _libc.syscall(_SYS_OPENAT2, self._fd, os.fsencode(path), how, len(how))
            if fd >= 0:
                return int(fd)
            code = ctypes.get_errno()
            if code != errno.EAGAIN:  # EAGAIN: a rename raced with the walk; the kernel asks to repeat it
                raise OSError(code, os.strerror(code), path)

    def read(self, path: str, *, limit: int) -> bytes:
        """A small regular file. A FIFO or device is not opened for reading, so that it can neither block nor act.

        Raises:
            FileNotFoundError: There is none.
            InvalidArgumentError: It is no regular file, or over ``limit`` bytes.

        """
        fd = self.open(path, os.O_PATH)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise InvalidArgumentError(f"{path} in the image is not a regular file", subject=path)
            if found.st_size > limit:
                raise InvalidArgumentError(f"{path} in the image is over {limit} bytes", subject=path)
            with open(f"/proc/self/fd/{fd}", "rb") as file:
                data = file.read(limit + 1)
        finally:
            os.close(fd)
        if len(data) > limit:
            raise InvalidArgumentError(f"{path} in the image is over {limit} bytes", subject=path)
        return data

    def check_plain(self, paths: Sequence[str]) -> None:
        """See that what is at these paths of one name, if anything, is a directory itself: mounts there land there (X1).

        Raises `InvalidArgumentError`.
        """
        for path in paths:
            try:
                fd = self.open(path, os.O_PATH | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            try:
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    raise InvalidArgumentError(f"{path} in the image is not a directory", subject=path)
            finally:
                os.close(fd)

    def make_directory(self, path: str) -> None:
        """Create ``path`` and its missing parents (owner root, mode 0755); links are followed inside the tree.

        Raises:
            InvalidArgumentError: Something on the way is not a directory.

        """
        parts = [part for part in path.split("/") if part not in ("", ".")]
        reached = ""
        for part in parts:
            parent, reached = reached or "/", f"{reached}/{part}"
            try:
                os.close(self.open(reached, os.O_PATH | os.O_DIRECTORY))
            except FileNotFoundError:
                self._make_one(parent, part)
            except (NotADirectoryError, OSError) as exc:
                raise InvalidArgumentError(f"Cannot mkdir: {path} is not a directory", subject=path) from exc

    def _make_one(self, parent: str, name: str) -> None:
        fd = self.open(parent, os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
            os.chmod(name, 0o755, dir_fd=fd)  # whatever the umask of the daemon is
        except FileExistsError as exc:  # a dangling link
            raise InvalidArgumentError(f"Cannot mkdir: {parent}/{name} is not a directory") from exc
        finally:
            os.close(fd)


def inside(
    mounts: Sequence[Mount],
    at: Path,
    function: Callable[[Root], T],
    show: "Callable[[Sequence[Mount], Path], None] | None" = None,
) -> T:
    """Call ``function`` with the tree that ``mounts`` show; blocking.

    ``at`` is an existing empty directory. The mounts exist only for one thread, in its own mount namespace. ``show`` mounts
    them there, in another way than as they are.

    Raises:
        FailedPreconditionError: The tree cannot be mounted.
        LadingError: What ``function`` raised; any `OSError` of it becomes `FailedPreconditionError`.

    """
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            leave_namespace()
            (show or mount_all)(mounts, at)
            with Root.at(at) as root:
                results.append(function(root))
        except BaseException as exc:  # noqa: BLE001 (carried to the caller's thread)
            failures.append(exc)

    thread = threading.Thread(target=work, name="rootfs")
    thread.start()
    thread.join()
    if failures:
        failure = failures[0]
        if isinstance(failure, OSError):
            raise FailedPreconditionError(
                f"cannot prepare the container's root file system: {failure}"
            ) from failure
        raise failure
    if not results:
        raise InternalError("the root file system thread ended without a result")
    return results[0]


def leave_namespace() -> None:
    """Give the calling thread a mount namespace of its own, from which nothing spreads."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise _os_error("unshare")
    if _libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_PRIVATE_RECURSIVE), None) != 0:
        raise _os_error("making / private")


def mount_all(mounts: Sequence[Mount], at: Path) -> None:
    """Mount in the calling thread's namespace. Raises `OSError`."""
    for mount in mounts:
        mount_at(mount, at)


def mount_at(mount: Mount, at: Path) -> None:
    """Mount in the calling thread's namespace. Raises `OSError`."""
    target = at / mount.target.lstrip("/") if mount.target else at
    flags, data = 0, list[str]()
    for option in mount.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option != "defaults":
            data.append(option)
    text = ",".join(data)
    if len(os.fsencode(text)) > _OPTION_PAGE and mount.type == "overlay":
        text = _relative_overlay(data)
    result = _libc.mount(
        os.fsencode(mount.source),
        os.fsencode(target),
        os.fsencode(mount.type),
        ctypes.c_ulong(flags),
        os.fsencode(text) or None,
    )
    if result != 0:
        raise _os_error(f"mounting {mount.type}")
    if flags & _MS_BIND and flags & _FLAGS["ro"]:
        remount = ctypes.c_ulong(flags | _MS_REMOUNT | _MS_BIND)
        if _libc.mount(None, os.fsencode(target), None, remount, None) != 0:
            raise _os_error("making a bind mount read-only")


def _relative_overlay(options: Sequence[str]) -> str:
    """Shorten a long ``lowerdir`` by naming layers relative to their common directory, which becomes this thread's own."""
    lower = next(option for option in options if option.startswith("lowerdir="))
    layers = lower.removeprefix("lowerdir=").split(":")
    common = os.path.commonpath(layers)
    os.chdir(common)
    short = "lowerdir=" + ":".join(os.path.relpath(layer, common) for layer in layers)
    return ",".join(short if option is lower else option for option in options)


def _os_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")


def in_process(pid: int, function: Callable[[Root], T]) -> T:
    """Call ``function`` with the root of a running process; blocking. Raises as `inside`."""
    try:
        with Root.at(f"/proc/{pid}/root") as root:
            return function(root)
    except LadingError:
        raise
    except OSError as exc:
        raise FailedPreconditionError(f"cannot look into the container: {exc}") from exc
