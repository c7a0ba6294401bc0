"""The native snapshotter: a whole copy of the tree per snapshot, for file systems on which overlayfs does not work.

A layer is extracted beside a copy of its parent's tree and then moved onto it, so that hostile archives meet the same
extractor with the same rules. Copies share their data where the file system can (btrfs, xfs).
"""

import os
from collections.abc import Generator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from typing_extensions import override

from lading.core.metadata import SnapshotRow
from lading.core.mounts import Mount
from lading.core.snapshots import Capability, Kind, SnapshotKey, Usage
from lading.errors import UnsupportedError
from lading.snapshots import diff, layers, trees
from lading.snapshots.base import DirectorySnapshotter
from lading.snapshots.diff import Difference
from lading.snapshots.extract import Extracted
from lading.snapshots.overlay import bind


class NativeSnapshotter(DirectorySnapshotter):
    """`Snapshotter` of plain directories; works on every file system that Linux can run from."""

    @property
    @override
    def name(self) -> str:
        return "native"

    @property
    @override
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.PARALLEL_LAYERS, Capability.REPLACES})

    @override
    def upper(self, key: SnapshotKey) -> AbstractAsyncContextManager[str]:
        raise UnsupportedError(
            "the native snapshotter does not keep changes apart",
            hint="compare the trees instead",
            subject=key,
        )

    @override
    def _layer_directory(self, directory: Path) -> Path:
        return directory / "layer"

    @override
    def _fill(self, directory: Path, kind: Kind, parents: Sequence[SnapshotRow]) -> None:
        if parents and kind is Kind.ACTIVE:
            self._copy(parents[0], directory / "fs")
        else:
            (directory / "fs").mkdir(mode=0o755)
            (directory / "fs").chmod(0o755)

    @override
    def _flush_new(self, id: int) -> None:
        if os.listdir(self.path(id) / "fs"):
            # There is no blob to make the copy again from, and whoever writes into it keeps what it began with.
            self._make_durable([id])
        else:
            super()._flush_new(id)

    @override
    def _show(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> list[Mount]:
        if row.info.kind is Kind.VIEW:
            return bind(self.tree(parents[0] if parents else row), read_only=True)
        return bind(self.tree(row), read_only=False)

    @override
    def _show_committed(self, rows: Sequence[SnapshotRow]) -> list[Mount]:
        return bind(self.tree(rows[0]), read_only=True)

    @override
    def _complete(self, directory: Path, extracted: Extracted, parents: Sequence[SnapshotRow]) -> Usage:
        layer, tree = directory / "layer", directory / "fs"
        if not parents:  # then there are no whiteouts either
            layer.rename(tree)
            return extracted.usage
        parent = self.tree(parents[0])
        with layers.Lowers([str(parent)]) as lowers:
            layers.inherit(str(layer), extracted.inheriting, lowers)
        if extracted.opaque_root:
            tree.mkdir(mode=0o755)
        else:
            self._copy(parents[0], tree)
        layers.flatten(str(layer), str(tree))
        with trees.opened(directory) as fd:
            trees.remove(fd, "layer")
        return self._measure(tree)

    def _copy(self, parent: SnapshotRow, target: Path) -> None:
        target.mkdir(mode=0o700)
        with trees.opened(self.tree(parent)) as source, trees.opened(target) as fd:
            trees.copy(source, fd)

    @override
    def _differences(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> Generator[Difference]:
        return diff.of_trees(str(self.tree(row)), str(self.tree(parents[0])) if parents else None)
