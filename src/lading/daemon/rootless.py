"""`lading daemon` as a user who is not root: it starts itself again inside RootlessKit.

RootlessKit makes what such a user cannot make alone: a user namespace with the user's subordinate IDs (newuidmap and
newgidmap), a network namespace with a way out (slirp4netns), and a driver for ports of the machine. In it the daemon is root
over mounts, networks and processes that it makes, and over nothing else.

The namespaces live as long as the daemon: with it RootlessKit's child ends, which is process 1 of a PID namespace, and the kernel
ends all others in it, also after ``kill -9``. For containers that is as if the machine had gone down, and what goes with a reboot
lies in a ``/run`` of the namespaces. See docs/adr/0097.
"""

import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from lading.daemon import lifecycle, places
from lading.daemon.config import Config
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.formats import subid

PROCESS: Final = "LADING_ROOTLESS_PID"
"""The process that the user sees: RootlessKit, which passes signals on."""
SOCKET: Final = "api.sock"
_PACKAGES: Final = {
    "rootlesskit": "rootlesskit",
    "slirp4netns": "slirp4netns",
    "newuidmap": "uidmap",
    "newgidmap": "uidmap",
}
"""Programs, and what Debian calls their packages."""
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TUN: Final = Path("/dev/net/tun")
_SWITCHES: Final = (
    (Path("/proc/sys/user/max_user_namespaces"), "user.max_user_namespaces"),
    (Path("/proc/sys/kernel/unprivileged_userns_clone"), "kernel.unprivileged_userns_clone"),
)
"""Where an administrator may have forbidden user namespaces: 0 in one of these."""
_SUBORDINATE: Final = (Path("/etc/subuid"), Path("/etc/subgid"))
_NSSWITCH: Final = Path("/etc/nsswitch.conf")
_MTU: Final = 65520
"""slirp4netns has no wire: large packets cost less."""
_OUTSIDE: Final = ("lading", "containerd", "systemd", "dbus", "netavark", "xtables.lock", "runc", "crun")
"""Names in ``/run`` that are the machine's, and that programs of ours would use or believe."""


def launch(config: Config, arguments: Sequence[str]) -> NoReturn:
    """Become RootlessKit, which starts the daemon with the same arguments in namespaces of its own.

    Raises:
        FailedPreconditionError: Something is missing; the message names it and what to install.
        AlreadyExistsError: A daemon of this user with the same pidfile runs.

    """
    state = config.exec_root
    search = f"{os.environ.get('PATH', os.defpath)}:{_PATH}"
    _check_programs(search)
    _check_kernel()
    _check_subordinate_ids()
    _check_runtime(state)
    lifecycle.check_pidfile(config.pidfile)
    environment = {
        **os.environ,
        "PATH": search,
        "HOME": str(Path.home()),
        "XDG_RUNTIME_DIR": str(places.runtime_directory()),
        PROCESS: str(os.getpid()),
    }
    os.execvpe("rootlesskit", words(state, arguments), environment)  # noqa: S606 - by a name that was just found


def words(state: Path, arguments: Sequence[str]) -> list[str]:
    """The command line. ``state`` is where RootlessKit has its socket; it makes and removes it."""
    return [
        "rootlesskit",
        f"--state-dir={state}",
        "--net=slirp4netns",
        f"--mtu={_MTU}",
        "--slirp4netns-sandbox=auto",
        "--slirp4netns-seccomp=auto",
        # 10.0.2.2 would be the loopback of the machine, on which services trust whoever reaches them.
        "--disable-host-loopback",
        "--port-driver=builtin",
        # /etc: resolv.conf is written anew; /run: programs expect to write there.
        "--copy-up=/etc",
        "--copy-up=/run",
        "--propagation=rslave",
        "--pidns",
        *(sys.executable, "-m", "lading", "daemon", *arguments),
    ]


def settle() -> None:
    """Inside: what of the machine's ``/run`` would mislead programs of ours goes out of sight.

    RootlessKit has made a ``/run`` with a link for everything that the machine has in its own.
    """
    for name in _OUTSIDE:
        link = Path("/run") / name
        if link.is_symlink():
            link.unlink()


def process() -> int:
    """The daemon's process as the machine sees it."""
    return int(os.environ[PROCESS]) if places.is_inside() and PROCESS in os.environ else os.getpid()


def api_socket() -> str:
    """The socket on which RootlessKit publishes ports; empty outside of it."""
    return os.path.join(os.environ[places.STATE], SOCKET) if places.is_inside() else ""


def _check_programs(search: str) -> None:
    missing = [name for name in _PACKAGES if shutil.which(name, path=search) is None]
    if missing:
        packages = dict.fromkeys(_PACKAGES[name] for name in missing)
        raise FailedPreconditionError(
            f"a daemon of a user who is not root needs {', '.join(missing)}",
            hint=f"install them (Debian: apt install {' '.join(packages)}), or run the daemon as root",
        )


def _check_kernel() -> None:
    for path, name in _SWITCHES:
        try:
            forbidden = path.read_text("ascii").strip() == "0"
        except OSError:
            continue
        if forbidden:
            raise FailedPreconditionError(
                f"users who are not root may make no user namespaces here: {name} is 0",
                hint=f"as root, set it (sysctl -w {name}=28633), or run the daemon as root",
            )
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise FailedPreconditionError(
            f"slirp4netns cannot use {_TUN}",
            hint=f"as root: modprobe tun, and chmod 0666 {_TUN}, which is its usual mode",
        )


def _check_subordinate_ids() -> None:
    """See that the user has enough of them, if the files are where they stand (nsswitch.conf(5) may name other places)."""
    try:
        if any(line.split(":")[0].strip() == "subid" for line in _NSSWITCH.read_text().splitlines()):
            return
    except (OSError, UnicodeDecodeError):
        pass
    number = os.geteuid()
    try:
        names = (pwd.getpwuid(number).pw_name, str(number))
    except KeyError:
        names = (str(number),)
    for file in _SUBORDINATE:
        try:
            entries = subid.parse(file.read_text("utf-8", "replace"), str(file)) if file.exists() else []
            subid.ranges(entries, names, str(file))
        except (InvalidArgumentError, OSError) as exc:
            raise FailedPreconditionError(
                f"the user has no subordinate IDs for containers: {exc}",
                hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {names[0]}",
            ) from exc


def _check_runtime(state: Path) -> None:
    runtime = places.runtime_directory()
    if not os.access(runtime, os.W_OK | os.X_OK):
        raise FailedPreconditionError(
            f"there is no runtime directory: {runtime} is missing or another user's",
            hint="log in through pam_systemd, or set XDG_RUNTIME_DIR to a directory of this user alone, best on a tmpfs",
        )
    try:
        state.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as exc:
        raise FailedPreconditionError(f"cannot write to {exc.filename}: {exc.strerror}") from exc
