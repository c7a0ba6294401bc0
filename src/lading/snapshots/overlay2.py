"""The overlay2 snapshotter: overlayfs in the layout of Docker's classic storage driver of the same name.

**On disk.** ``<root>/overlay2/<tree>/{diff,link,lower,work,committed}``: the layer, a short name for it, the short names of what
is below it, overlayfs's work directory, and a mark that something stands on it. ``<root>/overlay2/l/<short name>`` is a symbolic
link to the layer; mount options name layers by it, so that 128 of them fit a page. What is written here, dockerd reads, and the
other way round (moby, ``daemon/graphdriver/overlay2``).

**Which trees are whose** stands in Docker's layer database, which `GraphRows` keeps in step with our rows. A directory that no
row of ours names may be dockerd's: nothing is deleted here but what our rows let go of.

**Bytes.** Docker's store keeps no compressed layer: beside the tree stands how to make the tar stream again
(`lading.formats.tarsplit`), written while the layer arrives. So a layer here is durable before it is acknowledged.
"""

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import anyio
from typing_extensions import Buffer, override

from lading.core import metadata
from lading.core.metadata import SnapshotRow
from lading.core.snapshots import Capability, Kind, Usage
from lading.formats import compression, tarsplit
from lading.kit import fs
from lading.kit.aio import DISK, run
from lading.oci.digest import DiffID
from lading.snapshots import trees
from lading.snapshots.extract import Extracted
from lading.snapshots.faults import translated
from lading.snapshots.overlay import OverlaySnapshotter
from lading.snapshots.pending import LayerExtractor

DRAFT: Final = "layer"
"""Directory beside a tree that is being made, with what the layer database will say of it. It goes when the row is there."""
UNMADE: Final = "new-"
"""How the name of a tree begins until it has its draft."""
LINK_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LINK_LENGTH: Final = 26


class GraphRows(metadata.Snapshots, Protocol):
    """Rows that are kept in step with Docker's layer database. Methods of its own block."""

    def tree(self, id: int) -> str:
        """Name of the directory of a snapshot, also of one that has no row yet."""
        ...

    async def orphans(self) -> Sequence[str]:
        """Trees that rows of ours let go of, taken out of the layer database. `forget` follows, or the next start."""
        ...

    async def forget(self, trees: Sequence[str]) -> None:
        """These trees are out of the way."""
        ...


