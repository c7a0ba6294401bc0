"""A daemon of a user who is not root, in RootlessKit's namespaces; the user is made for the test."""

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from support.daemon import Daemon, left_mounts
from support.netns import Netns, new_netns
from support.subids import given

SOURCE = Path(__file__).parents[2]
COUNT = 65_536
"""Subordinate IDs of the user."""
OUTSIDE = "192.0.2.1"
"""An address of the machine that is no loopback."""
_GONE_SECONDS = 10
_SHELL = (
    "mount --bind {tun} /dev/net/tun && mount --bind {repository} {source} && mount --bind {prefix} {python} && cd / && exec "
    'setpriv --reuid={uid} --regid={gid} --clear-groups env -i "$@"'
)
"""What root does before: on machines without udev nobody else may open the device; and the user has to reach what is run."""


def why_not() -> str:
    """Why no such daemon runs here; empty if one does."""
    missing = [name for name in ("rootlesskit", "slirp4netns", "newuidmap") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    if not stat.S_ISCHR(os.stat("/dev/net/tun").st_mode if os.path.exists("/dev/net/tun") else 0):
        return "there is no /dev/net/tun"
    tried = subprocess.run(
        ["setpriv", "--reuid=65534", "--clear-groups", "unshare", "-Ur", "true"],
        capture_output=True,
        check=False,
    )
    return "" if tried.returncode == 0 else "users may make no user namespaces here"


@contextlib.contextmanager
def user() -> Generator[pwd.struct_passwd]:
    """A fresh user with subordinate IDs; gone afterwards."""
    name = f"lading-{os.getpid()}"
    none = ("-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0")
    subprocess.run(["useradd", "--no-create-home", "--user-group", *none, name], check=True)
    try:
        found = pwd.getpwnam(name)
        with given(name, name, first_of(found)):
            yield found
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


def first_of(owner: pwd.struct_passwd) -> int:
    """The first of a user's subordinate IDs, which no other user of tests has."""
    return 1_000_000 + owner.pw_uid * COUNT


class RootlessDaemon(Daemon):
    """Its machine's network is a namespace of its own, with an address that is no loopback."""

    networks = True

    def __init__(
        self, directory: Path, owner: pwd.struct_passwd, machine: Netns, arguments: Sequence[str] = ()
    ) -> None:
        super().__init__(directory, arguments)
        self.owner = owner
        self.machine = machine
        self.first = first_of(owner)
        self.home = directory / "home"
        self.runtime = directory / "run"
        self.socket = self.runtime / "docker.sock"
        self.data_root = self.home / ".local/share/lading"
        self.exec_root = self.runtime / "lading"
        self.tun = directory / "tun"
        for each in (self.home, self.runtime):
            each.mkdir(mode=0o700)
            os.chown(each, owner.pw_uid, owner.pw_gid)
        device = os.stat("/dev/net/tun").st_rdev
        os.mknod(self.tun, stat.S_IFCHR | 0o600, device)
        self.tun.chmod(0o666)

    def command(self) -> list[str]:
        return self.as_user("-m", "lading", "daemon", "--debug", *self.arguments)

    def as_user(self, *words: str, python: bool = True) -> list[str]:
        """A command line that runs Python with this repository, or another program, as the user, where the daemon is started."""
        source, interpreter = self.directory / "source", self.directory / "python"
        shell = _SHELL.format(
            tun=self.tun,
            source=source,
            repository=SOURCE,
            python=interpreter,
            prefix=sys.base_prefix,
            uid=self.owner.pw_uid,
            gid=self.owner.pw_gid,
        )
        environment = (
            f"PATH={os.environ['PATH']}",
            f"HOME={self.home}",
            f"XDG_RUNTIME_DIR={self.runtime}",
            f"PYTHONPATH={source}/src:{source / Path(sysconfig.get_path('purelib')).relative_to(SOURCE)}",
            f"DOCKER_HOST={self.host}",
            *([f"LD_LIBRARY_PATH={interpreter}/lib"] if sys.base_prefix != "/usr" else []),
        )
        program = [str(interpreter / "bin" / Path(os.path.realpath(sys.executable)).name)] if python else []
        return [
            *("nsenter", f"--net={self.machine.path}", "unshare", "--mount", "--propagation=private"),
            *("sh", "-c", shell, "sh", *environment, *program, *words),
        ]

    def processes(self) -> dict[int, str]:
        """Processes of the user and of their subordinate IDs, with their command lines; but one that has ended has none.

        Whoever outlives RootlessKit is a child of the machine's init, which may take its time to ask how it ended.
        """
        found: dict[int, str] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    uid = entry.stat().st_uid
                    if uid == self.owner.pw_uid or self.first <= uid < self.first + COUNT:
                        line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        if line:
                            found[int(entry.name)] = line
        return found

    def kill_inside(self) -> None:
        """SIGKILL for the daemon itself, not for RootlessKit around it."""
        inner = [pid for pid, line in self.processes().items() if line.startswith(f"{self.directory}/python")]
        daemons = [pid for pid in inner if "-m lading daemon" in self.processes().get(pid, "")]
        assert len(daemons) == 1, self.processes()
        os.kill(daemons[0], signal.SIGKILL)
        assert self.process is not None
        self.process.wait(_GONE_SECONDS)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def rootless_daemon(*arguments: str) -> Generator[RootlessDaemon]:
    """A running one; the test fails if a process or a mount outlives it. Skips where the machine cannot."""
    if reason := why_not():
        pytest.skip(f"rootless daemons: {reason}")
    with (
        new_netns() as machine,
        user() as owner,
        tempfile.TemporaryDirectory(prefix="lading-", ignore_cleanup_errors=True) as name,
    ):
        machine.run("ip", "link", "add", "outside", "type", "veth", "peer", "name", "wire")
        machine.run("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "outside")
        for link in ("outside", "wire"):
            machine.run("ip", "link", "set", link, "up")
        directory = Path(name)
        directory.chmod(0o711)
        for place in ("source", "python"):
            (directory / place).mkdir()
        daemon = RootlessDaemon(directory, owner, machine, arguments)
        try:
            daemon.start()
            yield daemon
            daemon.stop()
            gone(daemon)
        finally:
            daemon.end()
        assert left_mounts(directory) == []


def gone(daemon: RootlessDaemon) -> None:
    """Wait until no process of the user is left; those take their namespaces and mounts along."""
    deadline = time.monotonic() + _GONE_SECONDS
    while left := daemon.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
