"""FIFOs for the standard streams of processes."""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio

from lading.errors import UnavailableError

_PATIENCE: Final = 5.0
"""Seconds in which a reader has to come."""
_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Fifos:
    """Paths of FIFOs; empty where a stream has none."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""

    def remove(self) -> None:
        """Unlink them. Idempotent."""
        for path in (self.stdin, self.stdout, self.stderr):
            if path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)


def make_fifos(directory: Path, name: str, *, stdin: bool, terminal: bool) -> Fifos:
    """Make ``<directory>/<name>-{stdin,stdout,stderr}``, mode 0600; all or none.

    A terminal has one output, so no stderr; otherwise both outputs are always made: a runc shim panics when it is given
    one of them only. Left-over FIFOs of that name are replaced. Blocks.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = str(directory / name)
    fifos = Fifos(
        stdin=f"{path}-stdin" if stdin else "",
        stdout=f"{path}-stdout",
        stderr="" if terminal else f"{path}-stderr",
    )
    fifos.remove()
    try:
        for fifo in (fifos.stdin, fifos.stdout, fifos.stderr):
            if fifo:
                os.mkfifo(fifo, 0o600)
    except BaseException:
        fifos.remove()
        raise
    return fifos


class FifoInput:
    """The writing end of a FIFO. A context manager, at whose end the reader has seen all, and sees the end if nobody else writes.

    It is opened with the first byte, and waits for a reader: a shim opens its ends in the background (containerd/fifo), so that
    who was told of a start may come too early. It stays open until the context is left, because the first writer that leaves
    would end the reader while the shim has not opened its own end yet.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def write(self, data: bytes) -> None:
        """Write all of ``data``; waits while nobody reads. Raises `UnavailableError` if no reader comes, or it is gone."""
        if self._fd < 0:
            self._fd = await self._open()
        view = memoryview(data)
        while view:
            await anyio.wait_writable(self._fd)
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as exc:
                raise UnavailableError("the process takes no input any more") from exc

    async def _open(self) -> int:
        deadline = anyio.current_time() + _PATIENCE
        pause = _FIRST_PAUSE
        while True:
            try:
                return os.open(self._path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as exc:
                if exc.errno != errno.ENXIO or anyio.current_time() > deadline:
                    raise UnavailableError("the process takes no input") from exc
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
