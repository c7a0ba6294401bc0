"""One run of a container: its FIFOs, the pump that empties them, and the way in for standard input."""

import contextlib
import os
import select
import shutil
from pathlib import Path
from typing import Final

import anyio
import structlog

from lading.containers.journal import Journal, Sink
from lading.containers.keeper import Keeper
from lading.containers.logfile import LogFiles
from lading.containers.streams import Broadcast
from lading.core.runtime import Stdio
from lading.kit import aio
from lading.kit.fifo import FifoInput, Fifos, make_fifos

_RETRY_SECONDS: Final = 1.0
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class Run:
    """Streams of one run. Make it with `begin` before the task, or `resume` after a restart of the daemon."""

    def __init__(
        self, directory: Path, fifos: Fifos, journal: Journal, output: Broadcast, *, terminal: bool
    ) -> None:
        self._directory = directory
        self._fifos = fifos
        self._journal = journal
        self._output = output
        self._terminal = terminal
        self._scope: anyio.CancelScope | None = None
        self._over = False
        self._pumping: anyio.Event | None = None
        self.drained = anyio.Event()
        """Set when everything that was written is in the log and was published."""
        self.changed = anyio.Event()
        """Set (and replaced) whenever the log has grown."""

    @property
    def stdio(self) -> Stdio:
        """For the runtime."""
        return Stdio(
            stdin=self._fifos.stdin,
            stdout=self._fifos.stdout,
            stderr=self._fifos.stderr,
            terminal=self._terminal,
        )

    async def pump(self) -> None:
        """Move output into the log and to clients until it ends. Start it when the shim has opened the FIFOs."""
        if self._over:
            return
        self._pumping = anyio.Event()
        try:
            with anyio.CancelScope() as self._scope:
                await self._pump()
                self.drained.set()
        finally:
            self._pumping.set()
            self._notify()

    async def _pump(self) -> None:
        with select.epoll() as readable:
            watched = set(self._journal.fds)
            for fd in watched:
                readable.register(fd, select.EPOLLIN)
            while not self._journal.ended:
                try:
                    chunks = await aio.run(aio.DISK, self._journal.step)
                except OSError as exc:  # no room for the spool: the container waits, nothing is lost
                    _log.warning("container_output_stalled", directory=str(self._directory), reason=str(exc))
                    await anyio.sleep(_RETRY_SECONDS)
                    continue
                self._notify()
                for fd in watched - set(self._journal.fds):
                    readable.unregister(fd)
                watched &= set(self._journal.fds)
                if chunks:
                    await self._output.publish(chunks)
                elif not self._journal.ended:
                    await anyio.wait_readable(readable.fileno())

    def _notify(self) -> None:
        event, self.changed = self.changed, anyio.Event()
        event.set()

    async def write_stdin(self, data: bytes) -> None:
        """Hand input to the process; waits while it does not read. Raises `UnavailableError` if nobody can."""
        with FifoInput(self._fifos.stdin) as stdin:  # the shim has its own, which ends when it is told
            await stdin.write(data)

    async def end(self, keeper: Keeper) -> None:
        """Stop the pump and delete FIFOs and spool: nothing will be read any more."""
        self._over = True
        if self._scope is not None and self._pumping is not None:
            self._scope.cancel()
            await self._pumping.wait()
        await aio.run(aio.DISK, self._delete, keeper)

    def _delete(self, keeper: Keeper) -> None:
        self._journal.close()
        _forget(self._directory, self._fifos, keeper)

    def close(self) -> None:
        """Let go when the daemon leaves: FIFOs, spool and what they hold stay for the next one. Blocking."""
        self._journal.close()


def begin(
    directory: Path,
    keeper: Keeper,
    output: Broadcast,
    *,
    stdin: bool,
    terminal: bool,
    log: LogFiles | None,
    sink: Sink | None = None,
) -> Run:
    """Make the FIFOs of a new run, held by the keeper before anyone can write.

    Blocking. Raises `OSError`; `LadingError` if ``sink`` is not to be reached.
    """
    if sink is not None:
        sink.reach()
    shutil.rmtree(directory, ignore_errors=True)
    fifos = make_fifos(directory, "init", stdin=stdin, terminal=terminal)
    try:
        for path in _outputs(fifos):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                keeper.hold(path, fd)
            finally:
                os.close(fd)
        return _open(directory, fifos, output, terminal=terminal, log=log, sink=sink)
    except BaseException:
        _forget(directory, fifos, keeper)
        raise


def _outputs(fifos: Fifos) -> list[str]:
    return [path for path in (fifos.stdout, fifos.stderr) if path]


def _forget(directory: Path, fifos: Fifos, keeper: Keeper) -> None:
    with contextlib.suppress(OSError):  # without a keeper nothing is held
        for path in _outputs(fifos):
            keeper.release(path)
    shutil.rmtree(directory, ignore_errors=True)


def resume(
    directory: Path,
    output: Broadcast,
    *,
    stdin: bool,
    terminal: bool,
    log: LogFiles | None,
    sink: Sink | None = None,
) -> Run:
    """The run that an earlier daemon began. Blocking. Raises `OSError` if its files are gone."""
    base = directory / "init"
    fifos = Fifos(
        stdin=f"{base}-stdin" if stdin else "",
        stdout=f"{base}-stdout",
        stderr="" if terminal else f"{base}-stderr",
    )
    return _open(directory, fifos, output, terminal=terminal, log=log, sink=sink)


def _open(
    directory: Path,
    fifos: Fifos,
    output: Broadcast,
    *,
    terminal: bool,
    log: LogFiles | None,
    sink: Sink | None = None,
) -> Run:
    paths = {"stdout": Path(fifos.stdout)} | ({"stderr": Path(fifos.stderr)} if fifos.stderr else {})
    journal = Journal(directory, paths, log=log, sink=sink)
    return Run(directory, fifos, journal, output, terminal=terminal)
