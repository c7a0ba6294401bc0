"""The container service: what can be asked for, by whatever edge.

Containers are found by full ID, then by name, then by a unique prefix of the ID (hostile-input.md A9). Everything
durable is in the record store; this object holds the same records with what is alive beside them.
"""

import contextlib
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

import anyio
import anyio.abc
import msgspec

from lading.containers import (
    attaching,
    cgroupless,
    committing,
    health,
    imagemounts,
    links,
    listing,
    logdriver,
    model,
    namespaces,
    naming,
    netmodes,
    netviews,
    remapping,
    request,
    signals,
    spec,
    stats,
    storage,
    updating,
    users,
    views,
    volumemounts,
    wasm,
)
from lading.containers.attaching import Attachment, AttachOptions, LogOptions
from lading.containers.binds import Bind
from lading.containers.checkups import Checkups
from lading.containers.committing import CommitRequest
from lading.containers.environment import ContainerImage, Environment
from lading.containers.exec_service import ExecService
from lading.containers.files import FileService
from lading.containers.hostmounts import HostMounts
from lading.containers.journal import Chunk
from lading.containers.lifecycle import Lifecycle
from lading.containers.model import Container, Document
from lading.containers.netservice import NetworkService
from lading.containers.networking import Networking
from lading.containers.request import CreateRequest, LogConfig
from lading.containers.restoring import Restorer
from lading.containers.runs import Run
from lading.containers.streams import Peer
from lading.containers.volumeholding import Making, VolumeHolding
from lading.containers.volumemounts import VolumeMount
from lading.containers.volumeservice import VolumeService
from lading.core.containers import ContainerRecord
from lading.core.mounts import Mount
from lading.core.snapshots import SnapshotKey
from lading.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    UnsupportedError,
)
from lading.kit import aio
from lading.oci.descriptor import Platform

