"""The container service: what can be asked for, by whatever edge.

Containers are found by full ID, then by name, then by a unique prefix of the ID (hostile-input.md A9). Everything
durable is in the record store; this object holds the same records with what is alive beside them.
"""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import anyio
import anyio.abc
import structlog

from lading.containers import (
    attaching,
    committing,
    imagemounts,
    listing,
    members,
    model,
    naming,
    signals,
    stats,
    updating,
)
from lading.containers.attaching import Attachment, AttachOptions, LogOptions
from lading.containers.background import Background
from lading.containers.checkups import Checkups
from lading.containers.committing import CommitRequest
from lading.containers.creating import Created, Creator
from lading.containers.directories import Directories
from lading.containers.display import Display
from lading.containers.environment import Environment
from lading.containers.exec_service import ExecService
from lading.containers.files import FileService
from lading.containers.hostfiles import HostFiles
from lading.containers.hostmounts import HostMounts
from lading.containers.journal import Chunk
from lading.containers.launching import Launcher
from lading.containers.lifecycle import Lifecycle
from lading.containers.model import Container
from lading.containers.netservice import NetworkService
from lading.containers.networking import Networking
from lading.containers.restoring import Restorer
from lading.containers.runs import Run
from lading.containers.streams import Peer
from lading.containers.volumeholding import VolumeHolding
from lading.containers.volumeservice import VolumeService
from lading.errors import (
    ConflictError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
)
from lading.kit import aio
from lading.oci.descriptor import Platform

