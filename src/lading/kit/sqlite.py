"""SQLite as this project uses it: one writer thread with group commit, readers beside it, errors mapped once.

Durability: WAL with ``synchronous=FULL``; a call of `Writer.write` returns after the fsync of the commit that holds
its changes. Several queued calls may share that commit; each has its own savepoint and its own error.

A call that is not ``durable`` does not wait for the disk. Its changes outlive the process at once, and a power cut once a
durable call has followed: the log is replayed in order, so that what is lost is always the end of it, never something before
what is kept.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import anyio
import anyio.lowlevel
import apsw

from lading.errors import (
    DataLossError,
    InternalError,
    LadingError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from lading.kit import aio

T = TypeVar("T")
Value = str | int | float | bytes | None
Row = tuple[Any, ...]


class Cursor(Protocol):
    """The part of `apsw.Cursor` that is used here."""

    def __iter__(self) -> Iterator[Row]: ...

    def fetchone(self) -> Row | None:
        """The next row, if any."""
        ...

    def fetchall(self) -> list[Row]:
        """All rows that are left."""
        ...


class Connection(Protocol):
    """The part of `apsw.Connection` that is used here, with types that a checker understands."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute(
        self, statements: str, bindings: Sequence[Value] | Mapping[str, Value] | None = None, /
    ) -> Cursor:
        """Run statements; rows come as they are asked for. Several statements share bindings by name."""
        ...

    def executemany(self, statements: str, sequenceofbindings: Iterable[Sequence[Value]], /) -> Cursor:
        """Run a statement once for each set of values."""
        ...

    def changes(self) -> int:
        """Number of rows that the last statement changed."""
        ...

    def pragma(self, name: str, value: str | int | None = None, /) -> Any:
        """Get or set."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


Call = Callable[[Connection], T]

FLOOR: Final = (3, 51, 3)
"""The first SQLite whose WAL reset does not corrupt the database when two connections write and checkpoint."""
_BATCH: Final = 128
_READERS: Final = 4
_LANE: Final = aio.Lane("sqlite", _READERS)
FEW: Final = 64
"""Most rows that are a few; see `Readers.read`."""


def connect(path: Path, *, read_only: bool = False) -> Connection:
    """Open a database file with this project's settings; creates it unless ``read_only``.

    Raises:
        LadingError: As `mapped`.

    """
    if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < FLOOR:
        raise InternalError(
            f"SQLite {apsw.sqlite_lib_version()} corrupts write-ahead logs",
            hint="install apsw 3.51.3 or newer",
        )
    flags = (
        apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    ) | apsw.SQLITE_OPEN_NOFOLLOW
    with mapped(path):
        opened = apsw.Connection(str(path.resolve()), flags=flags, statementcachesize=512)
        connection = cast("Connection", opened)
        try:
            opened.set_busy_timeout(5000)
            opened.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            opened.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
            opened.config(apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1)
            if not read_only:
                connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("mmap_size", 0)
            connection.pragma("temp_store", "memory")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def mapped(what: object) -> Generator[None]:
    """Turn SQLite's errors into ours; ``what`` names the database in the message."""
    try:
        yield
    except apsw.Error as exc:
        raise translate(exc, what) from exc


def translate(exc: apsw.Error, what: object) -> LadingError:
    """The error of ours that says the same."""
    if isinstance(exc, apsw.FullError):
        return ResourceExhaustedError(
            f"no space left for the database {what}", hint="remove images or free disk space"
        )
    if isinstance(exc, apsw.CorruptError | apsw.NotADBError):
        return DataLossError(f"the database {what} is damaged: {exc}", hint=_rebuild(what))
    if isinstance(exc, apsw.BusyError | apsw.LockedError):
        return UnavailableError(f"the database {what} is locked by another program", hint="end that program")
    if isinstance(exc, apsw.ReadOnlyError | apsw.CantOpenError | apsw.PermissionsError):
        return PermissionDeniedError(
            f"the database {what} cannot be written: {exc}",
            hint="the data-root must be on a writable file system and belong to the daemon's user",
        )
    if isinstance(exc, apsw.IOError):
        return DataLossError(f"reading or writing the database {what} failed: {exc}", hint="check the disk")
    return InternalError(f"the database {what} refused a statement: {exc}")


def _rebuild(what: object) -> str:
    """What helps against damage; it needs no daemon, and none may be running."""
    root = Path(str(what)).parent
    return f"check the disk, stop the daemon, then run lading fsck --rebuild --data-root {root}"


class _Job:
    """One call for the writer thread, and what became of it."""

    __slots__ = ("_done", "_loop", "call", "durable", "error", "frees", "result")

    def __init__(self, call: Call[object], *, frees: bool, durable: bool) -> None:
        self.call = call
        self.frees = frees
        self.durable = durable
        self.result: object = None
        self.error: BaseException | None = None
        self._done = anyio.Event()
        self._loop = asyncio.get_running_loop()

    def finish(self) -> None:
        """Wake the caller, which may have left with its loop."""
        try:
            self._loop.call_soon_threadsafe(self._done.set)
        except RuntimeError:
            return

    async def wait(self) -> object:
        with anyio.CancelScope(shield=True):
            await self._done.wait()
        if self.error is not None:
            raise self.error
        return self.result


