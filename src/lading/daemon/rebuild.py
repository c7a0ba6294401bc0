"""A new database for a data-root whose own is damaged or lost, made without a daemon; nothing on the disk is deleted.

What can be read of the old one comes along (`lading.metadata.recovery`). Blobs without a row are verified and get one again;
manifests and indexes that nothing points to become images without a name. What no row can be made for is set aside in
``lost/<time>/`` below the data-root, at the path that it had: snapshots and containers whose rows are lost, blobs that are
damaged or that nothing refers to, and the old database.

**Crashes.** The new database is made under another name; then what it does not know is set aside, and only then it takes the
place. A run that was cut short is begun again, or finished if all but the last step was done. Until then the daemon finds the
old database, or none, and does not start.
"""

import os
import re
import shutil
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from lading.classic.layout import Layout
from lading.content.files import LocalFiles
from lading.core.labels import GC_REF_CONTENT, GC_REF_SNAPSHOT
from lading.core.metadata import TREE, Database, Namespace
from lading.core.snapshots import Kind
from lading.core.volumes import Volume
from lading.daemon import stores
from lading.daemon.config import Config
from lading.daemon.holdings import Holdings, counted, holdings
from lading.daemon.image_store import DATABASE, SNAPSHOTTERS
from lading.daemon.selection import StoreKind
from lading.errors import LadingError, NotFoundError, PermissionDeniedError
from lading.kit import aio, fs
from lading.metadata.database import SqliteDatabase
from lading.metadata.recovery import Recovered, recover
from lading.oci import config as oci_config
from lading.oci import manifest as oci_manifest
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest
from lading.oci.document import MANIFEST_LIMIT
from lading.oci.manifest import Index, Manifest
from lading.oci.reference import dangling_name
from lading.transfer.labels import child_labels

LOST: Final = "lost"
_ANONYMOUS: Final = re.compile(r"[0-9a-f]{64}")
_FILES: Final = ("", "-wal", "-shm", "-journal")
"""What belongs to a SQLite database, by the ends of the names."""
_BESIDE: Final = (*_FILES, ".lock", ".reserve")


@dataclass(slots=True)
class Report:
    """What was done. ``lost`` is where things were set aside; ``dangling`` counts the images that lost their names."""

    lost: Path
    recovered: Recovered = field(default_factory=Recovered)
    images: int = 0
    containers: int = 0
    blobs: int = 0
    dangling: int = 0
    volumes: int = 0
    aside: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """What was set aside: paths below `lost`, by what they are."""
    running: list[str] = field(default_factory=list[str])
    """Containers that were set aside and run."""


@dataclass(frozen=True, slots=True)
class _Document:
    descriptor: Descriptor
    content: Manifest | Index


async def rebuild(config: Config) -> Report:
    """Make the new database and set aside what it does not know.

    Raises:
        LockedError: A daemon uses the data-root.
        NotFoundError: There is neither a database nor anything to make one of.
        NewerSchemaError: A newer Lading wrote the database.

    """
    async with _locked(config.data_root):
        return await _Rebuild(config).run()


@asynccontextmanager
async def _locked(root: Path) -> AsyncGenerator[None]:
    if not root.is_dir():
        raise NotFoundError(f"there is no data-root {root}", hint="give --data-root as the daemon has it")
    try:
        lock = fs.FileLock(root / f"{DATABASE}.lock")
    except OSError as exc:
        raise PermissionDeniedError(
            f"cannot write to {root}: {exc.strerror}", hint="run it as the user that the daemon runs as"
        ) from exc
    try:
        yield
    finally:
        lock.close()


