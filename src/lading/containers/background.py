"""Work for containers that outlives the call that began it."""

from collections.abc import Awaitable, Callable
from typing import Final

import anyio.abc
import structlog

_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class Background:
    """Runs it in ``group``, which outlives every call."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        self._group = group

    def spawn(self, function: Callable[..., Awaitable[object]], *args: object) -> None:
        """Run in the background. What goes wrong there is one container's misfortune, never the daemon's."""

        async def supervised() -> None:
            try:
                await function(*args)
            except Exception:  # noqa: BLE001 (a supervisor)
                _log.exception("container_task_failed", task=getattr(function, "__name__", ""))

        self._group.start_soon(supervised)
