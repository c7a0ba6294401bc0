"""What snapshotters that keep directories share: rows, directories, removal, durability, recovery.

**On disk.** ``<root>/snapshots/<id>/`` holds everything of one snapshot; ``<id>`` is never used twice. A directory is
filled before its row is written, and renamed to ``rm-<id>`` after its row is gone, so that a crash leaves orphans,
never rows without files. `DirectorySnapshotter.sweep` deletes orphans. A root belongs to one namespace of one process.

**Durability**. *lazy*: an unpacked layer's row carries the boot ID until a syncfs(2) after it; a row of
another boot is discarded by `DirectorySnapshotter.recover`, and the layer is unpacked again from its blob. *strict*: syncfs(2)
before the row. `commit` of an active snapshot flushes, with all that it stands on, unless
the caller can make it again.
"""

import contextlib
import os
import threading
from abc import abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Final, Literal

import anyio
import structlog
from typing_extensions import override

from lading.core import metadata
from lading.core.diff import Change, Differ
from lading.core.leases import LeaseID
from lading.core.metadata import SnapshotRow
from lading.core.mounts import Mount
from lading.core.snapshots import (
    NO_LABELS,
    Capability,
    Kind,
    Labels,
    LayerWriter,
    SnapshotInfo,
    SnapshotKey,
    SnapshotName,
    Snapshotter,
    Usage,
)
from lading.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnsupportedError,
)
from lading.kit import fs, linux
from lading.kit.aio import DATA, DISK, run
from lading.kit.failpoints import failpoint
from lading.oci.digest import DiffID
from lading.snapshots import compare, diff, room, trees
from lading.snapshots.diff import Difference
from lading.snapshots.directories import Directories
from lading.snapshots.extract import Extracted, Extractor, budget
from lading.snapshots.faults import translated
from lading.snapshots.flushing import Flushing
from lading.snapshots.pending import LayerExtractor, PendingLayer

Durability = Literal["lazy", "strict"]
LIMIT: Final = "limit"
"""Key in `SnapshotRow.extra`: bytes that an active snapshot may hold, in a file system of its own (see room.py)."""
OPAQUE_ROOT: Final = "opaque-root"
"""Key in `SnapshotRow.extra`: the layer hides all below it, so that its parents are not mounted."""
MAX_LAYER_BYTES: Final = 1 << 40
"""Default of what one layer may hold."""
FLUSH_DELAY: Final = 2.0
"""Seconds between the first unflushed layer and its flush, so that a pull is flushed once."""
_NO_USAGE: Final = Usage(size=0, inodes=0)
_log: Final = structlog.get_logger(__name__)


