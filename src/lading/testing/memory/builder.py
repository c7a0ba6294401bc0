"""A solver in memory: refs are directories on disk that a test made, named by the digest of a definition's last operation.

It runs nothing. What it is for: everything above the solver, which sees refs that are solved once, fail, or wait.
"""

import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from typing_extensions import override

from lading.builder.model import Job, PruneWish, Solver, UsageRecord
from lading.builder.reports import Progress
from lading.builder.results import FileStat, Layer, LayerForm, Ref
from lading.core.leases import LeaseID
from lading.core.session import Session
from lading.core.snapshots import SnapshotName
from lading.errors import InvalidArgumentError, NotFoundError
from lading.formats.buildkit.sourcepolicy import Policy
from lading.formats.llb.definition import Definition
from lading.oci.digest import Digest


@dataclass(slots=True, kw_only=True)
class MemoryTree:
    """What a definition leads to: a directory, layers, an error, or a wait that only cancellation ends."""

    path: Path | None = None
    layers: Sequence[Layer] = ()
    error: Exception | None = None
    hangs: bool = False
    solved: int = 0
    cancelled: int = 0
    running: anyio.Event = field(default_factory=anyio.Event)


class MemoryRef(Ref):
    """A ref to a `MemoryTree`."""

    def __init__(self, definition: Definition, tree: MemoryTree) -> None:
        self._definition = definition
        self._tree = tree
        self._done = False

    @property
    @override
    def id(self) -> str:
        return f"ref-{Digest.of(self._definition.ops[-1]).short}"

    @property
    @override
    def definition(self) -> Definition:
        return self._definition

    @override
    async def evaluate(self) -> None:
        if self._done:
            return
        self._tree.running.set()
        try:
            if self._tree.hangs:
                await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self._tree.cancelled += 1
            raise
        if self._tree.error is not None:
            raise self._tree.error
        self._tree.solved += 1
        self._done = True

    @override
    async def snapshot(self) -> SnapshotName | None:
        await self.evaluate()
        return None

    @override
    def mount(self) -> AbstractAsyncContextManager[str]:
        return self._mount()

    @asynccontextmanager
    async def _mount(self) -> AsyncGenerator[str]:
        await self.evaluate()
        yield str(self._root)

    @property
    def _root(self) -> Path:
        if self._tree.path is None:
            raise NotFoundError("the tree is empty")
        return self._tree.path

    @override
    async def layers(self, form: LayerForm, *, lease: LeaseID) -> list[Layer]:
        await self.evaluate()
        return list(self._tree.layers)

    def _at(self, path: str) -> Path:
        found = self._root / path.lstrip("/")
        if not found.exists():
            raise NotFoundError(f"{path}: no such file or directory", subject=path)
        return found

    @override
    async def read_file(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        await self.evaluate()
        data = self._at(path).read_bytes()[offset:]
        return data if length is None else data[:length]

    @override
    async def read_dir(self, path: str, *, pattern: str = "") -> list[FileStat]:
        await self.evaluate()
        names = sorted(os.listdir(self._at(path)))
        return [
            _stat(self._at(path) / name, name) for name in names if not pattern or Path(name).match(pattern)
        ]

    @override
    async def stat(self, path: str) -> FileStat:
        await self.evaluate()
        return _stat(self._at(path), path)


def _stat(path: Path, name: str) -> FileStat:
    info = path.lstat()
    link = os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
    return FileStat(path=name, mode=info.st_mode, size=info.st_size, mtime=info.st_mtime_ns, link=link)


class MemorySolver(Solver):
    """Trees by the digest of the last operation of the definition that leads to them."""

    def __init__(self) -> None:
        self.trees: dict[Digest, MemoryTree] = {}
        self.records: list[UsageRecord] = []
        self.imported: list[Mapping[str, str]] = []
        """Attributes of the caches that builds looked into."""
        self.open: set[str] = set()
        """The jobs that are open."""

    @override
    def open_job(
        self,
        ref: str,
        *,
        session: Session | None,
        progress: Progress,
        no_cache: bool = False,
        entitlements: frozenset[str] = frozenset(),
        policies: Sequence[Policy] = (),
    ) -> AbstractAsyncContextManager[Job]:
        return self._open(ref)

    @asynccontextmanager
    async def _open(self, ref: str) -> AsyncGenerator[Job]:
        self.open.add(ref)
        try:
            yield _Job(self)
        finally:
            self.open.discard(ref)

    @override
    async def disk_usage(self) -> Sequence[UsageRecord]:
        return self.records

    @override
    async def prune(self, wish: PruneWish) -> AsyncIterator[UsageRecord]:
        while self.records:
            yield self.records.pop(0)


class _Job(Job):
    def __init__(self, solver: MemorySolver) -> None:
        self._solver = solver

    @override
    async def load(self, definition: Definition) -> Ref:
        if not definition.ops:
            raise InvalidArgumentError("the definition is empty")
        tree = self._solver.trees.setdefault(Digest.of(definition.ops[-1]), MemoryTree())
        return MemoryRef(definition, tree)

    @override
    async def import_cache(self, kind: str, attributes: Mapping[str, str]) -> None:
        self._solver.imported.append(dict(attributes))

    @override
    async def export_cache(
        self, kind: str, attributes: Mapping[str, str], refs: Sequence[Ref], *, lease: LeaseID
    ) -> Mapping[str, str]:
        return {"cache.manifest": ",".join(ref.id for ref in refs)}

    @override
    async def inline_cache(
        self, attributes: Mapping[str, str], ref: Ref, layers: Sequence[str], *, lease: LeaseID
    ) -> bytes | None:
        return None
