"""Paths inside a root directory: found and made with ``RESOLVE_IN_ROOT``, so that no link leads out of it."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator
from typing import Final

from lading.errors import InvalidArgumentError
from lading.kit import linux

INSIDE: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_LINKS: Final = 40
"""As many links as the kernel follows."""

Made = Callable[[int, str], None]
"""Is told of each directory that was made: its parent's descriptor and its name."""


def parts_of(path: str) -> list[str]:
    """The parts of a path as if it stood below the root; ``..`` goes up no further.

    Raises `InvalidArgumentError` for one with a zero byte, which the kernel has no word for.
    """
    if "\0" in path:
        raise InvalidArgumentError(f"the path {path[:200]!r} has a zero byte")
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return parts


def clean(path: str) -> str:
    """A path below the root, without the slash in front of it; the root is empty."""
    return "/".join(parts_of(path))


@contextlib.contextmanager
def opened(root: int, path: str, flags: int = os.O_PATH) -> Generator[int]:
    """A descriptor of what is at a path, links followed inside the root. Raises `OSError`."""
    fd = linux.openat2(root, clean(path) or ".", flags, INSIDE)
    try:
        yield fd
    finally:
        os.close(fd)


def open_directory(root: int, path: str) -> int:
    """A descriptor of a directory, links followed inside the root. Raises `OSError`."""
    return linux.openat2(root, clean(path) or ".", _DIRECTORY, INSIDE)


def find(root: int, path: str, *, follow: bool = True) -> os.stat_result | None:
    """What is at a path; ``follow`` is about a link at its end."""
    flags = os.O_PATH if follow else os.O_PATH | os.O_NOFOLLOW
    try:
        with opened(root, path, flags) as fd:
            return os.fstat(fd)
    except (FileNotFoundError, NotADirectoryError):
        return None


def make_directories(root: int, path: str, *, mode: int = 0o755, made: Made | None = None) -> int:
    """A descriptor of the directory at a path; it and those above it are made as need be.

    A link on the way whose target is missing gets that target.
    """
    return _make(root, parts_of(path), mode, made, _LINKS)


def _make(root: int, parts: list[str], mode: int, made: Made | None, links: int) -> int:
    try:
        return open_directory(root, "/".join(parts))
    except FileNotFoundError:
        pass
    reached = os.open(".", _DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    for count, part in enumerate(parts, 1):
        here = "/".join(parts[:count])
        try:
            step = open_directory(root, here)
        except FileNotFoundError:
            try:
                target = os.readlink(part, dir_fd=reached)
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.EINVAL):
                    raise
                os.mkdir(part, mode, dir_fd=reached)
                step = os.open(part, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=reached)
                os.fchmod(step, mode)
                if made is not None:
                    made(reached, part)
            else:
                if not links:
                    os.close(reached)
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), here) from None
                above = [] if target.startswith("/") else parts[: count - 1]
                step = _make(root, [*above, *target.split("/")], mode, made, links - 1)
        os.close(reached)
        reached = step
    return reached


@contextlib.contextmanager
def parent_of(root: int, path: str) -> Generator[tuple[int, str]]:
    """A descriptor of the directory that a path ends in, and the name there. Raises `OSError`."""
    parts = parts_of(path)
    name = parts.pop() if parts else "."
    fd = open_directory(root, "/".join(parts))
    try:
        yield fd, name
    finally:
        os.close(fd)


def remove(parent: int, name: str) -> None:
    """Delete a file, or a directory with all that is in it; links are not followed."""
    try:
        os.unlink(name, dir_fd=parent)
    except (IsADirectoryError, PermissionError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise
        _remove_directory(parent, name)


def _remove_directory(parent: int, name: str) -> None:
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        # Depth costs descriptors, and a path may be 2,000 directories deep: then the limit says so.
        for entry in os.listdir(fd):
            remove(fd, entry)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=parent)