class _Rebuild:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._root = config.data_root
        self._database = self._root / DATABASE
        self._draft = self._root / f"{DATABASE}.rebuilding"
        self._ready = self._root / f"{DATABASE}.rebuilt"
        self._files = LocalFiles(self._root / "content")
        self._report = Report(lost=self._root / LOST / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ"))
        self._aside: list[tuple[str, Path]] = []

    async def run(self) -> Report:
        held = await aio.run(aio.DISK, holdings, self._root)
        if self._ready.exists() and not self._database.exists():  # a crash came before the last step
            await aio.run(aio.DISK, self._take_place)
            return self._report
        if not self._database.exists() and not held.words():
            raise NotFoundError(
                f"{self._root} holds nothing to rebuild: the daemon starts with a new database"
            )
        self._report.recovered = await aio.run(aio.DISK, self._recover, held)
        async with SqliteDatabase.open(self._draft, reserve=0) as database:
            await self._complete(database, held)
        await aio.run(aio.DISK, self._set_aside)
        await aio.run(aio.DISK, self._take_place)
        return self._report

    def _recover(self, held: Holdings) -> Recovered:
        copy = self._root / f"{DATABASE}.reading"
        for path in (copy, self._draft, self._ready):
            _remove(path)
        for end in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{self._database}{end}", f"{copy}{end}")
        try:
            return recover(
                copy, self._draft, last_snapshot=max((each.id for each in held.snapshots), default=0)
            )
        finally:
            _remove(copy)

    async def _complete(self, database: SqliteDatabase, held: Holdings) -> None:
        """Rows for what the disk has, and a list of what has none."""
        base = Namespace(self._config.containerd_namespace)
        namespaces = {base, *await database.namespaces()}
        for namespace in namespaces:
            await self._drop_halves(database, namespace)
        known = {
            (snapshotter, namespace, row.id)
            for namespace in namespaces
            for snapshotter in SNAPSHOTTERS
            for row in await database.snapshots(namespace, snapshotter).list()
        }
        for directory in held.snapshots:
            if (directory.snapshotter, directory.namespace, directory.id) not in known:
                self._aside.append(("snapshot", directory.path))
        await self._classic_mounts(database, held)
        for kind in StoreKind:
            here = {
                record.id
                for record in await database.containers(stores.namespace_of(self._config, kind)).list()
            }
            self._report.containers += len(here)
            gone = [path for each, path in held.containers if each is kind and path.name not in here]
            self._aside += [("container", path) for path in gone]
            tasks = self._config.exec_root / "tasks" / base
            self._report.running += [
                path.name for path in gone if await aio.run(aio.DISK, stores.lives, tasks / path.name)
            ]
        await self._volumes(database, held)
        await self._blobs(database, base, namespaces, held)

    async def _drop_halves(self, database: Database, namespace: Namespace) -> None:
        """Drop the rows of containers without their snapshot, and of writable snapshots that nobody holds, which go to ``lost``.

        The collector would delete these: who held them may be among the lost rows.
        """
        rows = {
            (snapshotter, row.info.key): row.info.kind
            for snapshotter in (*SNAPSHOTTERS, "overlay2")
            for row in await database.snapshots(namespace, snapshotter).list()
        }
        leases = database.leases(namespace)
        used = {
            (resource.snapshotter, resource.id)
            for lease in await leases.list()
            for resource in await leases.resources(lease.id)
            if resource.kind == "snapshot"
        }
        containers = database.containers(namespace)
        for record in await containers.list():
            key = (record.snapshotter, record.snapshot_key)
            if record.snapshot_key and key not in rows:
                await containers.delete(record.id)
            used.add(key)
        for (snapshotter, key), kind in rows.items():
            if kind is not Kind.COMMITTED and (snapshotter, key) not in used:
                await database.snapshots(namespace, snapshotter).delete(key)

    async def _classic_mounts(self, database: Database, held: Holdings) -> None:
        rows = database.snapshots(stores.namespace_of(self._config, StoreKind.CLASSIC), "overlay2")
        trees = {row.extra.get(TREE) for row in await rows.list()}
        place = Layout(self._root)
        for mount in held.mounts:
            if mount.tree not in trees:
                self._aside += [("snapshot", place.trees / mount.tree), ("mount", place.mounts / mount.name)]

    async def _volumes(self, database: Database, held: Holdings) -> None:
        known = {
            (namespace, volume.name)
            for namespace in {each for each, _ in held.volumes}
            for volume in await database.volumes(namespace).list()
        }
        for namespace, path in held.volumes:
            if (namespace, path.name) not in known:
                made = path.stat().st_mtime_ns
                volume = Volume(
                    name=path.name, created=made, anonymous=_ANONYMOUS.fullmatch(path.name) is not None
                )
                await database.volumes(namespace).create(volume)
                self._report.volumes += 1

    async def _blobs(
        self, database: Database, base: Namespace, namespaces: Collection[Namespace], held: Holdings
    ) -> None:
        classic = stores.namespace_of(self._config, StoreKind.CLASSIC)
        left = dict(held.blobs)
        pointed: dict[Namespace, set[Digest]] = {namespace: set() for namespace in namespaces}
        documents: dict[Namespace, dict[Digest, _Document]] = {namespace: {} for namespace in namespaces}
        for namespace in namespaces:
            for info in await database.blobs(namespace).list():
                left.pop(info.digest, None)
                if any(label.startswith(GC_REF_CONTENT) for label in info.labels):
                    document = await aio.run(aio.DISK, self._document, info.digest, info.size)
                    if document is not None:
                        documents[namespace][info.digest] = document
        for digest, size in list(left.items()):
            if not await aio.run(aio.DATA, self._is_whole, digest):
                self._aside.append(("damaged blob", self._files.blob(digest)))
                del left[digest]
            elif (document := await aio.run(aio.DISK, self._document, digest, size)) is not None:
                documents[base][digest] = document
        for namespace, found in documents.items():
            for document in found.values():
                pointed[namespace] |= {child.digest for child in oci_manifest.children(document.content)}
            await self._add_blobs(database, namespace, found, pointed[namespace], left)
            images = database.images(namespace)
            targets = {record.target.digest for record in await images.list()}
            if namespace != classic:
                for digest in found.keys() - pointed[namespace] - targets:
                    await images.put(dangling_name(digest), found[digest].descriptor)
                    self._report.dangling += 1
            self._report.images += len(targets)
        referred = {digest for each in (*pointed.values(), *documents.values()) for digest in each}
        self._aside += [("blob", self._files.blob(digest)) for digest in left.keys() - referred]

    async def _add_blobs(
        self,
        database: Database,
        namespace: Namespace,
        documents: Mapping[Digest, _Document],
        pointed: Collection[Digest],
        left: Mapping[Digest, int],
    ) -> None:
        wanted = {digest: size for digest, size in left.items() if digest in documents or digest in pointed}
        labels: dict[Digest, dict[str, str]] = {}
        for digest in wanted:
            if digest in documents:
                labels[digest] = child_labels(documents[digest].content)
        trees = {
            (snapshotter, row.info.key)
            for snapshotter in SNAPSHOTTERS
            for row in await database.snapshots(namespace, snapshotter).list()
            if row.info.kind is Kind.COMMITTED
        }
        for document in documents.values():
            if isinstance(document.content, Manifest) and document.content.config.digest in wanted:
                top = await aio.run(aio.DISK, self._top, document.content.config.digest)
                labels[document.content.config.digest] = {
                    f"{GC_REF_SNAPSHOT}{snapshotter}": key for snapshotter, key in trees if key == top
                }
        await database.blobs(namespace).add_many(wanted, labels=labels)
        self._report.blobs += len(wanted)

    def _is_whole(self, digest: Digest) -> bool:
        try:
            return self._files.rehash(self._files.blob(digest), digest)
        except OSError:  # the disk cannot read it
            return False

    def _document(self, digest: Digest, size: int) -> _Document | None:
        """The manifest or index that a blob is, or ``None``."""
        if size > MANIFEST_LIMIT:
            return None
        try:
            body = self._files.blob(digest).read_bytes()
            media_type = oci_manifest.media_type_of(body)
            content = oci_manifest.parse(body, media_type)
        except (LadingError, OSError):
            return None
        return _Document(Descriptor(media_type=media_type, digest=digest, size=len(body)), content)

    def _top(self, config: Digest) -> str | None:
        """The chain ID of the layers of an image, by its config."""
        try:
            chain = oci_config.parse(self._files.blob(config).read_bytes(), what=f"config {config}").chain
        except (LadingError, OSError):
            return None
        return chain[-1] if chain else None

    def _set_aside(self) -> None:
        for what, path in self._aside:
            place = path.relative_to(self._root)
            target = self._report.lost / place
            fs.make_directories(target.parent, mode=0o700)
            with suppress(FileNotFoundError):  # of a mount whose tree is gone
                os.rename(path, target)
                self._report.aside.setdefault(what, []).append(str(place))
                fs.fsync_directory(target.parent)
                fs.fsync_directory(path.parent)

    def _take_place(self) -> None:
        if self._draft.exists() and not self._ready.exists():
            os.rename(self._draft, self._ready)
        for end in _BESIDE[1:]:
            with suppress(FileNotFoundError):
                os.unlink(f"{self._draft}{end}")
        fs.fsync_directory(self._root)
        fs.make_directories(self._report.lost, mode=0o700)
        for end in _FILES:
            with suppress(FileNotFoundError):
                os.rename(f"{self._database}{end}", self._report.lost / f"{DATABASE}{end}")
        fs.fsync_directory(self._report.lost)
        fs.fsync_directory(self._root)
        os.rename(self._ready, self._database)
        fs.fsync_directory(self._root)


def _remove(path: Path) -> None:
    for end in _BESIDE:
        with suppress(FileNotFoundError):
            os.unlink(f"{path}{end}")


def words(report: Report) -> list[str]:
    """What to tell of a report, line by line."""
    said = [
        "nothing of the old database could be read"
        if table == "all"
        else f"not all of the old database's table {table} could be read: {why}"
        for table, why in report.recovered.damaged.items()
    ]
    kept = counted((report.images, "image"), (report.containers, "container"))
    made = counted((report.blobs, "blob"), (report.volumes, "volume"))
    said.append(f"kept: {kept}; rows made again for {made}")
    if report.dangling:
        said.append(
            f"{counted((report.dangling, 'image'))} lost the name: docker images -a shows it, docker tag names it again"
            if report.dangling == 1
            else f"{report.dangling} images lost their names: docker images -a shows them, docker tag names them again"
        )
    for what, paths in sorted(report.aside.items()):
        said += [f"set aside: {what} {path}" for path in sorted(paths)]
    said += [
        f"container {each} still runs, and no daemon will know it: end its processes"
        for each in report.running
    ]
    said.append(f"the old database, and what the new one does not know, is in {report.lost}")
    return said


def as_json(report: Report) -> dict[str, Any]:
    """The same for programs."""
    return {
        "Unreadable": report.recovered.damaged,
        "Images": report.images,
        "Containers": report.containers,
        "Blobs": report.blobs,
        "Volumes": report.volumes,
        "Dangling": report.dangling,
        "SetAside": report.aside,
        "Running": report.running,
        "Lost": str(report.lost),
    }
