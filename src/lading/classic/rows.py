"""Rows of snapshots, kept in step with Docker's layer database.

The rows of the database answer every question; what dockerd has to find stands in its own files as well. A snapshot named by a
chain ID is a layer there, an active one a mount. What only Lading has a word for (views, snapshots committed under other names)
stands in rows alone. Files first when something comes, rows first when it goes; `lading.classic.sync` mends what a crash left.
"""

import os
import re
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import anyio
from typing_extensions import override

from lading.classic import layout
from lading.classic.layerdb import SPLIT, LayerDatabase, LayerRecord
from lading.classic.layout import Layout
from lading.core import metadata
from lading.core.leases import LeaseID
from lading.core.metadata import TREE, SnapshotRow, check_replaceable
from lading.core.snapshots import Kind, Labels, Usage
from lading.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
)
from lading.kit import aio, fs
from lading.kit.failpoints import failpoint
from lading.oci.digest import ChainID, DiffID

_FILE_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]{0,200}")
DRAFT: Final = "layer"
"""Directory beside a tree that is being made: ``diff``, ``size`` and tar-split, which become the layer's entry."""


def chain_id(key: str) -> ChainID | None:
    """The chain ID that a snapshot is named by, or ``None`` if it has another name."""
    try:
        return ChainID(key) if key.startswith("sha256:") else None
    except InvalidArgumentError:
        return None


def is_described(key: str, kind: Kind) -> bool:
    """Whether Docker's files say what a snapshot's tree is for. Others keep their draft: a power cut may leave it without a row,
    and then it is known by that. (So does a copy of a layer, which may take its place, with its notes.)
    """
    if kind is Kind.COMMITTED:
        return chain_id(key) is not None
    return kind is Kind.ACTIVE and _FILE_NAME.fullmatch(key) is not None


