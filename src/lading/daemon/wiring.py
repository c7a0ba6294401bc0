"""The wiring: the one place that names adapters and puts the house together.

`open_engine` makes what the daemon serves, out of the rooms beside it: the image store (which the library shares),
containers, the builder. Read top down: every object is built once, from what stands above it. Nothing registers itself on
import, and nothing is looked up by name except the snapshotter, whose table is `image_store.SNAPSHOTTERS`.
"""

import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup
from typing_extensions import override

from lading.api.engine import absent, system
from lading.api.engine import events as event_routes
from lading.api.engine import images as image_routes
from lading.api.engine import lading as lading_routes
from lading.api.engine.routing import Router
from lading.core import metadata
from lading.core.events import Bus
from lading.daemon import host, launch, stores, usage
from lading.daemon.builds import Builds, OpenBuilder, Parts
from lading.daemon.config import Config
from lading.daemon.container_rooms import ContainerRooms, OpenRooms
from lading.daemon.events import EventBus
from lading.daemon.image_store import Store, keep_layers, open_store
from lading.daemon.selection import StoreKind, hidden_words
from lading.errors import FailedPreconditionError
from lading.images.migration import Migrator
from lading.images.removal import Use
from lading.kit import linux

_log: Final = structlog.get_logger(__name__)
_RESTART_SECONDS: Final = 10.0


@dataclass(slots=True, kw_only=True)
class Engine:
    """What the daemon serves."""

    router: Router
    store: Store
    config: Config
    sources: system.Sources
    warm: Callable[[], Coroutine[Any, Any, None]]
    recover_builds: Callable[[], Coroutine[Any, Any, None]]
    shut_down: Callable[[], Coroutine[Any, Any, None]]
    """Stops all containers."""
    restart: anyio.Event
    """Set when the engine is to be closed and opened again, with the store that was chosen meanwhile."""

    def start(self, tasks: TaskGroup) -> None:
        """Begin background work, once clients are served."""
        tasks.start_soon(supervise, "maintenance", self.store.maintenance.run)
        tasks.start_soon(supervise, "snapshotter", self.store.snapshotter.run)
        tasks.start_soon(self.warm)
        tasks.start_soon(self.recover_builds)

    def reload(self, config: Config) -> None:
        """Take over reloadable options."""
        self.config = config
        self.store.registries.reload(config)
        keep_layers(config, self.store.snapshotter, self.store.maintenance.releaser)
        self.store.transfer.limit(
            downloads=config.max_concurrent_downloads, uploads=config.max_concurrent_uploads
        )
        self.sources.host = replace(
            self.sources.host,
            labels=config.labels,
            debug=config.debug,
            insecure_registries=config.insecure_registries,
            registry_mirrors=config.registry_mirrors,
        )
        self.store.bus.publish("daemon", "reload", self.sources.host.id, {"name": self.sources.host.name})


