"""`LocalWriter`: an ingest that is open, and the protocol that makes it a blob.

write → verify size and digest → mode 0444 → fsync → rename without replacing → fsync of the directory → row. A failed
fsync poisons the file: the kernel may have dropped the pages and will say "ok" the next time, so it is discarded.
"""

import contextlib
import fcntl
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import anyio
from typing_extensions import Buffer, override

from lading.content.files import LocalFiles, translate
from lading.core import content
from lading.core.content import (
    NO_LABELS,
    DigestMismatchError,
    Info,
    IngestRef,
    Labels,
    SizeMismatchError,
)
from lading.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    LadingError,
    ResourceExhaustedError,
    UnavailableError,
)
from lading.kit import aio, fs
from lading.kit.failpoints import failpoint
from lading.kit.hashing import hash_file
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest, Hasher, new_hasher

_WRITEBACK: Final = 8 * 1024 * 1024
"""Bytes after which the kernel is asked to begin writing."""


def trim(fd: int) -> None:
    """Let go of the space that is reserved behind the end of an ingest's data."""
    with contextlib.suppress(OSError):  # what stays reserved goes with the ingest
        os.ftruncate(fd, os.fstat(fd).st_size)


class LocalWriter(content.Writer):
    """`content.Writer` on an ingest directory. `open`, `close` and `release` block; calls may come from any one thread at a time.

    Args:
        files: The root.
        directory: The ingest's.
        ref: The ingest's.
        expected: What the bytes should become.
        publish: Writes the row of the blob, which is to be durable or need not, and drops the ingest's.
        discard: Deletes the ingest, files and row.

    """

    def __init__(
        self,
        files: LocalFiles,
        directory: Path,
        ref: IngestRef,
        *,
        expected: Descriptor | None,
        publish: Callable[[Digest, int, Labels, bool], Awaitable[Info]],
        discard: Callable[[], Awaitable[None]],
    ) -> None:
        self._files = files
        self._directory = directory
        self._ref = ref
        self._expected = expected
        self._publish_row = publish
        self._discard = discard
        self._poisoned = False
        self._algorithm = expected.digest.algorithm if expected else "sha256"
        self._hasher: Hasher = new_hasher(self._algorithm)
        self._offset = 0
        self._written_back = 0
        self._fd = -1
        # A cancelled task may leave while a thread still works for it; the file must not be closed under that thread.
        self._busy = threading.Lock()
        # Followers read through a descriptor of their own: whoever unpacks the blob must not wait while it is made durable.
        self._read_fd = -1
        self._reading = threading.Lock()

    def open(self) -> None:
        """Open the data and hash what is there. Raises `UnavailableError`, `ResourceExhaustedError`."""
        self._fd = os.open(
            self._directory / "data", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UnavailableError(
                f"another process writes the ingest {self._ref}", hint="wait for it to end", subject=self._ref
            ) from exc
        self._read_fd = fcntl.fcntl(self._fd, fcntl.F_DUPFD_CLOEXEC, 0)
        stored = os.fstat(self._fd).st_size
        if self._restart(stored):
            os.ftruncate(self._fd, 0)
            stored = 0
        self._offset = hash_file(self._fd, self._hasher, length=stored)
        if self._expected is not None:
            self._reserve(self._expected.size)

    def _restart(self, stored: int) -> bool:
        """Whether the bytes of an earlier writer are of no use: another length was promised, or there are too many."""
        total = str(self._expected.size if self._expected else 0)
        path = self._directory / "total"
        known = path.read_text("utf-8") if path.exists() else "0"
        if known != total:
            path.write_text(total, "utf-8")
        return total != "0" and (stored > int(total) or known not in ("0", total))

    def _reserve(self, total: int) -> None:
        """Have the space before the bytes come, beyond the end of the file so that its length stays the offset."""
        missing = total - self._offset
        if missing <= 0:
            return
        try:
            fs.allocate(self._fd, missing, offset=self._offset, keep_size=True)
        except OSError as exc:
            os.ftruncate(self._fd, self._offset)
            raise ResourceExhaustedError(
                f"no space left to store {self._ref}: {missing} bytes are needed and "
                f"{fs.available(self._directory)} are free below {self._files.root}",
                hint="remove images with docker image rm or docker image prune, or free disk space",
                subject=self._ref,
            ) from exc

    def close(self) -> None:
        """Let go of the data, but for `pread`, and of space for bytes that did not come; idempotent."""
        with self._busy:
            if self._fd >= 0:
                if self._expected is not None and self._offset < self._expected.size:
                    trim(self._fd)
                os.close(self._fd)
                self._fd = -1

    def release(self) -> None:
        """Let go of everything; idempotent."""
        self.close()
        with self._reading:
            if self._read_fd >= 0:
                os.close(self._read_fd)
                self._read_fd = -1

    def _check_open(self) -> None:
        if self._fd < 0:
            raise FailedPreconditionError(f"the writer of {self._ref} is closed", subject=self._ref)

    @property
    @override
    def ref(self) -> IngestRef:
        return self._ref

    @property
    @override
    def offset(self) -> int:
        return self._offset

    @override
    def digest(self, algorithm: str = "sha256") -> Digest:
        if algorithm == self._algorithm:
            return Digest.from_hasher(self._hasher, algorithm)
        hasher = new_hasher(algorithm)
        with self._busy:
            self._check_open()
            hash_file(self._fd, hasher, length=self._offset)
        return Digest.from_hasher(hasher, algorithm)

    @override
    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        with self._busy:
            self._check_open()
            while view:
                try:
                    failpoint("write.before")
                    count = os.pwrite(self._fd, view, self._offset)
                except OSError as exc:
                    raise translate(exc, self._ref, self._files.root) from exc
                self._hasher.update(view[:count])
                self._offset += count
                view = view[count:]
            if self._offset - self._written_back >= _WRITEBACK:
                fs.start_writeback(self._fd, self._written_back, self._offset - self._written_back)
                self._written_back = self._offset
            failpoint("write.after")

    @override
    def pread(self, length: int, offset: int) -> bytes:
        with self._reading:
            if self._read_fd < 0:
                raise FailedPreconditionError(f"the writer of {self._ref} is closed", subject=self._ref)
            return read_exactly(self._read_fd, length, offset)

    @override
    def truncate(self) -> None:
        with self._busy:
            self._check_open()
            os.ftruncate(self._fd, 0)
            self._hasher = new_hasher(self._algorithm)
            self._offset = self._written_back = 0

    @override
    async def commit(
        self,
        *,
        size: int | None = None,
        expected: Digest | None = None,
        labels: Labels = NO_LABELS,
        durable: bool = True,
    ) -> Info:
        self._check_open()
        if self._expected is not None:
            size = self._expected.size if size is None else size
            expected = expected or self._expected.digest
        digest = await aio.run(aio.DATA, self.digest, expected.algorithm if expected else self._algorithm)
        # From here on nothing is left half done: a file that was renamed gets its row.
        with anyio.CancelScope(shield=True):
            try:
                self._verify(digest, size, expected)
                async with self._files.blobs.hold(digest):
                    return await self._publish(digest, labels, durable=durable)
            except LadingError as exc:
                if self._poisoned or isinstance(exc, DataLossError):
                    await aio.run(aio.DISK, self.close)
                    await self._discard()
                raise
        raise InternalError(f"committing {self._ref} was cut short")

    def _verify(self, digest: Digest, size: int | None, expected: Digest | None) -> None:
        if size is not None and self._offset != size:
            raise SizeMismatchError(
                f"{self._ref} has {self._offset} bytes, not {size}",
                hint="fetch it again; if that fails too, its source is damaged",
                subject=expected or self._ref,
            )
        if expected is not None and digest != expected:
            raise DigestMismatchError(
                f"{self._ref} has digest {digest}, not {expected}",
                hint="fetch it again; if that fails too, its source is damaged",
                subject=expected,
            )

    async def _publish(self, digest: Digest, labels: Labels, *, durable: bool) -> Info:
        size = self._offset
        await aio.run(aio.DISK, self._publish_file, digest)
        info = await self._publish_row(digest, size, labels, durable)
        failpoint("commit.after_row")
        await aio.run(aio.DISK, self.close)
        await self._files.discard_ingest(self._directory)
        return info

    def _publish_file(self, digest: Digest) -> None:
        with self._busy:
            self._check_open()
            failpoint("commit.verified")
            try:
                os.ftruncate(self._fd, self._offset)  # give back what was reserved beyond the end
                os.fchmod(self._fd, 0o444)
                self._poisoned = True
                failpoint("commit.fsync")
                os.fsync(self._fd)
                self._poisoned = False
                failpoint("commit.after_fsync")
                self._files.place(self._directory / "data", digest, self._offset)
                failpoint("commit.after_rename")
                fs.fsync_directory(self._files.blob(digest).parent)
                failpoint("commit.after_dirsync")
            except OSError as exc:
                raise translate(exc, digest, self._files.root) from exc


def read_exactly(fd: int, length: int, offset: int) -> bytes:
    """``pread(2)`` until ``length`` bytes or the end of the file."""
    data = os.pread(fd, length, offset)
    if len(data) in (0, length):
        return data
    parts = [data]
    got = len(data)
    while got < length and (data := os.pread(fd, length - got, offset + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)
