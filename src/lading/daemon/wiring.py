"""The wiring: the one place that names adapters and puts the house together.

`open_engine` makes what the daemon serves; `open_store` is the part of it that the library shares. Read top down: every
object is built once, from what stands above it. Nothing registers itself on import, and nothing is looked up by name except
the snapshotter, whose table is `SNAPSHOTTERS`.
"""

import hashlib
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup
from typing_extensions import override

from lading.api.engine import absent, build_cache, legacy_build, system, upgrades
from lading.api.engine import containers as container_routes
from lading.api.engine import events as event_routes
from lading.api.engine import exec as exec_routes
from lading.api.engine import files as file_routes
from lading.api.engine import images as image_routes
from lading.api.engine import lading as lading_routes
from lading.api.engine import networks as network_routes
from lading.api.engine import volumes as volume_routes
from lading.api.engine.routing import Router
from lading.containers import storage
from lading.containers.environment import Environment, Resolving, StoredImages
from lading.containers.service import ContainerService
from lading.containers.service import open_service as open_containers
from lading.content.local import LocalContentStore, utc_now
from lading.core import content, facts, images, leases, metadata
from lading.core.addresses import DEFAULT_POOLS
from lading.core.classic import ClassicStore
from lading.core.events import Bus
from lading.core.metadata import Namespace
from lading.core.networks import Networks
from lading.core.remotes import Credentials, Registries, Resolver
from lading.core.snapshots import Capability
from lading.daemon import host, stores, usage
from lading.daemon.building import Builder, Parts, open_builder
from lading.daemon.config import Config
from lading.daemon.events import EventBus
from lading.daemon.fsck import Checker
from lading.daemon.maintenance import StoreMaintenance
from lading.daemon.selection import SETTING, Selection, StoreKind, hidden_words, messages
from lading.errors import FailedPreconditionError
from lading.gc.collector import Collector
from lading.images.classic import ClassicExchange, ClassicImageService
from lading.images.exchange import ImageExchange
from lading.images.migration import Migrator
from lading.images.removal import Use
from lading.images.service import ImageService
from lading.kit import aio, linux
from lading.metadata.database import SqliteDatabase
from lading.network.networks import Settings as NetworkSettings
from lading.network.networks import open_networks
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest
from lading.remotes.config import Config as RemotesConfig
from lading.remotes.config import Limits
from lading.remotes.dial import Proxies
from lading.remotes.registries import HttpRegistries
from lading.runtime.config import RUNC_V2, RuntimeConfig
from lading.runtime.service import ShimRuntime
from lading.snapshots import erofs, overlay, room
from lading.snapshots.base import DirectorySnapshotter
from lading.snapshots.erofs import ErofsSnapshotter
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.transfer.service import TransferService
from lading.volumes.local import open_volumes

_log: Final = structlog.get_logger(__name__)
DATABASE: Final = "lading.db"
_RESTART_SECONDS: Final = 10.0
_FACTS_HOST: Final = "facts-host"


class ReloadableRegistries(Registries):
    """The registry client of the present configuration. Work under way goes on with the one that it began with."""

    def __init__(self, config: Config) -> None:
        self._all = [make_registries(config)]

    def reload(self, config: Config) -> None:
        """Use a new configuration from now on."""
        self._all.append(make_registries(config))

    @override
    def resolver(
        self, credentials: Credentials | None = None, *, headers: Mapping[str, str] | None = None
    ) -> Resolver:
        return self._all[-1].resolver(credentials, headers=headers)

    @override
    async def close(self) -> None:
        for each in self._all:
            await each.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The image store of one namespace: ports and services, without containers and without an edge."""

    selection: Selection
    classic: ClassicStore | None
    """The classic store's own part, if that is the one in use."""
    namespace: Namespace
    database: metadata.Database
    content: content.Store
    snapshotter: DirectorySnapshotter
    leases: leases.Manager
    records: images.Store
    registries: ReloadableRegistries
    transfer: TransferService
    images: ImageService
    exchange: ImageExchange
    maintenance: StoreMaintenance
    bus: Bus


Uses = Callable[[], Sequence[Use]]