async def supervise(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run background work; a bug in it is logged and must not end the daemon, so it begins again after a while."""
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - the supervisor of all background work
            _log.exception("background_work_failed", work=name)
        await anyio.sleep(_RESTART_SECONDS)


@asynccontextmanager
async def open_engine(config: Config) -> AsyncGenerator[Engine]:
    """Everything, assembled; closed in reverse on leaving."""
    bus = EventBus()
    users: list[ContainerRooms] = []

    def uses() -> Sequence[Use]:
        return [use for each in users for use in each.uses()]

    async with AsyncExitStack() as stack:
        store = await open_store(stack, config, bus, uses)
        await stores.refuse_orphans(config, store.database, store.selection.kind)
        rooms = await stack.enter_async_context(ContainerRooms(partial(load_containers, config, store)))
        users.append(rooms)
        if await needs_containers(config, store):
            await rooms.get()
        builds = await stack.enter_async_context(
            Builds(
                Parts(
                    database=store.database,
                    namespace=store.namespace,
                    content=store.content,
                    images=store.records,
                    leases=store.leases,
                    snapshotter=store.snapshotter,
                    classic=store.classic,
                    transfer=store.transfer,
                    registries=store.registries,
                    rooms=rooms.get,
                    runtime_name=host.default_runtime(config),
                    bridged=config.bridge != "none",
                    cgroups=not config.rootless,
                    state=config.exec_root / "build",
                    bus=bus,
                    id=await daemon_id(store.database),
                    disk=config.data_root,
                    collect=store.maintenance.collector.trigger,
                ),
                load_builder,
            )
        )
        facts = host.facts(
            config,
            id=await daemon_id(store.database),
            driver=store.snapshotter.name,
            driver_status=driver_status(store),
        )
        sources = system.Sources(
            host=facts,
            images=lambda: usage.count_images(store.records),
            containers=rooms.counts,
            image_usage=lambda version: usage.image_usage(store.images, version),
            container_usage=rooms.container_usage,
            volume_usage=rooms.volume_usage,
            build_usage=builds.disk_usage,
            listeners=lambda: bus.subscribers,
            open_files=lambda: len(os.listdir("/proc/self/fd")),
            registries=store.registries,
            warnings=lambda: hidden_warnings(config, store),
        )
        for warning in await hidden_warnings(config, store):
            _log.warning("images_hidden", detail=warning)

        async def warm() -> None:
            await store.registries.warm()
            await rooms.warm()

        engine = Engine(
            router=Router(),
            store=store,
            config=config,
            sources=sources,
            warm=warm,
            recover_builds=builds.recover,
            shut_down=rooms.shut_down,
            restart=anyio.Event(),
        )
        switch = stores.Switch(
            database=store.database,
            selection=store.selection,
            running=rooms.running,
            put_away=rooms.put_away,
            restart=engine.restart.set,
            layers_keep=lambda: engine.config.lading.layers_keep,
        )
        engine.router = make_router(store, rooms, sources, bus, StoreRoutes(config, store, switch), builds)
        yield engine


def driver_status(store: Store) -> list[list[str]]:
    """What ``docker info`` shows below the storage driver; clients tell the stores apart by it."""
    if store.selection.kind is StoreKind.CONTAINERD:
        return [["driver-type", "io.containerd.snapshotter.v1"]]
    return [
        ["Backing Filesystem", linux.file_system(str(store.maintenance.data_root))],
        ["Supports d_type", "true"],
        ["Using metacopy", "false"],
        ["Native Overlay Diff", "true"],
        ["userxattr", str(linux.in_user_namespace()).lower()],
    ]


async def hidden_warnings(config: Config, store: Store) -> list[str]:
    """What is here and not shown, in words."""
    other = store.selection.kind.other
    words = hidden_words(other, await stores.hidden(config, store.database, other))
    found = [words] if words else []
    if store.classic is not None and (count := len(await store.classic.foreign_uses())):
        found.append(
            f"{count} container{'' if count == 1 else 's'} of dockerd in this data-root can be seen by dockerd only"
        )
    return found


class StoreRoutes(lading_routes.Stores):
    """Which image store is in use, and the switch."""

    def __init__(self, config: Config, store: Store, switch: stores.Switch) -> None:
        self._config = config
        self._store = store
        self._switch = switch

    @override
    async def status(self) -> dict[str, Any]:
        kind = self._store.selection.kind
        hidden = await stores.hidden(self._config, self._store.database, kind.other)
        return {
            "Store": kind.value,
            "Reason": self._store.selection.reason,
            "HiddenImages": hidden["images"],
            "HiddenContainers": hidden["containers"],
        }

    @override
    async def use(self, store: str, *, stop: bool) -> dict[str, Any]:
        changed = await self._switch.use(store, stop=stop)
        return {"Store": store, "Restarting": changed}

    @override
    async def migrate(self, *, offline: bool, fetch: bool) -> AsyncIterator[dict[str, Any]]:
        store = self._store
        if store.selection.kind is not StoreKind.CONTAINERD:
            raise FailedPreconditionError(
                "images are migrated into the containerd store, which is not in use",
                hint="lading store use containerd, then lading store migrate",
            )
        migrator = Migrator(
            source=stores.classic_source(self._config, store.database),
            store=store.content,
            records=store.records,
            snapshotter=store.snapshotter,
            leases=store.leases,
            transfer=store.transfer,
            registries=store.registries,
        )
        async for each in migrator.run(offline=offline, fetch=fetch):
            yield each


def make_router(
    store: Store,
    rooms: ContainerRooms,
    sources: system.Sources,
    bus: Bus,
    stores: lading_routes.Stores,
    builds: Builds,
) -> Router:
    """Every route that is served; those of containers are in a router of their own, which is opened with them."""
    router = Router()
    system.add_routes(router, sources)
    event_routes.add_routes(router, bus)
    image_routes.add_routes(router, store.images, store.exchange, driver=store.snapshotter.name)
    rooms.add_routes(router)
    lading_routes.add_routes(router, store.maintenance, stores)
    absent.add_swarm(router)
    absent.add_plugins(router)
    builds.add_routes(router)
    return router


async def needs_containers(config: Config, store: Store) -> bool:
    """Whether containers are opened before the daemon answers: there are some, or options to try with this machine."""
    tried = (config.userns_remap, config.storage_opts, config.bip, config.default_address_pools)
    if any(tried) or config.bridge not in ("", "none"):
        return True
    return bool(await store.database.containers(store.namespace).list())


def load_containers(config: Config, store: Store) -> OpenRooms:
    """Import the rooms of containers; see `daemon.container_rooms`."""
    with launch.late_imports("containers"):
        from lading.daemon import containers  # noqa: PLC0415 - many daemons only store images, and all answer sooner without

    return partial(containers.open_rooms, config, store)


def load_builder() -> OpenBuilder:
    """Import the builder; see `daemon.builds`."""
    from lading.daemon import building  # noqa: PLC0415 - most daemons never build

    return building.open_builder


async def daemon_id(database: metadata.Database) -> str:
    """The daemon's ID, the same for the life of its data root."""
    known = await database.setting("daemon-id")
    if known is None:
        known = str(uuid.uuid4())
        await database.set_setting("daemon-id", known)
    return known


def host_names(config: Config) -> list[str]:
    """Names by which TCP clients may call this daemon (hostile-input.md A5)."""
    return [
        each.removeprefix("tcp://").rpartition(":")[0] for each in config.hosts if each.startswith("tcp://")
    ]
