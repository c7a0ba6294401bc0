"""The shims of all containers: each is found idle or started, connected to, found again, and kept for the next or ended."""

import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
import structlog

from lading.core.runtime import Exit
from lading.errors import DataLossError, LadingError
from lading.kit import aio
from lading.kit.failpoints import failpoint
from lading.runtime import cgroups, ttrpc
from lading.runtime._pb import task_pb2
from lading.runtime.bundle import Bootstrap, Bundle, Bundles
from lading.runtime.config import find_shim
from lading.runtime.launch import Launcher
from lading.runtime.logs import LogDrain
from lading.runtime.reaper import Reaper
from lading.runtime.shim import SIGKILL, Shim
from lading.runtime.spares import Spares
from lading.runtime.ttrpc import DisconnectedError

CONNECT_TIMEOUT: Final = 5
"""Seconds that a shim has to answer at all."""
_SPARE_PAUSE: Final = 0.25
"""Seconds after a start before a shim is started for the next one: what ends at once gives its own back."""
_KILLED: Final = 128 + SIGKILL
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


class ShimPool:
    """Shims by bundle and executable. ``beside`` is a directory in which executables are looked for, too; ``spawn`` runs
    something in the background.
    """

    def __init__(
        self,
        bundles: Bundles,
        launcher: Launcher,
        reaper: Reaper,
        *,
        namespace: str,
        beside: Path,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._bundles = bundles
        self._launcher = launcher
        self._reaper = reaper
        self._namespace = namespace
        self._beside = beside
        self._spawn = spawn
        self._spares = Spares(self._launch_spare, self._end_spare)

    async def find(self, runtime: str) -> Path:
        """The executable of a runtime's shims. Raises as `find_shim`."""
        return await aio.run(aio.DISK, find_shim, runtime, beside=self._beside)

    async def look(self, runtime: str) -> None:
        """Learn how a runtime's shims are started. A hint; what fails here is said when a container needs it."""
        with contextlib.suppress(LadingError, OSError):
            await self._launcher.look(await self.find(runtime))

    async def close(self) -> None:
        """End the idle ones. The others go on."""
        await self._spares.close()

    # Idle ones.

    async def fill(self, runtime: str) -> None:
        """Have one idle. A hint, as `look`."""
        with contextlib.suppress(LadingError, OSError):
            await self._spares.fill(await self.find(runtime))

    def fill_later(self, binary: Path) -> None:
        """Have one idle for the next container, when this one has had its start."""

        async def fill() -> None:
            await anyio.sleep(_SPARE_PAUSE)
            await self._spares.fill(binary)

        self._spawn(fill)

    async def take(self, binary: Path) -> Shim:
        """An idle one, or a new one, that may serve other containers before and after. Raises as `launch`.

        The caller shields it: one that is being started cannot be stopped.
        """
        return await self._spares.take(binary)

    async def give_back(self, binary: Path, shim: Shim) -> None:
        """One that was taken in vain is idle again, or ended."""
        if not self._keep_spare(binary, shim):
            await self._end_spare(shim)

    def _keep_spare(self, binary: Path, shim: Shim) -> bool:
        kept = self._spares.give(binary, shim)
        if self._spares.surplus:
            self._spawn(self._spares.trim)
        return kept

    async def _launch_spare(self, binary: Path) -> Shim:
        home = self._bundles.new_home()
        # Some shims look for a spec where they are started.
        await aio.run(aio.DISK, home.create, {"ociVersion": "1.0.2"}, binary)
        try:
            return await self.launch(home, binary)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, home.remove)
            raise

    async def _end_spare(self, shim: Shim) -> None:
        await self._end_shim(shim)
        await aio.run(aio.DISK, shim.home.remove)

    async def end_idle(self, home: Bundle) -> None:
        """End an idle shim of a daemon that was killed, of which this is the home."""
        try:
            await self._end_spare(await self.reopen(home))
        except LadingError:
            await self._end_unreachable(home)
        await aio.run(aio.DISK, home.remove)

    # Those of one container.

    async def launch(self, bundle: Bundle, binary: Path) -> Shim:
        """Start a shim in a bundle. Raises `LadingError` if it does not come to answer."""

        async def launch() -> Bootstrap:
            bootstrap = await self._launcher.start(binary, bundle)
            failpoint("shim.started")
            await aio.run(aio.DISK, bundle.save_bootstrap, bootstrap)
            return bootstrap

        try:
            return await self._open(bundle, launch)
        except DisconnectedError:
            await aio.run(aio.DISK, bundle.remove_socket)
            if not await self._launcher.distrust(binary):
                raise
        return await self._open(bundle, launch)

    async def reopen(self, bundle: Bundle) -> Shim:
        """Connect to the one that an earlier daemon started in a bundle. Raises `LadingError` if it does not answer."""

        async def find() -> Bootstrap:
            return await aio.run(aio.DISK, bundle.bootstrap)

        return await self._open(bundle, find)

    async def _open(self, bundle: Bundle, find: Callable[[], Awaitable[Bootstrap]]) -> Shim:
        """Hold the log, find the shim, connect to it."""
        try:
            log = LogDrain(bundle.log, bundle.id)
        except OSError as exc:
            raise DataLossError(f"the bundle of {bundle.id} has no log", subject=bundle.id) from exc
        try:
            bootstrap = await find()
            client = await ttrpc.connect(bootstrap.address, timeout=CONNECT_TIMEOUT)
        except BaseException:
            log.close()
            raise
        home = await aio.run(aio.DISK, bundle.home)
        shim = Shim(bundle, home, client, log, bootstrap.version, self._namespace)
        try:
            named = task_pb2.ProcessRequest(id=bundle.id)
            shim.pid = (await shim.call("Connect", named, task_pb2.ConnectResponse, CONNECT_TIMEOUT)).shim_pid
            self._reaper.watch(shim.pid)
        except LadingError as exc:  # one without a task may have no answer, but it is there
            if isinstance(exc, DisconnectedError):
                shim.close()
                raise
        return shim

    async def clean(self, bundle: Bundle, shim: Shim | None, *, deleted: bool = False) -> Exit:
        """End a shim, have its executable clean up, remove the bundle. How the first process ended, as far as known.

        A container that its shim has ``deleted`` needs no cleaning up, which would start two programs in vain.
        """
        if shim is None:
            try:
                shim = await self.reopen(bundle)
            except LadingError:
                await self._end_unreachable(await aio.run(aio.DISK, bundle.home))
        kept = False
        if shim is not None and deleted and shim.home is not bundle:
            kept = self._keep_spare(await aio.run(aio.DISK, bundle.shim), shim)
        if shim is not None and not kept:
            await self._end_shim(shim)
        home = bundle if kept else await aio.run(aio.DISK, bundle.home)
        recorded = await aio.run(aio.DISK, bundle.exit)
        end = None
        if not deleted:
            try:
                binary = await aio.run(aio.DISK, bundle.shim)
                end = await self._launcher.delete(binary, bundle)
            except LadingError as exc:
                _log.warning("shim_cleanup_failed", container=bundle.id, reason=str(exc))
            await aio.run(aio.DISK, cgroups.remove_left, bundle.path)
        try:
            await aio.run(aio.DISK, bundle.remove)
            if home.path != bundle.path:
                await aio.run(aio.DISK, home.remove)
        except OSError as exc:
            _log.error("bundle_not_removed", container=bundle.id, reason=str(exc))
        return recorded or end or Exit(status=_KILLED, exited_at_nano=time.time_ns())

    async def _end_shim(self, shim: Shim) -> None:
        """Ask a shim to end, and see that it does.

        One that is in the middle of a Create for a daemon that was killed tells no process ID, and stays for that container.
        """
        await shim.shutdown()
        if shim.pid > 0:
            await self._reaper.kill(shim.pid)
        else:
            await self._end_unreachable(shim.home)
        shim.close()

    async def _end_unreachable(self, bundle: Bundle) -> None:
        """End what runs for a bundle of which nobody knows where it listens: its daemon was killed while it was started.

        A process is watched when it is first seen and killed when it is seen again: its number cannot be another's then.
        The next look finds what it had started meanwhile.
        """
        try:
            binary = await aio.run(aio.DISK, bundle.shim)
        except LadingError:
            return  # it was not started yet
        watched: set[int] = set()
        with anyio.move_on_after(CONNECT_TIMEOUT):
            while pids := await self._launcher.started(binary, bundle):
                for pid in pids:
                    if pid in watched:
                        await self._reaper.kill(pid)
                    else:
                        self._reaper.watch(pid)
                watched.update(pids)
