"""The local build cache: results as records, found by their keys."""

import secrets
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from typing_extensions import override

from lading.builder.ops.trees import Tree, Trees
from lading.builder.solver.keys import Found, Link, Recorder
from lading.core.buildcache import BuildCache, BuildRecord, Step
from lading.core.snapshots import SnapshotName
from lading.errors import NotFoundError
from lading.oci.digest import Digest

_TOP: Final = "top"
_VERTEX: Final = "vertex"


class Records(Recorder[Tree]):
    """`Recorder` over the rows of the build cache."""

    def __init__(self, cache: BuildCache, trees: Trees) -> None:
        self._cache = cache
        self._trees = trees
        self._used: set[str] = set()
        self._makers: dict[str, BuildRecord] = {}

    @override
    async def find(self, output: Digest, inputs: Sequence[Sequence[Link]]) -> Found:
        keys, record = await self._cache.find(output, _steps(inputs))
        return Found(keys=keys, record=record)

    @override
    async def load(self, record: str) -> Tree | None:
        try:
            row = await self._cache.get(record)
            if row.snapshotter != self._trees.snapshotter.name:
                return None
            top = row.extra.get(_TOP)
            for name in [top] if top else row.layers:
                await self._trees.snapshotter.stat(name)
        except NotFoundError:
            return None
        self.used(record)
        self._note(row)
        return Tree(
            layers=tuple(map(SnapshotName, row.layers)),
            top=SnapshotName(top) if top else None,
            blobs=row.blobs,
        )

    @override
    async def save(
        self,
        output: Digest,
        inputs: Sequence[Sequence[Link]],
        result: Tree,
        *,
        keys: frozenset[str],
        vertex: Digest,
        name: str,
    ) -> Found:
        found = keys or frozenset({secrets.token_hex(16)})
        if result.folder is not None or (result.base is not None and not result.own):
            if inputs:
                await self._cache.connect(output, _steps(inputs), sorted(found))
            return Found(keys=found)
        now = time.time_ns()
        sizes = [(await self._trees.snapshotter.usage(one)).size for one in result.own]
        record = BuildRecord(
            id=secrets.token_hex(12),
            kind="internal" if name.startswith("[internal]") else "regular",
            description=name[:4096],
            snapshotter=self._trees.snapshotter.name,
            layers=result.layers,
            blobs=result.blobs,
            own=result.own,
            size=sum(sizes),
            created_at=now,
            used_at=now,
            uses=1,
            extra={_VERTEX: vertex} | ({_TOP: result.top} if result.top else {}),
        )
        await self._cache.add(record, keys=sorted(found), output=output, inputs=_steps(inputs))
        self._note(record)
        return Found(keys=found, record=record.id)

    @override
    async def connect(self, output: Digest, inputs: Sequence[Sequence[Link]], keys: frozenset[str]) -> None:
        await self._cache.connect(output, _steps(inputs), sorted(keys))

    def _note(self, record: BuildRecord) -> None:
        for name in record.own:
            self._makers[name] = record

    async def maker(self, snapshot: str) -> tuple[Digest | None, int]:
        """The vertex that made a snapshot, and when (nanoseconds since the epoch), if it was made here."""
        if snapshot not in self._makers:
            for record in await self._cache.list():
                self._note(record)
        record = self._makers.get(snapshot)
        if record is None:
            return None, 0
        vertex = record.extra.get(_VERTEX)
        return (Digest(vertex) if vertex else None), record.created_at

    def used(self, record: str) -> None:
        """A build uses a record; `flush` writes it down, and until then it is `noted`."""
        self._used.add(record)

    @property
    def noted(self) -> AbstractSet[str]:
        """What was used and is not written down yet."""
        return self._used

    async def flush(self) -> None:
        """Note which records were used since the last time."""
        used, self._used = self._used, set()
        if used:
            await self._cache.touch(sorted(used), now=time.time_ns())


def _steps(inputs: Sequence[Sequence[Link]]) -> list[list[Step]]:
    return [[Step(link.key, link.selector) for link in links] for links in inputs]
