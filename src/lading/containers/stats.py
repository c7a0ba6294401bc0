"""``docker stats``: samples of a container, once a second, for as long as somebody wants them and it exists."""

from collections.abc import AsyncGenerator
from typing import Any, Final

import anyio

from lading.containers import figures, members
from lading.containers.figures import Figures, Sample
from lading.containers.model import Container
from lading.errors import LadingError
from lading.kit import aio

_PERIOD_SECONDS: Final = 1.0


async def one(container: Container, *, with_before: bool, cgroups: bool) -> dict[str, Any]:
    """One document; ``with_before`` takes two samples, a second apart, as rates need.

    Without ``cgroups`` nobody counts what a container uses, but for its network and its processes.
    """
    before = await _sample(container, cgroups=cgroups) if with_before else None
    if before is not None:
        await _pause(container)
    now = await _sample(container, cgroups=cgroups)
    return figures.document(container.id, container.name, now, before if now else None)


async def stream(container: Container, *, cgroups: bool) -> AsyncGenerator[dict[str, Any]]:
    """A document per second while it runs; while it does not, it is waited for. Ends when the container is removed."""
    before: Sample | None = None
    while not container.removed.is_set():
        now = await _sample(container, cgroups=cgroups)
        if now is None:
            before = None
            yield figures.document(container.id, container.name, None, None)
            await _until_started(container)
            continue
        yield figures.document(container.id, container.name, now, before)
        before = now
        await _pause(container)


async def _sample(container: Container, *, cgroups: bool) -> Sample | None:
    """The present figures; ``None`` if it does not run."""
    task = container.task
    if task is None or not container.state.running:
        return None
    try:
        found = await task.metrics() if cgroups else await _counted(container)
    except LadingError:  # it ended meanwhile
        return None
    own = container.host.network_mode != "host" and not container.host.network_mode.startswith("container:")
    return await aio.run(aio.DISK, figures.read_sample, found, container.state.pid, own_network=own)


async def _counted(container: Container) -> Figures:
    return {"pids": {"current": len(await aio.run(aio.DISK, members.of, container.mount_namespace))}}


async def _pause(container: Container) -> None:
    with anyio.move_on_after(_PERIOD_SECONDS):
        await container.removed.wait()


async def _until_started(container: Container) -> None:
    async def either(event: anyio.Event, scope: anyio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(either, container.started, group.cancel_scope)
        group.start_soon(either, container.removed, group.cancel_scope)
