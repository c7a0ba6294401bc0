"""`SqliteDatabase`: one file, one process, one writer thread."""

import os
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import anyio
from typing_extensions import override

from lading.core import metadata
from lading.core.metadata import Graph, Marked, Namespace, Node
from lading.errors import PermissionDeniedError
from lading.kit import aio, fs
from lading.kit.sqlite import Connection, Readers, connect
from lading.metadata import graph as graphs
from lading.metadata import marking
from lading.metadata.blobs import SqliteBlobs
from lading.metadata.buildcache import SqliteBuildCache
from lading.metadata.builds import SqliteBuilds
from lading.metadata.containers import SqliteContainers
from lading.metadata.facts import SqliteFacts
from lading.metadata.images import SqliteImages
from lading.metadata.leases import SqliteLeases
from lading.metadata.migrate import migrate, released
from lading.metadata.networks import SqliteNetworks, SqliteVolumes
from lading.metadata.session import Session
from lading.metadata.snapshots import SqliteSnapshots

RESERVE: Final = 32 * 1024 * 1024
"""Most bytes of the reserve file on the data-root's disk, which is given up so that images can be removed when it is full."""
_RESERVE_LEAST: Final = 1024 * 1024
"""What that file has at the least. It is as large as the log, all of whose pages a checkpoint may have to add to the database
file, and as the database, which is more than one deletion can change."""
_LOG_SPACE: Final = 1024 * 1024
"""Bytes reserved for the write-ahead log from the start: many times what removing an image writes."""
_FILE_SPACE: Final = 256 * 1024
"""Bytes reserved behind the end of the database file, for pages that a checkpoint adds."""
_NAMESPACES: Final = " UNION ".join(
    f"SELECT namespace FROM {table}"  # noqa: S608 -- constants
    for table in ("blob", "ingest", "image", "lease", "snapshot", "container", "network", "volume")
)


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class SqliteDatabase(metadata.Database):
    """`metadata.Database` in one SQLite file.

    When the disk is full, changes that delete go on: the log has space of its own, which is used from the beginning again, and
    a reserve file is given up for them.
    """

    def __init__(self, session: Session, held: "_Held", lock: fs.FileLock) -> None:
        self._session = session
        self._held = held
        self._lock = lock

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: str | Path,
        *,
        clock: Callable[[], datetime] = utc_now,
        reserve: int = RESERVE,
        schema: Sequence[str] | None = None,
    ) -> AsyncGenerator[Self]:
        """Open or create the database file ``path``, for this process alone.

        Raises:
            LockedError: Another process has it open.
            NewerSchemaError: A newer Lading wrote it.
            DataLossError: It is damaged.
            PermissionDeniedError: It cannot be written.

        """
        database = await aio.run(
            aio.DISK, cls._open, Path(path), clock, reserve, released() if schema is None else schema
        )
        try:
            yield database
        finally:
            with anyio.CancelScope(shield=True):
                await database.close()

    @classmethod
    def _open(cls, path: Path, clock: Callable[[], datetime], reserve: int, schema: Sequence[str]) -> Self:
        try:
            lock = fs.FileLock(path.with_name(f"{path.name}.lock"))
        except OSError as exc:
            raise PermissionDeniedError(
                f"cannot open the database {path}: {exc.strerror}",
                hint="the data-root must exist on a writable file system",
                subject=str(path),
            ) from exc
        try:
            migrate(path, schema)
            held = _Held(path, reserve)
        except BaseException:
            lock.close()
            raise
        try:
            connection = connect(path)
            held.begin()
            session = Session(
                connection,
                Readers(path),
                name=str(path),
                clock=clock,
                make_room=held.release,
                committed=held.restore,
            )
        except BaseException:
            held.close()
            lock.close()
            raise
        return cls(session, held, lock)

    @override
    def blobs(self, namespace: Namespace) -> SqliteBlobs:
        return SqliteBlobs(self._session, namespace)

    @override
    def snapshots(self, namespace: Namespace, snapshotter: str) -> SqliteSnapshots:
        return SqliteSnapshots(self._session, namespace, snapshotter)

    @override
    def images(self, namespace: Namespace) -> SqliteImages:
        return SqliteImages(self._session, namespace)

    @override
    def facts(self, namespace: Namespace) -> SqliteFacts:
        return SqliteFacts(self._session, namespace)

    @override
    def leases(self, namespace: Namespace) -> SqliteLeases:
        return SqliteLeases(self._session, namespace)

    @override
    def containers(self, namespace: Namespace) -> SqliteContainers:
        return SqliteContainers(self._session, namespace)

    @override
    def builds(self, namespace: Namespace) -> SqliteBuilds:
        return SqliteBuilds(self._session, namespace)

    @override
    def build_cache(self, namespace: Namespace) -> SqliteBuildCache:
        return SqliteBuildCache(self._session, namespace)

    @override
    def networks(self, namespace: Namespace) -> SqliteNetworks:
        return SqliteNetworks(self._session, namespace)

    @override
    def volumes(self, namespace: Namespace) -> SqliteVolumes:
        return SqliteVolumes(self._session, namespace)

    @override
    async def namespaces(self) -> list[Namespace]:
        return await self._session.read(
            lambda connection: sorted(Namespace(str(row[0])) for row in connection.execute(_NAMESPACES))
        )

    @override
    async def graph(self, namespace: Namespace, *, now: datetime) -> Graph:
        # Before the read begins: what is committed in between then counts as newer than the graph, which is safe.
        version = self._session.version(namespace)
        return await self._session.read(
            lambda connection: graphs.read(connection, namespace, now=now, version=version)
        )

    @override
    async def mark(self, namespace: Namespace, *, now: datetime, without: Collection[str] = ()) -> Marked:
        version = self._session.version(namespace)
        return await self._session.read(
            lambda connection: marking.mark(connection, namespace, now=now, version=version, without=without)
        )

    @override
    async def condemn(
        self, namespace: Namespace, nodes: Sequence[Node], *, version: int, now: datetime
    ) -> list[Node]:
        def job(connection: Connection) -> list[Node]:
            self._session.images_changed(namespace)
            touched = self._session.touched(namespace, version)
            if touched is None:
                garbage = marking.mark(connection, namespace, now=now, version=version).garbage
                return graphs.delete(connection, namespace, [node for node in nodes if node in garbage])
            return graphs.condemn(connection, namespace, nodes, touched=touched)

        return await self._session.write(namespace, job, frees=True)

    @override
    def exclusive(self) -> AbstractAsyncContextManager[None]:
        return self._session.exclusive()

    @override
    async def setting(self, key: str) -> str | None:
        def job(connection: Connection) -> str | None:
            row = connection.execute("SELECT value FROM setting WHERE key = ?", (key,)).fetchone()
            return None if row is None else row[0]

        return await self._session.read(job, few=True)

    @override
    async def set_setting(self, key: str, value: str) -> None:
        def job(connection: Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO setting (key, value) VALUES (?, ?)", (key, value))

        await self._session.write(None, job)

    async def backup(self, target: str | Path) -> None:
        """Write a whole, consistent copy to a new file, while others read and write."""

        def job(connection: Connection) -> None:
            connection.execute("COMMIT")  # VACUUM brings a transaction of its own
            connection.execute("VACUUM INTO ?", (str(target),)).fetchall()

        await self._session.read(job)

    @override
    async def close(self) -> None:
        await aio.run(aio.DISK, self._session.close)
        self._held.close()
        self._lock.close()


class _Held:
    """The disk space that deletions need. A disk that is full already is no reason not to start.

    The database file is opened here before SQLite opens it, and closed after it: closing any descriptor of a file ends all locks
    that the process has on it (fcntl(2)), and another program that finds SQLite's locks gone removes the log, with what is in it.
    """

    def __init__(self, path: Path, most: int) -> None:
        self._file = -1
        with suppress(OSError):  # who opens it next says what is wrong
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            # So that reads of a few rows do not wait for the disk (ADR 0034).
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_WILLNEED)
        self._log = f"{path}-wal"
        self._most = most
        self._reserve = fs.Reserve(path.with_name(f"{path.name}.reserve"), min(_RESERVE_LEAST, most))

    def begin(self) -> None:
        """Hold it from now on."""
        with suppress(OSError):
            fd = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fs.allocate(fd, _LOG_SPACE, offset=0, keep_size=True)
            finally:
                os.close(fd)
        self.restore()

    def restore(self) -> None:
        """After a commit: hold what the database's size asks for now, and what was given up or cut off."""
        with suppress(OSError):
            status = os.fstat(self._file)
            needed = max(status.st_size, os.stat(self._log).st_size)
            while self._reserve.size < min(needed, self._most):
                self._reserve.size = min(2 * self._reserve.size, self._most)
            # A checkpoint cuts off what lies beyond the end, and so ends the reservation there.
            if status.st_blocks * 512 < status.st_size + _FILE_SPACE // 2:
                fs.allocate(self._file, _FILE_SPACE, offset=status.st_size, keep_size=True)
        with suppress(OSError):
            self._reserve.ensure()

    def release(self) -> bool:
        """Give the reserve file up; whether there was one."""
        return self._reserve.release()

    def close(self) -> None:
        """Close the database file, after SQLite has. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
