"""Directories of snapshots: made, taken out of the way, deleted, also after a crash."""

import os
import shutil
import stat
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import anyio
import structlog

from lading.errors import LadingError
from lading.kit import fs
from lading.kit.aio import DATA, DISK, run
from lading.kit.failpoints import failpoint
from lading.snapshots import trees
from lading.snapshots.faults import translate, translated

DOOMED: Final = "rm-"
"""How the name of a directory begins that is to be deleted."""
_log: Final = structlog.get_logger(__name__)


class Directories:
    """One directory for each snapshot, below one that holds them all.

    A name is never used twice. What is to be deleted is renamed first, which is quick and leaves no half of it behind,
    and deleted by `delete_doomed`.

    Attributes:
        path: What holds them all.
        fd: The same, open for as long as this is used; -1 after `close`.
        making: IDs of those that are filled and have no row yet.
        doomed: Names of those that are to be deleted.

    """

    def __init__(
        self, path: Path, *, mode: int, named: Callable[[int], str], release: Callable[[Path], None]
    ) -> None:
        """Use ``path``, made if it is missing.

        Args:
            path: An absolute path.
            mode: Its permissions.
            named: The name of a snapshot's directory, by its ID.
            release: Lets go of what keeps a directory from being deleted, its mounts. Blocking.

        """
        self.path = path
        self.making: set[int] = set()
        self.doomed: set[str] = set()
        self._named = named
        self._release = release
        self._deleting = anyio.Lock()
        with translated(f"cannot use {path}"):
            fs.make_directories(path, mode=mode)
            path.chmod(mode)  # T22: set-ID programs of images are out of everybody's reach
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the descriptor. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def of(self, id: int) -> Path:
        """The directory of a snapshot."""
        return self.path / self._named(id)

    def doom(self, id: int) -> None:
        """Take a snapshot's directory out of the way. That it is gone is fine. Blocking."""
        self.doom_named(self._named(id))

    def doom_named(self, directory: str) -> None:
        """Take a directory out of the way by its name; it is deleted later. That it is gone is fine. Blocking."""
        name = f"{DOOMED}{directory}"
        try:
            os.rename(directory, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise translate(exc, f"cannot remove snapshot directory {directory}") from exc
        self.doomed.add(name)

    def find_doomed(self) -> list[str]:
        """Note what an earlier process left to be deleted; the names of all directories. Blocking."""
        names = os.listdir(self.path)
        self.doomed |= {name for name in names if name.startswith(DOOMED)}
        return names

    async def doom_orphans(self, living: Callable[[], Awaitable[Iterable[int]]]) -> None:
        """Take out of the way what has no row: neither one of ``living``, nor being made now."""
        names = await run(DISK, self.find_doomed)
        # In this order: what is being made now either still is, or has its row, when the rows are read.
        kept = {str(number) for number in self.making}
        kept |= {str(number) for number in await living()}
        for name in names:
            if name.isdecimal() and name not in kept:
                await run(DISK, self.doom, int(name))

    async def delete_doomed(self) -> int:
        """Delete what is out of the way; bytes that it freed. What fails is logged and left to the next start."""
        freed = 0
        async with self._deleting:
            for name in sorted(self.doomed):
                try:
                    freed += await run(DATA, self._delete, name)
                except LadingError as exc:
                    _log.warning("snapshot_deletion_failed", directory=name, error=str(exc))
                self.doomed.discard(name)
        return freed

    def _delete(self, name: str) -> int:
        freed = 0

        def count(status: os.stat_result) -> None:
            nonlocal freed
            if status.st_nlink == 1 or stat.S_ISDIR(status.st_mode):
                freed += status.st_blocks * 512

        with translated(f"cannot delete {name}"):
            self._release(self.path / name)
            failpoint("snapshot.doomed")
            trees.remove(self.fd, name, count)
        return freed


def probe_directory(root: Path, test: Callable[[Path], None]) -> str | None:
    """Run a test in a temporary directory below ``root``; what went wrong, in words, or ``None``."""
    try:
        fs.make_directories(root, mode=0o700)
        place = root / f".probe-{os.getpid()}"
        for left in root.glob(".probe-*"):  # by one that was cut short
            shutil.rmtree(left, ignore_errors=True)
        place.mkdir(mode=0o700)
        try:
            test(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as exc:
        return exc.strerror or str(exc)
    return None
