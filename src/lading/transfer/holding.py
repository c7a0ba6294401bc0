"""The lease of a transfer: it outlives an interruption, so that the same transfer can be taken up again."""

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio

from lading.core import content, leases
from lading.core.content import IngestRef
from lading.core.leases import EXPIRE, LeaseID, Resource
from lading.errors import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from lading.formats.compression import BombError
from lading.formats.tar.entry import TarLimitError
from lading.oci.digest import Digest
from lading.transfer import limits

PURPOSE: Final = "lading.transfer"
"""Lease label: what the transfer was about, e.g. ``pull docker.io/library/alpine:latest``."""
RESUMABLE: Final = "lading.transfer.resumable"
"""Lease label: the lease outlives its process, so that the same transfer can be taken up again."""

_HOPELESS: Final = (InvalidArgumentError, UnsupportedError, DataLossError, BombError, TarLimitError)
"""What is wrong with the content. That a disk is full is not: there, trying again helps once there is space."""


class Holder:
    """Makes the leases of this process's transfers and tidies up after earlier attempts."""

    def __init__(
        self, manager: leases.Manager, store: content.Store, *, collect: Callable[[], None], packed: bool
    ) -> None:
        """``collect`` asks the collector to come when a lease ends that held what nothing else does.

        That is so when something failed, and in a store that keeps no blob of a layer (not ``packed``) always.
        """
        self._leases = manager
        self._content = store
        self._collect = collect
        self._packed = packed
        self._active: set[LeaseID] = set()
        self._cut_off: set[str] = set()
        """Purposes of which a lease is left."""

    @contextlib.asynccontextmanager
    async def hold(self, purpose: str, *, resumable: bool = True) -> AsyncGenerator[LeaseID]:
        """A lease for the work inside.

        When that succeeds the lease ends, and with it those of earlier attempts at the same purpose. When it is cut off, a
        resumable lease that holds anything stays until it expires, also through a crash. When trying again cannot help,
        because the content itself is wrong, neither lease nor ingests stay.
        """
        expire = datetime.now(UTC) + timedelta(hours=limits.LEASE_HOURS)
        labels = {EXPIRE: expire.isoformat(timespec="seconds"), PURPOSE: purpose}
        if resumable:
            labels[RESUMABLE] = "true"
        lease = LeaseID(secrets.token_hex(16))
        self._active.add(lease)  # before others can see it: one that is not active is of an earlier attempt
        try:
            await self._leases.create(lease, labels=labels)
            yield lease
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                if not resumable or isinstance(error, _HOPELESS):
                    await self._discard(lease)
                    self._collect()
                else:
                    self._cut_off.add(purpose)
                    await self._end_empty(lease)
            raise
        finally:
            self._active.discard(lease)
        with anyio.CancelScope(shield=True):
            await self._end(lease)
            await self._end_earlier(purpose)
        if not self._packed:
            self._collect()

    async def recover(self) -> None:
        """End what a crashed process left and nobody will take up: leases and unfinished blobs. Called once, before any
        transfer.
        """
        ours = [lease for lease in await self._leases.list() if PURPOSE in lease.labels]
        wanted: set[Resource] = set()
        for lease in ours:
            if RESUMABLE in lease.labels:
                self._cut_off.add(lease.labels[PURPOSE])
                wanted.update(await self._leases.resources(lease.id))
        for lease in ours:
            if RESUMABLE not in lease.labels:
                await self._discard(lease.id, spare=wanted)

    async def abandon(self) -> int:
        """End the leases of interrupted transfers, and drop what they were writing; transfers under way keep theirs.

        Returns the bytes that were dropped; whole blobs, which are the collector's now, do not count.
        """
        leases_ = [lease for lease in await self._leases.list() if PURPOSE in lease.labels]
        wanted: set[Resource] = set()
        for lease in leases_:
            if lease.id in self._active:
                with contextlib.suppress(NotFoundError):  # the transfer has ended meanwhile
                    wanted.update(await self._leases.resources(lease.id))
        dropped = 0
        for lease in leases_:
            if lease.id not in self._active:
                dropped += await self._discard(lease.id, spare=wanted)
        self._collect()
        return dropped

    async def add(self, lease: LeaseID, digest: Digest) -> None:
        """Let the lease hold a blob and everything below it."""
        await self._leases.add(lease, Resource(kind="content", id=digest))

    async def _discard(self, lease: LeaseID, *, spare: Collection[Resource] = ()) -> int:
        """End a lease and drop what it was writing, except ``spare`` and what another transfer is writing too; its bytes."""
        dropped = 0
        with contextlib.suppress(NotFoundError):
            for resource in await self._leases.resources(lease):
                if resource.kind == "ingest" and resource not in spare:
                    with contextlib.suppress(NotFoundError, UnavailableError):
                        written = (await self._content.status(IngestRef(resource.id))).offset
                        await self._content.abort(IngestRef(resource.id))
                        dropped += written
        await self._end(lease)
        return dropped

    async def _end_empty(self, lease: LeaseID) -> None:
        with contextlib.suppress(NotFoundError):
            if not await self._leases.resources(lease):
                await self._leases.delete(lease)

    async def _end(self, lease: LeaseID) -> None:
        with contextlib.suppress(NotFoundError):  # expired and collected, or removed by hand
            await self._leases.delete(lease)

    async def need_nothing(self, purpose: str) -> None:
        """There is nothing to do for a purpose: an attempt that was cut off had done it all, but for its end."""
        if purpose in self._cut_off:
            await self._end_earlier(purpose)

    async def _end_earlier(self, purpose: str) -> None:
        self._cut_off.discard(purpose)
        for lease in await self._leases.list():
            if lease.labels.get(PURPOSE) == purpose and lease.id not in self._active:
                await self._end(lease.id)