async def open_store(stack: AsyncExitStack, config: Config, bus: Bus, uses: Uses) -> Store:
    """Open the store of a data root for this process alone; ``stack`` closes it, in reverse.

    Raises `LockedError` if another process has it; `FailedPreconditionError` if no snapshotter works here.
    """
    database = await stack.enter_async_context(SqliteDatabase.open(config.data_root / DATABASE))
    selection = await stores.selected(config, database)
    namespace = stores.namespace_of(config, selection.kind)
    _log.info("image_store_chosen", store=selection.kind.value, reason=selection.reason)
    for message in messages(selection, config.containerd_snapshotter):
        _log.info("image_store", detail=message)
    blobs = database.blobs(namespace)
    lease_manager = database.leases(namespace)
    records = database.images(namespace)
    fact_rows = database.facts(namespace)
    store = LocalContentStore(config.data_root / "content", blobs, namespace=namespace)
    classic: stores.Classic | None = None
    if selection.kind is StoreKind.CLASSIC:
        rows = database.snapshots(namespace, selection.driver)
        classic = await stores.open_classic(
            config, snapshots=rows, records=records, blobs=store, leases=lease_manager
        )
        records = classic.records
    if classic is not None and config.lading.layers_keep != "both":
        raise FailedPreconditionError(
            f"the classic store cannot keep layers {config.lading.layers_keep}",
            hint="remove lading.layers-keep from the configuration, or use the containerd store",
        )
    snapshotter: DirectorySnapshotter = (
        classic.snapshotter
        if classic
        else await open_snapshotter(config, database, selection.driver, store.open_file)
    )
    stack.push_async_callback(snapshotter.close)
    registries = ReloadableRegistries(config)
    stack.push_async_callback(registries.close)
    machine = platforms.host()
    await keep_facts_of(fact_rows, database, machine)
    transfer = TransferService(
        store=store,
        image_store=records,
        fact_rows=fact_rows,
        lease_manager=lease_manager,
        snapshotter=snapshotter,
        registries=registries,
        bus=bus,
        host=machine,
        naming=classic.store if classic else None,
        packed=classic is None,
        max_downloads=config.max_concurrent_downloads,
        max_uploads=config.max_concurrent_uploads,
    )
    await transfer.recover()
    collector = Collector(
        database,
        namespace,
        content=store,
        snapshotters={snapshotter.name: snapshotter},
        clock=utc_now,
        interval=timedelta(seconds=config.lading.gc_interval),
    )
    maintenance = StoreMaintenance(
        database=database,
        namespace=namespace,
        content=store,
        snapshots=snapshotter,
        driver=snapshotter.name,
        collector=collector,
        checker=Checker(store=store, records=records, leases=lease_manager, registries=registries),
        data_root=config.data_root,
        classic=classic.store if classic else None,
    )

    async def used() -> Sequence[Use]:
        return uses()

    make_service = partial(ClassicImageService, classic=classic.store) if classic else ImageService
    make_exchange = partial(ClassicExchange, classic=classic.store) if classic else ImageExchange
    service = make_service(
        store=store,
        records=records,
        transfer=transfer,
        fact_rows=fact_rows,
        uses=used,
        bus=bus,
        host=machine,
        collect=collector.trigger,
        collected=collector.collect,
    )
    exchange = make_exchange(service=service, records=records, transfer=transfer, registries=registries)
    return Store(
        selection=selection,
        classic=classic.store if classic else None,
        namespace=namespace,
        database=database,
        content=store,
        snapshotter=snapshotter,
        leases=lease_manager,
        records=records,
        registries=registries,
        transfer=transfer,
        images=service,
        exchange=exchange,
        maintenance=maintenance,
        bus=bus,
    )


async def choose(config: Config, kind: StoreKind) -> None:
    """Remember which store a data-root uses, while nobody has it open."""
    async with SqliteDatabase.open(config.data_root / DATABASE) as database:
        await database.set_setting(SETTING, kind.value)


