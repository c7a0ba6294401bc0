"""Devices on this machine: the daemon's side of ``keeper.py``.

The daemon mounts the file system and gives its descriptor away: whoever reads from a device must not hold it.
"""

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from pathlib import Path
from typing import Final

from typing_extensions import override

from lading.core.devices import FILLED_HEADER, Device, Devices
from lading.devices import keeper
from lading.errors import DataLossError
from lading.formats import fuse
from lading.kit import detached, linux

_LOCK: Final = "devices.lock"
_SECONDS: Final = 30.0
"""For an answer. The keeper answers at once, unless it has to start a worker first."""
_LOOK: Final = 0.02
_LINGER: Final = 0.3
"""Seconds that `LocalDevices.close` waits for what was closed just now."""
_FLAGS: Final = linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


class LocalDevices(Devices):
    """`Devices` below ``root``: ``devices`` is where the file system is mounted, ``devices.sock`` the keeper's socket.

    Nothing happens before something is attached.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._point = root / keeper.POINT
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None

    @override
    def attach(self, device: Device) -> str:
        with contextlib.ExitStack() as stack:
            files = [device.blob, *_open_files(device, stack)]
            said = self._say(f"+{device.number} {device.length}", files)
        if said != "ok 0":
            raise DataLossError(f"cannot serve device {device.number}: {said}", subject=str(device.number))
        return self.path(device.number)

    @override
    def path(self, number: int) -> str:
        return str(self._point / str(number))

    @override
    def serves(self, number: int) -> bool:
        return self._say(f"?{number}", start=False) == "ok 1"

    @override
    def close(self) -> None:
        until = time.monotonic() + _LINGER
        with contextlib.suppress(OSError):
            while self._say("end", start=False) and time.monotonic() < until:
                time.sleep(_LOOK)  # the kernel tells of the last close a moment later
        with self._lock:
            self._forget()

    def pids(self) -> tuple[int, int]:
        """The keeper and the worker, 0 for none."""
        words = self._say("pids", start=False).split()
        return (int(words[1]), int(words[2])) if words else (0, 0)

    # The keeper.

    def _say(self, message: str, files: list[int] | None = None, *, start: bool = True) -> str:
        """The keeper's answer; empty if there is none, which is never so with ``start``. Raises `OSError`."""
        with self._lock:
            for again in (False, True):
                if not self._connect(start=start):
                    return ""
                try:
                    if answer := self._ask(message, files or []):
                        return answer
                except ConnectionError:
                    if again:
                        raise
                self._forget()
            if start:
                raise ConnectionResetError(errno.ECONNRESET, "the keeper of devices has left")
            return ""

    def _ask(self, message: str, files: list[int]) -> str:
        assert self._socket is not None
        socket.send_fds(self._socket, [message.encode()], files)
        return self._socket.recv(keeper.MESSAGE).decode()

    def _connect(self, *, start: bool) -> bool:
        """Have a connection; whether there is one. A keeper that was killed has a successor in a moment."""
        until = time.monotonic() + _SECONDS
        while self._socket is None:
            self._socket = self._reach()
            if self._socket is None:
                lock = self._alone()
                if lock is not None:
                    with contextlib.closing(os.fdopen(lock)):
                        while self._mounted():
                            linux.unmount(str(self._point))  # those who served it were killed
                        if not start:
                            return False
                        self._start(lock)
                elif time.monotonic() > until:
                    raise TimeoutError(errno.ETIMEDOUT, "the keeper of devices does not answer")
                else:
                    time.sleep(_LOOK)
        return True

    def _reach(self) -> socket.socket | None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        made.settimeout(_SECONDS)
        try:
            root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                made.connect(f"/proc/self/fd/{root}/{keeper.SOCKET}")  # an address is short
            finally:
                os.close(root)
        except (FileNotFoundError, ConnectionRefusedError):
            made.close()
            return None
        except BaseException:
            made.close()
            raise
        return made

    def _alone(self) -> int | None:
        """The lock that keeper and worker have as long as one of them lives, or ``None``."""
        fd = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd

    def _start(self, lock: int) -> None:
        self._point.mkdir(mode=0o700, exist_ok=True)
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            detached.start(keeper.__file__, str(lock), cwd=self._root, fds=[lock])
            self._socket = self._reach()
            options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,max_read={fuse.LONGEST_READ}"
            linux.mount("lading", str(self._point), "fuse", _FLAGS, options)
            self._ask("fuse", [fd])
            self._read_ahead()
        except BaseException:
            self._forget()
            raise
        finally:
            os.close(fd)

    def _read_ahead(self) -> None:
        """Have the kernel ask for as much at a time as it can: each request is a message to another process and back."""
        device = os.stat(self._point).st_dev
        setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        with contextlib.suppress(OSError):  # no sysfs, or read-only: only slower
            setting.write_text(str(fuse.LONGEST_READ >> 10))

    def _mounted(self) -> bool:
        try:
            return os.stat(self._point).st_dev != os.stat(self._root).st_dev
        except FileNotFoundError:
            return False
        except OSError as exc:
            if exc.errno == errno.ENOTCONN:  # nobody serves it any more
                return True
            raise

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open_files(device: Device, stack: contextlib.ExitStack) -> list[int]:
    """Index, data and filled, the latter two made if there are none that fit the index."""

    def opened(path: str, flags: int) -> int:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        return fd

    index = opened(device.index, os.O_RDONLY)
    header = os.pread(index, FILLED_HEADER, max(os.fstat(index).st_size - FILLED_HEADER, 0))
    try:
        data, filled = opened(device.data, os.O_RDWR), opened(device.filled, os.O_RDWR)
        if (os.fstat(data).st_size, os.pread(filled, FILLED_HEADER, 0)) == (device.length, header):
            return [index, data, filled]
    except FileNotFoundError:
        pass
    # Whoever has the old files open goes on with them.
    for path in (device.filled, device.data):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    data, filled = (opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) for path in (device.data, device.filled))
    os.ftruncate(data, device.length)
    os.pwrite(filled, header, 0)
    return [index, data, filled]


def probe() -> str | None:
    """Why devices cannot be served here; ``None`` if they can. Blocking."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return f"/dev/fuse cannot be used: {exc.strerror}"
    return None
