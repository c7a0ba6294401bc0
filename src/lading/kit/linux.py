"""Linux system calls that Python has no name for, as thin functions that raise `OSError`.

glibc wraps some of them only in releases newer than Debian's, hence ``syscall(2)`` by number; the numbers are the same
on every architecture since Linux 5.2.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_IN_ROOT: Final = 0x10
FICLONE: Final = 0x40049409
"""ioctl(2) request that shares a whole file's extents; see ioctl_ficlone(2)."""

PAGE: Final = os.sysconf("SC_PAGESIZE")
"""Bytes in a page."""

_SYS_OPENAT2: Final = 437
_SYS_CACHESTAT: Final = 451
_M_ARENA_MAX: Final = -8
_X32_GETPID: Final = 0x40000000 | 39
"""arch/x86/include/uapi/asm/unistd.h: ``__X32_SYSCALL_BIT``; on other machines no system call has this number."""
_CLONE_FS: Final = 0x200
_CLONE_NEWNS: Final = 0x20000
_CLONE_NEWNET: Final = 0x40000000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFHWADDR: Final = 0x8924
_IFF_UP: Final = 1
_IFF_RUNNING: Final = 0x40
_ARPHRD_ETHER: Final = 1
_NSFS_MAGIC: Final = 0x6E736673
_OPTIONS_MAX: Final = 4096 - 512
"""mount(2) takes one page of options; some room is left for what others may add."""
_FLAGS: Final = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "bind": MS_BIND,
    "rbind": MS_BIND | MS_REC,
    "rw": 0,
}
_FILE_SYSTEMS: Final = {
    0xEF53: "extfs",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0x794C7630: "overlayfs",
    0x6969: "nfs",
}
_libc: Final = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.restype = ctypes.c_long


