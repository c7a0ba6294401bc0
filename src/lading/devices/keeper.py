"""The keeper: a small process that holds what devices need, and has a worker that serves them (``worker.py``, ADR 0109).

It holds the descriptor of the FUSE file system and those of all devices; so does the worker. A worker that dies is started
again and given everything; the kernel then repeats what was not answered. If the keeper dies, the worker becomes the keeper.
Only if both are killed at once does the last descriptor go, and whoever reads gets an error. Neither of them ever opens a
device: a process that waits for itself could not be ended.

Run as a program (``python -I -S keeper.py LOCK [STATE]``, in the directory of its socket) it uses the standard library only. LOCK
is the number of an inherited descriptor with an flock(2) on it: as long as nobody else can take that, one of the two lives. STATE
is one of a file with what a worker hands over. Messages on the ``SOCK_SEQPACKET`` socket, answered with ``ok`` and a number,
or with what is wrong:

* ``fuse`` with the descriptor of a mounted ``/dev/fuse``: begin.
* ``+number length`` with the descriptors of blob, index, data, and filled: serve a device, unless it is served.
* ``?number``: whether it is served.
* ``end``: leave, unless something is open; how many devices are.
* ``pids``: of the keeper and the worker.

It ends when no daemon is connected and nothing is open.
"""

import contextlib
import ctypes
import json
import os
import select
import socket
import subprocess
import sys
import time

SOCKET = "devices.sock"
POINT = "devices"
"""Where the file system is mounted, beside the socket."""
MESSAGE = 1 << 16
FILES = 4
UNMOUNTED = 3
"""How a worker ends that has nothing to serve any more."""
_SCORE = "-1000"
"""For the kernel's choice when memory is short: not this one, which has none to give."""
_DEATHS = 10
_MINUTE = 60.0
_SECONDS = 20.0
_MNT_DETACH = 2


class Held:
    """A device."""

    def __init__(self, length: int, files: list[int], opens: set[int]) -> None:
        self.length = length
        self.files = files
        self.opens = opens
        """The handles that the kernel has."""
        self.expected = not opens
        """Somebody is about to open it."""


class Gone(Exception):  # noqa: N818 - it is the end
    """There is nothing to keep any more."""


