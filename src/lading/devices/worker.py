"""The worker: takes requests of the kernel for devices, and decodes what they ask for (ADR 0109).

The keeper starts it (``python -I -m lading.devices.worker CONTROL LOCK``). Both numbers are those of inherited descriptors: the
socket to the keeper, and its lock, which stays open. The keeper sends

* ``+number length handle…`` with the descriptors of blob, index, data and filled: serve a device, which the kernel has open by
  these handles; the answer is ``=ok``, or ``=`` and what is wrong,
* ``-number``: serve it no more,
* ``fuse`` with the descriptor of a mounted ``/dev/fuse``: begin, and ask again for what an earlier worker has not answered,

and is told ``o number handle`` and ``c number handle``, before the kernel is answered, so that its count is never too low. If the
keeper dies, this process becomes one in its place: exec(2) keeps the descriptors.
"""

import contextlib
import errno
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Final

from lading.devices import keeper
from lading.devices.ahead import Ahead
from lading.devices.segments import Segments
from lading.errors import LadingError
from lading.formats import fuse
from lading.formats.fuse import Op, Request

_THREADS: Final = 4
_CORES: Final = len(os.sched_getaffinity(0))
_AHEAD: Final = max(1, min(_CORES - 1, 4))
"""Threads that decode ahead: those who read need a core, too."""
_SCORE: Final = "-900"
"""For the kernel's choice when memory is short: containers go first."""


class Served:
    """A device."""

    def __init__(self, length: int, files: list[int], opens: list[int], ahead: Ahead) -> None:
        self.length = length
        self.files = files
        self.opens = set(opens)
        self.segments = Segments(length, files, ahead)

    def close(self) -> None:
        self.segments.close()
        for fd in self.files:
            os.close(fd)


class Worker:
    """Devices by number; several threads take requests from the kernel."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._devices: dict[int, Served] = {}
        self._lock = threading.Lock()
        self._ahead = Ahead(_AHEAD)
        self._fuse = -1

    def obey(self) -> None:
        """Do what the keeper says, until it has died."""
        while True:
            try:
                message, files, _, _ = socket.recv_fds(self._control, keeper.MESSAGE, keeper.FILES)
            except ConnectionError:
                return
            if not message:
                return
            if message == b"fuse":
                self._begin(files[0])
            elif message[:1] == b"+":
                self._control.send(f"={self._add(message[1:], files)}".encode())
            else:
                with self._lock:
                    served = self._devices.pop(int(message[1:]))
                served.close()

    def succeed(self, lock: int) -> None:
        """Become the keeper. Does not return."""
        with self._lock:
            state = keeper.dump(
                self._fuse,
                [
                    (number, served.length, served.files, list(served.opens))
                    for number, served in self._devices.items()
                ],
            )
            os.set_inheritable(lock, True)
            program = str(Path(keeper.__file__).resolve())
            os.execv(sys.executable, [sys.executable, "-I", "-S", program, str(lock), str(state)])  # noqa: S606

    def _add(self, message: bytes, files: list[int]) -> str:
        number, length, *opens = map(int, message.split())
        try:
            served = Served(length, files, opens, self._ahead)
        except (LadingError, OSError) as exc:
            for fd in files:
                os.close(fd)
            return str(exc) or type(exc).__name__
        with self._lock:
            self._devices[number] = served
        return "ok"

    # The kernel.

    def _begin(self, fd: int) -> None:
        self._fuse = fd
        with contextlib.suppress(OSError):  # before Linux 6.9, or nothing waits
            os.write(fd, fuse.notification(fuse.RESEND))
        for _ in range(_THREADS):
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        buffer = memoryview(bytearray(fuse.REQUEST_BYTES))
        room = memoryview(bytearray(fuse.ANSWER_HEAD + fuse.LONGEST_READ))
        while True:
            try:
                length = os.readv(self._fuse, [buffer])
            except OSError as exc:
                if exc.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # taken back meanwhile
                    continue
                os._exit(keeper.UNMOUNTED)
            request = fuse.parse(buffer[:length])
            if request.op not in fuse.SILENT:
                response = self._response(request, room)
                with contextlib.suppress(FileNotFoundError):  # whoever asked was killed
                    os.write(self._fuse, response)

    def _response(self, request: Request, room: memoryview) -> bytes | memoryview:
        try:
            if request.op == Op.READ:
                return self._read(request, room)
            body = self._answer(request)
        except OSError as exc:
            return fuse.error(request, exc.errno or errno.EIO)
        except (LadingError, MemoryError):
            return fuse.error(request, errno.EIO)
        return fuse.answer(request, len(body)) + body

    def _read(self, request: Request, room: memoryview) -> memoryview:
        """The answer to a read, in ``room``: one copy less, and no memory that the kernel has to clear first."""
        offset, size = fuse.read_range(request)
        length = self._device(request.node).segments.read(offset, room[fuse.ANSWER_HEAD :][:size])
        room[: fuse.ANSWER_HEAD] = fuse.answer(request, length)
        return room[: fuse.ANSWER_HEAD + length]

    def _answer(self, request: Request) -> bytes:
        match request.op:
            case Op.LOOKUP:
                name = fuse.name(request)
                return fuse.entry(self._file(fuse.ROOT + int(name) if name.isdecimal() else 0))
            case Op.GETATTR:
                root = fuse.Node(fuse.ROOT, 0, directory=True)
                return fuse.attributes(root if request.node == fuse.ROOT else self._file(request.node))
            case Op.OPEN:
                return fuse.opened(self._open(request))
            case Op.RELEASE:
                self._release(request)
                return b""
            case Op.OPENDIR:
                return fuse.opened()
            case Op.READDIR | Op.RELEASEDIR | Op.DESTROY:
                return b""
            case Op.STATFS:
                return fuse.statistics()
            case Op.INIT:
                return fuse.init(request)
            case _:
                raise OSError(errno.ENOSYS, "no such request")

    def _file(self, node: int) -> fuse.Node:
        return fuse.Node(node, self._device(node).length)

    def _device(self, node: int) -> Served:
        """The device of a node, whose number is one less: the kernel's first is the directory."""
        try:
            return self._devices[node - fuse.ROOT]
        except KeyError as exc:
            raise FileNotFoundError(errno.ENOENT, "no such device") from exc

    def _open(self, request: Request) -> int:
        handle = fuse.handle(request)
        with self._lock:
            self._device(request.node).opens.add(handle)
            self._tell(f"o {request.node - fuse.ROOT} {handle}")
        return handle

    def _release(self, request: Request) -> None:
        handle = fuse.handle(request)
        with self._lock, contextlib.suppress(FileNotFoundError):
            self._device(request.node).opens.discard(handle)
            self._tell(f"c {request.node - fuse.ROOT} {handle}")

    def _tell(self, words: str) -> None:
        with contextlib.suppress(ConnectionError):  # it has died, and is told by who succeeds it
            self._control.send(words.encode())


def main(control: int, lock: int) -> None:
    """Serve until killed."""
    for fd in (control, lock):
        os.set_inheritable(fd, False)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(_SCORE)
    worker = Worker(socket.socket(fileno=control))
    worker.obey()
    worker.succeed(lock)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
