"""Flushing: when layers that were unpacked lazily are on the disk, and what is believed of them until then."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import anyio
import structlog

from lading.core import metadata
from lading.errors import LadingError

_log: Final = structlog.get_logger(__name__)


class Flushing:
    """Layers whose rows carry the boot ID, and so do not outlast this boot before they are flushed.

    Args:
        rows: The snapshotter's rows.
        flush: Makes everything of these snapshots durable.

    """

    def __init__(self, rows: metadata.Snapshots, flush: Callable[[Sequence[int]], Awaitable[None]]) -> None:
        self._rows = rows
        self._flush = flush
        self._unflushed: set[int] = set()
        self._lock = anyio.Lock()

    def __bool__(self) -> bool:
        """Whether any layer is waiting."""
        return bool(self._unflushed)

    def add(self, *ids: int) -> None:
        """Have layers flushed the next time."""
        self._unflushed.update(ids)

    async def run(self, more: Iterable[int] = ()) -> None:
        """Flush all layers that wait, and ``more``; then a reboot discards them no longer."""
        # A cancelled flush would leave it open whether it had failed.
        with anyio.CancelScope(shield=True):
            async with self._lock:
                unflushed, self._unflushed = self._unflushed, set()
                ids = sorted({*unflushed, *more})
                if not ids:
                    return
                try:
                    await self._flush(ids)
                except LadingError:
                    # It is not tried again, nor by the next process of this boot: a second syncfs(2) would succeed with
                    # the data lost (reliability.md I4).
                    await self._rows.mark_lost(sorted(unflushed))
                    raise
                try:
                    await self._rows.mark_durable(sorted(unflushed))
                except LadingError:  # as on a full disk; they are flushed, and are marked the next time
                    self._unflushed |= unflushed
                    raise

    async def try_run(self) -> None:
        """As `run`; a failure is logged, and told to whoever needs the layers."""
        try:
            await self.run()
        except LadingError as exc:
            _log.warning("snapshots_not_flushed", error=str(exc))