class Keeper:
    """What the process holds, and whom it talks to."""

    def __init__(self, place: str, lock: int) -> None:
        self._place = place
        self._lock = lock
        self._fuse = -1
        self._devices: dict[int, Held] = {}
        self._clients: dict[int, socket.socket] = {}
        self._worker: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._deaths: list[float] = []
        self._poll = select.poll()
        self._greeted = False

    def adopt(self, state: int) -> None:
        """Take over what a worker had, see `dump`."""
        with os.fdopen(state, "rb") as file:
            self._fuse, devices = json.load(file)
        for number, length, files, opens in devices:
            self._devices[number] = Held(length, files, set(opens))
        for fd in [self._fuse, self._lock, *(fd for held in self._devices.values() for fd in held.files)]:
            os.set_inheritable(fd, False)
        self._greeted = True
        self._hire()

    def serve(self, listener: socket.socket) -> None:
        """Until there is nothing to keep."""
        self._poll.register(listener, select.POLLIN)
        while self._clients or not self._greeted or self._opened():
            events = self._poll.poll(None if self._greeted else _SECONDS * 1000)
            if not events:
                return
            for fd, _ in events:
                if fd == listener.fileno():
                    client, _ = listener.accept()
                    self._clients[client.fileno()] = client
                    self._poll.register(client, select.POLLIN)
                    self._greeted = True
                elif fd in self._clients:
                    self._answer(fd)
                elif self._control is not None and fd == self._control.fileno():
                    self._hear()

    def leave(self) -> None:
        """Let go of everything; the kernel fails whoever still reads."""
        libc = ctypes.CDLL(None)
        point = os.fsencode(os.path.join(self._place, POINT))
        while self._fuse >= 0 and not libc.umount2(point, _MNT_DETACH):
            pass
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()

    # The daemon.

    def _opened(self) -> int:
        return sum(1 for held in self._devices.values() if held.opens)

    def _answer(self, fd: int) -> None:
        """Serve one message."""
        client = self._clients[fd]
        files: list[int] = []
        try:
            message, files, _, _ = socket.recv_fds(client, MESSAGE, FILES)
            if message:
                client.send(self._act(message.decode("ascii"), files).encode())
                return
        except (OSError, ValueError):
            for each in files:
                os.close(each)
        self._poll.unregister(fd)
        self._clients.pop(fd).close()

    def _act(self, message: str, files: list[int]) -> str:
        if message == "fuse":
            (self._fuse,) = files
            self._hire()
            return "ok 0"
        if message[0] == "+":
            number, length = map(int, message[1:].split())
            return self._add(number, length, files)
        if message[0] == "?":
            return f"ok {int(int(message[1:]) in self._devices)}"
        if message == "end":
            if not self._opened():
                raise Gone
            return f"ok {self._opened()}"
        if message == "pids":
            return f"ok {os.getpid()} {self._worker.pid if self._worker else 0}"
        return "no such message"

    def _add(self, number: int, length: int, files: list[int]) -> str:
        held = self._devices.get(number)
        if held is None and self._fuse >= 0 and len(files) == FILES:
            held = Held(length, files, set())
            said = self._tell(number, held)
            if said == "ok":
                self._devices[number] = held
                return "ok 0"
        else:
            said = "there is no file system to serve it in"
        for fd in files:
            os.close(fd)
        if held is None or number not in self._devices:
            return said
        held.expected = True
        return "ok 0"

    def _tell(self, number: int, held: Held) -> str:
        """Have the worker serve a device; its words. One that dies of it gets no second chance to."""
        try:
            return self._hand(number, held)
        except OSError:
            self._hire()
            return "the worker could not serve it, and was started again"

    # The worker.

    def _hire(self) -> None:
        """Have a worker that serves everything."""
        while True:
            self._bury()
            now = time.monotonic()
            self._deaths = [*(then for then in self._deaths if now - then < _MINUTE), now]
            if len(self._deaths) > _DEATHS:
                raise Gone  # it would go on like this, and readers wait
            self._start()
            try:
                for number, held in self._devices.items():
                    self._hand(number, held)
                assert self._control is not None
                socket.send_fds(self._control, [b"fuse"], [self._fuse])
            except OSError:
                continue
            return

    def _start(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._worker = subprocess.Popen(
                [sys.executable, "-I", "-m", "lading.devices.worker", str(its.fileno()), str(self._lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._place,
                pass_fds=[its.fileno(), self._lock],
            )
        ours.settimeout(_SECONDS)
        self._control = ours
        self._poll.register(ours, select.POLLIN)

    def _bury(self) -> None:
        if self._control is not None:
            self._poll.unregister(self._control)
            self._control.close()
            self._control = None
        if self._worker is not None:
            self._worker.kill()
            if self._worker.wait() == UNMOUNTED:
                raise Gone
            self._worker = None

    def _hand(self, number: int, held: Held) -> str:
        """Give the worker a device; its words. Raises `OSError`: it has died."""
        assert self._control is not None
        words = " ".join(map(str, [number, held.length, *held.opens]))
        socket.send_fds(self._control, [f"+{words}".encode()], held.files)
        while True:
            message = self._control.recv(MESSAGE).decode()
            if not message:
                raise ConnectionResetError
            if message[0] == "=":
                return message[1:]
            self._note(message)

    def _hear(self) -> None:
        assert self._control is not None
        if not select.select([self._control], [], [], 0)[0]:
            return  # it was the predecessor that had something to say
        try:
            message = self._control.recv(MESSAGE).decode()
        except OSError:
            message = ""
        if message:
            self._note(message)
        else:
            self._hire()

    def _note(self, message: str) -> None:
        """The kernel has opened or closed a device."""
        number, handle = map(int, message[1:].split())
        held = self._devices.get(number)
        if held is None:
            return
        if message[0] == "o":
            held.opens.add(handle)
            held.expected = False
            return
        held.opens.discard(handle)
        if not held.opens and not held.expected:
            del self._devices[number]
            for fd in held.files:
                os.close(fd)
            if self._control is not None:
                with contextlib.suppress(
                    OSError
                ):  # it has died, and its successor will not be told of this device
                    self._control.send(f"-{number}".encode())


def dump(fuse: int, devices: "list[tuple[int, int, list[int], list[int]]]") -> int:
    """A file for `Keeper.adopt`: number, length, files and handles of each device. All descriptors survive exec(2)."""
    state = os.memfd_create("devices", 0)
    os.write(state, json.dumps([fuse, devices]).encode())
    os.lseek(state, 0, os.SEEK_SET)
    for fd in [state, fuse, *(fd for device in devices for fd in device[2])]:
        os.set_inheritable(fd, True)
    return state


def listen() -> socket.socket:
    """The socket, below the current directory so that its address is short."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)
    old = os.umask(0o177)
    listener.bind(SOCKET)
    os.umask(old)
    listener.listen(8)
    return listener


def main(lock: int, state: int = -1) -> None:
    """Be the keeper; a new one leaves a process behind."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(_SCORE)
    place = os.getcwd()
    listener = listen()
    os.chdir("/")
    keeper = Keeper(place, lock)
    if state < 0:
        if os.fork():
            sys.stdout.write("ready\n")
            return
        sys.stdout.close()
    os.set_inheritable(lock, False)
    with contextlib.suppress(Gone):
        if state >= 0:
            keeper.adopt(state)
        keeper.serve(listener)
    with contextlib.suppress(Gone):
        keeper.leave()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(place, SOCKET))
    os._exit(0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
