"""System calls that Python has no name for or no form of, and what ``/proc`` says of processes."""

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from errno import EINVAL
from itertools import pairwise
from pathlib import Path
from typing import Final

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Have orphaned descendants reparented to this process rather than to PID 1, which in a container may not reap."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def unmount_all(target: Path) -> None:
    """Detach every mount on a directory and below it, in this mount namespace; none is fine.

    After it the tree may be removed without touching what was mounted there.

    Raises:
        OSError: One of them stays.

    """
    # mountinfo is asked, because neither device numbers nor inodes tell a bind mount from its directory.
    for point in sorted(_mount_points(os.fsencode(target)), reverse=True):
        if _libc.umount2(point, _MNT_DETACH | _UMOUNT_NOFOLLOW):
            errno = ctypes.get_errno()
            if errno != EINVAL:  # went with the mount that it was on
                raise OSError(errno, os.strerror(errno), os.fsdecode(point))


def _mount_points(target: bytes) -> list[bytes]:
    target = os.path.realpath(target)
    points = [
        re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split(b" ", 5)[4])
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
    ]
    return [point for point in points if point == target or point.startswith(target + b"/")]


def reap(pid: int) -> bool:
    """Collect a child that has ended. False if it lives; True if it is gone or was never ours."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    except ChildProcessError:
        return True


def nested_children() -> list[int]:
    """Our children that live in a PID namespace below ours: orphans of containers, never programs that we started."""
    return [pid for pid in _children() if len(_status(pid, "NSpid").split()) > 1]


def children_named(program: str) -> list[int]:
    """Our children, orphans included, that run (or ran, if they are zombies) a program of this file name."""
    return [pid for pid in _children() if _status(pid, "Name") == program[:15]]


def processes_called_with(program: str, *options: tuple[str, str]) -> list[int]:
    """All living processes of this file name whose command line has each of these options with its value."""
    return [
        pid
        for pid, called, rest in _command_lines()
        if called == program and set(options) <= set(pairwise(rest))
    ]


def processes_with(*words: str) -> list[int]:
    """All living processes whose command line has all of these words."""
    return [pid for pid, _, rest in _command_lines() if set(words) <= set(rest)]


def _command_lines() -> Iterator[tuple[int, str, list[str]]]:
    """Process, file name and arguments of everything that lives."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(pid), os.path.basename(os.fsdecode(name)), [os.fsdecode(each) for each in arguments]


def children_of(pid: int) -> list[int]:
    """The children of a process, zombies included; none if it is gone."""
    children: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
                pids = Path(f"/proc/{pid}/task/{thread}/children").read_text("ascii")
                children += [int(each) for each in pids.split()]
    return children


def _children() -> list[int]:
    return children_of(os.getpid())


def _status(pid: int, key: str) -> str:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8", errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{key}:")), "")
