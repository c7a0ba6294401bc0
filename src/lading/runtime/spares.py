"""Shims that serve no container at the moment, kept for the next one.

To start a shim costs two executions of its program, a good part of what starting a container costs. containerd's runc shim can
serve any container in its lifetime (that is how a pod shares one), so one whose container was deleted is used again, and one is
started ahead of need. No two containers have the same shim at the same time: one that dies takes one container with it.
"""

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import structlog

from lading.errors import LadingError
from lading.runtime.shim import Shim

KEPT: Final = 2
"""Idle shims while nothing happens; each has some 3 MB."""
BUSY: Final = 8
"""Idle shims while containers come and go, such as the steps of a build that run at a time."""
REST: Final = 5.0
"""Seconds without a need for one, after which what is more than ``KEPT`` ends."""
LIVES: Final = 32
"""Containers that one shim serves, so that what it may leak has an end."""
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


class Spares:
    """Idle shims, by their executable. ``launch`` starts one; ``end`` ends one and removes what it left."""

    def __init__(
        self, launch: Callable[[Path], Awaitable[Shim]], end: Callable[[Shim], Awaitable[None]]
    ) -> None:
        self._launch = launch
        self._end = end
        self._idle: list[tuple[Path, Shim]] = []
        self._filling = False
        self._trimming = False
        self._taken = 0
        self._closed = False

    async def take(self, binary: Path) -> Shim:
        """An idle shim of this executable, or a new one. Raises as the launcher."""
        self._taken += 1
        for entry in reversed(self._idle):
            if entry[0] == binary:
                self._idle.remove(entry)
                entry[1].client.on_close = None
                return entry[1]
        return await self._launch(binary)

    def give(self, binary: Path, shim: Shim) -> bool:
        """Keep a shim whose container is deleted; False if it has to be ended instead."""
        shim.lives += 1
        if self._closed or shim.lives >= LIVES or len(self._idle) >= BUSY or shim.client.closed:
            return False
        self._keep(binary, shim)
        return True

    async def fill(self, binary: Path) -> None:
        """Have one of this executable. A hint: what fails here is said when a container needs it."""
        if self._filling or self._closed or any(entry[0] == binary for entry in self._idle):
            return
        self._filling = True
        try:
            # One that is being started cannot be stopped: it is waited for, and ended if nobody wants it any more.
            with contextlib.suppress(LadingError, OSError), anyio.CancelScope(shield=True):
                shim = await self._launch(binary)
                if self._closed:
                    await self._end(shim)
                else:
                    self._keep(binary, shim)
        finally:
            self._filling = False

    @property
    def surplus(self) -> int:
        """How many there are that a quiet time ends; see `trim`."""
        return max(len(self._idle) - KEPT, 0)

    async def trim(self) -> None:
        """When none was needed for a while, end those beyond the usual number. Returns at once if that is being waited for."""
        if self._trimming:
            return
        self._trimming = True
        try:
            while self.surplus and not self._closed:
                taken = self._taken
                await anyio.sleep(REST)
                if taken == self._taken:
                    await self._end_surplus()
        finally:
            self._trimming = False

    async def _end_surplus(self) -> None:
        while self.surplus and not self._closed:
            _, shim = self._idle.pop(0)
            shim.client.on_close = None
            with anyio.CancelScope(shield=True):
                await self._end(shim)

    def _keep(self, binary: Path, shim: Shim) -> None:
        shim.client.on_close = lambda: self._died(shim)
        self._idle.append((binary, shim))

    def _died(self, shim: Shim) -> None:
        _log.warning("idle_shim_died", shim_pid=shim.pid)
        self._idle = [entry for entry in self._idle if entry[1] is not shim]
        shim.close()

    async def close(self) -> None:
        """End them all: the next daemon starts its own."""
        self._closed = True
        while self._idle:
            _, shim = self._idle.pop()
            shim.client.on_close = None
            await self._end(shim)
