"""How the daemon meets the system: directories, pidfile, sockets, systemd, limits."""

import contextlib
import grp
import os
import resource
import socket
import ssl
import stat
from collections.abc import Generator
from pathlib import Path
from typing import Final

import structlog

from lading.api.engine.server import Listener
from lading.daemon.config import Config
from lading.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    LadingError,
)
from lading.kit import fs, linux

_log: Final = structlog.get_logger(__name__)
_LISTEN_FDS_START: Final = 3
_ARENAS: Final = 2
_FILES: Final = 65_536


def prepare_process(config: Config) -> None:
    """Umask, arenas of malloc, open files, out-of-memory score. Raises `FailedPreconditionError` unless we are root."""
    if os.geteuid() != 0:
        raise FailedPreconditionError("the daemon has to run as root, if only of a user namespace")
    os.umask(0o077)
    linux.share_arenas(_ARENAS)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    try:
        Path("/proc/self/oom_score_adj").write_text(str(config.oom_score_adjust), encoding="ascii")
    except OSError as exc:
        # Nobody but root of the machine may lower it, and no user asked for what is a default.
        level = _log.debug if config.rootless else _log.warning
        level("oom_score_not_set", wanted=config.oom_score_adjust, error=exc.strerror)


def prepare_directories(config: Config) -> None:
    """Make the data root and the exec root, if they are not there. What exists keeps its mode: it may be more than ours.

    Raises `FailedPreconditionError` if the data root cannot be written to.
    """
    try:
        for path in (config.data_root, config.exec_root):
            if not path.is_dir():
                fs.make_directories(path, mode=0o711)
                # A6: others may pass to a socket or a mapped root file system, and list nothing
                path.chmod(0o711)
        probe = config.data_root / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as exc:
        raise FailedPreconditionError(
            f"cannot write to {exc.filename}: {exc.strerror}",
            hint="choose another --data-root, or free the disk",
        ) from exc


def check_pidfile(path: Path) -> None:
    """Raise `AlreadyExistsError` if the process that ``path`` names is a living daemon of ours."""
    try:
        pid = int(path.read_text(encoding="ascii").strip() or 0)
    except (OSError, ValueError):
        pid = 0
    if pid and pid != os.getpid() and _is_daemon(pid):
        raise AlreadyExistsError(
            f"process with PID {pid} is still running",
            hint=f"stop it, or remove {path} if it is no daemon of ours",
        )


@contextlib.contextmanager
def pidfile(path: Path, pid: int = 0) -> Generator[None]:
    """Hold ``path`` with our process ID; a file of a dead process is replaced.

    ``pid`` is our ID where the file is read, if that is another PID namespace; the file was checked there.

    Raises `AlreadyExistsError` as `check_pidfile`.
    """
    if not pid:
        check_pidfile(path)
    try:
        fs.make_open_directories(path.parent, mode=0o755)
        path.write_text(f"{pid or os.getpid()}\n", encoding="ascii")
        path.chmod(0o644)
    except OSError as exc:
        raise FailedPreconditionError(f"cannot write pidfile {path}: {exc.strerror}") from exc
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _is_daemon(pid: int) -> bool:
    # A process ID is used again after a reboot: only a command line that could be ours counts.
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"lading" in command and b"daemon" in command.split(b"\0")


@contextlib.contextmanager
def listening(config: Config) -> Generator[list[Listener]]:
    """Sockets for all hosts of the configuration; Unix sockets of ours are removed afterwards."""
    made: list[Listener] = []
    paths: list[tuple[str, int]] = []
    try:
        for host in config.hosts:
            scheme, _, rest = host.partition("://")
            if scheme == "unix":
                made.append(Listener(socket=_unix(rest, config.group, rootless=config.rootless)))
                paths.append((rest, os.stat(rest).st_ino))
            elif scheme == "tcp":
                made.append(Listener(socket=_tcp(rest), tls=tls_context(config)))
            else:
                made += _inherited(rest, config)
        yield made
    finally:
        for listener in made:
            listener.socket.close()
        for path, inode in paths:
            with contextlib.suppress(OSError):
                if os.stat(path).st_ino == inode:  # a successor may have replaced it
                    os.unlink(path)


def _unix(path: str, group: str, *, rootless: bool) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        fs.make_open_directories(Path(path).parent, mode=0o711)
        _remove_stale(path)
        made.bind(path)
        if not rootless:
            os.chown(path, 0 if os.geteuid() == 0 else -1, _group_id(group))
        os.chmod(path, 0o600 if rootless else 0o660)
        made.listen(1024)
    except OSError as exc:
        made.close()
        raise FailedPreconditionError(f"cannot listen on unix://{path}: {exc.strerror or exc}") from exc
    except LadingError:
        made.close()
        raise
    return made


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FailedPreconditionError(f"cannot listen on unix://{path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)
            return
    raise AlreadyExistsError(
        f"another daemon listens on unix://{path}", hint="stop it, or choose another --host"
    )


def _group_id(group: str) -> int:
    name = group or "docker"
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError as exc:
        if group:
            raise FailedPreconditionError(f"group {group} not found") from exc
        return -1


def _tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            host or None, int(port or 2376), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind | socket.SOCK_CLOEXEC, proto)
    except (OSError, ValueError) as exc:
        raise InvalidArgumentError(f"invalid host tcp://{address}: {exc}") from exc
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(1024)
    except OSError as exc:
        made.close()
        raise FailedPreconditionError(f"cannot listen on tcp://{address}: {exc.strerror}") from exc
    return made


def _inherited(which: str, config: Config) -> list[Listener]:
    """Sockets from systemd (sd_listen_fds(3)): ``fd://`` takes all, ``fd://3`` one by number."""
    count = int(os.environ.get("LISTEN_FDS", "0")) if os.environ.get("LISTEN_PID") == str(os.getpid()) else 0
    numbers = range(_LISTEN_FDS_START, _LISTEN_FDS_START + count)
    if which not in ("", "*"):
        numbers = [number for number in numbers if str(number) == which]
    if not numbers:
        raise FailedPreconditionError(
            "no sockets found via socket activation",
            hint="start through a systemd socket unit, or use unix://",
        )
    listeners: list[Listener] = []
    for number in numbers:
        os.set_inheritable(number, False)
        made = socket.socket(fileno=number)
        if made.family == socket.AF_UNIX:
            listeners.append(Listener(socket=made))
        elif config.tlsverify:
            listeners.append(Listener(socket=made, tls=tls_context(config)))
        else:
            raise InvalidArgumentError(
                "refusing an inherited TCP socket without mutual TLS", hint="give --tlsverify"
            )
    return listeners


def tls_context(config: Config) -> ssl.SSLContext:
    """TLS 1.2 or later, with a client certificate from the configured CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(config.tlscert, config.tlskey)
        context.load_verify_locations(config.tlscacert)
    except (OSError, ssl.SSLError) as exc:
        raise FailedPreconditionError(
            f"cannot load the TLS files: {exc}", hint="check --tlscacert, --tlscert and --tlskey"
        ) from exc
    return context


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens outside a unit of type notify."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError as exc:
            _log.warning("notify_failed", error=exc.strerror)