class Overlay2Snapshotter(OverlaySnapshotter):
    """`Snapshotter` on the trees of a classic Docker store."""

    mode = 0o710
    _rows: GraphRows

    @property
    @override
    def name(self) -> str:
        return "overlay2"

    @property
    @override
    def capabilities(self) -> frozenset[Capability]:
        # dockerd would not find what is in a file.
        return super().capabilities - {Capability.LIMITS}

    @override
    def _place(self, root: Path) -> Path:
        return root / "overlay2"

    @override
    def directory_name(self, id: int) -> str:
        return self._rows.tree(id)

    @override
    def tree(self, row: SnapshotRow) -> Path:
        return self.path(row.id) / "diff"

    @override
    def _lowers(self, rows: Sequence[SnapshotRow]) -> list[str]:
        shown = len(self.stack(rows))
        return [str(self._directories.path / _link(self.path(row.id))) for row in rows[:shown]]

    @override
    def _layer_directory(self, directory: Path) -> Path:
        return directory / "diff"

    @override
    def _make_directory(self, directory: Path) -> None:
        # A tree is never there without its draft, by which the next start knows it for ours.
        made = directory.with_name(f"{UNMADE}{directory.name}")
        made.mkdir(mode=0o710)
        made.chmod(0o710)
        name = "".join(secrets.choice(LINK_LETTERS) for _ in range(_LINK_LENGTH))
        _put(made / "link", name, 0o644)
        (made / DRAFT).mkdir(mode=0o700)
        made.rename(directory)
        fs.make_directories(self._directories.path / "l", mode=0o700)
        (self._directories.path / "l" / name).symlink_to(f"../{directory.name}/diff")

    @override
    def _fill(self, directory: Path, kind: Kind, parents: Sequence[SnapshotRow]) -> None:
        tree = directory / "diff"
        tree.mkdir(mode=0o755)
        tree.chmod(0o755)
        if parents:
            source = self.tree(parents[0])
            trees.apply(f"{source}/.", os.stat(source), f"{tree}/.")
        self._stand_on(directory, parents)

    @override
    def _complete(self, directory: Path, extracted: Extracted, parents: Sequence[SnapshotRow]) -> Usage:
        usage = super()._complete(directory, extracted, parents)
        self._stand_on(directory, parents)
        return Usage(size=int((directory / DRAFT / "size").read_text()), inodes=usage.inodes)

    def _stand_on(self, directory: Path, parents: Sequence[SnapshotRow]) -> None:
        """Write what dockerd writes into a directory that has something below it."""
        if not parents:
            return
        (directory / "work").mkdir(mode=0o700)
        below = [_link(self.path(row.id)) for row in parents]
        _put(directory / "lower", ":".join(below), 0o644)
        mark = self.path(parents[0].id) / "committed"
        if not mark.exists():
            with contextlib.suppress(FileExistsError):  # several may be made on one at a time
                _put(mark, "", 0o600)
            fs.fsync_directory(mark.parent)

    @override
    def _extractor(self, id: int, diff_id: DiffID, compressed_size: int, *, lowest: bool) -> LayerExtractor:
        extractor = super()._extractor(id, diff_id, compressed_size, lowest=lowest)
        draft = self.path(id) / DRAFT
        try:
            _put(draft / "diff", str(diff_id), 0o644)
            return _Splitting(extractor, draft)
        except BaseException:
            extractor.close()
            raise

    @override
    def _flush_new(self, id: int) -> None:
        super()._flush_new(id)
        fs.fsync_directory(self._directories.path / "l")

    @override
    async def remove(self, key: str) -> None:
        await super().remove(key)
        with anyio.CancelScope(shield=True):
            await self._find_orphans()

    @override
    async def _find_orphans(self) -> None:
        await run(DISK, self._directories.find_doomed)
        gone = await self._rows.orphans()
        for tree in gone:
            await run(DISK, self._directories.doom_named, tree)
        await self._rows.forget(gone)
        self._work.set()

    @override
    def _release(self, directory: Path) -> None:
        link = directory / "link"
        if link.is_file():
            (self._directories.path / "l" / link.read_text(encoding="ascii").strip()).unlink(missing_ok=True)
        super()._release(directory)


class _Splitting(LayerExtractor):
    """Extracts a layer, and notes on the way how to make its stream again."""

    def __init__(self, extractor: LayerExtractor, draft: Path) -> None:
        self._extractor = extractor
        self._draft = draft
        self._packer = tarsplit.Packer()
        self._compressor = compression.compressor(compression.Compression.GZIP)
        self._fd = os.open(
            draft / "tar-split.json.gz", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644
        )

    @override
    def write(self, data: Buffer) -> None:
        self._extractor.write(data)
        self._pack(self._packer.feed(data))

    def _pack(self, lines: bytes) -> None:
        if lines:
            for packed in self._compressor.feed(lines):
                fs.write_all(self._fd, packed)

    @override
    def finish(self) -> Extracted:
        extracted = self._extractor.finish()
        with translated("cannot complete a layer"):
            self._pack(self._packer.finish())
            fs.write_all(self._fd, self._compressor.finish())
            os.fsync(self._fd)
            _put(self._draft / "size", str(self._packer.size), 0o644)
        return extracted

    @override
    def close(self) -> None:
        self._extractor.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _link(directory: Path) -> str:
    """A tree's short name, as mount options and ``lower`` have it."""
    return f"l/{(directory / 'link').read_text(encoding='ascii').strip()}"


def _put(path: Path, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        fs.write_all(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
