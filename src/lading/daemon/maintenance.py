"""Care of the store: status, what keeps a blob, collection in the background and on request, checking."""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import structlog
from typing_extensions import override

from lading.api.engine.lading import Maintenance
from lading.content.local import LocalContentStore
from lading.content.sweep import sweep
from lading.core import images, metadata
from lading.core.metadata import Namespace, Node
from lading.core.snapshots import Kind
from lading.daemon.fsck import Checker
from lading.errors import InvalidArgumentError, LadingError
from lading.gc.collector import Collector, SnapshotFiles
from lading.gc.mark import Step
from lading.images import lookup
from lading.kit import aio
from lading.oci.digest import Digest
from lading.transfer.restoring import Releaser

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMaintenance(Maintenance):
    """Maintenance of one namespace; ``driver`` is the name of ``snapshots``."""

    database: metadata.Database
    namespace: Namespace
    content: LocalContentStore
    snapshots: SnapshotFiles
    driver: str
    collector: Collector
    checker: Checker
    data_root: Path
    releaser: Releaser

    async def run(self) -> None:
        """Clean up after the last process, then collect for as long as this one runs. Ends by cancellation only."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.tidy)
            tasks.start_soon(self.collector.run)
            tasks.start_soon(self.releaser.run)

    async def tidy(self) -> None:
        """Delete files that a crash left without a row, and say which rows lost their file."""
        try:
            report = await sweep(self.content.files, self.database)
            freed = report.freed + await self.snapshots.sweep()
        except (LadingError, OSError) as exc:
            _log.warning("sweep_failed", error=str(exc))
            return
        if report.ingests or report.orphans or freed:
            _log.info("swept", ingests=report.ingests, orphans=report.orphans, freed=freed)
        for namespace, digest in report.missing:
            _log.error("blob_missing", namespace=namespace, digest=digest, hint="run lading fsck --repair")
        self.collector.trigger()

    @override
    async def status(self) -> dict[str, Any]:
        rows = self.database.blobs(self.namespace)
        blobs, away = await rows.list(), await rows.away()
        ingests = await self.content.statuses()
        snapshots = await self.database.snapshots(self.namespace, self.driver).list()
        committed = [row for row in snapshots if row.info.kind is Kind.COMMITTED]
        disk = await aio.run(aio.DISK, os.statvfs, self.data_root)
        return {
            "DataRoot": str(self.data_root),
            "Namespace": str(self.namespace),
            "Driver": self.driver,
            "Images": len({r.target.digest for r in await self.database.images(self.namespace).list()}),
            "Blobs": len(blobs),
            "BlobBytes": sum(info.size for info in blobs if info.digest not in away),
            "Layers": len(committed),
            "LayerBytes": sum(row.usage.size for row in committed),
            "Snapshots": len(snapshots) - len(committed),
            "Ingests": len(ingests),
            "IngestBytes": sum(each.offset for each in ingests),
            "FreeBytes": disk.f_bavail * disk.f_frsize,
        }

    @override
    async def why(self, what: str) -> dict[str, Any]:
        digest = await self._digest(what)
        await self.content.info(digest)
        steps = await self.collector.why(Node("content", digest))
        return {"Digest": str(digest), "Path": [_words(step) for step in steps]}

    async def _digest(self, what: str) -> Digest:
        try:
            return Digest(what)
        except InvalidArgumentError:
            return (await lookup.find(self.database.images(self.namespace), what)).image.target.digest

    @override
    async def collect(self, *, dry_run: bool, without: Sequence[str] = ()) -> AsyncIterator[dict[str, Any]]:
        if without and not dry_run:
            raise InvalidArgumentError(
                "images are left out in a dry run only", hint="remove them with docker rmi"
            )
        names = [record.name for text in without for record in await self._meant(text)]
        yield {"current": 0, "total": 0}
        planned = await self.collector.dry_run(without=names)
        if dry_run:
            yield _result(planned.nodes, sum(planned.nodes.values()), 0)
        else:
            collected = await self.collector.collect()
            freed = sum(planned.nodes.get(node, 0) for node in collected.nodes)
            freed += await self.releaser.release(idle=0)
            yield _result(collected.nodes, freed, len(collected.failed))

    async def _meant(self, text: str) -> Sequence[images.Image]:
        """The records that a removal of ``text`` would take: the name, or by an ID all names."""
        found = await lookup.find(self.database.images(self.namespace), text)
        return found.records if found.by_name is None else [found.by_name]

    @override
    async def check(self, *, repair: bool) -> AsyncIterator[dict[str, Any]]:
        async for each in self.checker.run(repair=repair):
            yield each


def _result(nodes: Iterable[Node], freed: int, failed: int) -> dict[str, Any]:
    counts = Counter("blob" if node.kind == "content" else node.kind for node in nodes)
    return {"result": {"Deleted": dict(sorted(counts.items())), "FreedBytes": freed, "Failed": failed}}


def _words(step: Step) -> str:
    node = step.node
    kind = "blob" if node.kind == "content" else node.kind
    name = " ".join(word for word in (kind, node.scope, node.id) if word)
    return f"{name} ({step.reason})" if step.reason else name
