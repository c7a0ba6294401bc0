"""`LocalReader`: an open blob file."""

import os
from typing import Self

from typing_extensions import Buffer, override

from lading.content.writer import read_exactly
from lading.core import content


class LocalReader(content.Reader):
    """`content.Reader` on a file descriptor, which stays good when the file is deleted."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file; `FileNotFoundError` if it is not there."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._size = os.fstat(self._fd).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    @override
    def size(self) -> int:
        return self._size

    @override
    def fileno(self) -> int:
        return self._fd

    @override
    def pread(self, length: int, offset: int) -> bytes:
        return read_exactly(self._fd, length, offset)

    @override
    def readinto(self, buffer: Buffer, offset: int) -> int:
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and (got := os.preadv(self._fd, [view[filled:]], offset + filled)):
            filled += got
        return filled
