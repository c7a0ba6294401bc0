"""The keeper: a small process that holds FIFOs open while no daemon does (ADR 0081).

A pipe's bytes live as long as any process has it open. A container that ends while the daemon is down
lets its shim close the FIFOs, and their last bytes would be gone. The keeper holds the read ends; it never
reads. It is started by the first daemon that needs it, survives it, serves the next one through the same socket,
and ends when no daemon is connected and it holds nothing.
Run as a program (``python -I -S keeper.py SOCKET``) it uses the standard library only, to stay small. Messages on the
``SOCK_SEQPACKET`` socket: ``+path`` with one descriptor, ``-path``, ``?``; the answer is ``ok`` or the number of descriptors.
"""

import array
import contextlib
import os
import select
import socket
import sys
import threading
from pathlib import Path

_MESSAGE = 4096
_START_SECONDS = 10.0


def serve(path: str) -> None:
    """Hold descriptors until there is nothing to hold and nobody connected."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    old = os.umask(0o177)
    listener.bind(path)
    os.umask(old)
    listener.listen(8)
    if os.fork():
        sys.stdout.write("ready\n")
        return
    sys.stdout.close()
    held: dict[bytes, int] = {}
    clients: dict[int, socket.socket] = {}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    greeted = False
    while held or clients or not greeted:
        for fd, _ in poll.poll():
            if fd == listener.fileno():
                client, _ = listener.accept()
                clients[client.fileno()] = client
                poll.register(client, select.POLLIN)
                greeted = True
                _forget_vanished(held)
            elif not _answer(clients[fd], held):
                poll.unregister(fd)
                clients.pop(fd).close()
                _forget_vanished(held)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _forget_vanished(held: dict[bytes, int]) -> None:
    """Let go of FIFOs that have no path any more: a daemon that was killed never said so, and nobody can open them again."""
    for name in [name for name in held if name.startswith(b"/") and not os.path.exists(name)]:
        os.close(held.pop(name))


def _answer(client: socket.socket, held: dict[bytes, int]) -> bool:
    """Serve one message; whether the client is still there."""
    try:
        message, ancillary, _, _ = client.recvmsg(_MESSAGE, socket.CMSG_SPACE(array.array("i").itemsize))
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if not message:
            return False
        name = message[1:]
        if message[:1] == b"+" and fds:
            if name in held:
                os.close(held[name])
            held[name] = fds[0]
        elif message[:1] == b"-" and name in held:
            os.close(held.pop(name))
        client.send(str(len(held)).encode())
    except OSError:
        return False
    return True


class Keeper:
    """The daemon's side. Blocking, for threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None

    def hold(self, name: str, fd: int) -> None:
        """Keep the open file behind ``fd`` open until `release`. When this returns it is safe. Raises `OSError`."""
        self._call(f"+{name}", [fd])

    def release(self, name: str) -> None:
        """Let go; harmless if it is not held. Raises `OSError`."""
        self._call(f"-{name}", [])

    def connect(self) -> None:
        """Reach the keeper, or start one. Raises `OSError`."""
        with self._lock:
            if self._socket is None and not self._reach():
                from lading.kit import detached  # noqa: PLC0415 - the program has the standard library only

                detached.start(__file__, str(self._path))
                if not self._reach():
                    raise ConnectionError(f"the keeper does not answer on {self._path}")

    def close(self) -> None:
        """Disconnect; the keeper goes on as long as it holds something. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _call(self, message: str, fds: list[int]) -> None:
        with self._lock:
            for attempt in (0, 1):
                self.connect()
                assert self._socket is not None
                try:
                    socket.send_fds(self._socket, [message.encode()], fds)
                    if self._socket.recv(_MESSAGE):
                        return
                except OSError:
                    if attempt:
                        raise
                self.close()
            raise ConnectionError("the keeper left")

    def _reach(self) -> bool:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        made.settimeout(_START_SECONDS)
        try:
            made.connect(str(self._path))
        except (FileNotFoundError, ConnectionRefusedError):
            made.close()
            return False
        except OSError:
            made.close()
            raise
        self._socket = made
        return True


if __name__ == "__main__":
    serve(sys.argv[1])
