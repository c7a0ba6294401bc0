"""What a data-root holds of ours, as the disk tells it: what a database without rows would not know, and so delete."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lading.classic.layerdb import LayerDatabase, MountRecord
from lading.classic.layout import Layout
from lading.containers import naming
from lading.core.metadata import Namespace
from lading.daemon import stores
from lading.daemon.selection import StoreKind
from lading.errors import DataLossError, InvalidArgumentError
from lading.oci.digest import ALGORITHMS, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDirectory:
    """The directory of a snapshot, which its number names."""

    snapshotter: str
    namespace: Namespace
    id: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Blobs with the sizes of their files; directories of snapshots; of containers, by their store; mounts of classic ones."""

    blobs: dict[Digest, int]
    snapshots: Sequence[SnapshotDirectory]
    containers: Sequence[tuple[StoreKind, Path]]
    mounts: Sequence[MountRecord]
    volumes: Sequence[tuple[Namespace, Path]]

    def words(self) -> str:
        """What it is, for a message; empty if there is nothing."""
        counts = (
            (len(self.blobs), "blob"),
            (len(self.snapshots) + len(self.mounts), "snapshot"),
            (len(self.containers), "container"),
            (len(self.volumes), "volume"),
        )
        return counted(*((count, noun) for count, noun in counts if count))


def counted(*counts: tuple[int, str]) -> str:
    """Numbers of things in words: ``2 blobs, 1 snapshot and 1 container``."""
    parts = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)


def holdings(root: Path) -> Holdings:
    """Look. Blocking."""
    return Holdings(
        blobs=dict(_blobs(root / "content" / "blobs")),
        snapshots=list(_snapshots(root / "snapshots")),
        containers=list(_containers(root)),
        mounts=[mount for mount in LayerDatabase(Layout(root)).mounts() if mount.ours],
        volumes=[
            (Namespace(namespace.name), volume)
            for namespace in _entries(root / "lading" / "volumes")
            for volume in _entries(namespace)
            if (volume / "_data").is_dir()
        ],
    )


def refuse_new_database(root: Path, database: str) -> None:
    """Raise `DataLossError` if a new database, where there is none, would have what the data-root holds deleted. Blocking."""
    held, configs = holdings(root), Layout(root).configs
    # A config that is among Docker's own files comes back from there.
    blobs = {digest: size for digest, size in held.blobs.items() if not (configs / digest.hex).is_file()}
    words = replace(held, blobs=blobs).words()
    if words:
        raise DataLossError(
            f"the database {root / database} is lost, and the data-root holds {words}, which a new one would not know",
            hint=f"put the database back, or run lading fsck --rebuild --data-root {root}",
            subject=str(root / database),
        )


def _entries(directory: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from (directory / name for name in sorted(os.listdir(directory)))


def _blobs(directory: Path) -> Iterator[tuple[Digest, int]]:
    for algorithm in ALGORITHMS:
        for path in _entries(directory / algorithm):
            with suppress(InvalidArgumentError, FileNotFoundError):
                yield Digest(f"{algorithm}:{path.name}"), path.stat(follow_symlinks=False).st_size


def _snapshots(directory: Path) -> Iterator[SnapshotDirectory]:
    for snapshotter in _entries(directory):
        for namespace in _entries(snapshotter):
            for path in _entries(namespace / "snapshots"):
                if path.name.isdecimal():
                    yield SnapshotDirectory(
                        snapshotter=snapshotter.name,
                        namespace=Namespace(namespace.name),
                        id=int(path.name),
                        path=path,
                    )


def _containers(root: Path) -> Iterator[tuple[StoreKind, Path]]:
    """As `lading.containers.directories` has them; dockerd's, which have a file of their own, are not ours."""
    for kind in StoreKind:
        for path in _entries(root / stores.containers_directory(kind)):
            if naming.is_id(path.name) and not (path / "config.v2.json").exists():
                yield kind, path
