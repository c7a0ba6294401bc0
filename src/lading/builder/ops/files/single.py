"""A single file, written as it arrives."""

import os
from typing import Final

from typing_extensions import Buffer

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Writer:
    """Makes the file ``name`` in the directory at ``path``. Blocking."""

    def __init__(self, path: str, name: str) -> None:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fd = os.open(name, _NEW, 0o600, dir_fd=directory)
        finally:
            os.close(directory)

    def write(self, data: Buffer) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self, *, mode: int, uid: int, gid: int, time: int | None) -> None:
        """Give it owner, mode and time (nanoseconds since the epoch)."""
        os.fchown(self._fd, uid, gid)
        os.fchmod(self._fd, mode)
        if time is not None:
            os.utime(self._fd, ns=(time, time))

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