Condition = Literal["not-running", "next-exit", "removed"]
CONDITIONS: Final = ("not-running", "next-exit", "removed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new container's ID, and what the user should know."""

    id: str
    warnings: Sequence[str]


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
        self._creating = anyio.Lock()
        self._pruning = anyio.Lock()
        networking = Networking(environment.networks, environment.bus, self.find, environment.resolving)
        holding = VolumeHolding(
            environment.volumes, environment.bus, HostMounts(environment.state.with_name("mounts")), self.all
        )
        self._life = Lifecycle(environment, group, self._forget, self.find, networking, holding, self.all)
        self.volumes = VolumeService(holding, environment.bus)
        self.networks = NetworkService(networking, environment.bus, self.all, self._life.save_with_files)
        self.execs = ExecService(environment, self._life)
        self._life.observer = Checkups(self._life, self.execs)
        self.files = FileService(environment, self._life)

    async def _open(self) -> None:
        for place in (self._env.root, self._env.state):
            await aio.run(aio.DISK, place.mkdir, parents=True, exist_ok=True, mode=0o710)
        restorer = Restorer(self._life)
        for record in await self._env.store.list():
            container = model.load(record)
            if not await restorer.is_unfinished(container):
                self._containers[container.id] = container
        await aio.run(aio.DISK, self._life.sweep_directories, set(self._containers))
        await imagemounts.sweep(self._env, set(self._containers))
        self._group.start_soon(restorer.listen, self._containers.get)
        await restorer.restore(list(self._containers.values()))

    async def warm(self) -> None:
        """Have ready what the first start needs. A hint; what fails here is said there."""
        with contextlib.suppress(OSError):
            await aio.run(aio.DISK, self._life.keeper.connect)
        await self._env.runtime.warm(self._env.runtimes.get("", ""))

    def _close(self) -> None:
        self._life.let_go()

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
        """Create a container from Docker's create body.

        Raises:
            NotFoundError: No such image.
            AlreadyExistsError: The name is taken.
            InvalidArgumentError, UnsupportedError: A field is wrong or not offered; the message names it.

        """
        asked = request.parse(_with_defaults(body, self._env))
        wishes = self._life.networking.wishes(asked.config, asked.host, asked.networking)
        runtime = asked.host.runtime
        if runtime not in self._env.runtimes and not runtime.startswith(("io.containerd.", "/")):
            raise InvalidArgumentError(f"unknown or invalid runtime name: {runtime}", subject=runtime)
        wasm.check(runtime, platform)
        async with self._creating:
            chosen = naming.check(name) if name else self._random_name()
            self._check_free(chosen)
            image = await self._env.images.open(asked.config.image, platform)
            wasm.check(runtime, image.manifest.platform or image.config.platform)
            id_ = naming.new_id()
            document = _document(asked, image, id_)
            document.networks = wishes
            volumes = volumemounts.plan(asked.config, asked.host, image.config.run.volumes, self._mounts_of)
            document.borrowed = list(volumes.binds)
            record = ContainerRecord(
                id=id_,
                name=chosen,
                snapshotter=self._env.snapshotter.name,
                snapshot_key=id_,
                image=str(image.manifest.digest),
                target=str(image.target.digest),
                document={},
            )
            container = model.make(record, document)
            links.check(container, self.find)
            await self._dry_run(container)
            document.images = await imagemounts.hold(self._env, id_, container.images)
            try:
                async with self._life.holding.making(volumes.asked) as making:
                    document.volumes = [*volumes.borrowed, *making.mounts]
                    await self._store(container, image, making)
                    self._containers[container.id] = container
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await imagemounts.release(self._env, id_, container.images)
                raise
        self._env.bus.publish("container", "create", container.id, container.attributes())
        return Created(id=id_, warnings=[*asked.warnings, *_network_warnings(asked)])

    def _mounts_of(self, name: str) -> tuple[Sequence[VolumeMount], Sequence[Bind]]:
        """For ``--volumes-from``. Not found would mean the image, which clients would then pull."""
        try:
            other = self.find(name)
        except NotFoundError as exc:
            raise InvalidArgumentError(exc.message, subject=name) from exc
        return other.document.volumes, other.binds

    async def _dry_run(self, container: Container) -> None:
        """Refuse now what would be refused at every start: build the spec with a stand-in for the user."""
        user = users.User(uid=0, gid=0, groups=(0,), home="/")
        plan = spec.Plan(
            id=container.id,
            config=container.config,
            host=container.host,
            args=[container.document.path],
            env=(),
            cwd="/",
            user=user,
            hostname=container.document.hostname,
            cgroup_parent=self._env.cgroup_parent,
        )
        if self._env.remapping is not None:
            remapping.check(container.host)
        await aio.run(aio.DISK, spec.build, plan)
        storage.limit(container.host.storage_opt)
        if container.host.init and not self._env.init_path:
            raise UnsupportedError(
                "HostConfig.Init: there is no init program on this machine",
                hint="install tini, or leave --init out",
            )
        signals.parse(container.document.stop_signal)

    async def _store(self, container: Container, image: ContainerImage, making: Making) -> None:
        """Record, volumes and snapshot; nothing is left behind on failure.

        The record comes first: what it names is kept by the collector from then on. If we are killed before there is a snapshot,
        the next start finds a container that nobody was told of, and drops it with the volumes that only it has.
        """
        await self._env.store.create(container.snapshot())
        try:
            await making.make()
            parent = await self._env.images.unpack(image.manifest)
            mounts = await self._env.snapshotter.prepare(
                SnapshotKey(container.record.snapshot_key),
                parent,
                limit=storage.limit(container.host.storage_opt, default=self._env.storage_limit),
            )
            await self._fill_volumes(container, mounts)
        except BaseException:
            with anyio.CancelScope(shield=True):
                with contextlib.suppress(NotFoundError):
                    await self._env.snapshotter.remove(container.record.snapshot_key)
                await self._env.store.delete(container.id)
            raise

    async def _fill_volumes(self, container: Container, mounts: Sequence[Mount]) -> None:
        volumes = container.document.volumes
        if not any(each.copy for each in volumes):
            return
        scratch = self._life.directory(container) / "rootfs"
        await aio.run(aio.DISK, scratch.mkdir, mode=0o700, parents=True, exist_ok=True)
        try:
            await self._life.holding.fill(volumes, mounts, scratch, self._env.remapping_of(container.host))
        except BaseException:
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, shutil.rmtree, self._life.directory(container), ignore_errors=True)
            raise

    def _random_name(self) -> str:
        return naming.random_name({container.name for container in self._containers.values()})

    def _check_free(self, name: str) -> None:
        for container in self._containers.values():
            if container.name == name:
                raise AlreadyExistsError(
                    f'Conflict. The container name "/{name}" is already in use by container "{container.id}". '
                    "You have to remove (or rename) that container to be able to reuse that name.",
                    subject=name,
                )

    # Living.

    async def start(self, name: str) -> None:
        """Start a container; raises as `Lifecycle.start`."""
        await self._life.start(self.find(name))

    async def stop(self, name: str, *, timeout: int | None = None, signal: str = "") -> None:
        """Stop it; raises as `Lifecycle.stop`."""
        await self._life.stop(self.find(name), timeout=timeout, signal=signal)

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
        async with self._creating, container.lock:
            if chosen == container.name:
                raise InvalidArgumentError("Renaming a container with the same name as its current name")
            self._check_free(chosen)
            old = container.record
            container.record = replace(old, name=chosen)
            try:
                await self._life.save(container)
            except BaseException:
                container.record = old
                raise
        await self._life.networking.rename(container)
        await self._life.refresh_links(container)
        attributes = container.attributes(oldName=f"/{old.name}")
        self._env.bus.publish("container", "rename", container.id, attributes)

    async def update(self, name: str, body: Mapping[str, Any]) -> "list[str]":
        """Change limits or restart policy; warnings. Raises as `updating.update`."""
        return await updating.update(self._env, self._life, self.find(name), body)

    async def resize(self, name: str, *, width: int, height: int) -> None:
        """Set the size of its terminal."""
        container = self.find(name)
        await self._life.running_task(container).resize(width, height)
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
                size = (await self._sizes(container))[0]
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
        container, networking = self.find(name), self._life.networking
        return views.inspect(
            container,
            log_path=self._log_path(container),
            directory=str(self._life.directory(container)),
            driver=container.record.snapshotter,
            trees=await self._env.trees(container.record.snapshot_key) if self._env.trees else {},
            cgroup_v2=self._env.cgroup_v2,
            volume_path=self._volume_path,
            network=netviews.settings(
                container,
                networking.placed(container),
                networking.sandbox(container) if container.state.running else None,
            ),
            sizes=await self._sizes(container) if size else None,
        )

    async def list(
        self, filters: Mapping[str, Sequence[str]], *, all: bool = False, limit: int = 0, size: bool = False
    ) -> "list[dict[str, Any]]":
        """Rows of the container list, newest first; only running ones unless ``all``, ``limit`` or a status was asked for."""
        listing.check(filters)
        every = self.all()
        if limit > 0 or all or filters.get("status") or filters.get("exited"):
            chosen = every
        else:
            chosen = [c for c in every if c.state.running or c.state.restarting]
        for key, sign in (("before", -1), ("since", 1)):
            for value in filters.get(key, ()):
                pivot = self.find(value).document.created
                chosen = [c for c in chosen if (c.document.created - pivot) * sign > 0]
        ancestors = await self._ancestors(filters.get("ancestor", ()))

        def passes(c: Container) -> bool:
            places = self._life.networking.placed(c)
            names = {word for p in places for word in (p.name, p.network.id if p.network else "")}
            return listing.matches(
                c,
                filters,
                lambda name: ancestors.get(name, frozenset()),
                names,
                netviews.published_ports(places),
            )

        rows = [c for c in chosen if passes(c)]
        rows = rows[:limit] if limit > 0 else rows
        now = time.time_ns()
        given = links.names_given(every, self.find)
        return [await self._row(c, now, given.get(c.id, ()), size=size) for c in rows]

    def _volume_path(self, name: str) -> str:
        try:
            return self._env.volumes.path(name)
        except NotFoundError:  # removed by force while no daemon looked
            return ""

    async def _row(
        self, container: Container, now: int, linked: Sequence[str], *, size: bool
    ) -> dict[str, Any]:
        places = self._life.networking.placed(container)
        return views.summary(
            container,
            now=now,
            linked=linked,
            networks=netviews.networks(container, places),
            ports=netviews.port_rows(container, places),
            volume_path=self._volume_path,
            sizes=await self._sizes(container) if size else None,
        )

    async def _ancestors(self, names: Sequence[str]) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for name in names:
            with contextlib.suppress(LadingError):
                image = await self._env.images.open(name, None)
                found[name] = frozenset({str(image.target.digest), str(image.manifest.digest)})
        return found

    async def _sizes(self, container: Container) -> tuple[int, int]:
        """Bytes of the writable layer, and of the whole stack."""
        snapshotter = self._env.snapshotter
        own = total = 0
        try:
            key: str | None = container.record.snapshot_key
            while key is not None:
                used = (await snapshotter.usage(key)).size
                own = own or (used if key == container.record.snapshot_key else 0)
                total += used
                key = (await snapshotter.stat(key)).parent
        except NotFoundError:
            return own, total
        return own, total

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
        task = self._life.running_task(container)
        if self._has_cgroups:
            return frozenset(await task.pids())
        if container.host.pid_mode not in ("", "private"):
            raise UnsupportedError(
                f"the processes of a container in another PID namespace cannot be told: {cgroupless.REASON}"
            )
        return await aio.run(aio.DISK, namespaces.members, container.state.pid)

    async def commit(self, container: Container, asked: CommitRequest) -> str:
        """Make an image of it; raises as `committing.commit`."""
        return await committing.commit(self._env, self._life, container, asked)

    # Streams.

    def logs(self, name: str, options: LogOptions) -> AsyncGenerator[Chunk]:
        """Messages of its log; raises as `attaching.read_log`."""
        container = self.find(name)
        return attaching.read_log(container, options, self._life.log(container), lambda: self._run(container))

    def _log_path(self, container: Container) -> str:
        """As inspect shows it: only a json-file has one."""
        config = container.host.log_config
        driver = (config and config.type) or logdriver.DEFAULT
        directory = self._life.directory(container)
        return str(logdriver.json_path(directory, container.id)) if driver == logdriver.DEFAULT else ""

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
        await attachment.serve(peer, self._life.log(container), lambda: self._run(container))

    def _run(self, container: Container) -> Run | None:
        return self._life.runs.get(container.id)


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


