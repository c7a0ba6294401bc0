"""`LegacyBuilder`: builds for clients without BuildKit; what was uploaded, and its end."""

import os
import secrets
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import anyio

from lading.builder.control import MakeExporter, MakeGateway, SolveWish
from lading.builder.legacy.run import Run, Tell
from lading.builder.legacy.session import UploadSession
from lading.builder.legacy.wish import LegacyWish
from lading.builder.model import Job, Solver
from lading.builder.ops.files.copying import Rules
from lading.builder.ops.files.unpacking import unpack
from lading.builder.progress import ProgressLog
from lading.core import leases
from lading.errors import InvalidArgumentError
from lading.kit import aio
from lading.oci.digest import Digest

_MEMORY: Final = 10_000
"""Images of instructions that are remembered, so that one made again is known."""


class LegacyBuilder:
    """Builds for old clients."""

    def __init__(
        self,
        *,
        solver: Solver,
        lease_manager: leases.Manager,
        make_gateway: MakeGateway,
        make_exporter: MakeExporter,
        state: Path,
        chained: bool = False,
    ) -> None:
        """With ``chained`` the store keeps the image of each instruction, which is its cache (the classic store)."""
        self._chained = chained
        self._solver = solver
        self._leases = lease_manager
        self._make_gateway = make_gateway
        self._make_exporter = make_exporter
        self._state = state
        self._under_way: dict[str, anyio.CancelScope] = {}
        self._made: dict[Digest, None] = {}

    def cancel(self, build_id: str) -> bool:
        """End a build; whether there is one of this ID."""
        scope = self._under_way.get(build_id)
        if scope is not None:
            scope.cancel()
        return scope is not None

    async def build(self, wish: LegacyWish, body: AsyncIterator[bytes], tell: Tell) -> None:
        """Build, and tell how it goes. Cancelling the call ends the build.

        Raises `InvalidArgumentError` before anything is told if what is asked cannot be; whatever building raises after it.
        """
        ref = wish.build_id or secrets.token_hex(16)
        place = self._state / f"context-{secrets.token_hex(8)}"
        lease = await self._leases.create(labels={leases.BUILDS: ref[:256]})
        with anyio.CancelScope() as scope:
            self._under_way[ref] = scope
            try:
                await self._receive(place, wish, body)
                session = UploadSession(secrets.token_hex(12), place / "files", wish.credentials)
                log = ProgressLog(hasty=True)
                async with self._solver.open_job(
                    ref, session=session, progress=log, no_cache=wish.no_cache
                ) as job:
                    await self._run(wish, job, session, log, lease.id, tell)
            finally:
                self._under_way.pop(ref, None)
                with anyio.CancelScope(shield=True):
                    await aio.run(aio.DISK, shutil.rmtree, place, True)
                    await self._leases.delete(lease.id)
        if scope.cancelled_caught:
            await tell({"stream": "Build cancelled\n"})
            raise InvalidArgumentError("Build cancelled")

    async def _receive(self, place: Path, wish: LegacyWish, body: AsyncIterator[bytes]) -> None:
        """Unpack the client's context below ``place``."""
        await aio.run(aio.DISK, lambda: (place / "files").mkdir(parents=True))
        if wish.remote:
            return
        archive = place / "archive"
        file = await aio.run(aio.DISK, archive.open, "wb")
        try:
            async for chunk in body:
                await aio.run(aio.DISK, file.write, chunk)
        finally:
            await aio.run(aio.DISK, file.close)
        await aio.run(aio.DISK, _unpack, archive, place / "files")

    async def _run(
        self,
        wish: LegacyWish,
        job: Job,
        session: UploadSession,
        log: ProgressLog,
        lease: leases.LeaseID,
        tell: Tell,
    ) -> None:
        build = SolveWish(ref=session.id, frontend="dockerfile.v0", options=wish.attributes)
        gateway = self._make_gateway(
            job, build, options=wish.attributes, inputs={}, session=session, progress=log
        )
        run = Run(
            wish=wish,
            build=build,
            gateway=gateway,
            session=session,
            log=log,
            lease=lease,
            tell=tell,
            make_exporter=self._make_exporter,
            made=self._made,
            chained=self._chained,
        )
        try:
            await run.run()
        finally:
            while len(self._made) > _MEMORY:
                del self._made[next(iter(self._made))]


def _unpack(archive: Path, target: Path) -> None:
    source = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    try:
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            unpack(source, directory, Rules(owner=(0, 0)))
        finally:
            os.close(directory)
    finally:
        os.close(source)
        archive.unlink()
