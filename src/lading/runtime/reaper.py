"""Collects what shims leave behind.

A shim daemonises: it becomes an orphan, and if it is killed its container's processes become orphans too. Where PID 1
does not reap, each would stay as a zombie, and a zombie inside a PID namespace keeps that namespace from ending. The
daemon therefore is a subreaper, and this class waits for exactly the processes it is told of, through pidfds: programs
that other parts of the daemon started are never stolen from them.
"""

import asyncio
import contextlib
import os
import signal
from typing import Final

from lading.runtime.linux import nested_children, reap

_WATCHES: Final = 4096


class Reaper:
    """Waits for named processes of one event loop. `close` lets go of them."""

    def __init__(self) -> None:
        self._fds: dict[int, int] = {}
        self._ends: dict[int, asyncio.Event] = {}

    def watch(self, pid: int) -> None:
        """Collect this process when it ends, if it is then our child. A process that is gone is fine."""
        if pid <= 0 or pid in self._fds or len(self._fds) >= _WATCHES:
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self._fds[pid] = fd
        self._ends[pid] = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, self._ended, pid)

    async def kill(self, pid: int) -> None:
        """SIGKILL for a process that is watched, and for no other that may have its number by now; wait for its end."""
        fd = self._fds.get(pid)
        if fd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            await self._ends[pid].wait()

    def sweep(self, pids: list[int]) -> None:
        """A shim has died: collect those of its processes that ended before it, and watch its orphans."""
        for pid in pids:
            if pid > 0:
                reap(pid)
        for pid in nested_children():
            self.watch(pid)

    def close(self) -> None:
        """Stop watching, after a last look for orphans that came to us since the last shim died. Idempotent."""
        self.sweep([])
        for pid in list(self._fds):
            reap(pid)
            self._forget(pid)

    def _ended(self, pid: int) -> None:
        if reap(pid):  # else the pidfd stays readable, and this is called again
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        fd = self._fds.pop(pid)
        self._ends.pop(pid).set()
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
