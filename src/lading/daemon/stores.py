"""The two image stores of a data-root: how each is opened, what the other one hides, and the switch between them."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from lading.classic import layout
from lading.classic.imagedb import ImageDatabase, Names
from lading.classic.layout import Layout
from lading.content.local import LocalContentStore
from lading.core import containers, content, images, leases, metadata
from lading.core.metadata import Namespace
from lading.daemon.config import Config
from lading.daemon.selection import SETTING, Asked, Selection, StoreKind, parse_kind, select
from lading.errors import (
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    NotModifiedError,
)
from lading.images.removal import Use
from lading.kit import aio, linux
from lading.kit.fs import LockedError
from lading.kit.tasks import map_tasks
from lading.snapshots import overlay

if TYPE_CHECKING:  # what follows is imported by the daemons that need it
    from lading.classic.records import ClassicRecords
    from lading.classic.source import LocalClassicSource
    from lading.classic.store import LocalClassicStore
    from lading.snapshots.overlay2 import Overlay2Snapshotter

_log: Final = structlog.get_logger(__name__)
_CONNECT_SECONDS: Final = 1.0


def namespace_of(config: Config, kind: StoreKind) -> Namespace:
    """Where the database keeps what belongs to a store: blobs, images, leases, snapshots, containers."""
    base = config.containerd_namespace
    return Namespace(base if kind is StoreKind.CONTAINERD else f"{base}.classic")


def containers_directory(kind: StoreKind) -> str:
    """The directory, in the data-root and in the exec-root, for the files of a store's containers."""
    return "containers" if kind is StoreKind.CONTAINERD else "containers.classic"