def _document(asked: CreateRequest, image: ContainerImage, id_: str) -> Document:
    """Merge what was asked for with the image's defaults, as Docker does."""
    config, run = asked.config, image.config.run
    entrypoint, cmd = spec.arguments(config, run.entrypoint, run.cmd)
    env = spec.merge_env(run.env, config.env)
    hostname = config.hostname or id_[:12]
    labels = {**(run.labels or {}), **(config.labels or {})}
    words = [*entrypoint, *cmd]
    stop_signal = config.stop_signal or run.stop_signal or "SIGTERM"
    merged = {
        **asked.raw_config,
        "Hostname": hostname,
        "Env": env,
        "Cmd": cmd or None,
        "Entrypoint": entrypoint or None,
        "Labels": labels,
        "WorkingDir": config.working_dir or run.working_dir,
        "User": config.user or run.user,
        "Volumes": {**(run.volumes or {}), **(config.volumes or {})} or None,
    }
    merged.pop("ExposedPorts", None)
    if ports := {**(run.exposed_ports or {}), **(config.exposed_ports or {})}:
        merged["ExposedPorts"] = ports
    image_health = cast("dict[str, Any] | None", msgspec.to_builtins(run.healthcheck))
    if check := health.merged(asked.raw_config.get("Healthcheck"), image_health):
        merged["Healthcheck"] = check
    if run.shell and not config.shell:
        merged["Shell"] = list(run.shell)
    if config.stop_signal or run.stop_signal:
        merged["StopSignal"] = stop_signal
    platform = image.manifest.platform or image.config.platform
    return Document(
        created=time.time_ns(),
        path=words[0],
        args=words[1:],
        env=env,
        working_dir=config.working_dir or run.working_dir,
        user=config.user or run.user,
        hostname=hostname,
        stop_signal=stop_signal,
        config=merged,
        host_config=_with_swap(asked),
        manifest=msgspec.structs.replace(image.manifest, platform=platform),
        platform=platform.os or "linux",
    )


