"""What the stores of one database share: the writer, the readers, the clock, and the journal of what came to be needed.

The journal is how the collector's decision is checked without reading everything again. A node that was garbage when the
graph was read can have become needed since only if a new root or a new reference leads to it; each mutation that makes one
*touches* the node it leads to. `Session.touched` tells which nodes those were.
"""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Final, TypeVar

import anyio

from lading.core.images import Image
from lading.core.metadata import Namespace, Node
from lading.kit.sqlite import Call, Connection, Readers, Writer
from lading.metadata.codec import to_microseconds

T = TypeVar("T")
_JOURNAL: Final = 50_000
_holds_off: ContextVar["Session | None"] = ContextVar("lading.metadata.exclusive", default=None)


class Session:
    """One open database. Methods that say so run in the writer thread."""

    def __init__(
        self,
        connection: Connection,
        readers: Readers,
        *,
        name: str,
        clock: Callable[[], datetime],
        make_room: Callable[[], bool],
        committed: Callable[[], None],
    ) -> None:
        self._readers = readers
        self._clock = clock
        self._versions: dict[Namespace, int] = {}
        self._journal: deque[tuple[Namespace, int, Node]] = deque()
        self._forgotten: dict[Namespace, int] = {}
        self._pending: list[tuple[Namespace, Node | None]] = []
        self._images_versions: dict[Namespace, int] = {}
        self._images_pending: set[Namespace] = set()
        self.changes = 0
        """Transactions that were committed since the database was opened."""
        self.snapshot_ids: list[int] = []
        """Directory numbers that are taken and not given out yet, the next one last."""
        self.image_lists: dict[Namespace, tuple[int, list[Image]]] = {}
        """Decoded lists of images with the version that they are of; to decode 10,000 takes longer than to read them."""
        self._turn = anyio.Lock()
        self._open = anyio.Event()
        self._open.set()
        self._after = committed
        self._writer = Writer(connection, name=name, committed=self._committed, make_room=make_room)

    def now(self) -> int:
        """The time, as a column value."""
        return to_microseconds(self._clock())

    async def read(self, call: Call[T], *, few: bool = False) -> T:
        """Run ``call`` on a consistent state; see `Readers.read`."""
        return await self._readers.read(call, few=few)

    async def write(
        self, namespace: Namespace | None, call: Call[T], *, frees: bool = False, durable: bool = True
    ) -> T:
        """Run ``call`` in a transaction; see `Writer.write`. ``namespace`` is the one that it changes."""
        while not self._open.is_set() and _holds_off.get() is not self:
            await self._open.wait()

        def job(connection: Connection) -> T:
            if namespace is not None:
                self._pending.append((namespace, None))
            return call(connection)

        return await self._writer.write(job, frees=frees, durable=durable)

    @asynccontextmanager
    async def exclusive(self) -> AsyncGenerator[None]:
        """Hold off every other writer; the holder and its child tasks may write."""
        async with self._turn:
            self._open = anyio.Event()
            token = _holds_off.set(self)
            try:
                await self.write(None, lambda _: None)
                yield
            finally:
                _holds_off.reset(token)
                self._open.set()

    def touch(self, namespace: Namespace, nodes: Iterable[Node]) -> None:
        """Writer thread: something new leads to these nodes."""
        self._pending.extend((namespace, node) for node in nodes)

    def images_changed(self, namespace: Namespace) -> None:
        """Writer thread: image rows of the namespace are different now."""
        self._images_pending.add(namespace)

    def images_version(self, namespace: Namespace) -> int:
        """Number of changes to the namespace's images since the database was opened."""
        return self._images_versions.get(namespace, 0)

    def version(self, namespace: Namespace) -> int:
        """Number of mutations of a namespace since the database was opened."""
        return self._versions.get(namespace, 0)

    def touched(self, namespace: Namespace, since: int) -> set[Node] | None:
        """Writer thread: nodes touched after version ``since``, uncommitted neighbours of a batch included.

        ``None`` if the journal does not reach back that far.
        """
        if since < self._forgotten.get(namespace, 0):
            return None
        nodes = {node for owner, node in self._pending if owner == namespace and node is not None}
        for owner, version, node in reversed(self._journal):
            if owner == namespace:
                if version <= since:
                    break
                nodes.add(node)
        return nodes

    def close(self) -> None:
        """Blocking; idempotent."""
        self._readers.close()
        self._writer.close()

    def _committed(self) -> None:
        # After the commit, never before: a graph read in between must count these mutations as newer than itself.
        self.changes += 1
        for namespace, node in self._pending:
            if node is None:
                self._versions[namespace] = self._versions.get(namespace, 0) + 1
        for namespace, node in self._pending:
            if node is not None:
                self._journal.append((namespace, self._versions.get(namespace, 0), node))
        for namespace in self._images_pending:
            self._images_versions[namespace] = self._images_versions.get(namespace, 0) + 1
        self._images_pending.clear()
        self._pending.clear()
        while len(self._journal) > _JOURNAL:
            namespace, version, _ = self._journal.popleft()
            self._forgotten[namespace] = max(version, self._forgotten.get(namespace, 0))
        self._after()