async def selected(config: Config, database: metadata.Database) -> Selection:
    """Which store to open; raises as `lading.daemon.selection.select`."""
    chosen = await database.setting(SETTING)
    prior = await aio.run(aio.DISK, layout.prior_driver, config.data_root)
    asked = Asked(
        flag=config.containerd_snapshotter,
        driver=config.storage_driver,
        chosen=parse_kind(chosen or ""),
        prior=prior,
    )
    return select(asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classic:
    """An open classic store."""

    records: "ClassicRecords"
    snapshotter: "Overlay2Snapshotter"
    store: "LocalClassicStore"


def check_layers_kept(wanted: str) -> None:
    """Raise `FailedPreconditionError` if the classic store cannot keep layers as the configuration says."""
    if wanted != "both":
        raise FailedPreconditionError(
            f"the classic store cannot keep layers {wanted}",
            hint="remove lading.layers-keep from the configuration, or use the containerd store",
        )


def keep_dockerd_out(data_root: Path) -> int | None:
    """Hold what a dockerd holds that uses this data-root; a descriptor to keep open. ``None`` where none ever ran.

    It is the lock of dockerd's database of volumes (bbolt takes flock(2)): neither starts while the other has it.

    Raises:
        LockedError: A dockerd uses the data-root.

    """
    try:
        fd = os.open(data_root / "volumes" / "metadata.db", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise LockedError(
            f"a dockerd uses the data-root {data_root}", hint="stop it first, or choose another --data-root"
        ) from exc
    return fd


async def open_classic(
    config: Config,
    *,
    snapshots: metadata.Snapshots,
    records: images.Store,
    blobs: content.Store,
    leases: leases.Manager,
) -> Classic:
    """Open the classic store of a data-root, and learn what dockerd did to it meanwhile.

    Raises `FailedPreconditionError` if overlayfs does not work there; `DataLossError` if its list of names is malformed.
    """
    from lading.classic.records import ClassicRecords  # noqa: PLC0415 - most daemons have the other store
    from lading.classic.rows import LayerRows  # noqa: PLC0415
    from lading.classic.store import LocalClassicStore  # noqa: PLC0415
    from lading.classic.sync import Stores, sync  # noqa: PLC0415
    from lading.snapshots.overlay2 import Overlay2Snapshotter  # noqa: PLC0415

    root = config.data_root
    place = Layout(root)
    problem = await aio.run(aio.DISK, overlay.probe, place.trees)
    if problem:
        raise FailedPreconditionError(f'driver "overlay2" failed to start: {problem}')
    await aio.run(aio.DISK, place.make)
    found = await sync(place, Stores(snapshots=snapshots, records=records, content=blobs, leases=leases))
    _log.info(
        "classic_store_opened",
        images=found.images,
        layers=found.layers,
        changed=found.changed,
        not_opened=found.skipped,
    )
    rows = LayerRows(snapshots, place)
    await rows.load()
    snapshotter = Overlay2Snapshotter(root, rows, durability="strict", boot_id=linux.boot_id())
    await snapshotter.recover()
    kept = ClassicRecords(records, ImageDatabase(place), Names(place), leases)
    return Classic(records=kept, snapshotter=snapshotter, store=LocalClassicStore(place, kept, blobs, leases))


async def hidden(config: Config, database: metadata.Database, kind: StoreKind) -> Mapping[str, int]:
    """How many images and containers the store ``kind`` has, which is not in use."""
    namespace = namespace_of(config, kind)
    containers = len(await database.containers(namespace).list())
    if kind is StoreKind.CONTAINERD:
        targets = {record.target.digest for record in await database.images(namespace).list()}
        return {"images": len(targets), "containers": containers}
    images_ = await aio.run(aio.DISK, ImageDatabase(Layout(config.data_root)).ids)
    return {"images": len(images_), "containers": containers}


def classic_source(config: Config, database: metadata.Database) -> "LocalClassicSource":
    """The classic store of a data-root, to be read while the other one is in use."""
    from lading.classic.source import LocalClassicSource  # noqa: PLC0415 - only for a migration

    namespace = namespace_of(config, StoreKind.CLASSIC)
    blobs = LocalContentStore(config.data_root / "content", database.blobs(namespace), namespace=namespace)
    return LocalClassicSource(Layout(config.data_root), blobs)


class _Bootstrap(msgspec.Struct):
    address: str = ""


async def refuse_orphans(config: Config, database: metadata.Database, kind: StoreKind) -> None:
    """Raise `FailedPreconditionError` if containers of the store that is not in use are running: nobody would look after them."""
    records = await database.containers(namespace_of(config, kind.other)).list()
    state = config.exec_root / "tasks" / config.containerd_namespace
    running = [
        record.name or record.id for record in records if await aio.run(aio.DISK, lives, state / record.id)
    ]
    if running:
        raise FailedPreconditionError(
            f"{len(running)} running container(s) of the {kind.other.value} image store would be orphaned: "
            f"{', '.join(running[:5])}",
            hint=f"start with the {kind.other.value} store, then lading store use {kind.value} --stop",
        )


def lives(bundle: Path) -> bool:
    """Whether the shim of a bundle answers. Blocking."""
    try:
        address = msgspec.json.decode((bundle / "bootstrap.json").read_bytes(), type=_Bootstrap).address
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CONNECT_SECONDS)
            probe.connect(address.removeprefix("unix://"))
    except (OSError, msgspec.DecodeError):
        return False
    return True


async def running_on(
    containers: containers.Store, snapshots: metadata.Snapshots, uses: Sequence[Use]
) -> Mapping[str, str]:
    """The snapshots that running containers stand on, each with the name of such a container."""
    parents = {row.info.key: row.info.parent for row in await snapshots.list()}
    running = {use.container for use in uses if use.running}
    found: dict[str, str] = {}
    for record in await containers.list():
        key: str | None = record.snapshot_key
        while record.id in running and key and key not in found:
            found[key] = record.name
            key = parents.get(key)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A running container, as the switch needs it."""

    id: str
    name: str


@dataclass(slots=True, kw_only=True)
class Switch:
    """Chooses the store of the next life of the engine.

    Args:
        database: Remembers the choice.
        selection: What is in use, and why.
        running: The containers that run now.
        put_away: Stops one for as long as its store is hidden.
        restart: Asks for that next life; returns at once.
        layers_keep: What the configuration says of layers, which the classic store keeps unpacked only.

    """

    database: metadata.Database
    selection: Selection
    running: Callable[[], Sequence[Running]]
    put_away: Callable[[str], Awaitable[object]]
    restart: Callable[[], None]
    layers_keep: Callable[[], str]

    async def use(self, text: str, *, stop: bool) -> bool:
        """Switch to a store; whether anything changes. The engine is opened again after the answer.

        Raises:
            InvalidArgumentError: There is no such store.
            FailedPreconditionError: The configuration says which store to use.
            ConflictError: Containers are running, and ``stop`` was not said.

        """
        kind = parse_kind(text)
        if kind is None:
            raise InvalidArgumentError(
                f"there is no image store {text[:64]!r}", hint="use containerd or classic"
            )
        if kind is self.selection.kind:
            return False
        if self.selection.explicit:
            raise FailedPreconditionError(
                "features.containerd-snapshotter in the configuration says which image store to use",
                hint="change it there and restart the daemon, or remove it",
            )
        if kind is StoreKind.CLASSIC:
            check_layers_kept(self.layers_keep())
        running = self.running()
        if running and not stop:
            names = ", ".join(each.name or each.id[:12] for each in running[:5])
            raise ConflictError(
                f"{len(running)} running container(s) would be hidden with the {self.selection.kind.value} store: {names}",
                hint="stop them first, or say --stop",
            )
        await map_tasks(self._put_away, running, limit=len(running))
        await self.database.set_setting(SETTING, kind.value)
        self.restart()
        return True

    async def _put_away(self, container: Running) -> None:
        with contextlib.suppress(NotFoundError, NotModifiedError):  # it has ended by itself meanwhile
            await self.put_away(container.id)
