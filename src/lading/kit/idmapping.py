"""User namespaces, and mounts that show files with the owners that such a namespace gives them. All blocking.

An idmapped mount (Linux 5.12; of overlayfs' layers since 5.19) changes owners as they are seen through it and leaves the files
alone: what root of the namespace makes there belongs to root on the disk.
"""

import contextlib
import ctypes
import errno
import os
import subprocess
from collections.abc import Generator, Sequence
from typing import Final

from lading.kit import linux

_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_MOUNT_ATTR_RDONLY: Final = 1
_MOUNT_ATTR_IDMAP: Final = 0x100000
_CAPABILITY_VERSION_3: Final = 0x20080522
_LOWER: Final = "lowerdir"
_UPPER: Final = "upperdir"
_WORK: Final = "workdir"
_libc: Final = ctypes.CDLL(None, use_errno=True)
Piece = tuple[str, str, str, Sequence[str]]
"""Source, target below the root, type, options: a containerd mount."""


class _MountAttributes(ctypes.Structure):
    """``struct mount_attr``, include/uapi/linux/mount.h."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace"))


class _CapabilityHeader(ctypes.Structure):
    """``struct __user_cap_header_struct``, include/uapi/linux/capability.h."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Capabilities(ctypes.Structure):
    """``struct __user_cap_data_struct``."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def _check(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(result)


@contextlib.contextmanager
def _waiting(words: Sequence[str]) -> Generator[int]:
    """A child that has unshared what ``words`` say, for as long as the context lasts: its process ID."""
    # A process with threads can make no user namespace, nor enter one.
    command = [*words, "sh", "-c", "echo; read end"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
    )
    with child:
        assert child.stdout is not None
        assert child.stderr is not None
        if not child.stdout.readline():
            reason = child.stderr.read().decode(errors="replace").strip()[:500]
            raise OSError(0, reason or f"{words[0]} failed", words[0])
        yield child.pid


@contextlib.contextmanager
def _new(uid_map: str, gid_map: str) -> Generator[str]:
    with _waiting(("unshare", "--user")) as pid:
        for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
            with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
                file.write(text)
        yield f"/proc/{pid}/ns/user"


def open_user_namespace(uid_map: str, gid_map: str) -> int:
    """A descriptor of a new user namespace with these maps, as ``/proc/<pid>/uid_map`` takes them. Raises `OSError`."""
    with _new(uid_map, gid_map) as path:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def make_user_namespace(path: str, uid_map: str, gid_map: str) -> None:
    """Make one that is held by a mount on the new file ``path``. Raises `OSError`."""
    with _new(uid_map, gid_map) as namespace:
        _hold(namespace, path)


def make_network_namespace(path: str, owner: str) -> None:
    """As `linux.make_network_namespace`, but it belongs to the user namespace at ``owner``, whose root may configure it."""
    with _waiting(("nsenter", f"--user={owner}", "unshare", "--net")) as pid:
        _hold(f"/proc/{pid}/ns/net", path)
    try:
        linux.bring_up_loopback(path)
    except BaseException:
        linux.remove_network_namespace(path)
        raise


def _hold(namespace: str, path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        linux.mount(namespace, path, "", linux.MS_BIND)
    except BaseException:
        os.unlink(path)
        raise


def mount_mapped(pieces: Sequence[Piece], place: str, namespace: int, owner: tuple[int, int]) -> None:
    """Mount at ``place`` what ``pieces`` show, with the owners that the user namespace gives.

    Args:
        pieces: Bind mounts and overlays; the first is the root of the others.
        place: An existing directory, or a file for the bind mount of one.
        namespace: Descriptor of a user namespace.
        owner: The machine's user and group that are root in it.

    Raises:
        OSError: The kernel refuses; EINVAL if a file system cannot be mapped.

    """
    fd = linux.in_private_namespace(lambda: _build(pieces, place, namespace, owner))
    try:
        _attach(fd, place)
    finally:
        os.close(fd)


def mount_mapped_here(pieces: Sequence[Piece], place: str, namespace: int, owner: tuple[int, int]) -> None:
    """As `mount_mapped`, on a thread that has a mount namespace of its own; whose files are ``owner``'s from then on."""
    fd = _build(pieces, place, namespace, owner)
    try:
        _attach(fd, place)
    finally:
        os.close(fd)
    _become(owner)