class Writer:
    """The one thread that writes a database.

    Args:
        connection: Opened by `connect`; belongs to this object from now on.
        name: What error messages call the database.
        committed: Called in the writer thread after each commit.
        make_room: Called in the writer thread when the disk is full and a call that frees space must go on; whether it
            made any.

    """

    def __init__(
        self,
        connection: Connection,
        *,
        name: str,
        committed: Callable[[], None],
        make_room: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._name = name
        self._committed = committed
        self._make_room = make_room
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lading-sqlite", daemon=True)
        self._closed = False
        self._waits_for_disk = True
        """What the connection's ``synchronous`` says now."""
        self._thread.start()

    async def write(self, call: Call[T], *, frees: bool = False, durable: bool = True) -> T:
        """Run ``call`` in a transaction; returns when it is durable, or at once when it is committed.

        Once begun it is not cancelled. If ``call`` raises, its changes are undone and others' are not. ``frees``:
        the call deletes, and may use the reserve when the disk is full.
        """
        if self._closed:
            raise UnavailableError(f"the database {self._name} is closed")
        job = _Job(call, frees=frees, durable=durable)
        self._queue.put(job)
        return cast("T", await job.wait())

    def close(self) -> None:
        """Finish what is queued, checkpoint, close. Blocking; idempotent."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            batch = [job]
            stop = False
            while len(batch) < _BATCH and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    stop = True
                    break
                batch.append(following)
            self._commit(batch)
            for done in batch:
                done.finish()
            if stop:
                break
        self._connection.close()

    def _commit(self, batch: list[_Job]) -> None:
        """Commit a batch; if that fails as a whole, commit each alone, so that one caller's failure is not another's."""
        try:
            self._execute(batch)
        except apsw.Error as exc:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if len(batch) > 1:
                for job in batch:
                    job.result = job.error = None
                    self._commit([job])
            else:
                self._alone(batch[0], exc)
        else:
            self._committed()

    def _alone(self, job: _Job, exc: apsw.Error) -> None:
        """A single job failed: on a full disk it is tried again at the log's beginning, then, if it deletes, with more room."""
        for make_room in (self._rewind, self._give_up) if job.frees else (self._rewind,):
            if not isinstance(exc, apsw.FullError) or not make_room():
                continue
            try:
                self._execute([job])
            except apsw.Error as again:
                exc = again
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            else:
                self._committed()
                return
        job.error = translate(exc, self._name)
        job.error.__cause__ = exc

    def _rewind(self) -> bool:
        """Have the log written from its beginning again, into the space that it has; whether it will be."""
        try:
            found = self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except apsw.Error:
            return False
        return found is not None and found[0] == 0

    def _give_up(self) -> bool:
        """Give the reserve up; whether there was any. What a checkpoint adds to the database file may need it first."""
        made = self._make_room()
        if made:
            self._rewind()
        return made

    def _execute(self, batch: list[_Job]) -> None:
        connection = self._connection
        self._wait_for_disk(any(job.durable for job in batch))
        connection.execute("BEGIN IMMEDIATE")
        for job in batch:
            connection.execute("SAVEPOINT job")
            try:
                job.result = job.call(connection)
            except apsw.Error:
                raise
            except BaseException as exc:  # noqa: BLE001 -- handed to the caller, who raises it
                connection.execute("ROLLBACK TO job")
                job.error = exc
            connection.execute("RELEASE job")
        connection.execute("COMMIT")

    def _wait_for_disk(self, wanted: bool) -> None:
        """Whether the next commit flushes the log. It cannot be changed within a transaction."""
        if wanted is not self._waits_for_disk:
            self._connection.pragma("synchronous", "full" if wanted else "normal")
            self._waits_for_disk = wanted


class Readers:
    """A few read-only connections; every `read` sees one consistent state, and holds up nobody, nor is it held up: readers of
    a write-ahead log wait for no writer.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: deque[Connection] = deque()
        self._closed = False

    async def read(self, call: Call[T], *, few: bool = False) -> T:
        """Run ``call`` in a read transaction on a thread of its own; with ``few`` at once, on the event loop's.

        ``few`` is for what finds a few rows by an index: some 10 µs, where handing it to a thread and back takes 200 (ADR 0034).
        """
        if not few:
            return await aio.run(_LANE, lambda: self._read(call))
        await anyio.lowlevel.checkpoint()
        return self._read(call)

    def _read(self, call: Call[T]) -> T:
        if self._closed:
            raise UnavailableError(f"the database {self._path} is closed")
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect(self._path, read_only=True)
        try:
            with mapped(self._path):
                connection.execute("BEGIN")
                try:
                    return call(connection)
                finally:
                    if connection.in_transaction:
                        connection.execute("COMMIT")
        finally:
            self._idle.append(connection)
            if self._closed:
                self.close()

    def close(self) -> None:
        """Close the idle connections; one in use is closed when its call ends. Idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


def checked(path: Path, connection: Connection) -> None:
    """Raise `DataLossError` if SQLite's quick check finds damage."""
    with mapped(path):
        faults = [str(row[0]) for row in connection.execute("PRAGMA quick_check(10)")]
    if faults != ["ok"]:
        raise DataLossError(f"the database {path} is damaged: {'; '.join(faults)}", hint=_rebuild(path))