class _CacheRange(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheState(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _check(result: int, path: str | bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def openat2(dir_fd: int, path: str, flags: int, resolve: int) -> int:
    """Open an existing path below ``dir_fd`` under ``RESOLVE_*`` rules; close-on-exec. Man page: openat2, section 2."""
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    raw = os.fsencode(path) or b"."
    while True:
        fd: int = _syscall(_SYS_OPENAT2, dir_fd, raw, ctypes.byref(how), ctypes.sizeof(how))
        # EAGAIN: somebody renamed or mounted meanwhile, so that ".." could not be trusted.
        if fd >= 0 or ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            return _check(fd, path)


def cached_pages(fd: int, offset: int = 0, length: int = 0) -> int:
    """How many pages of a file, or of ``length`` bytes of it, are in the page cache.

    cachestat, include/uapi/linux/mman.h; Linux 6.5.
    """
    state = _CacheState()
    _check(_syscall(_SYS_CACHESTAT, fd, ctypes.byref(_CacheRange(offset, length)), ctypes.byref(state), 0))
    return int(state.cached)


def share_arenas(count: int) -> None:
    """Have all threads that are started from now on share ``count`` arenas of malloc, instead of eight for each core.

    What threads free in an arena of their own stays with it. Nothing happens if the environment names a limit, or the C library
    has no arenas. See mallopt(3).
    """
    with contextlib.suppress(AttributeError):
        if "MALLOC_ARENA_MAX" not in os.environ:
            _libc.mallopt(_M_ARENA_MAX, count)


@functools.cache
def in_user_namespace() -> bool:
    """Whether root of this process is not root of the machine. user_namespaces(7)."""
    return Path("/proc/self/uid_map").read_text("ascii").split() != ["0", "0", "4294967295"]


@functools.cache
def has_x32() -> bool:
    """Whether the kernel of an x86-64 machine takes the system calls of x32; true where asking could end this process."""
    if "Seccomp:\t0\n" not in Path("/proc/self/status").read_text("utf-8", "replace"):
        return True
    return bool(_syscall(_X32_GETPID) == os.getpid())


def syncfs(fd: int) -> None:
    """Flush the file system that holds an open file.

    Reports write errors since ``fd`` was opened, so it should be as old as the writes. Man page: syncfs, section 2.
    """
    _check(_libc.syncfs(fd))


def file_system(path: str) -> str:
    """What Docker calls the file system of ``path``: ``extfs``, ``xfs``, ``btrfs``, …, or ``<unknown>``. See statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.statfs(os.fsencode(path), buffer), path)
    return _FILE_SYSTEMS.get(int.from_bytes(buffer.raw[:4], sys.byteorder), "<unknown>")


def boot_id() -> str:
    """The random ID of this boot. random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def mount(source: str, target: str, type: str, flags: int = 0, data: str = "") -> None:
    """Man page: mount, section 2."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            os.fsencode(type),
            ctypes.c_ulong(flags),
            os.fsencode(data) if data else None,
        ),
        target,
    )


def mount_with(source: str, target: str, type: str, options: Sequence[str]) -> None:
    """Mount by options as of mount(8), as the pieces of a containerd mount are meant.

    A read-only bind mount takes a second call. Overlay options that exceed a page are shortened by mounting from
    the directory that the lower layers share.
    """
    flags = 0
    rest: list[str] = []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        else:
            rest.append(option)
    cwd, rest = _relative_lowers(rest)
    data = ",".join(rest)
    if cwd:
        in_directory(cwd, lambda: mount(source, target, type, flags, data))
    else:
        mount(source, target, type, flags, data)
    if flags & MS_BIND and flags & MS_RDONLY:
        try:
            mount("", target, "", MS_REMOUNT | MS_BIND | (flags & ~MS_REC))
        except BaseException:
            unmount(target)
            raise


def unmount(target: str) -> None:
    """Detach the mount at ``target``, which goes when its last user does. umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def in_private_namespace(function: Callable[[], T]) -> T:
    """Call a function on a thread with a mount namespace of its own: what it mounts vanishes with it.

    It must not start threads. unshare(2).
    """

    def enter() -> T:
        enter_private_namespace()
        return function()

    return _on_thread(enter)


def enter_private_namespace() -> None:
    """Give the calling thread, and no other, a mount namespace, working directory and umask of its own, for good. unshare(2)."""
    _check(_libc.unshare(_CLONE_NEWNS))
    mount("", "/", "", MS_REC | MS_PRIVATE)


def in_directory(cwd: str, function: Callable[[], T]) -> T:
    """Call a function on a thread whose working directory, ``cwd``, and umask are its own. unshare(2).

    It must not start threads; a program that it starts begins there.
    """

    def enter() -> T:
        # Both belong to the process unless a thread takes leave of it.
        _check(_libc.unshare(_CLONE_FS))
        os.chdir(cwd)
        return function()

    return _on_thread(enter)


def make_network_namespace(path: str) -> None:
    """Make a network namespace whose loopback is up, held by a mount on the new file ``path``. Man page: ip-netns, section 8.

    Raises:
        FileExistsError: The file is there.

    """

    def enter() -> None:
        _check(_libc.unshare(_CLONE_NEWNET))
        bring_up("lo")
        hold_network_namespace(path, f"/proc/self/task/{threading.get_native_id()}/ns/net")

    _on_thread(enter)


def hold_network_namespace(path: str, existing: str) -> None:
    """Keep the network namespace at ``existing`` by a mount on the new file ``path``.

    Raises:
        FileExistsError: The file is there.

    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        mount(existing, path, "", MS_BIND)
    except BaseException:
        os.unlink(path)
        raise


def remove_network_namespace(path: str) -> None:
    """Take away what `make_network_namespace` or `hold_network_namespace` made; processes in it keep it alive. None is fine."""
    with contextlib.suppress(FileNotFoundError):
        try:
            unmount(path)
        except OSError as exc:
            if exc.errno != errno.EINVAL:  # nothing is mounted there
                raise
        os.unlink(path)


def enter_network_namespace(fd: int) -> None:
    """Move the calling thread, and no other, to another network namespace. Man page: setns, section 2."""
    _check(_libc.setns(fd, _CLONE_NEWNET))


def is_namespace(path: str) -> bool:
    """Whether a namespace can be entered by this path. nsfs; statfs(2)."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with f_type, a long
    if _libc.statfs(os.fsencode(path), buffer):
        return False
    return ctypes.c_long.from_buffer(buffer).value == _NSFS_MAGIC


def in_network_namespace(path: str, function: Callable[[], T]) -> T:
    """Call a function on a thread in the network namespace at ``path``. Man page: setns, section 2."""

    def enter() -> T:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter_network_namespace(fd)
        finally:
            os.close(fd)
        return function()

    return _on_thread(enter)


def bring_up_loopback(path: str) -> None:
    """Bring the loopback of the network namespace at ``path`` up."""
    in_network_namespace(path, functools.partial(bring_up, "lo"))


def wait_until_running(interface: str, seconds: float) -> None:
    """Wait until an interface of this network namespace has carrier. netdevice(7)."""
    until = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        while time.monotonic() < until:
            answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", interface.encode()))
            if struct.unpack_from("H", answer, 16)[0] & _IFF_RUNNING:
                return
            time.sleep(0.001)


def set_mac(interface: str, mac: bytes) -> None:
    """Give an interface of this network namespace a MAC address, which may be the one that it has. netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sH6s16x", interface.encode(), _ARPHRD_ETHER, mac)
        fcntl.ioctl(control, _SIOCSIFHWADDR, asked)


def bring_up(interface: str) -> None:
    """Bring an interface of this network namespace up. netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", interface.encode(), _IFF_UP))


def _on_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(function())
        except BaseException as exc:  # noqa: BLE001 -- raised again by the caller's thread
            errors.append(exc)

    thread = threading.Thread(target=body, name="lading-mount")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _relative_lowers(options: list[str]) -> tuple[str, list[str]]:
    """The directory to mount from, empty if the options fit as they are, and the options with short lower layers."""
    if sum(len(os.fsencode(option)) + 1 for option in options) <= _OPTIONS_MAX:
        return "", options
    for index, option in enumerate(options):
        name, _, value = option.partition("=")
        lowers = value.split(":")
        if name == "lowerdir" and len(lowers) > 1:
            cwd = os.path.commonpath(lowers)
            short = ":".join(os.path.relpath(lower, cwd) for lower in lowers)
            return cwd, [*options[:index], f"lowerdir={short}", *options[index + 1 :]]
    return "", options


def mount_points(below: str) -> list[str]:
    """Where something is mounted on or below a directory in this namespace, innermost first. proc_pid_mountinfo(5)."""
    raw = os.fsencode(os.path.realpath(below))
    found: list[bytes] = []
    with contextlib.closing(open("/proc/self/mountinfo", "rb")) as lines:
        for line in lines:
            point = line.split(b" ", 5)[4]
            for code, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
                point = point.replace(code, byte)
            if point == raw or point.startswith(raw + b"/"):
                found.append(point)
    return [os.fsdecode(point) for point in sorted(found, reverse=True)]
