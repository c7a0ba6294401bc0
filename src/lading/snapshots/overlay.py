"""The overlayfs snapshotter: a directory per layer, stacked by the kernel.

Layout and mounts are those of containerd's snapshotter of the same name: ``snapshots/<id>/{fs,work}``; a bind mount where
there is nothing to stack. Whoever mounts many layers shortens the options by a common directory, as containerd's
own mount package and its shims do (docs/adr/0041); `lading.kit.linux.mount_with` does so too.
"""

import os
import stat
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from typing_extensions import override

from lading.core.metadata import SnapshotRow
from lading.core.mounts import Mount
from lading.core.snapshots import Capability, Kind, SnapshotKey, Usage
from lading.errors import FailedPreconditionError
from lading.kit import linux
from lading.snapshots import diff, layers, trees
from lading.snapshots.base import DirectorySnapshotter
from lading.snapshots.diff import Difference
from lading.snapshots.directories import probe_directory
from lading.snapshots.extract import Extracted

_PARAMETERS: Final = Path("/sys/module/overlay/parameters")


def mount_options() -> tuple[str, ...]:
    """Options for every overlay mount, by what this kernel knows and has as defaults.

    An index would tie an upper directory to its lower ones for ever, while ours may be made again; redirects and
    metadata-only copies would make an upper directory unreadable without those below it. In a user namespace overlayfs
    keeps its marks in attributes that root of the namespace may set (Linux 5.11).
    """
    options = ["userxattr"] if linux.in_user_namespace() else []
    for name in ("index", "redirect_dir", "metacopy"):
        try:
            fd = os.open(f"{_PARAMETERS}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            default = os.read(fd, 16).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
        if name == "index" or default not in ("N", "off"):
            options.append(f"{name}=off")
    return tuple(options)


def bind(tree: str | Path, *, read_only: bool) -> list[Mount]:
    """The mount of a tree that needs no stacking."""
    return [Mount(type="bind", source=str(tree), options=("ro" if read_only else "rw", "rbind"))]


def probe(root: Path) -> str | None:
    """Why overlayfs cannot be used on the file system of ``root``; ``None`` if it can. Blocking; mounts one."""

    def test(place: Path) -> None:
        for name in ("lower", "upper", "work", "merged"):
            (place / name).mkdir()
        (place / "lower" / "file").touch()
        linux.in_private_namespace(lambda: _try(place))

    return probe_directory(root, test)


def _try(place: Path) -> None:
    options = [
        *mount_options(),
        f"workdir={place}/work",
        f"upperdir={place}/upper",
        f"lowerdir={place}/lower",
    ]
    linux.mount_with("overlay", f"{place}/merged", "overlay", options)
    try:
        (place / "merged" / "file").unlink()
        status = os.stat(place / "upper" / "file", follow_symlinks=False)
        if not stat.S_ISCHR(status.st_mode):
            raise OSError(0, "overlayfs makes no whiteouts here")
    finally:
        linux.unmount(f"{place}/merged")


class OverlaySnapshotter(DirectorySnapshotter):
    """`Snapshotter` on overlayfs. Needs privilege, if only of a user namespace, extended attributes, file types in entries."""

    @property
    @override
    def name(self) -> str:
        return "overlayfs"

    @property
    @override
    def capabilities(self) -> frozenset[Capability]:
        known = {Capability.PARALLEL_LAYERS, Capability.LIMITS, Capability.REPLACES}
        # Loop devices and ext4 are for root of the machine.
        return frozenset(known - {Capability.LIMITS} if linux.in_user_namespace() else known)

    @override
    def upper(self, key: SnapshotKey) -> AbstractAsyncContextManager[str]:
        return self._upper(key)

    @asynccontextmanager
    async def _upper(self, key: SnapshotKey) -> AsyncGenerator[str]:
        row = await self._rows.get(key)
        if row.info.kind is not Kind.ACTIVE:
            raise FailedPreconditionError(f"snapshot {key} is {row.info.kind.value}, not active", subject=key)
        await self._ready(row)
        yield str(self.tree(row))

    @override
    def _fill(self, directory: Path, kind: Kind, parents: Sequence[SnapshotRow]) -> None:
        tree = directory / "fs"
        tree.mkdir(mode=0o755)
        tree.chmod(0o755)
        if kind is Kind.ACTIVE:
            (directory / "work").mkdir(mode=0o700)
        if parents:  # the mounted root shows the attributes of the topmost directory
            source = self.tree(parents[0])
            trees.apply(f"{source}/.", os.stat(source), f"{tree}/.")

    @override
    def _show(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> list[Mount]:
        read_only = row.info.kind is Kind.VIEW
        lowers = self._lowers(parents)
        if not lowers:
            return bind(self.tree(row), read_only=read_only)
        if read_only and len(lowers) == 1:
            return bind(lowers[0], read_only=True)
        options = list(mount_options())
        if not read_only:
            options += [f"workdir={self.place(row)}/work", f"upperdir={self.tree(row)}"]
        options.append(f"lowerdir={':'.join(lowers)}")
        return [Mount(type="overlay", source="overlay", options=tuple(options))]

    def _lowers(self, rows: Sequence[SnapshotRow]) -> list[str]:
        """What `stack` says, as mount options are to have it."""
        return self.stack(rows)

    @override
    def _show_committed(self, rows: Sequence[SnapshotRow]) -> list[Mount]:
        lowers = self.stack(rows)
        if len(lowers) == 1:
            return bind(lowers[0], read_only=True)
        options = (*mount_options(), f"lowerdir={':'.join(lowers)}")
        return [Mount(type="overlay", source="overlay", options=options)]

    @override
    def _complete(self, directory: Path, extracted: Extracted, parents: Sequence[SnapshotRow]) -> Usage:
        if not parents:
            return extracted.usage
        tree, pruned = str(self._layer_directory(directory)), 0
        with layers.Lowers(self.stack(parents)) as lowers:
            if extracted.whiteouts:
                pruned = layers.prune(tree, lowers, opaque_root=extracted.opaque_root)
            layers.inherit(tree, extracted.inheriting, lowers)
        return Usage(size=extracted.usage.size, inodes=extracted.usage.inodes - pruned)

    @override
    def _differences(self, row: SnapshotRow, parents: Sequence[SnapshotRow]) -> Generator[Difference]:
        return diff.of_upper(str(self.tree(row)), self.stack(parents))
