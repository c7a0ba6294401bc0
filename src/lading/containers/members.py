"""A container's processes where no cgroup counts them: those in its mount namespace, which no other container has.

A process that makes itself another one is not found. All blocking. mount_namespaces(7), proc_pid_ns(5).
"""

import contextlib
import os
import select
import signal
from typing import Final

_ROUNDS: Final = 20
_MILLISECONDS: Final = 2000


def namespace_of(pid: int) -> str:
    """A name for the mount namespace of a process, its own for as long as anybody is in it; empty if the process has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")
    except OSError:
        return ""


def of(namespace: str) -> frozenset[int]:
    """The processes in a mount namespace; none in the one without a name."""
    pids = map(int, filter(str.isdigit, os.listdir("/proc"))) if namespace else ()
    return frozenset(pid for pid in pids if namespace_of(pid) == namespace)


def kill(namespace: str) -> None:
    """End them, and what they start meanwhile, as far as the kernel lets go of them within seconds."""
    for _ in range(_ROUNDS):
        found = of(namespace)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                _kill(pid, namespace)


def _kill(pid: int, namespace: str) -> None:
    fd = os.pidfd_open(pid)
    try:
        if namespace_of(pid) == namespace:  # nobody else got this ID meanwhile
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            ended = select.poll()
            ended.register(fd, select.POLLIN)
            ended.poll(_MILLISECONDS)
    finally:
        os.close(fd)
