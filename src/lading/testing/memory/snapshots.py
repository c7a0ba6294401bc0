"""Snapshots in memory: `MemorySnapshotter`, whose trees are dictionaries. They cannot be mounted.

Layers are read by the real parser and merged by the rules of the OCI image-spec, written down a second time and in the plainest
way, so that a test against it and against a real snapshotter compares two opinions.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from typing_extensions import Buffer, override

from lading.core import metadata
from lading.core.leases import LeaseID
from lading.core.mounts import Mount
from lading.core.snapshots import (
    NO_LABELS,
    Capability,
    DiffIDMismatchError,
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
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)
from lading.formats import whiteouts
from lading.formats.tar.entry import Data, Entry, EntryType, TarError
from lading.formats.tar.names import rooted
from lading.formats.tar.parser import TarParser
from lading.oci.digest import DiffID, new_hasher

_LINKS_MAX = 40


@dataclass(slots=True, kw_only=True)
class Node:
    """One inode; hard links are one node under several paths."""

    type: EntryType
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    content: bytearray = field(default_factory=bytearray)
    implied: bool = False


Tree = dict[str, Node]


def _below(path: str, tree: Mapping[str, object]) -> list[str]:
    return [name for name in tree if name.startswith(f"{path}/")] if path else list(tree)


class _Layer:
    """What an archive says, before it meets the layers below."""

    def __init__(self) -> None:
        self.own: Tree = {}
        self.gone: set[str] = set()
        self.opaque: set[str] = set()
        self._file: Node | None = None

    def take(self, entry: Entry) -> None:
        self._file = None
        path = rooted(entry.name)
        if not path:
            return
        mark = whiteouts.classify(path)
        if mark is None and (entry.type, entry.devmajor, entry.devminor) == (EntryType.CHAR, 0, 0):
            mark = whiteouts.Whiteout(kind=whiteouts.Kind.WHITEOUT, path=path)
        if mark is None:
            self._put(self._place(path), entry)
        elif mark.kind is whiteouts.Kind.OPAQUE:
            self.opaque.add(self._directory(mark.path))
        elif mark.kind is whiteouts.Kind.WHITEOUT:
            self.gone.add(self._place(mark.path))

    def data(self, span: Data) -> None:
        if self._file is not None:
            self._file.content[span.offset : span.offset + len(span.view)] = span.view

    def _put(self, path: str, entry: Entry) -> None:
        node = self.own.get(path)
        if entry.type is EntryType.HARDLINK:
            target = self._place(rooted(entry.linkname), make=False)
            node = self.own.get(target)
            if node is not None and node is self.own.get(path) and node.type is not EntryType.DIRECTORY:
                return
            if target.startswith(f"{path}/"):
                raise TarError(f"hard link {entry.name!r} replaces the directory of its target")
            if node is None or node.type is EntryType.DIRECTORY:
                raise TarError(
                    f"hard link {entry.name!r} points to {entry.linkname!r}, which is no file here"
                )
        elif node is None or not (node.type is entry.type is EntryType.DIRECTORY):
            node = Node(type=entry.type)
        if node.type is not EntryType.DIRECTORY:
            for name in _below(path, self.own):
                del self.own[name]
        node.mode, node.uid, node.gid, node.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
        node.xattrs |= entry.xattrs
        node.implied = False
        if entry.type is not EntryType.HARDLINK:
            node.target, node.device = entry.linkname, (entry.devmajor, entry.devminor)
            node.content = bytearray(entry.real_size)
            self._file = node
        self.own[path] = node

    def _place(self, path: str, *, make: bool = True) -> str:
        above, _, base = path.rpartition("/")
        directory = self._directory(above, make=make)
        return f"{directory}/{base}" if directory else base

    def _directory(self, path: str, *, make: bool = True) -> str:
        pending = path.split("/")[::-1] if path else []
        done: list[str] = []
        links = 0
        while pending:
            part = pending.pop()
            if part in ("", ".", ".."):
                del done[len(done) - (part == "..") :]
                continue
            here = "/".join([*done, part])
            node = self.own.get(here)
            if node is None and make:
                node = self.own[here] = Node(type=EntryType.DIRECTORY, implied=True)
            if node is not None and node.type is EntryType.SYMLINK:
                links += 1
                if links > _LINKS_MAX:
                    raise TarError(f"too many symbolic links on the way to {path!r}")
                if node.target.startswith("/"):
                    done.clear()
                pending += node.target.split("/")[::-1]
                continue
            if node is not None and node.type is not EntryType.DIRECTORY:
                raise TarError(f"{path!r} lies below a file of the same layer")
            done.append(part)
        return "/".join(done)

    def onto(self, parent: Tree) -> Tree:
        tree = dict(parent)
        for path in self.gone:
            tree.pop(path, None)
        for path in self.gone | self.opaque:
            for name in _below(path, tree):
                del tree[name]
        for path, node in self.own.items():
            below = tree.get(path)
            if node.type is not EntryType.DIRECTORY or (below and below.type is not EntryType.DIRECTORY):
                for name in _below(path, tree):
                    del tree[name]
        for path, node in self.own.items():
            below = tree.get(path)
            if not (node.implied and below and below.type is EntryType.DIRECTORY):
                tree[path] = node
        return tree


class MemorySnapshotter(Snapshotter):
    """`Snapshotter` without a disk, with the rows of a database such as `MemoryDatabase`'s."""

    def __init__(self, rows: metadata.Snapshots, *, parallel: bool = True) -> None:
        """Keep trees for ``rows``; without ``parallel`` a layer wants its parent committed."""
        self._rows = rows
        self._parallel = parallel
        self._trees: dict[int, Tree] = {}

    @property
    @override
    def name(self) -> str:
        return "memory"

    @property
    @override
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.PARALLEL_LAYERS} if self._parallel else ())

    async def tree(self, key: str) -> Tree:
        """The tree of a snapshot; that of an active one may be changed in place, and so may its nodes."""
        return self._trees[(await self._rows.get(key)).id]

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
        return row.usage if row.info.kind is Kind.COMMITTED else _usage(self._trees[row.id])

    @override
    async def mounts(self, key: SnapshotKey) -> list[Mount]:
        row, *_ = await self._rows.chain(key)
        if row.info.kind is Kind.COMMITTED:
            raise FailedPreconditionError(f"snapshot {key} is committed", subject=key)
        options = ("ro",) if row.info.kind is Kind.VIEW else ("rw",)
        return [Mount(type="memory", source=str(row.id), options=options)]

    @override
    @asynccontextmanager
    async def shown(self, name: SnapshotName) -> AsyncGenerator[list[Mount]]:
        row, *_ = await self._rows.chain(name)
        if row.info.kind is not Kind.COMMITTED:
            raise FailedPreconditionError(f"snapshot {name} is not committed", subject=name)
        yield [Mount(type="memory", source=str(row.id), options=("ro",))]

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
        if limit:
            raise UnsupportedError("memory has no limits")
        return await self._make(Kind.ACTIVE, key, parent, labels, lease)

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

    async def _make(
        self, kind: Kind, key: SnapshotKey, parent: SnapshotName | None, labels: Labels, lease: LeaseID | None
    ) -> list[Mount]:
        number = await self._rows.allocate()
        row = await self._rows.create(
            key,
            id=number,
            kind=kind,
            parent=parent,
            labels=labels,
            usage=Usage(size=0, inodes=0),
            lease=lease,
        )
        self._trees[row.id] = dict(await self.tree(parent)) if parent else {}
        return await self.mounts(key)

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
        usage = _usage(await self.tree(key))
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
        return self._open_layer(name, parent, diff_id, lease)

    @asynccontextmanager
    async def _open_layer(
        self, name: SnapshotName, parent: SnapshotName | None, diff_id: DiffID, lease: LeaseID | None
    ) -> AsyncGenerator[LayerWriter]:
        if lease is not None:
            await self._rows.hold(name, lease)
        try:
            await self._rows.get(name)
        except NotFoundError:
            pass
        else:
            raise AlreadyExistsError(f"snapshot {name} exists", subject=name)
        if parent and not self._parallel:
            await self._rows.get(parent)
        yield _MemoryLayer(self, name, parent, diff_id, lease)

    async def publish(
        self,
        name: SnapshotName,
        parent: SnapshotName | None,
        layer: _Layer,
        labels: Labels,
        lease: LeaseID | None,
    ) -> None:
        """Commit a layer, or join the one that is there."""
        try:
            tree = layer.onto(await self.tree(parent) if parent else {})
            number = await self._rows.allocate()
            row = await self._rows.create(
                name,
                id=number,
                kind=Kind.COMMITTED,
                parent=parent,
                labels=labels,
                usage=_usage(layer.own),
                lease=lease,
            )
        except AlreadyExistsError:
            if lease is not None:
                await self._rows.hold(name, lease)
        except (NotFoundError, InvalidArgumentError) as exc:
            raise FailedPreconditionError(
                f"the parent of layer {name} is not committed", subject=name
            ) from exc
        else:
            self._trees[row.id] = tree

    @override
    def open_stream(self, name: SnapshotName) -> AbstractAsyncContextManager[int]:
        raise UnsupportedError(f"snapshot {name} keeps no tar stream", subject=name)

    @override
    async def compare(self, name: SnapshotName, copy: SnapshotName) -> str:
        raise UnsupportedError("a memory snapshotter replaces nothing", subject=name)

    @override
    async def replace(self, name: SnapshotName, copy: SnapshotName) -> None:
        raise UnsupportedError("a memory snapshotter replaces nothing", subject=name)

    @override
    def upper(self, key: SnapshotKey) -> AbstractAsyncContextManager[str]:
        raise UnsupportedError("snapshots in memory have no directories", subject=key)

    @override
    async def remove(self, key: str) -> None:
        row = await self._rows.delete(key)
        self._trees.pop(row.id, None)

    @override
    async def sweep(self) -> int:
        kept = {row.id for row in await self._rows.list()}
        gone = {number: tree for number, tree in self._trees.items() if number not in kept}
        for number in gone:
            del self._trees[number]
        return sum(_usage(tree).size for tree in gone.values())

    @override
    async def close(self) -> None:
        """Nothing is held."""


