"""The sweep at start: what a crash left behind, and what it took away."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lading.content.files import LocalFiles
from lading.content.writer import trim
from lading.core.labels import RECIPE
from lading.core.metadata import Blobs, Database, Namespace
from lading.errors import InvalidArgumentError
from lading.kit import aio
from lading.oci.digest import ALGORITHMS, Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepReport:
    """What was found. ``missing`` is for fsck: rows whose file is not there, or not as long as the row says."""

    ingests: int
    """Ingest directories without a row, deleted."""
    orphans: int
    """Blob files without a row, deleted."""
    freed: int
    """Bytes of the deleted blob files."""
    missing: Sequence[tuple[Namespace, Digest]]


async def sweep(files: LocalFiles, database: Database) -> SweepReport:
    """Delete files that no row promises; may run while the store is in use. Rows are never deleted."""
    await aio.run(aio.DISK, files.prepare)
    ingests = await _sweep_ingests(files, database)
    found = await aio.run(aio.DISK, lambda: dict(_blob_files(files.root)))
    missing: list[tuple[Namespace, Digest]] = []
    promised: set[Digest] = set()
    for namespace in await database.namespaces():
        blobs = database.blobs(namespace)
        away = await blobs.away()
        for info in await blobs.list():
            promised.add(info.digest)
            gone = RECIPE in info.labels and info.digest not in found
            if gone is not (info.digest in away):
                await _note(files, blobs, info.digest)
            if gone:
                continue  # away, on purpose
            if (
                found.get(info.digest) != info.size
                and await aio.run(aio.DISK, files.size, info.digest) != info.size
            ):
                missing.append((namespace, info.digest))
    orphans = freed = 0
    rows = database.blobs(Namespace(""))
    for digest in found.keys() - promised:
        async with files.blobs.hold(digest):
            if await rows.present(digest) is None:
                await aio.run(aio.DISK, files.blob(digest).unlink, missing_ok=True)
                orphans += 1
                freed += found[digest]
    return SweepReport(ingests=ingests, orphans=orphans, freed=freed, missing=missing)


async def _note(files: LocalFiles, blobs: Blobs, digest: Digest) -> None:
    """Note whether a blob that can be made again is away: a crash came between its file and the note."""
    async with files.blobs.hold(digest):
        await blobs.set_away({digest: await aio.run(aio.DISK, files.size, digest) is None})


async def _sweep_ingests(files: LocalFiles, database: Database) -> int:
    there = await aio.run(aio.DISK, lambda: list((files.root / "ingest").iterdir()))
    live: set[Path] = set()
    for namespace in await database.namespaces():
        live.update(files.ingest(namespace, row.ref) for row in await database.blobs(namespace).ingests())
    swept = 0
    for directory in there:
        if files.ingests.held(directory):
            continue
        async with files.ingests.hold(directory):
            if directory in live:  # its writer was killed before it could let go
                await aio.run(aio.DISK, _trim, directory)
            else:
                await files.discard_ingest(directory)
                swept += 1
    return swept


def _trim(directory: Path) -> None:
    with suppress(FileNotFoundError, BlockingIOError):  # another process may be writing it
        fd = os.open(directory / "data", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            trim(fd)
        finally:
            os.close(fd)


def _blob_files(root: Path) -> Iterator[tuple[Digest, int]]:
    for algorithm in ALGORITHMS:
        with os.scandir(root / "blobs" / algorithm) as entries:
            for entry in entries:
                with suppress(InvalidArgumentError, FileNotFoundError):
                    yield Digest(f"{algorithm}:{entry.name}"), entry.stat(follow_symlinks=False).st_size