class DirectorySnapshotter(Snapshotter, Differ):
    """The part of a snapshotter that does not depend on how layers are stacked."""

    mode = 0o700
    """Permissions of the directory that holds them all."""

    def __init__(
        self,
        root: Path,
        rows: metadata.Snapshots,
        *,
        durability: Durability = "lazy",
        boot_id: str,
        max_layer_bytes: int = MAX_LAYER_BYTES,
        flush_delay: float = FLUSH_DELAY,
    ) -> None:
        """Keep snapshots below ``root``, made if it is missing.

        Args:
            root: A directory for this namespace and snapshotter alone.
            rows: The rows of the same.
            durability: See the module.
            boot_id: `lading.kit.linux.boot_id`.
            max_layer_bytes: Most bytes that one layer may hold.
            flush_delay: Seconds that `run` waits for more layers to flush.

        Raises:
            InvalidArgumentError: The path of ``root`` cannot stand in mount options.

        """
        if set(os.fspath(root)) & set(",:\\"):
            raise InvalidArgumentError(
                f"the data-root {str(root)!r} contains a comma, colon or backslash",
                hint="mount options cannot express such a path; choose another",
            )
        self._rows = rows
        self._strict = durability == "strict"
        self._boot_id = boot_id
        self._max_layer_bytes = max_layer_bytes
        self._flush_delay = flush_delay
        self._entering = threading.Lock()
        self._work = anyio.Event()
        self._flushing = Flushing(rows, self._flush)
        self._directories = Directories(
            self._place(Path(os.path.abspath(root))),
            mode=self.mode,
            named=self.directory_name,
            release=self._release,
        )

    # What a kind of storage decides.

    def _make_directory(self, directory: Path) -> None:
        """Make the empty directory of a new snapshot. Blocking."""
        directory.mkdir(mode=0o700)

    @abstractmethod
    def _fill(self, directory: Path, kind: Kind, parents: Sequence[SnapshotRow]) -> None:
        """Make the content of a new active snapshot's or view's directory. Blocking."""

    @abstractmethod
    def _show(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> list[Mount]:
        """The mounts of an active snapshot or view."""

    @abstractmethod
    def _show_committed(self, rows: Sequence[SnapshotRow]) -> list[Mount]:
        """The mounts of a committed snapshot, given its own row and its parents'. Blocking."""

    @abstractmethod
    def _differences(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> Generator[Difference]:
        """How a snapshot differs from its parent. Blocking."""

    def _layer_directory(self, directory: Path) -> Path:
        """Where in a layer's directory the extractor writes."""
        return directory / "fs"

    @abstractmethod
    def _complete(self, directory: Path, extracted: Extracted, parents: Sequence[SnapshotRow]) -> Usage:
        """Finish a layer once its parents are committed. Blocking."""

    def _facts(self, extracted: Extracted) -> dict[str, str]:
        """What the row of a completed layer has to remember."""
        return {OPAQUE_ROOT: "y"} if extracted.opaque_root else {}

    # Where things are.

    def _place(self, root: Path) -> Path:
        """The directory that holds those of all snapshots."""
        return root / "snapshots"

    def directory_name(self, id: int) -> str:
        """The name of a snapshot's directory."""
        return str(id)

    def path(self, id: int) -> Path:
        """The directory of a snapshot."""
        return self._directories.of(id)

    def place(self, row: SnapshotRow) -> Path:
        """Where `_fill` has filled: the directory of a snapshot, or the file system that limits it."""
        return self.path(row.id) / room.POINT if LIMIT in row.extra else self.path(row.id)

    def tree(self, row: SnapshotRow) -> Path:
        """What a snapshot itself holds."""
        return self.place(row) / "fs"

    async def _ready(self, row: SnapshotRow) -> None:
        """Have the file system of a limited snapshot mounted."""
        if LIMIT in row.extra:
            with translated(f"cannot mount the writable layer of {row.info.key}"):
                await run(DISK, self._enter, self.path(row.id))

    def _enter(self, directory: Path) -> None:
        with self._entering:
            room.enter(directory)

    def stack(self, rows: Sequence[SnapshotRow]) -> list[str]:
        """The directories to stack, top first: up to one that hides all below it."""
        found: list[str] = []
        for row in rows:
            found.append(str(self.tree(row)))
            if row.extra.get(OPAQUE_ROOT):
                break
        return found

    # The port.

    @override
    async def stat(self, key: str) -> SnapshotInfo:
        return (await self._rows.get(key)).info

    @override
    async def update(self, key: str, labels: Mapping[str, str | None]) -> SnapshotInfo:
        return (await self._rows.update(key, labels)).info

    @override
    async def walk(self) -> AsyncIterator[SnapshotInfo]:
        for row in await self._rows.list():
            yield row.info

    @override
    async def usage(self, key: str) -> Usage:
        row = await self._rows.get(key)
        if row.info.kind is Kind.COMMITTED:
            return row.usage
        await self._ready(row)
        return await run(DISK, self._measure, self.tree(row))

    @override
    async def mounts(self, key: SnapshotKey) -> list[Mount]:
        row, *parents = await self._rows.chain(key)
        if row.info.kind is Kind.COMMITTED:
            raise FailedPreconditionError(
                f"snapshot {key} is committed", hint="make a view of it to mount it", subject=key
            )
        await self._ready(row)
        return self._show(row, parents)

    @override
    def shown(self, name: SnapshotName) -> AbstractAsyncContextManager[list[Mount]]:
        return self._shown(name)

    @asynccontextmanager
    async def _shown(self, name: SnapshotName) -> AsyncGenerator[list[Mount]]:
        rows = await self._rows.chain(name)
        if rows[0].info.kind is not Kind.COMMITTED:
            raise FailedPreconditionError(
                f"snapshot {name} is {rows[0].info.kind.value}, not committed", subject=name
            )
        yield await run(DISK, self._show_committed, rows)

    @override
    async def prepare(
        self,
        key: SnapshotKey,
        parent: SnapshotName | None,
        *,
        labels: Labels = NO_LABELS,
        lease: LeaseID | None = None,
        durable: bool = True,
        limit: int = 0,
    ) -> list[Mount]:
        if limit and Capability.LIMITS not in self.capabilities:
            raise UnsupportedError(
                f"the snapshotter {self.name} cannot limit the size of a writable layer",
                hint="use erofs or overlayfs, in the containerd image store of a daemon that runs as root",
            )
        return await self._make(Kind.ACTIVE, key, parent, labels, lease, durable=durable, limit=limit)

    @override
    async def view(
        self,
        key: SnapshotKey,
        parent: SnapshotName | None,
        *,
        labels: Labels = NO_LABELS,
        lease: LeaseID | None = None,
    ) -> list[Mount]:
        return await self._make(Kind.VIEW, key, parent, labels, lease)

    @override
    async def commit(
        self,
        name: SnapshotName,
        key: SnapshotKey,
        *,
        labels: Labels = NO_LABELS,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> None:
        row = await self._rows.get(key)
        if row.info.kind is not Kind.ACTIVE:
            raise FailedPreconditionError(f"snapshot {key} is {row.info.kind.value}, not active", subject=key)
        if LIMIT in row.extra:
            raise FailedPreconditionError(
                f"snapshot {key} is limited in size, and cannot become a layer",
                hint="pack its differences into one",
                subject=key,
            )
        usage = await run(DISK, self._measure, self.tree(row))
        if not durable and not self._strict:
            await self._rows.commit(name, key, labels=labels, usage=usage, boot_id=self._boot_id, lease=lease)
            self._flushing.add(row.id)
            self._work.set()
            return
        await self._flushing.run([row.id])
        _, *parents = await self._rows.chain(key)
        if any(parent.boot_id for parent in parents):
            raise DataLossError(
                f"snapshot {key} stands on layers that could not be flushed",
                hint="check the disk, then pull the image again",
                subject=key,
            )
        failpoint("snapshot.flushed")
        await self._rows.commit(name, key, labels=labels, usage=usage, lease=lease)

    @override
    def open_layer(
        self,
        name: SnapshotName,
        parent: SnapshotName | None,
        *,
        diff_id: DiffID,
        compressed_size: int = 0,
        lease: LeaseID | None = None,
    ) -> AbstractAsyncContextManager[LayerWriter]:
        return self._open_layer(name, parent, diff_id, compressed_size, lease)

    @override
    def open_stream(self, name: SnapshotName) -> AbstractAsyncContextManager[int]:
        return self._open_stream(name)

    @asynccontextmanager
    async def _open_stream(self, name: SnapshotName) -> AsyncGenerator[int]:
        row = await self._rows.get(name)
        path = self._stream(row)
        if path is None:
            raise UnsupportedError(f"snapshot {name} keeps no tar stream", subject=name)
        if row.boot_id:
            raise FailedPreconditionError(f"snapshot {name} is not durable yet", subject=name)
        with translated(f"cannot read snapshot {name}"):
            fd = await run(DISK, os.open, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _stream(self, row: SnapshotRow) -> Path | None:  # noqa: ARG002 - for those who keep one
        """The file that holds a layer's tar stream, if there is one."""
        return None

    @override
    async def compare(self, name: SnapshotName, copy: SnapshotName) -> str:
        rows = [await self._rows.get(each) for each in (name, copy)]
        with translated(f"cannot compare snapshot {name}"):
            return await run(DATA, self._compare, *rows)

    def _compare(self, row: SnapshotRow, copy: SnapshotRow) -> str:
        """As `compare`. Blocking."""
        if not self.tree(row).is_dir():
            return "its files are gone"
        with trees.opened(self.tree(row)) as ours, trees.opened(self.tree(copy)) as theirs:
            return compare.difference(ours, theirs)

    @override
    async def replace(self, name: SnapshotName, copy: SnapshotName) -> None:
        if Capability.REPLACES not in self.capabilities:
            raise UnsupportedError(f"the snapshotter {self.name} cannot replace layers", subject=name)
        await self._flushing.run()
        old = await self._rows.replace(name, copy)
        failpoint("snapshot.replaced")
        with anyio.CancelScope(shield=True):
            await run(DISK, self._directories.doom, old.id)
        self._work.set()

    @override
    async def remove(self, key: str) -> None:
        row = await self._rows.delete(key)
        failpoint("snapshot.row-deleted")
        with anyio.CancelScope(shield=True):
            await run(DISK, self._directories.doom, row.id)
        self._work.set()

    @override
    async def sweep(self) -> int:
        await self._find_orphans()
        return await self._directories.delete_doomed()

    # The other port: differences.

    @override
    async def changes(self, key: str) -> list[Change]:
        row, *parents = await self._rows.chain(key)
        await self._ready(row)

        def collect() -> list[Change]:
            with (
                translated(f"cannot compare snapshot {key}"),
                closing(self._differences(row, parents)) as found,
            ):
                return diff.changes(found)

        return await run(DISK, collect)

    @override
    def open_diff(
        self, key: str, *, epoch: int | None = None, without: Collection[str] = ()
    ) -> AbstractAsyncContextManager[Iterator[bytes]]:
        return self._open_diff(key, epoch, without)

    @asynccontextmanager
    async def _open_diff(
        self, key: str, epoch: int | None, without: Collection[str]
    ) -> AsyncGenerator[Iterator[bytes]]:
        row, *parents = await self._rows.chain(key)
        await self._ready(row)
        found = diff.lacking(self._differences(row, parents), frozenset(without))
        stream = diff.archive(found, f"cannot read snapshot {key}", epoch=epoch)
        try:
            yield stream
        finally:
            with anyio.CancelScope(shield=True):
                await run(DISK, stream.close)

    @override
    async def close(self) -> None:
        if self._closed:
            return
        with anyio.CancelScope(shield=True):
            await self.settle()
            await run(DISK, self._leave_all)
        self._directories.close()

    @property
    def _closed(self) -> bool:
        return self._directories.fd < 0

    def _leave_all(self) -> None:
        """Unmount what limits snapshots; what runs in them goes on."""
        for name in os.listdir(self._directories.path):
            with contextlib.suppress(OSError):  # nothing depends on it: it is found mounted the next time
                room.leave(self._directories.path / name)

    def _release(self, directory: Path) -> None:
        """Let go of what is mounted in a directory that is to be deleted. Blocking."""
        room.leave(directory)

    # Life of the process.

    async def recover(self) -> list[str]:
        """Bring directories and rows in agreement after a start; the names that a foreign boot's crash may have damaged.

        They are gone, and are to be unpacked again when they are needed.
        """
        gone = await self._rows.discard_foreign_boots(self._boot_id)
        self._flushing.add(*(row.id for row in await self._rows.list() if row.boot_id == self._boot_id))
        await self._find_orphans()
        return [row.info.key for row in gone]

    async def run(self) -> None:
        """Flush and delete in the background, until cancelled."""
        while True:
            await self._wait_for_work()
            self._work = anyio.Event()
            if self._flushing:
                await anyio.sleep(self._flush_delay)
            await self.settle()

    async def _wait_for_work(self) -> None:
        await self._work.wait()

    async def settle(self) -> None:
        """Do now what `run` does in the background. What fails is logged and left to the next start."""
        await self._directories.delete_doomed()
        await self._flushing.try_run()

    # Steps.

    async def _find_orphans(self) -> None:
        await self._directories.doom_orphans(self._living)
        self._work.set()

    async def _living(self) -> Iterable[int]:
        return (row.id for row in await self._rows.list())

    @asynccontextmanager
    async def _new(self, key: str) -> AsyncGenerator[int]:
        """A fresh directory, deleted unless the block gives it a row."""
        number = await self._rows.allocate()
        self._directories.making.add(number)
        try:
            with translated("cannot make a snapshot"):
                await run(DISK, self._make_directory, self.path(number))
            yield number
        except BaseException as exc:
            with anyio.CancelScope(shield=True):
                if not await self._has_row(key, number):
                    await run(DISK, self._directories.doom, number)
                    self._work.set()
                    if isinstance(exc, ResourceExhaustedError):
                        # Whoever hears that the disk is full finds it as it was before, not still being cleared.
                        await self._directories.delete_doomed()
            raise
        finally:
            self._directories.making.discard(number)

    async def _has_row(self, key: str, id: int) -> bool:
        try:
            return (await self._rows.get(key)).id == id
        except NotFoundError:
            return False

    async def _make(
        self,
        kind: Kind,
        key: SnapshotKey,
        parent: SnapshotName | None,
        labels: Labels,
        lease: LeaseID | None,
        *,
        durable: bool = True,
        limit: int = 0,
    ) -> list[Mount]:
        parents = await self._committed(parent, key)
        if limit:
            room.check(limit)
        async with self._new(key) as number:
            with translated(f"cannot make snapshot {key}"):
                place = self.path(number)
                if limit:
                    place = await run(DATA, room.make, place, limit)
                flush = durable or self._strict
                await run(DATA, self._fill_new, number, place, kind, parents, flush=flush)
            failpoint("snapshot.filled")
            row = await self._rows.create(
                key,
                id=number,
                kind=kind,
                parent=parent,
                labels=labels,
                usage=_NO_USAGE,
                extra={LIMIT: str(limit)} if limit else None,
                lease=lease,
                durable=durable or self._strict,
            )
        return self._show(row, parents)

    async def _parents(self, key: str, parent: SnapshotName | None) -> Sequence[SnapshotRow]:
        try:
            await self._rows.get(key)
        except NotFoundError:
            pass
        else:
            raise AlreadyExistsError(f"snapshot {key} exists", subject=key)
        return await self._committed(parent, key)

    async def _committed(self, parent: SnapshotName | None, key: str) -> Sequence[SnapshotRow]:
        """The row of ``key``'s parent and those that it stands on. Raises as `prepare`."""
        if parent is None:
            return []
        parents = await self._rows.chain(parent)
        if parents[0].info.kind is not Kind.COMMITTED:
            raise InvalidArgumentError(
                f"the parent {parent} of snapshot {key} is not committed", subject=parent
            )
        return parents

    @asynccontextmanager
    async def _open_layer(
        self,
        name: SnapshotName,
        parent: SnapshotName | None,
        diff_id: DiffID,
        compressed_size: int,
        lease: LeaseID | None,
    ) -> AsyncGenerator[LayerWriter]:
        await self._refuse_committed(name, lease)
        async with self._new(name) as number:
            extractor = await run(
                DISK, self._extractor, number, diff_id, compressed_size, lowest=parent is None
            )
            layer = PendingLayer(number, name, parent, diff_id, extractor, lease, self._publish)
            try:
                yield layer
            finally:
                extractor.close()
            if not layer.published:
                await run(DISK, self._directories.doom, number)
                self._work.set()

    async def _refuse_committed(self, name: SnapshotName, lease: LeaseID | None) -> None:
        try:
            row = await self._rows.get(name)
        except NotFoundError:
            return
        if row.info.kind is Kind.COMMITTED and lease is not None:
            await self._rows.hold(name, lease)
        raise AlreadyExistsError(f"snapshot {name} exists", subject=name)

    def _extractor(
        self,
        id: int,
        diff_id: DiffID,  # noqa: ARG002 - for those who note it
        compressed_size: int,
        *,
        lowest: bool,
    ) -> LayerExtractor:
        with translated("cannot begin a layer"):
            target = self._layer_directory(self.path(id))
            target.mkdir(mode=0o700)
            return Extractor(
                target,
                budget=budget(compressed_size, self._max_layer_bytes),
                lowest=lowest,
                overlay_xattrs=trees.overlay_xattrs(),
            )

    async def _publish(self, layer: PendingLayer, extracted: Extracted, labels: Labels) -> bool:
        """Commit an unpacked layer; whether it was this one that came to be visible."""
        try:
            parents = await self._parents(layer.name, layer.parent)
        except AlreadyExistsError:
            return await self._join(layer)
        except (NotFoundError, InvalidArgumentError) as exc:
            raise FailedPreconditionError(
                f"layer {layer.name} cannot be committed before its parent: {exc.message}", subject=layer.name
            ) from exc
        with translated(f"cannot complete layer {layer.name}"):
            usage = await run(DATA, self._complete, self.path(layer.id), extracted, parents)
        failpoint("layer.completed")
        if self._strict:
            await self._flush([layer.id])
        try:
            await self._rows.create(
                layer.name,
                id=layer.id,
                kind=Kind.COMMITTED,
                parent=layer.parent,
                labels=labels,
                usage=usage,
                boot_id="" if self._strict else self._boot_id,
                extra=self._facts(extracted),
                lease=layer.lease,
            )
        except AlreadyExistsError:
            return await self._join(layer)
        failpoint("layer.committed")
        if not self._strict:
            self._flushing.add(layer.id)
            self._work.set()
        return True

    async def _join(self, layer: PendingLayer) -> bool:
        row = await self._rows.get(layer.name)
        if row.info.kind is not Kind.COMMITTED:
            raise AlreadyExistsError(f"snapshot {layer.name} exists and is not committed", subject=layer.name)
        if layer.lease is not None:
            await self._rows.hold(layer.name, layer.lease)
        return False

    async def _flush(self, ids: Sequence[int]) -> None:
        await run(DISK, self._make_durable, ids)

    def _make_durable(self, ids: Sequence[int]) -> None:
        """Flush everything in the directories of these snapshots. Blocking."""
        del ids  # thousands of files each: the file system does it at once
        with translated("cannot flush snapshots"):
            linux.syncfs(self._directories.fd)

    def _fill_new(
        self, id: int, place: Path, kind: Kind, parents: Sequence[SnapshotRow], *, flush: bool
    ) -> None:
        """Fill and flush in one go. Blocking."""
        self._fill(place, kind, parents)
        if place != self.path(id):
            room.flush(self.path(id))
        if flush:
            self._flush_new(id)

    def _flush_new(self, id: int) -> None:
        """Flush what `_fill` made. Blocking.

        The commit of the row does not do it: fdatasync(2) of a log that is written over in place touches no directory.
        """
        with os.scandir(self.path(id)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    fs.fsync_directory(entry.path)
        fs.fsync_directory(self.path(id))
        os.fsync(self._directories.fd)

    def _measure(self, tree: Path) -> Usage:
        with translated("cannot measure a snapshot"), trees.opened(tree) as fd:
            return trees.usage(fd)