class _MemoryLayer(LayerWriter):
    def __init__(
        self,
        owner: MemorySnapshotter,
        name: SnapshotName,
        parent: SnapshotName | None,
        diff_id: DiffID,
        lease: LeaseID | None,
    ) -> None:
        self._owner = owner
        self._name = name
        self._parent = parent
        self._promised = diff_id
        self._lease = lease
        self._parser = TarParser()
        self._layer = _Layer()
        self._hasher = new_hasher(diff_id.algorithm)
        self._found: DiffID | None = None

    @override
    def write(self, data: Buffer) -> None:
        self._hasher.update(data)
        for event in self._parser.feed(data):
            if isinstance(event, Data):
                self._layer.data(event)
            else:
                self._layer.take(event)

    @override
    def finish(self) -> DiffID:
        self._parser.finish()
        self._found = DiffID.from_hasher(self._hasher, self._promised.algorithm)
        return self._found

    @override
    async def commit(self, *, labels: Labels = NO_LABELS) -> None:
        if self._found is None:
            raise FailedPreconditionError(f"layer {self._name} is not finished", subject=self._name)
        if self._found != self._promised:
            raise DiffIDMismatchError(f"layer {self._name} unpacks to {self._found}", subject=self._promised)
        await self._owner.publish(self._name, self._parent, self._layer, labels, self._lease)


def _usage(tree: Tree) -> Usage:
    nodes = {id(node): node for node in tree.values()}
    size = sum(-(-len(node.content) // 4096) * 4096 for node in nodes.values())
    return Usage(size=size, inodes=len(nodes) + 1)