def _network_warnings(asked: CreateRequest) -> "list[str]":
    published = asked.host.port_bindings or asked.host.publish_all_ports
    return [netmodes.PORTS_DISCARDED] if published and asked.host.network_mode == "host" else []


def _with_defaults(body: Mapping[str, Any], environment: Environment) -> dict[str, Any]:
    """What the daemon's configuration says where the request says nothing."""
    try:
        host = msgspec.convert(body.get("HostConfig") or {}, dict[str, Any])
        log = msgspec.convert(host.get("LogConfig") or {}, LogConfig)
    except msgspec.ValidationError:
        return dict(body)  # whoever judges the request says what is wrong
    if (log.type or environment.log_driver) == environment.log_driver:
        options = {**environment.log_options, **(log.config or {})}
        host["LogConfig"] = {"Type": environment.log_driver, "Config": options}
    if environment.init and host.get("Init") is None:
        host["Init"] = True
    return {**body, "HostConfig": host}


def _with_swap(asked: CreateRequest) -> dict[str, Any]:
    """A memory limit allows as much swap again unless told otherwise; stored, so that later updates are judged by it."""
    memory = asked.host.memory
    if not memory or asked.host.memory_swap:
        return asked.raw_host
    return {**asked.raw_host, "MemorySwap": memory * 2}


__all__ = ["CONDITIONS", "Condition", "ContainerService", "Created", "Pruned", "open_service", "top"]