async def keep_facts_of(facts: facts.Store, database: metadata.Database, machine: Platform) -> None:
    """Facts say which manifest stands for an image on this host; on another kind of host they are read again."""
    now = platforms.formatted(machine)
    if await database.setting(_FACTS_HOST) != now:
        await facts.forget_all()
        await database.set_setting(_FACTS_HOST, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotterKind:
    """A row of the table. ``probe`` says why the kind cannot work in a directory, or ``None``; it blocks."""

    make: Callable[..., DirectorySnapshotter]
    probe: Callable[[Path], str | None]
    rebuilds: bool = False
    """Whether it can make the contents of layers again, so that they need not be kept."""


SNAPSHOTTERS: Final[Mapping[str, SnapshotterKind]] = {
    "erofs": SnapshotterKind(make=ErofsSnapshotter, probe=erofs.probe, rebuilds=True),
    "overlayfs": SnapshotterKind(make=OverlaySnapshotter, probe=overlay.probe),
    "native": SnapshotterKind(make=NativeSnapshotter, probe=lambda _: None),
}
"""Snapshotters by name, in the order in which they are tried when the configuration names none and none has snapshots yet."""


async def open_snapshotter(
    config: Config, database: metadata.Database, driver: str, open_blob: Callable[[Digest], int]
) -> DirectorySnapshotter:
    """The snapshotter ``driver``, else the first that works on this machine, recovered from the last boot.

    Raises `FailedPreconditionError`, with what was tried.
    """
    namespace = Namespace(config.containerd_namespace)
    chosen = [driver]
    if not driver:
        # Containers stay with the snapshotter that made them, so one that is in use goes before a better one.
        used = [name for name in SNAPSHOTTERS if await database.snapshots(namespace, name).list()]
        chosen = [*used, *[name for name in SNAPSHOTTERS if name not in used]]
    tried: list[str] = []
    for name in chosen:
        kind = SNAPSHOTTERS.get(name)
        # A sweep deletes what has no row, so each namespace has a directory of its own.
        root = config.data_root / "snapshots" / name / config.containerd_namespace
        problem = await aio.run(aio.DISK, kind.probe, root) if kind else "there is no such snapshotter"
        more: dict[str, Any] = {}
        if kind is not None and kind.rebuilds:
            compressed = config.lading.layers_keep == "compressed"
            more = {"open_blob": open_blob, "cache_bytes": config.lading.layers_cache if compressed else None}
        elif config.lading.layers_keep != "both":
            problem = (
                problem or f"it cannot keep layers {config.lading.layers_keep} only (lading.layers-keep)"
            )
        if kind is None or problem:
            tried.append(f"{name}: {problem}")
            continue
        snapshotter = kind.make(
            root,
            database.snapshots(namespace, name),
            durability=config.lading.durability,
            boot_id=linux.boot_id(),
            **more,
        )
        _log.info("snapshotter_chosen", name=name, passed_over=tried)
        lost = await snapshotter.recover()
        if lost:
            _log.warning(
                "snapshots_of_an_unclean_boot_dropped", count=len(lost), hint="unpacked again when needed"
            )
        return snapshotter
    raise FailedPreconditionError(
        f"no snapshotter is available: {'; '.join(tried)}", hint=f"use {' or '.join(SNAPSHOTTERS)}"
    )


def make_registries(config: Config) -> Registries:
    """The registry client, told what daemon.json says."""
    proxies = {
        "HTTP_PROXY": config.http_proxy,
        "HTTPS_PROXY": config.https_proxy,
        "NO_PROXY": config.no_proxy,
    }
    return HttpRegistries(
        RemotesConfig(
            proxies=Proxies.from_environment(proxies),
            mirrors=config.registry_mirrors,
            insecure=config.insecure_registries,
            user_agent=f"lading/{host.version()}",
            limits=Limits(
                attempts=config.max_download_attempts, idle=float(config.lading.registry_idle_timeout)
            ),
        )
    )


@dataclass(slots=True, kw_only=True)
class Engine:
    """What the daemon serves."""

    router: Router
    store: Store
    config: Config
    sources: system.Sources
    warm: Callable[[], Coroutine[Any, Any, None]]
    restart: anyio.Event
    """Set when the engine is to be closed and opened again, with the store that was chosen meanwhile."""

    def start(self, tasks: TaskGroup) -> None:
        """Begin background work, once clients are served."""
        tasks.start_soon(supervise, "maintenance", self.store.maintenance.run)
        tasks.start_soon(supervise, "snapshotter", self.store.snapshotter.run)
        tasks.start_soon(self.warm)

    def reload(self, config: Config) -> None:
        """Take over reloadable options."""
        self.config = config
        self.store.registries.reload(config)
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
    running: list[ContainerService] = []

    def uses() -> Sequence[Use]:
        return [use for service in running for use in usage.container_uses(service)]

    async with AsyncExitStack() as stack:
        store = await open_store(stack, config, bus, uses)
        await stores.refuse_orphans(config, store.database, store.selection.kind)
        runtime = await open_runtime(stack, config)
        networks = await open_network_service(stack, config, store)
        service = await open_container_service(stack, config, store, runtime, networks)
        running.append(service)
        builder = await open_builder(
            stack,
            Parts(
                database=store.database,
                namespace=store.namespace,
                content=store.content,
                images=store.records,
                leases=store.leases,
                snapshotter=store.snapshotter,
                containerd=store.selection.kind is StoreKind.CONTAINERD,
                transfer=store.transfer,
                registries=store.registries,
                runtime=runtime,
                runtime_name=host.default_runtime(config),
                networks=None if config.bridge == "none" else networks,
                state=config.exec_root / "build",
                bus=bus,
                id=await daemon_id(store.database),
                disk=config.data_root,
                collect=store.maintenance.collector.trigger,
            ),
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
            containers=lambda: usage.count_containers(service),
            image_usage=lambda version: usage.image_usage(store.images, version),
            container_usage=lambda version: usage.container_usage(service, version),
            volume_usage=lambda version: usage.volume_usage(service, version),
            build_usage=lambda version: build_cache.disk_usage(builder.solver, version),
            listeners=lambda: bus.subscribers,
            open_files=lambda: len(os.listdir("/proc/self/fd")),
            registries=store.registries,
            warnings=lambda: hidden_warnings(config, store),
        )
        for warning in await hidden_warnings(config, store):
            _log.warning("images_hidden", detail=warning)
        engine = Engine(
            router=Router(),
            store=store,
            config=config,
            sources=sources,
            warm=service.warm,
            restart=anyio.Event(),
        )
        switch = stores.Switch(
            database=store.database,
            selection=store.selection,
            running=lambda: [
                stores.Running(id=each.id, name=each.name) for each in service.all() if each.state.running
            ],
            stop=service.stop,
            restart=engine.restart.set,
        )
        engine.router = make_router(store, service, sources, bus, StoreRoutes(config, store, switch), builder)
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
        ["userxattr", "false"],
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
    service: ContainerService,
    sources: system.Sources,
    bus: Bus,
    stores: lading_routes.Stores,
    builder: Builder,
) -> Router:
    """Every route that is served."""
    router = Router()
    system.add_routes(router, sources)
    event_routes.add_routes(router, bus)
    image_routes.add_routes(router, store.images, store.exchange, driver=store.snapshotter.name)
    container_routes.add_routes(router, service)
    exec_routes.add_routes(router, service)
    file_routes.add_routes(router, service)
    network_routes.add_routes(router, service)
    volume_routes.add_routes(router, service.volumes)
    lading_routes.add_routes(router, store.maintenance, stores)
    absent.add_swarm(router)
    absent.add_plugins(router)
    legacy_build.add_routes(router, builder.legacy)
    build_cache.add_routes(router, builder.solver)
    upgrades.add_routes(
        router,
        grpc=builder.server.serve_grpc,
        session=builder.server.serve_session,
        check_session=builder.server.check_session,
    )
    return router