class LayerRows(metadata.Snapshots):
    """`metadata.Snapshots` of one namespace over a classic store. Call `load` first."""

    def __init__(self, rows: metadata.Snapshots, layout_: Layout) -> None:
        self._rows = rows
        self._layout = layout_
        self._layers = LayerDatabase(layout_)
        self._trees: dict[int, str] = {}
        self._ours: set[tuple[str, str]] = set()  # key and tree of what had a row: deleted once it has none
        self._gone: set[tuple[str, str]] = set()
        self._one = anyio.Lock()

    async def load(self) -> None:
        """Learn the trees of all rows."""
        for row in await self._rows.list():
            self._know(row.info.key, row.id, row.extra.get(TREE, ""))

    def _know(self, key: str, id: int, tree: str) -> None:
        self._trees[id] = tree
        self._ours.add((key, tree))

    def tree(self, id: int) -> str:
        """Name of a snapshot's directory."""
        try:
            return self._trees[id]
        except KeyError:
            raise InternalError(f"snapshot {id} has no tree") from None

    async def orphans(self) -> Sequence[str]:
        """Trees whose rows are gone; the layer database knows them no more."""
        ours = set(self._ours)  # before the rows are read: what comes meanwhile is not looked at
        rows = await self._rows.list()
        gone = ours - {(row.info.key, row.extra.get(TREE, "")) for row in rows}
        self._ours -= gone
        self._gone |= gone
        return await aio.run(aio.DISK, self._let_go, gone)

    def _let_go(self, gone: AbstractSet[tuple[str, str]]) -> list[str]:
        for key, tree in gone:
            name = chain_id(key)
            record = self._layers.read(name) if name else None
            if name and record and record.tree == tree:
                failpoint("classic.removing")
                self._layers.begin_removal(name)
        return sorted({*(tree for _, tree in gone), *self._layers.removals()})

    async def forget(self, trees: Sequence[str]) -> None:
        """These trees are out of the way."""
        if not trees:
            return
        await aio.run(aio.DISK, self._layers.finish_removals, set(trees))
        # Or a power cut could bring a tree back and leave nobody who knows whose it was.
        await aio.run(aio.DISK, fs.fsync_directory, self._layout.trees)
        done = {(key, tree) for key, tree in self._gone if tree in set(trees)}
        self._gone -= done
        await aio.run(aio.DISK, self._forget_mounts, done)
        await self._rows.forget_removed(done)

    def _forget_mounts(self, gone: AbstractSet[tuple[str, str]]) -> None:
        for key, tree in gone:
            self._layers.remove_mount(key, tree)

    @override
    async def get(self, key: str) -> SnapshotRow:
        return await self._rows.get(key)

    @override
    async def chain(self, key: str) -> Sequence[SnapshotRow]:
        return await self._rows.chain(key)

    @override
    async def list(self) -> Sequence[SnapshotRow]:
        return await self._rows.list()

    @override
    async def allocate(self) -> int:
        number = await self._rows.allocate()
        self._trees[number] = layout.new_id()
        return number

    @override
    async def create(
        self,
        key: str,
        *,
        id: int,
        kind: Kind,
        parent: str | None,
        labels: Labels,
        usage: Usage,
        boot_id: str = "",
        extra: Mapping[str, str] | None = None,
        lease: LeaseID | None = None,
        durable: bool = True,
    ) -> SnapshotRow:
        tree = self.tree(id)
        name = chain_id(key)

        async def insert() -> SnapshotRow:
            row = await self._rows.create(
                key,
                id=id,
                kind=kind,
                parent=parent,
                labels=labels,
                usage=usage,
                boot_id=boot_id,
                extra={**(extra or {}), TREE: tree},
                lease=lease,
                durable=durable,
            )
            self._know(key, id, tree)
            if is_described(key, kind):
                draft = self._layout.trees / tree / DRAFT
                await aio.run(aio.DISK, shutil.rmtree, draft, ignore_errors=True)
            return row

        if kind is Kind.COMMITTED and name is not None:
            async with self._one:
                return await self._insert_layer(name, parent, tree, insert)
        if kind is Kind.ACTIVE and is_described(key, kind):
            await aio.run(aio.DISK, self._layers.add_mount, key, tree, chain_id(parent or ""))
        return await insert()

    async def _insert_layer(
        self, name: ChainID, parent: str | None, tree: str, insert: Callable[[], Awaitable[SnapshotRow]]
    ) -> SnapshotRow:
        try:
            await self._rows.get(name)
        except NotFoundError:
            pass
        else:
            raise AlreadyExistsError(f"snapshot {name} exists", subject=name)
        await aio.run(aio.DISK, self._add_layer, name, parent, tree)
        failpoint("classic.described")
        try:
            row = await insert()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await aio.run(aio.DISK, self._layers.begin_removal, name)
            raise
        return row

    def _add_layer(self, name: ChainID, parent: str | None, tree: str) -> None:
        """Enter a layer. One of the same name that has lost its row is on its way out, and goes first."""
        draft: Path = self._layout.trees / tree / DRAFT
        diff_id, size = layout.read(draft / "diff"), layout.read(draft / "size")
        if not diff_id or not size:
            raise InternalError(f"layer {name} was not described while it arrived")
        if self._layers.read(name) is not None:
            self._layers.begin_removal(name)
        record = LayerRecord(
            chain_id=name,
            diff_id=DiffID(diff_id),
            parent=ChainID(parent) if parent else None,
            tree=tree,
            size=int(size),
        )
        self._layers.add(record, draft / SPLIT)

    @override
    async def commit(
        self,
        name: str,
        key: str,
        *,
        labels: Labels,
        usage: Usage,
        boot_id: str = "",
        lease: LeaseID | None = None,
    ) -> SnapshotRow:
        row = await self._rows.commit(name, key, labels=labels, usage=usage, boot_id=boot_id, lease=lease)
        tree = self.tree(row.id)
        await aio.run(aio.DISK, self._layers.remove_mount, key, tree)
        self._ours.discard((key, tree))
        self._know(name, row.id, tree)
        return row

    @override
    async def mark_durable(self, ids: Sequence[int]) -> None:
        await self._rows.mark_durable(ids)

    @override
    async def mark_lost(self, ids: Sequence[int]) -> None:
        await self._rows.mark_lost(ids)

    @override
    async def discard_foreign_boots(self, boot_id: str) -> Sequence[SnapshotRow]:
        return await self._rows.discard_foreign_boots(boot_id)

    @override
    async def hold(self, key: str, lease: LeaseID) -> bool:
        return await self._rows.hold(key, lease)

    @override
    async def update(self, key: str, labels: Mapping[str, str | None]) -> SnapshotRow:
        return await self._rows.update(key, labels)

    @override
    async def delete(self, key: str) -> SnapshotRow:
        return await self._rows.delete(key)

    @override
    async def replace(self, name: str, copy: str) -> SnapshotRow:
        """The trees change places, so that whoever names the layer's, dockerd too, goes on as before; the copy's row goes."""
        row, made = await self._rows.get(name), await self._rows.get(copy)
        above = (each.info.key for each in await self._rows.list() if each.info.parent == copy)
        check_replaceable(row, made, child=next(above, None))
        await aio.run(aio.DISK, self._exchange, chain_id(name), self.tree(row.id), self.tree(made.id))
        return await self._rows.delete(copy)

    def _exchange(self, name: ChainID | None, tree: str, copy: str) -> None:
        ours, theirs = self._layout.trees / tree, self._layout.trees / copy
        split = theirs / DRAFT / SPLIT
        if not (ours / "diff").exists():
            (ours / "diff").mkdir()
        fs.exchange(ours / "diff", theirs / "diff")
        if name is not None and split.exists():
            os.chmod(split, 0o644)
            os.replace(split, self._layers.directory(name) / SPLIT)
            fs.fsync_directory(self._layers.directory(name))
        for each in (ours, theirs):
            fs.fsync_directory(each)

    @override
    async def removed(self) -> AbstractSet[tuple[str, str]]:
        return await self._rows.removed()

    @override
    async def forget_removed(self, gone: Collection[tuple[str, str]]) -> None:
        await self._rows.forget_removed(gone)