@contextlib.contextmanager
def files_of(owner: tuple[int, int]) -> Generator[None]:
    """What the calling thread makes within the context belongs to ``owner``; its capabilities stay.

    Files that nobody in a user namespace could own cannot be made through a mount with that namespace's owners. setfsuid(2).
    """
    _become(owner)
    try:
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())


def _build(pieces: Sequence[Piece], place: str, namespace: int, owner: tuple[int, int]) -> int:
    """A detached mount of the whole. The thread's mount namespace is its own, and ``place`` a mount point to hide."""
    if len(pieces) == 1 and pieces[0][2] == "bind":
        return _clone(pieces[0][0], namespace, read_only="ro" in pieces[0][3])
    linux.mount("tmpfs", place, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=711,size=1m")
    try:
        root = f"{place}/root"
        os.mkdir(root)
        for number, (source, target, kind, options) in enumerate(pieces):
            point = f"{root}/{target.lstrip('/')}" if target else root
            if kind == "bind":
                _attach_closing(_clone(source, namespace, read_only="ro" in options), point)
            elif kind == "overlay":
                _overlay(f"{place}/{number}", point, options, namespace, owner)
            else:
                raise OSError(errno.EINVAL, f"a mount of type {kind} cannot have other owners", point)
        return _open_tree(root, _AT_RECURSIVE)
    finally:
        linux.unmount(place)


def _overlay(
    scratch: str, target: str, options: Sequence[str], namespace: int, owner: tuple[int, int]
) -> None:
    """An overlay of mapped layers. It acts as whoever mounted it: one that the layers' owners have a counterpart for."""
    os.mkdir(scratch)
    os.chdir(scratch)  # of this thread alone; it keeps the options within a page
    values: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        values[name] = value
    count = 0

    def mapped(path: str) -> str:
        nonlocal count
        count += 1
        os.mkdir(str(count))
        _attach_closing(_clone(path, namespace), f"{scratch}/{count}")
        return str(count)

    if _UPPER in values:  # both have to be of one mount
        above = os.path.commonpath([values[_UPPER], values[_WORK]])
        point = mapped(above)
        for name in (_UPPER, _WORK):
            values[name] = f"{point}/{os.path.relpath(values[name], above)}"
    values[_LOWER] = ":".join(mapped(path) if path else "" for path in values[_LOWER].split(":"))
    words = [f"{name}={value}" if value else name for name, value in values.items()]
    with files_of(owner):
        linux.mount_with("overlay", target, "overlay", words)
    os.chdir("/")


def _become(owner: tuple[int, int]) -> None:
    header, held = _CapabilityHeader(_CAPABILITY_VERSION_3, 0), (_Capabilities * 2)()
    _check(_libc.capget(ctypes.byref(header), held))
    _libc.setfsgid(owner[1])
    _libc.setfsuid(owner[0])  # takes the capabilities that are about files
    _check(_libc.capset(ctypes.byref(header), held))


def _clone(path: str, namespace: int, *, read_only: bool = False) -> int:
    """A detached mount of a directory or file with the owners that the namespace gives."""
    fd = _open_tree(path)
    attributes = _MountAttributes(
        _MOUNT_ATTR_IDMAP | (_MOUNT_ATTR_RDONLY if read_only else 0), 0, 0, namespace
    )
    try:
        size = ctypes.sizeof(attributes)
        _check(
            _libc.syscall(_SYS_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size), path
        )
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_tree(path: str, flags: int = 0) -> int:
    wanted = _OPEN_TREE_CLONE | os.O_CLOEXEC | flags
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), wanted), path)


def _attach(fd: int, place: str) -> None:
    target = os.fsencode(place)
    _check(_libc.syscall(_SYS_MOVE_MOUNT, fd, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH), place)


def _attach_closing(fd: int, place: str) -> None:
    try:
        _attach(fd, place)
    finally:
        os.close(fd)