async def open_runtime(stack: AsyncExitStack, config: Config) -> ShimRuntime:
    """Shims, for containers and for the processes of builds."""
    available = host.runtimes(config)
    return await stack.enter_async_context(
        ShimRuntime(
            config.exec_root / "tasks",
            config.data_root / "tasks",
            namespace=config.containerd_namespace,
            ttrpc_address=str(config.exec_root / "shims.ttrpc"),
            publish_binary=str(await aio.run(aio.DISK, host.publish_binary, config.data_root)),
            runtimes={name: runtime_config(each) for name, each in available.items()},
            debug=config.debug,
        )
    )


async def open_network_service(stack: AsyncExitStack, config: Config, store: Store) -> Networks:
    """Networks, for containers and for the processes of builds."""
    return await stack.enter_async_context(
        open_networks(
            store.database.networks(Namespace(config.containerd_namespace)),
            config.exec_root / "network",
            network_settings(config),
        )
    )


async def open_container_service(
    stack: AsyncExitStack, config: Config, store: Store, runtime: ShimRuntime, networks: Networks
) -> ContainerService:
    """Containers in shims, with those of earlier daemons taken up."""
    available = host.runtimes(config)
    default = host.default_runtime(config)

    async def find(name: str) -> images.Image:
        return (await store.images.find(name)).image

    volumes = await stack.enter_async_context(
        open_volumes(
            store.database.volumes(Namespace(config.containerd_namespace)),
            config.data_root / "volumes" / config.containerd_namespace,
        )
    )
    environment = Environment(
        store=store.database.containers(store.namespace),
        images=StoredImages(
            store.content,
            find=find,
            unpack=store.transfer.ensure_unpacked,
            commit=store.exchange.commit,
        ),
        snapshotter=store.snapshotter,
        differ=store.snapshotter,
        leases=store.leases,
        runtime=runtime,
        bus=store.bus,
        networks=networks,
        volumes=volumes,
        resolving=resolving(config),
        # A sweep deletes what has no record, so each store has directories of its own.
        root=config.data_root / stores.containers_directory(store.selection.kind),
        state=config.exec_root / stores.containers_directory(store.selection.kind),
        runtimes={"": default} | {name: name for name in available},
        cgroup_v2=host.cgroup_version() == "2",
        init_path=host.init_program(),
        init=config.init,
        log_driver=config.log_driver,
        log_options=dict(config.log_opts),
        storage_limit=storage_limit(config, store.snapshotter),
    )
    return await stack.enter_async_context(open_containers(environment))


