"""The files of a content store: containerd's layout below one root, and which of them are in use.

``blobs/<algorithm>/<hex>`` holds a blob; ``ingest/<sha256 of the ref>/`` an ingest, in files ``ref``, ``data``, ``startedat``
and ``total``; the time of ``data`` is that of the last write. Refs of different namespaces are different ingests.
"""

import hashlib
import os
import shutil
from contextlib import suppress
from datetime import datetime
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path

from lading.core.content import IngestRef
from lading.errors import DataLossError, LadingError, PermissionDeniedError, ResourceExhaustedError
from lading.kit import aio, fs
from lading.kit.hashing import hash_file
from lading.kit.tasks import KeyedLock
from lading.oci.digest import ALGORITHMS, Digest


class LocalFiles:
    """One content root. Share it between the stores of several namespaces; it knows which ingests and blobs are busy.

    Methods that are not ``async`` block.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ingests = KeyedLock()
        """Held by whoever has an ingest directory open."""
        self.blobs = KeyedLock()
        """Held from a blob's rename to its row, and while its file is deleted."""
        self._prepared = False

    def prepare(self) -> None:
        """Create the directories, durably."""
        if self._prepared:
            return
        blobs = self.root / "blobs"
        for directory in (self.root, blobs, *(blobs / name for name in ALGORITHMS), self.root / "ingest"):
            directory.mkdir(mode=0o700, parents=directory == self.root, exist_ok=True)
        for directory in (blobs, self.root, self.root.parent):
            fs.fsync_directory(directory)
        self._prepared = True

    def blob(self, digest: Digest) -> Path:
        """Where a blob's bytes are."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def size(self, digest: Digest) -> int | None:
        """Length in bytes of a blob's file, if it is there."""
        try:
            return os.stat(self.blob(digest)).st_size
        except FileNotFoundError:
            return None

    def ingest(self, namespace: str, ref: IngestRef) -> Path:
        """Where an ingest is."""
        return self.root / "ingest" / hashlib.sha256(f"{namespace}/{ref}".encode()).hexdigest()

    def create_ingest(self, directory: Path, ref: IngestRef, now: datetime) -> bool:
        """Make an ingest directory, or leave the one that is there; whether it is new."""
        self.prepare()
        directory.mkdir(mode=0o700, exist_ok=True)
        if (directory / "ref").exists():
            return False
        (directory / "startedat").write_text(now.isoformat(), "utf-8")
        (directory / "ref").write_text(ref, "utf-8")
        return True

    def place(self, data: Path, digest: Digest, size: int) -> None:
        """Rename to the blob's path; a file that is there already stays only if its bytes are the blob's."""
        blob = self.blob(digest)
        try:
            fs.rename_new(data, blob)
        except FileExistsError:
            if self.size(digest) == size and self.rehash(blob, digest):
                # Written by somebody who may not have lived to sync it.
                fd = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.unlink(data)
            else:
                os.rename(data, blob)

    async def discard_ingest(self, directory: Path) -> None:
        """Delete an ingest directory; idempotent."""
        await aio.run(aio.DISK, shutil.rmtree, directory, ignore_errors=True)

    def rehash(self, path: Path, digest: Digest) -> bool:
        """Whether a file's bytes have ``digest``."""
        hasher = digest.hasher()
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
                hash_file(fd, hasher)
            finally:
                os.close(fd)
            return hasher.hexdigest() == digest.hex
        return False


def translate(exc: OSError, what: str, root: Path) -> LadingError:
    """Our error for a failed system call on ``what``."""
    if exc.errno in (ENOSPC, EDQUOT):
        return ResourceExhaustedError(
            f"no space left to store {what} below {root}",
            hint="remove images with docker image rm or docker image prune, or free disk space",
            subject=what,
        )
    if isinstance(exc, PermissionError) or exc.errno == EROFS:
        return PermissionDeniedError(f"cannot write {what} below {root}: {exc.strerror}", subject=what)
    return DataLossError(
        f"storing {what} below {root} failed: {exc.strerror}", hint="check the disk", subject=what
    )