_log: Final = structlog.get_logger(__name__)
Condition = Literal["not-running", "next-exit", "removed"]
CONDITIONS: Final = ("not-running", "next-exit", "removed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a prune removed; bytes of their writable layers."""

    ids: Sequence[str]
    reclaimed: int


class ContainerService:
    """Containers of one daemon. Make it with `open_service`."""

    def __init__(self, environment: Environment, group: anyio.abc.TaskGroup) -> None:
        self._env = environment
        self._group = group
        self._containers: dict[str, Container] = {}
        self._names = naming.Names(self._is_named)
        self._pruning = anyio.Lock()
        bus, find = environment.bus, self.find
        background = Background(group)
        self._directories = Directories(environment.root, environment.state)
        self._networking = Networking(
            environment.networks, bus, find, environment.resolving, background.spawn
        )
        host_mounts = HostMounts(environment.state.with_name("mounts"))
        holding = VolumeHolding(environment.volumes, bus, host_mounts, self.all)
        self._files = HostFiles(environment, self._directories, self._networking, find, self.all)
        self._launcher = Launcher(
            environment, self._directories, self._files, host_mounts, self._networking, holding, find
        )
        self._life = Lifecycle(
            environment, self._directories, self._launcher, self._files, holding, background, self._forget
        )
        self.volumes = VolumeService(holding, bus)
        self.networks = NetworkService(self._networking, bus, self.all, self._save_networks)
        self.execs = ExecService(environment, self._directories, self._launcher, background)
        self._life.observer = Checkups(self.execs, bus, background)
        self.files = FileService(environment, self._directories, holding)
        self._creator = Creator(
            environment, self._directories, self._networking, holding, self._names, find, self._add
        )
        self._display = Display(environment, self._directories, self._networking, find, self.all)
        self._restorer = Restorer(
            environment, self._directories, self._launcher, self._life, self._networking, holding, background
        )

    async def _open(self) -> None:
        for place in (self._env.root, self._env.state):
            await aio.run(aio.DISK, place.mkdir, parents=True, exist_ok=True, mode=0o710)
        for record in await self._env.store.list():
            container = model.load(record)
            if not await self._restorer.is_unfinished(container):
                self._containers[container.id] = container
        await aio.run(aio.DISK, self._directories.sweep, set(self._containers))
        await imagemounts.sweep(self._env, set(self._containers))
        self._group.start_soon(self._restorer.listen, self._containers.get)
        await self._restorer.restore(list(self._containers.values()))

    async def warm(self) -> None:
        """Have ready what the first start needs. A hint; what fails here is said there."""
        await self._launcher.warm()

    def _close(self) -> None:
        self._launcher.close()

    def _add(self, container: Container) -> None:
        self._containers[container.id] = container

    async def _save_networks(self, container: Container) -> None:
        """Store it after its networks changed; a running one sees the change in its files."""
        if container.state.running:
            await self._files.refresh(container)
        await self._env.store.update(container.snapshot())

    def _forget(self, container: Container) -> None:
        self._containers.pop(container.id, None)
        self.execs.forget(container)

    # Finding.

    def find(self, name: str) -> Container:
        """The container of an ID, a name, or a unique prefix of an ID.

        Raises `NotFoundError`; `InvalidArgumentError` if a prefix fits several.
        """
        bare = name.removeprefix("/")
        if found := self._containers.get(bare):
            return found
        for container in self._containers.values():
            if container.name == bare:
                return container
        matches = [c for id_, c in self._containers.items() if bare and id_.startswith(bare)]
        if len(matches) > 1:
            raise InvalidArgumentError(f"Multiple IDs found with provided prefix: {bare}", subject=bare)
        if not matches:
            raise NotFoundError(f"No such container: {name}", subject=name)
        return matches[0]

    def all(self) -> list[Container]:
        """All containers, newest first."""
        return sorted(self._containers.values(), key=lambda c: c.document.created, reverse=True)

    # Creating.

    async def create(
        self, body: Mapping[str, Any], *, name: str = "", platform: Platform | None = None
    ) -> Created:
        """Create a container from Docker's create body; raises as `Creator.create`."""
        return await self._creator.create(body, name=name, platform=platform)

    def _is_named(self, name: str) -> str | None:
        """The ID of the container of this name."""
        return next((each.id for each in self._containers.values() if each.name == name), None)

    # Living.

    async def start(self, name: str) -> None:
        """Start a container; raises as `Lifecycle.start`."""
        await self._life.start(self.find(name))

    async def stop(self, name: str, *, timeout: int | None = None, signal: str = "") -> None:
        """Stop it; raises as `Lifecycle.stop`."""
        await self._life.stop(self.find(name), timeout=timeout, signal=signal)

    async def put_away(self, name: str) -> None:
        """Stop it for as long as it cannot be seen. To its restart policy nobody has stopped it. Raises as `Lifecycle.stop`."""
        await self._life.stop(self.find(name), manual=False)

    async def shut_down(self) -> None:
        """Stop all that run, before the machine that they know goes; the next daemon starts those that are always to run."""
        async with anyio.create_task_group() as group:
            for container in self.all():
                if container.state.running or container.state.restarting:
                    group.start_soon(self._shut_down, container)

    async def _shut_down(self, container: Container) -> None:
        try:
            await self._life.stop(container, manual=False)
        except (LadingError, TimeoutError) as exc:
            _log.warning("container_not_stopped", container=container.id, reason=str(exc))

    async def restart(self, name: str, *, timeout: int | None = None, signal: str = "") -> None:
        """Stop it if it runs, and start it."""
        container = self.find(name)
        if container.state.running:
            await self._life.stop(container, timeout=timeout, signal=signal)
        await self._life.start(container)
        self._env.bus.publish("container", "restart", container.id, container.attributes())

    async def kill(self, name: str, signal: str = "") -> None:
        """Send a signal (SIGKILL by default)."""
        await self._life.kill(self.find(name), signals.parse(signal or "KILL"))

    async def pause(self, name: str) -> None:
        """Freeze it."""
        await self._life.pause(self.find(name))

    async def unpause(self, name: str) -> None:
        """Thaw it."""
        await self._life.unpause(self.find(name))

    async def remove(self, name: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it; raises as `Lifecycle.remove`."""
        await self._life.remove(self.find(name), force=force, volumes=volumes)

    async def rename(self, name: str, new: str) -> None:
        """Give it another name."""
        container = self.find(name)
        if not new:
            raise InvalidArgumentError("Neither old nor new names may be empty")
        chosen = naming.check(new)
        if chosen == container.name:
            raise InvalidArgumentError("Renaming a container with the same name as its current name")
        async with container.lock:
            with self._names.reserved(chosen, container.id):
                old = container.record
                container.record = replace(old, name=chosen)
                try:
                    await self._env.store.update(container.snapshot())
                except BaseException:
                    container.record = old
                    raise
        await self._networking.rename(container)
        await self._files.refresh_linked(container)
        attributes = container.attributes(oldName=f"/{old.name}")
        self._env.bus.publish("container", "rename", container.id, attributes)

    async def update(self, name: str, body: Mapping[str, Any]) -> "list[str]":
        """Change limits or restart policy; warnings. Raises as `updating.update`."""
        return await updating.update(self._env, self.find(name), body)

    async def resize(self, name: str, *, width: int, height: int) -> None:
        """Set the size of its terminal."""
        container = self.find(name)
        await container.running_task().resize(width, height)
        size = {"width": str(width), "height": str(height)}
        self._env.bus.publish("container", "resize", container.id, container.attributes(**size))

    def begin_wait(self, container: Container, condition: Condition) -> Callable[[], Awaitable[int]]:
        """Take note of what is to be waited for now; the wait that is returned gives the exit code."""
        stopped = container.stopped

        async def removed() -> int:
            await container.removed.wait()
            return container.state.exit_code

        async def next_exit() -> int:
            await _first(stopped, container.removed)
            return container.state.exit_code

        async def not_running() -> int:
            while container.state.running or container.state.restarting:
                await container.stopped.wait()
            return container.state.exit_code

        return {"removed": removed, "next-exit": next_exit, "not-running": not_running}[condition]

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> Pruned:
        """Remove all stopped containers that pass the filters. Raises `ConflictError` if a prune runs."""
        if self._pruning.locked():
            raise ConflictError("a prune operation is already running")
        before = listing.prune_before(filters, time.time_ns())
        removed: list[str] = []
        reclaimed = 0
        async with self._pruning:
            for container in self.all():
                if (
                    container.state.running
                    or container.state.restarting
                    or not _prunable(container, filters, before)
                ):
                    continue
                size = (await self._display.sizes(container))[0]
                try:
                    await self._life.remove(container, force=False)
                except (ConflictError, NotFoundError):
                    continue
                removed.append(container.id)
                reclaimed += size
        self._env.bus.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
        return Pruned(ids=removed, reclaimed=reclaimed)

    # Showing.

    async def inspect(self, name: str, *, size: bool = False) -> dict[str, Any]:
        """The inspect document."""
        return await self._display.inspect(self.find(name), size=size)

    async def list(
        self, filters: Mapping[str, Sequence[str]], *, all: bool = False, limit: int = 0, size: bool = False
    ) -> "list[dict[str, Any]]":
        """Rows of the container list; see `Display.list`."""
        return await self._display.list(filters, all=all, limit=limit, size=size)

    async def stats(self, name: str, *, with_before: bool) -> dict[str, Any]:
        """Its present figures; ``with_before`` adds those of a second ago."""
        return await stats.one(self.find(name), with_before=with_before, cgroups=self._has_cgroups)

    def stats_stream(self, name: str) -> AsyncGenerator[dict[str, Any]]:
        """Its figures, once a second, until it is removed."""
        return stats.stream(self.find(name), cgroups=self._has_cgroups)

    @property
    def _has_cgroups(self) -> bool:
        return bool(self._env.cgroup_parent)

    async def top(self, name: str, arguments: str = "-ef") -> dict[str, Any]:
        """Its processes, as ps(1) shows them. Raises `ConflictError` unless it runs."""
        container = self.find(name)
        pids = await self._pids(container)
        self._env.bus.publish("container", "top", container.id, container.attributes())
        return await top(pids, arguments)

    async def _pids(self, container: Container) -> frozenset[int]:
        task = container.running_task()
        if self._has_cgroups:
            return frozenset(await task.pids())
        return await aio.run(aio.DISK, members.of, container.mount_namespace)

    async def commit(self, container: Container, asked: CommitRequest) -> str:
        """Make an image of it; raises as `committing.commit`."""
        return await committing.commit(self._env, self._life, container, asked)

    # Streams.

    def logs(self, name: str, options: LogOptions) -> AsyncGenerator[Chunk]:
        """Messages of its log; raises as `attaching.read_log`."""
        container = self.find(name)
        return attaching.read_log(
            container, options, self._directories.log(container), lambda: self._run(container)
        )

    def attach(self, container: Container, options: AttachOptions, *, multiplexed: bool = True) -> Attachment:
        """Begin to attach a client; what the container writes from now on waits for `serve_attachment`."""
        if container.state.paused:
            raise ConflictError(f"container {container.id} is paused, unpause the container before attach")
        if container.state.restarting:
            raise ConflictError(
                f"container {container.id} is restarting, wait until the container is running"
            )
        self._env.bus.publish("container", "attach", container.id, container.attributes())
        return Attachment(container, options, self._env.bus, multiplexed=multiplexed)

    async def serve_attachment(self, container: Container, attachment: Attachment, peer: Peer) -> None:
        """Connect the client until either side ends."""
        await attachment.serve(peer, self._directories.log(container), lambda: self._run(container))

    def _run(self, container: Container) -> Run | None:
        return self._launcher.run_of(container)


@contextlib.asynccontextmanager
async def open_service(environment: Environment) -> AsyncGenerator[ContainerService]:
    """The service, with the containers of earlier daemons taken up. Leaving lets go of them; they go on."""
    async with anyio.create_task_group() as group:
        service = ContainerService(environment, group)
        await service._open()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        try:
            yield service
        finally:
            group.cancel_scope.cancel()
            service._close()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


async def top(pids: frozenset[int], arguments: str) -> dict[str, Any]:
    """Titles and rows of ps(1) for some processes. Raises `InvalidArgumentError` if ps does not understand."""
    words = arguments.split() or ["-ef"]
    result = await anyio.run_process(["ps", *words], check=False)
    if result.returncode != 0:
        raise InvalidArgumentError(f"ps: {result.stderr.decode(errors='replace').strip()[:500]}")
    lines = result.stdout.decode(errors="replace").splitlines()
    titles = lines[0].split() if lines else []
    column = next((titles.index(name) for name in ("PID", "pid") if name in titles), None)
    if column is None:
        raise InvalidArgumentError("Couldn't find PID field in ps output")
    rows = [line.split(maxsplit=len(titles) - 1) for line in lines[1:]]
    chosen = [row for row in rows if len(row) > column and row[column].isdigit() and int(row[column]) in pids]
    return {"Titles": titles, "Processes": chosen}


async def _first(*events: anyio.Event) -> None:
    async def wait(event: anyio.Event, scope: anyio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async with anyio.create_task_group() as group:
        for event in events:
            group.start_soon(wait, event, group.cancel_scope)


def _prunable(container: Container, filters: Mapping[str, Sequence[str]], before: int | None) -> bool:
    if before is not None and container.document.created > before:
        return False
    unwanted = filters.get("label!", ())
    if unwanted and any(listing.matches_labels(container.labels, [entry]) for entry in unwanted):
        return False
    return listing.matches_labels(container.labels, filters.get("label", ()))


__all__ = ["CONDITIONS", "Condition", "ContainerService", "Created", "Pruned", "open_service", "top"]