def storage_limit(config: Config, snapshotter: DirectorySnapshotter) -> int:
    """What writable layers may hold by default. Raises `FailedPreconditionError` if the snapshotter cannot see to it."""
    limit = storage.default_limit(config.storage_opts)
    if limit and Capability.LIMITS not in snapshotter.capabilities:
        raise FailedPreconditionError(
            f"storage-opts: {snapshotter.name} cannot limit the size of a writable layer",
            hint="use erofs or overlayfs, in the containerd image store, or leave the option out",
        )
    if limit:
        room.check(limit)
    return limit


def network_settings(config: Config) -> NetworkSettings:
    """What daemon.json says about networks. Two daemons on one machine need two default bridges, so the name is ours by
    default, and that of a second data-root its own.
    """
    interface = config.bridge or (
        "lading0" if config.data_root == Config().data_root else f"lading-{_short(config.data_root)}"
    )
    return NetworkSettings(
        bridge="" if config.bridge == "none" else interface,
        bip=config.bip,
        mtu=config.mtu,
        pools=config.default_address_pools or DEFAULT_POOLS,
        host_ip=config.ip,
        program=config.lading.netavark,
        resolver=config.lading.aardvark_dns,
    )


def _short(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]


def resolving(config: Config) -> Resolving:
    """What daemon.json says about looking up names."""
    return Resolving(
        servers=config.dns,
        search=config.dns_search,
        options=config.dns_opts,
        host_gateway=next(iter(config.host_gateway_ips), ""),
    )


def runtime_config(entry: Mapping[str, Any]) -> RuntimeConfig:
    """A runtime of daemon.json: a ``path`` to something like runc, or a ``runtimeType`` with ``options``."""
    kind = str(entry.get("runtimeType") or RUNC_V2)
    options: dict[str, Any] = {"BinaryName": str(entry["path"])} if entry.get("path") else {}
    return RuntimeConfig(runtime=kind, options=options | dict(entry.get("options") or {}))


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
