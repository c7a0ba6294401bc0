"""The image store, put together: what the daemon serves and the library shares.

The snapshotter is looked up by name, in `SNAPSHOTTERS`; everything else is built once, from what stands above it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from lading.content.local import LocalContentStore, utc_now
from lading.core import content, facts, images, leases, metadata
from lading.core.classic import ClassicStore
from lading.core.events import Bus
from lading.core.metadata import Namespace
from lading.daemon import stores
from lading.daemon.config import Config, LadingSettings
from lading.daemon.fsck import Checker
from lading.daemon.maintenance import StoreMaintenance
from lading.daemon.registries import ReloadableRegistries
from lading.daemon.selection import SETTING, Selection, StoreKind, messages
from lading.devices import local
from lading.devices.local import LocalDevices
from lading.errors import FailedPreconditionError
from lading.gc.collector import Collector
from lading.images.exchange import ImageExchange
from lading.images.removal import Use
from lading.images.service import ImageService
from lading.kit import aio, linux
from lading.metadata.database import SqliteDatabase
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform
from lading.oci.digest import Digest
from lading.snapshots import erofs, overlay
from lading.snapshots.base import DirectorySnapshotter
from lading.snapshots.erofs import ErofsSnapshotter
from lading.snapshots.native import NativeSnapshotter
from lading.snapshots.overlay import OverlaySnapshotter
from lading.transfer.restoring import LayerRestorer, Releaser
from lading.transfer.service import TransferService
from lading.unpack.checking import LayerChecker

_log: Final = structlog.get_logger(__name__)
DATABASE: Final = "lading.db"
_FACTS_HOST: Final = "facts-host"


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


def _has_database(root: Path) -> bool:
    """Whether there is one; an empty file is as good as none."""
    try:
        return (root / DATABASE).stat().st_size > 0
    except FileNotFoundError:
        return False


async def open_store(stack: AsyncExitStack, config: Config, bus: Bus, uses: Uses) -> Store:
    """Open the store of a data root for this process alone; ``stack`` closes it, in reverse.

    Raises `LockedError` if another process has it; `FailedPreconditionError` if no snapshotter works here; `DataLossError` if the
    database is damaged, or is lost while what it knew is there.
    """
    if not await aio.run(aio.DISK, _has_database, config.data_root):
        from lading.daemon.holdings import refuse_new_database  # noqa: PLC0415 - a usual start needs none of it

        await aio.run(aio.DISK, refuse_new_database, config.data_root, DATABASE)
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
        stores.check_layers_kept(config.lading.layers_keep)
        lock = await aio.run(aio.DISK, stores.keep_dockerd_out, config.data_root)
        if lock is not None:
            stack.callback(os.close, lock)
        rows = database.snapshots(namespace, selection.driver)
        classic = await stores.open_classic(
            config, snapshots=rows, records=records, blobs=store, leases=lease_manager
        )
        records = classic.records
    snapshotter: DirectorySnapshotter = (
        classic.snapshotter
        if classic
        else await open_snapshotter(config, database, selection.driver, store.open_file)
    )
    stack.push_async_callback(snapshotter.close)
    registries = ReloadableRegistries(config)
    stack.push_async_callback(registries.close)
    restorer = LayerRestorer(snapshotter, registries)
    store.restore_by(restorer)
    releaser = Releaser(store, snapshotter, budget=None, refetch=False)
    machine = platforms.host()
    await keep_facts_of(fact_rows, database, machine)
    collector = Collector(
        database,
        namespace,
        content=store,
        snapshotters={snapshotter.name: snapshotter},
        clock=utc_now,
        interval=timedelta(seconds=config.lading.gc_interval),
    )
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
        differ=snapshotter,
        packed=classic is None,
        collect=collector.trigger,
        max_downloads=config.max_concurrent_downloads,
        max_uploads=config.max_concurrent_uploads,
    )
    await transfer.recover()

    async def running() -> Mapping[str, str]:
        return await stores.running_on(
            database.containers(namespace), database.snapshots(namespace, snapshotter.name), uses()
        )

    maintenance = StoreMaintenance(
        database=database,
        namespace=namespace,
        content=store,
        snapshots=snapshotter,
        driver=snapshotter.name,
        collector=collector,
        checker=Checker(
            store=store,
            records=records,
            leases=lease_manager,
            registries=registries,
            restorer=restorer,
            layers=LayerChecker(store, transfer.unpacker, packed=classic is None),
            running=running,
            classic=classic.store if classic else None,
        ),
        data_root=config.data_root,
        releaser=releaser,
    )

    async def used() -> Sequence[Use]:
        return uses()

    make_service, make_exchange = _classic_services(classic) if classic else (ImageService, ImageExchange)
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
    keep_layers(config, snapshotter, releaser)
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


def _classic_services(
    classic: stores.Classic,
) -> tuple[Callable[..., ImageService], Callable[..., ImageExchange]]:
    from lading.images.classic import ClassicExchange, ClassicImageService  # noqa: PLC0415 - as `stores.open_classic`

    return (
        partial(ClassicImageService, classic=classic.store),
        partial(ClassicExchange, classic=classic.store),
    )


def keep_layers(config: Config, snapshotter: DirectorySnapshotter, releaser: Releaser) -> None:
    """Do as the configuration says about what is kept of layers, also while the store is in use."""
    budgets = dict.fromkeys(("both", "compressed", "unpacked")) | {
        config.lading.layers_keep: config.lading.layers_cache
    }
    releaser.refetch = config.lading.layers_refetch
    releaser.budget = budgets["unpacked"]
    if isinstance(snapshotter, ErofsSnapshotter):
        snapshotter.cache_within(budgets["compressed"])


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


def _keeps(settings: LadingSettings) -> bool:
    """Whether any snapshotter can do what the configuration says about layers."""
    return settings.layers_keep == "both" or (settings.layers_keep == "unpacked" and settings.layers_refetch)


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
            more = {"open_blob": open_blob, "devices": await _devices(root)}
        elif not _keeps(config.lading):
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


async def _devices(root: Path) -> LocalDevices | None:
    """What decodes layers while they are read, if this machine can."""
    problem = await aio.run(aio.DISK, local.probe)
    if problem:
        _log.info("layers_are_decoded_whole", reason=problem)
        return None
    return LocalDevices(root)
