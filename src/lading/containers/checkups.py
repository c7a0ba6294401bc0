"""Which containers are being checked for their health: from start to end, except while they are paused."""

from collections.abc import Mapping
from typing import Any

from lading.containers import health
from lading.containers.background import Background
from lading.containers.exec_service import ExecService
from lading.containers.health import OUTPUT_LIMIT, Health, Monitor
from lading.containers.model import Container
from lading.core.events import Bus


class Checkups:
    """The monitors of all containers; the life cycle says when."""

    def __init__(self, execs: ExecService, bus: Bus, background: Background) -> None:
        self._execs = execs
        self._bus = bus
        self._background = background
        self._monitors: dict[str, Monitor] = {}

    def running(self, container: Container) -> None:
        """It runs, or goes on after a pause: check it from now on, if there is a check."""
        words = health.command(container.config.healthcheck, container.config.shell)
        self._stop(container)
        if not words or container.config.healthcheck is None:
            container.health = None
            return
        if container.health is None or container.health.started_at != container.state.started_at:
            container.health = Health(
                config=container.config.healthcheck, started_at=container.state.started_at
            )
        body: Mapping[str, Any] = {"Cmd": words, "AttachStdout": True, "AttachStderr": True}

        async def probe(seconds: float) -> tuple[int, bytes]:
            return await self._execs.collect(container, body, seconds=seconds, limit=OUTPUT_LIMIT)

        def changed(status: str) -> None:
            self._bus.publish("container", f"health_status: {status}", container.id, container.attributes())

        monitor = self._monitors[container.id] = Monitor(container.health, probe, changed)
        self._background.spawn(monitor.run)

    async def rest(self, container: Container) -> None:
        """It is about to be paused: no checks, and none that hangs in it."""
        monitor = self._stop(container)
        if monitor is not None:
            await monitor.stopped.wait()

    def _stop(self, container: Container) -> Monitor | None:
        monitor = self._monitors.pop(container.id, None)
        if monitor is not None:
            monitor.stop()
        return monitor

    def ended(self, container: Container) -> None:
        """It has ended; Docker shows such a container as unhealthy."""
        self._stop(container)
        if container.health is not None:
            container.health.status = "unhealthy"
