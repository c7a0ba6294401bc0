"""`Collector`: finds what nothing needs, deletes the rows, then the files, and never holds anyone up.

1. *Mark*: the database says what no root of a namespace leads to at one moment: garbage.
2. *Condemn*: in short transactions the database deletes the rows of garbage that is still garbage.
3. *Sweep*: the files of those rows are deleted, outside of every lock. One failure is logged and never stops the rest.

A crash between 2 and 3 leaves files without rows, which the sweep at start deletes.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol

import anyio
import structlog

from lading.core.content import IngestRef
from lading.core.metadata import Database, Marked, Namespace, Node
from lading.errors import LadingError
from lading.gc.mark import Step, condemned_order, path_to
from lading.gc.report import Collected, Planned
from lading.kit import aio
from lading.kit.failpoints import failpoint
from lading.oci.digest import Digest

_log: Final = structlog.get_logger(__name__)
_BATCH: Final = 64
"""Rows deleted in one transaction: a writer waits for a millisecond or two."""
_CLEAN: Final = aio.Lane("gc", 1)


class ContentFiles(Protocol):
    """The part of the local content store that deletes bytes whose rows are gone."""

    async def delete_file(self, digest: Digest) -> int:
        """Delete a blob's bytes unless it came back; the number of bytes freed."""
        ...

    async def delete_ingest(self, ref: IngestRef) -> None:
        """Delete an ingest's files unless somebody writes it."""
        ...


class SnapshotFiles(Protocol):
    """The part of a snapshotter that deletes directories whose rows are gone."""

    async def sweep(self) -> int:
        """Delete directories without a row; the number of bytes freed, as far as known."""
        ...


class Collector:
    """The garbage collector of one namespace.

    Args:
        database: Where the rows are.
        namespace: Whose.
        content: Deletes blobs and ingests.
        snapshotters: By name; those that are not named here keep their rows.
        clock: The time.
        delay: Seconds from `trigger` to the collection, in which further triggers join it.
        interval: Longest time between two collections, for what expires by itself.

    """

    def __init__(
        self,
        database: Database,
        namespace: Namespace,
        *,
        content: ContentFiles,
        snapshotters: Mapping[str, SnapshotFiles],
        clock: Callable[[], datetime],
        delay: float = 0.1,
        interval: timedelta = timedelta(minutes=10),
    ) -> None:
        self._database = database
        self._namespace = namespace
        self._content = content
        self._snapshotters = dict(snapshotters)
        self._clock = clock
        self._delay = delay
        self._interval = interval
        self._one = anyio.Lock()
        self._wanted = anyio.Event()

    def trigger(self) -> None:
        """Ask for a collection soon; returns at once. Call it after something was deleted."""
        self._wanted.set()

    async def run(self) -> None:
        """Collect when triggered, and now and then; ends when cancelled."""
        while True:
            with anyio.move_on_after(self._interval.total_seconds()):
                await self._wanted.wait()
            await anyio.sleep(self._delay)
            self._wanted = anyio.Event()
            try:
                collected = await self.collect()
            except LadingError:
                _log.exception("collection_failed")
            else:
                if collected.nodes or collected.failed:
                    _log.info(
                        "collected",
                        nodes=len(collected.nodes),
                        freed=collected.freed,
                        failed=len(collected.failed),
                        seconds=round(collected.seconds, 3),
                    )

    async def collect(self) -> Collected:
        """Collect now, and wait for it. Calls come one after the other."""
        async with self._one:
            started = anyio.current_time()
            now = self._clock()
            marked = await self._database.mark(self._namespace, now=now)
            nodes = await aio.run(_CLEAN, self._order, marked)
            marked_at = anyio.current_time()
            failpoint("gc.marked")
            deleted: list[Node] = []
            freed = 0
            failed: list[tuple[Node, str]] = []
            for batch in _batches(nodes):
                gone = await self._database.condemn(self._namespace, batch, version=marked.version, now=now)
                failpoint("gc.condemned")
                deleted += gone
                freed += await self._sweep(gone, failed)
            freed += await self._sweep_snapshots(deleted, failed)
            return Collected(
                nodes=deleted,
                freed=freed,
                failed=failed,
                mark_seconds=marked_at - started,
                seconds=anyio.current_time() - started,
            )

    def _order(self, marked: Marked) -> list[Node]:
        """Garbage that may be deleted here, in the order in which it may be."""
        return [node for node in condemned_order(marked.edges, marked.garbage) if self._ours(node)]

    def _ours(self, node: Node) -> bool:
        return node.kind != "snapshot" or node.scope in self._snapshotters

    async def _sweep(self, nodes: Sequence[Node], failed: list[tuple[Node, str]]) -> int:
        freed = 0
        for node in nodes:
            try:
                if node.kind == "content":
                    freed += await self._content.delete_file(Digest(node.id))
                elif node.kind == "ingest":
                    await self._content.delete_ingest(IngestRef(node.id))
            except (LadingError, OSError) as exc:
                _log.warning("file_not_deleted", node=str(node), error=str(exc))
                failed.append((node, str(exc)))
        return freed

    async def _sweep_snapshots(self, nodes: Sequence[Node], failed: list[tuple[Node, str]]) -> int:
        freed = 0
        for name in sorted({node.scope for node in nodes if node.kind == "snapshot"}):
            try:
                freed += await self._snapshotters[name].sweep()
            except (LadingError, OSError) as exc:
                _log.warning("snapshots_not_swept", snapshotter=name, error=str(exc))
                failed.append((Node("snapshot", "", name), str(exc)))
        return freed

    async def dry_run(self, *, without: Collection[str] = ()) -> Planned:
        """What `collect` would delete now, or if these images were removed, and the bytes of it."""
        marked = await self._database.mark(self._namespace, now=self._clock(), without=without)
        nodes = await aio.run(_CLEAN, self._order, marked)
        foreign = len(marked.garbage) - len(nodes)
        return Planned(nodes={node: marked.garbage[node] for node in nodes}, kept=marked.kept + foreign)

    async def why(self, node: Node) -> list[Step]:
        """The chain of references that keeps ``node``, from a root to it; empty if nothing does or it does not exist."""
        graph = await self._database.graph(self._namespace, now=self._clock())
        return await aio.run(_CLEAN, path_to, graph, node)


def _batches(nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    for start in range(0, len(nodes), _BATCH):
        yield nodes[start : start + _BATCH]
