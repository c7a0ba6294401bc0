"""A real ``lading daemon`` as a child process, and the unmodified ``docker`` command beside it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.netns import Netns, new_netns

SOURCE = str(Path(__file__).parents[2] / "src")
_START_SECONDS = 60
_GONE_SECONDS = 5
_STOP_SECONDS = 15


class Daemon:
    """A daemon with a data root of its own. Stopped, killed and started again by its process ID."""

    networks = False
    """Whether it has a default network, as only one in a network namespace of its own should."""

    def __init__(self, directory: Path, arguments: Sequence[str] = ()) -> None:
        self.directory = directory
        self.socket = directory / "s"
        self.data_root = directory / "data"
        self.exec_root = directory / "run"
        self.arguments = list(arguments)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = directory / "log"

    @property
    def host(self) -> str:
        """As DOCKER_HOST has it."""
        return f"unix://{self.socket}"

    @property
    def classic(self) -> bool:
        """Whether it was told to use the classic store."""
        return "--storage-driver=overlay2" in self.arguments

    def start(self, *, wait: bool = True) -> float:
        """Start the process; seconds until it answered."""
        begun = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": SOURCE},
            )
        if wait:
            self.wait_ready()
        return time.monotonic() - begun

    def command(self) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "lading", "daemon", "--debug", *self._places(), *self.arguments]

    def _places(self) -> list[str]:
        return [
            f"--data-root={self.data_root}",
            f"--exec-root={self.exec_root}",
            f"--pidfile={self.directory / 'pid'}",
            f"--host={self.host}",
            "--oom-score-adjust=0",
            *(() if self.networks else ("--bridge=none",)),
        ]

    def wait_ready(self) -> None:
        """Wait until ``_ping`` answers."""
        assert self.process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError):
                if b"200 OK" in self.raw(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
                    return
            time.sleep(0.01)
        raise AssertionError(f"the daemon did not answer:\n{self.tail()}")

    def raw(self, request: bytes, timeout: float = 20) -> bytes:
        """Send bytes, read to the end."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(str(self.socket))
            client.sendall(request)
            parts = bytearray()
            while part := client.recv(65536):
                parts += part
            return bytes(parts)

    def api(self, method: str, target: str) -> tuple[int, Any]:
        """One request; status and decoded JSON."""
        head, _, body = self.raw(
            f"{method} {target} HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        ).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body) if body.strip() else None

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-8000:]

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and wait; the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the daemon did not stop:\n{self.tail()}") from None

    def docker(
        self, *arguments: str, check: bool = True, input: bytes | None = None, timeout: float = 90
    ) -> str:
        """Run the unmodified ``docker`` command; its standard output."""
        done = self.run(*arguments, input=input, timeout=timeout)
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr.decode()}\n{self.tail()}")
        return done.stdout.decode()

    def run(
        self, *arguments: str, input: bytes | None = None, timeout: float = 90
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``docker``; whatever came of it."""
        config = self.directory / "docker-config"
        config.mkdir(exist_ok=True)
        return subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            check=False,
            timeout=timeout,
            env={**os.environ, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(config)},
            **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}),
        )

    def events(self, since: float, *filters: str) -> list[dict[str, Any]]:
        """What ``docker events`` tells of the time from ``since`` (seconds since the epoch) until now."""
        chosen = [word for each in filters for word in ("--filter", each)]
        until = f"{time.time():.6f}"
        said = self.docker("events", "--since", f"{since:.6f}", "--until", until, "--format", "json", *chosen)
        return [json.loads(line) for line in said.splitlines()]

    def lading(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the ``lading`` command against this daemon."""
        return subprocess.run(
            [sys.executable, "-m", "lading", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
            env={**os.environ, "PYTHONPATH": SOURCE, "DOCKER_HOST": self.host},
        )

    def end(self) -> None:
        """Stop it and everything that it left: shims, mounts."""
        if self.process is not None and self.process.poll() is None:
            self.run("rm", "-f", *self.run("ps", "-aq").stdout.decode().split())
            self.stop()
        for pid in left_processes(self.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mount in reversed(left_mounts(self.directory)):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)


def left_mounts(directory: Path) -> list[str]:
    """Mount points below ``directory``."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split(" ")[1].replace("\\040", " ") for line in lines]
    return [point for point in points if point.startswith(f"{directory}/")]


def left_processes(directory: Path) -> list[int]:
    """Processes whose command line or working directory names ``directory``."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            place = os.readlink(entry / "cwd")
            if str(directory).encode() in (entry / "cmdline").read_bytes() or place.startswith(
                str(directory)
            ):
                found.append(int(entry.name))
    return found


def is_idle_shim(pid: int) -> bool:
    """Whether it is a shim that the daemon keeps ready for another container, and takes along when it ends."""
    try:
        return b"\0-id\0shim-" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def commands(directory: Path) -> list[str]:
    """Command lines of `left_processes`; one that is ending has none any more."""
    found: list[str] = []
    for pid in left_processes(directory):
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in found if line]


@contextlib.contextmanager
def running_daemon(*arguments: str) -> Generator[Daemon]:
    """A daemon on a private socket, in a directory short enough for sockets; nothing of it stays."""
    with tempfile.TemporaryDirectory(prefix="lading-", ignore_cleanup_errors=True) as name:
        daemon = Daemon(Path(name), arguments)
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.end()
            deadline = time.monotonic() + _GONE_SECONDS  # what has ended may still be collected
            while any(left := (left_mounts(daemon.directory), left_processes(daemon.directory))):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        if any(left):
            pytest.fail(f"left behind: {left}")


class NetnsDaemon(Daemon):
    """A daemon whose network is a namespace of its own: bridges, rules and ports are not the machine's."""

    networks = True

    def __init__(self, directory: Path, machine: Netns, arguments: Sequence[str] = ()) -> None:
        super().__init__(directory, arguments)
        self.machine = machine

    def command(self) -> list[str]:
        return ["nsenter", f"--net={self.machine.path}", *super().command()]


@contextlib.contextmanager
def daemon_in_netns(*arguments: str) -> Generator[NetnsDaemon]:
    """As `running_daemon`, in a network namespace in which nothing stays either."""
    with (
        new_netns() as machine,
        tempfile.TemporaryDirectory(prefix="lading-", ignore_cleanup_errors=True) as name,
    ):
        daemon = NetnsDaemon(Path(name), machine, arguments)
        try:
            daemon.start()
            yield daemon
        finally:
            daemon.end()
            left = left_mounts(daemon.directory), commands(daemon.directory), machine.links()
        if any(left):
            pytest.fail(f"left behind: {left}")
