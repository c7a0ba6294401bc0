"""A disk whose every write and flush is recorded in order: one file of a FUSE file system, for a loop device to stand on.

Run as a program it is the server: ``recorded_disk.py DIRECTORY IMAGE LOG``. It mounts itself on ``DIRECTORY``, shows ``IMAGE``
as ``DIRECTORY/disk``, and appends to ``LOG`` what is written there, what is flushed, and what is written to ``DIRECTORY/mark``:
a mark stands in the log where its writer was acknowledged. A process of its own, because nothing that waits for a file system
can be killed while its server shares its fate; it ends with its parent, and by itself after `LIFETIME` seconds.

The protocol is that of linux/fuse.h, version 7.31.
"""

import ctypes
import errno
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lading.kit import linux

WRITE, FLUSH, MARK = 1, 2, 3
LIFETIME = 3600
_RECORD = struct.Struct("<BQI")
_IN = struct.Struct("<IIQQIIII")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_MAX_WRITE = 1 << 20
_ROOT, _DISK, _MARK = 1, 2, 3
_NAMES = {b"disk": _DISK, b"mark": _MARK}
_DIRECT_IO, _KEEP_CACHE = 1, 2
_BIG_WRITES, _MAX_PAGES = 1 << 5, 1 << 22
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE = 1, 2, 3, 4, 14, 15, 16
_RELEASE, _FSYNC, _FLUSH, _INIT, _OPENDIR, _RELEASEDIR = 18, 20, 25, 26, 27, 29
_INTERRUPT, _DESTROY, _BATCH_FORGET = 36, 38, 42
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the log. ``data`` is what was written, or the text of a mark."""

    kind: int
    offset: int
    data: bytes


def read_log(path: Path) -> list[Event]:
    """The whole log."""
    events: list[Event] = []
    with path.open("rb") as log:
        while head := log.read(_RECORD.size):
            kind, offset, length = _RECORD.unpack(head)
            events.append(Event(kind, offset, log.read(length)))
    return events


@contextmanager
def recorded_disk(directory: Path, image: Path, log: Path) -> Iterator[Path]:
    """The disk ``image``, recorded in ``log``: a path for a loop device. ``directory`` also holds the file ``mark``."""
    directory.mkdir()
    server = subprocess.Popen(
        [sys.executable, __file__, str(directory), str(image), str(log)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        until = time.monotonic() + 20
        while not linux.mount_points(str(directory)):
            assert server.poll() is None, "the server ended at once"
            assert time.monotonic() < until
            time.sleep(0.005)
        yield directory / "disk"
        linux.unmount(str(directory))
        server.wait(20)
    finally:
        server.kill()
        server.wait()
        for point in linux.mount_points(str(directory)):
            linux.unmount(point)


class Server:
    """One thread, one request after the other: the order of the log is the order of the disk."""

    def __init__(self, image: Path, log: Path) -> None:
        self._image = os.open(image, os.O_RDWR)
        self._size = os.fstat(self._image).st_size
        self._log = log.open("ab", buffering=0)
        self._fuse = os.open("/dev/fuse", os.O_RDWR)

    def mount(self, directory: Path) -> None:
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0"
        linux.mount("recorded", str(directory), "fuse", 0, options)

    def run(self) -> None:
        while True:
            try:
                request = os.read(self._fuse, _MAX_WRITE + 4096)
            except OSError as exc:
                if exc.errno == errno.ENODEV:  # unmounted
                    return
                if exc.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            _, opcode, unique, node, *_ = _IN.unpack_from(request)
            if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
                continue
            try:
                reply, error = self._answer(opcode, node, memoryview(request)[_IN.size :]), 0
            except OSError as exc:
                reply, error = b"", exc.errno or errno.EIO
            os.write(self._fuse, struct.pack("<IiQ", 16 + len(reply), -error, unique) + reply)

    def _answer(self, opcode: int, node: int, body: memoryview) -> bytes:
        if opcode == _INIT:
            _, minor, readahead, flags = struct.unpack_from("<IIII", body)
            assert minor >= 31
            wanted = flags & (_BIG_WRITES | _MAX_PAGES)
            return struct.pack(
                "<IIIIHHIIHH8I", 7, 31, readahead, wanted, 16, 12, _MAX_WRITE, 1, 256, 0, *[0] * 8
            )
        if opcode == _LOOKUP:
            found = _NAMES.get(bytes(body).rstrip(b"\0"))
            if found is None:
                raise OSError(errno.ENOENT, "no such file")
            return struct.pack("<QQQQII", found, 0, 3600, 3600, 0, 0) + self._attributes(found)
        if opcode in (_GETATTR, _SETATTR):
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if opcode in (_OPEN, _OPENDIR):
            return struct.pack("<QII", 0, _DIRECT_IO if node == _MARK else _KEEP_CACHE, 0)
        if opcode == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return os.pread(self._image, size, offset) if node == _DISK else b""
        if opcode == _WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self._write(node, offset, body[40 : 40 + size])
            return struct.pack("<II", size, 0)
        if opcode == _FSYNC:
            if node == _DISK:
                self._record(FLUSH, 0, b"")
            return b""
        if opcode in (_FLUSH, _RELEASE, _RELEASEDIR, _DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not needed")

    def _write(self, node: int, offset: int, data: memoryview) -> None:
        if node == _DISK:
            os.pwrite(self._image, data, offset)
            self._record(WRITE, offset, data)
        else:
            self._record(MARK, 0, data)

    def _record(self, kind: int, offset: int, data: bytes | memoryview) -> None:
        self._log.write(_RECORD.pack(kind, offset, len(data)) + bytes(data))

    def _attributes(self, node: int) -> bytes:
        mode = 0o40700 if node == _ROOT else 0o100600
        size = self._size if node == _DISK else 0
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def main(directory: Path, image: Path, log: Path) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.alarm(LIFETIME)
    server = Server(image, log)
    server.mount(directory)
    server.run()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
