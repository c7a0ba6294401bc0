"""The build cache's housekeeping: what it takes, what goes when that is asked for, and what goes by itself."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import anyio
import structlog

from lading.builder import pruning
from lading.builder.model import PruneWish, UsageRecord
from lading.core.buildcache import BuildCache
from lading.core.snapshots import Snapshotter
from lading.errors import LadingError
from lading.kit import aio, fs

_REST_SECONDS: Final = 10.0
_log: Final = structlog.get_logger(__name__)


class Housekeeping:
    """Looks after one build cache. ``in_use`` names the records that builds have; ``collect`` is called when something went."""

    def __init__(
        self,
        *,
        cache: BuildCache,
        snapshotter: Snapshotter,
        in_use: Callable[[], set[str]],
        disk: Path | None,
        collect: Callable[[], None],
    ) -> None:
        self._cache = cache
        self._snapshotter = snapshotter
        self._in_use = in_use
        self._disk = disk
        self._collect = collect
        self._ended = anyio.Event()

    async def disk_usage(self) -> Sequence[UsageRecord]:
        """See `Solver.disk_usage`."""
        return await pruning.disk_usage(self._cache, self._snapshotter, self._in_use())

    def prune(self, wish: PruneWish) -> AsyncIterator[UsageRecord]:
        """See `Solver.prune`."""
        return self._prune(wish, {})

    async def _prune(self, wish: PruneWish, measured: dict[str, int]) -> AsyncIterator[UsageRecord]:
        try:
            async for record in pruning.prune(
                self._cache, self._snapshotter, wish, self._in_use, self._free, measured
            ):
                yield record
        finally:
            self._collect()

    def _free(self) -> int:
        return fs.available(self._disk) if self._disk is not None else 2**63

    def builds_ended(self) -> None:
        """No build is under way any more. What only they held is collected after a rest, not beside the next one."""
        self._ended.set()

    async def keep(self, disk: Path) -> None:
        """After builds, let go of what the default policy does not keep; without end."""
        while True:
            await self._ended.wait()
            self._ended = anyio.Event()
            await anyio.sleep(_REST_SECONDS)
            try:
                status = await aio.run(aio.DISK, os.statvfs, disk)
                measured: dict[str, int] = {}
                for wish in pruning.default_policy(status.f_blocks * status.f_frsize):
                    async for record in self._prune(wish, measured):
                        _log.info("build_cache_record_dropped", record=record.id, size=record.size)
            except LadingError as exc:
                _log.warning("build_cache_not_pruned", error=str(exc))
