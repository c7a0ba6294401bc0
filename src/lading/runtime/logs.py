"""The shim's log: a FIFO that the daemon holds open and drains into its own log."""

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final

import structlog

_CHUNK: Final = 65536
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


class LogDrain:
    """Reads one FIFO by callback until `close`. Held O_RDWR, so that it has no end when a shim closes its side."""

    def __init__(self, path: Path, id: str) -> None:
        self._id = id
        self._rest = b""
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._fd, self._drain)

    def _drain(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _CHUNK:  # a line without an end may not grow without one
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            _log.debug("shim_said", container=self._id, line=line.decode(errors="replace"))

    def close(self) -> None:
        """Read what is there and let go. Idempotent."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._drain()
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
