"""Docker's ``syslog`` log driver: a container's messages go to a syslog server as well as into its own log.

The forms are those of Docker's options: what local daemons take (no ``syslog-format``), RFC 3164, and RFC 5424 with seconds or
microseconds. Output is severity *informational*, error output *error*. A container never waits for the server: what it does not
take waits in memory up to a limit, and is dropped beyond it.
"""

import contextlib
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import structlog
from typing_extensions import override

from lading.containers.journal import Sink
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.kit.times import SECOND, format_nano

if TYPE_CHECKING:
    import ssl

OPTIONS: Final = frozenset(
    {"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert"}
    | {"syslog-tls-key", "syslog-tls-skip-verify"}
)
BUFFER: Final = 1 << 20
"""Bytes that wait for the server unless ``max-buffer-size`` says otherwise; Docker's default."""
_LOCAL: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
_PORT: Final = 514
_SECURE: Final = "tcp+tls"
_SCHEMES: Final = ("unix", "unixgram", "udp", "tcp", _SECURE)
_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("", "", "", ""),
    *(f"local{number}" for number in range(8)),
)
"""In order of their codes. RFC 3164, 4.1.1."""
_DAEMON: Final = _FACILITIES.index("daemon")
_INFORMATIONAL, _ERROR = 6, 3
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CONNECT_SECONDS: Final = 5.0
_CLOSE_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 1.0
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class SyslogError(FailedPreconditionError):
    """The server is not to be reached."""

    code = "syslog-unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where messages go and how they are written. ``scheme`` is empty for whatever listens on this machine."""

    scheme: str = ""
    path: str = ""
    host: str = ""
    port: int = 0
    facility: int = _DAEMON
    form: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""
    verified: bool = True

    def __str__(self) -> str:
        """As in the option."""
        if not self.scheme:
            return "the machine's own syslog"
        return f"{self.scheme}://{self.path or f'{self.host}:{self.port}'}"


def parse(options: Mapping[str, str]) -> Target:
    """What ``--log-opt`` says. Raises `InvalidArgumentError`."""
    form = options.get("syslog-format", "")
    if form not in ("", "rfc3164", "rfc5424", "rfc5424micro"):
        raise InvalidArgumentError(
            f"invalid log opt syslog-format: '{form[:80]}'", hint="use rfc3164, rfc5424 or rfc5424micro"
        )
    scheme, path, host, port = _address(options.get("syslog-address", ""))
    return Target(
        scheme=scheme,
        path=path,
        host=host,
        port=port,
        facility=_facility(options.get("syslog-facility", "")),
        form=form,
        ca=options.get("syslog-tls-ca-cert", ""),
        certificate=options.get("syslog-tls-cert", ""),
        key=options.get("syslog-tls-key", ""),
        # As Docker: whatever is said there, it is skipped.
        verified="syslog-tls-skip-verify" not in options,
    )


def _address(text: str) -> tuple[str, str, str, int]:
    if not text:
        return "", "", "", 0
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise InvalidArgumentError(f"invalid log opt syslog-address: '{text[:80]}': {exc}") from exc
    if parts.scheme not in _SCHEMES:
        raise InvalidArgumentError(
            f"invalid log opt syslog-address: '{text[:80]}'",
            hint=f"it begins with {', '.join(f'{each}://' for each in _SCHEMES)}",
        )
    if parts.scheme.startswith("unix"):
        if not parts.path.startswith("/"):
            raise InvalidArgumentError(f"invalid log opt syslog-address: '{text[:80]}' has no absolute path")
        return parts.scheme, parts.path, "", 0
    if not parts.hostname:
        raise InvalidArgumentError(f"invalid log opt syslog-address: '{text[:80]}' has no host")
    return parts.scheme, "", parts.hostname, port or _PORT


def _facility(text: str) -> int:
    if not text:
        return _DAEMON
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    if re.fullmatch(r"\d{1,2}", text) and int(text) < len(_FACILITIES):
        return int(text)
    raise InvalidArgumentError(f"invalid log opt syslog-facility: '{text[:80]}'")


def record(target: Target, tag: str, host: str, message: bytes, stream: str, time_nano: int) -> bytes:
    """What is sent for one message of a container."""
    priority = target.facility << 3 | (_ERROR if stream == "stderr" else _INFORMATIONAL)
    pid = os.getpid()
    match target.form:
        case "":
            head = f"<{priority}>{_stamp(time_nano)} {tag}[{pid}]: "
        case "rfc3164":
            head = f"<{priority}>{_stamp(time_nano)} {host} {tag}[{pid}]: "
        case form:
            seconds, rest = divmod(time_nano, SECOND)
            decimals = f".{rest // 1000:06d}" if form == "rfc5424micro" else ""
            moment = format_nano(seconds * SECOND).removesuffix("Z")
            head = f"<{priority}>1 {moment}{decimals}Z {host} {tag} {pid} {tag} - "
    made = head.encode() + message.removesuffix(b"\n") + b"\n"
    if target.scheme == _SECURE and target.form.startswith("rfc5424"):  # RFC 5425, 4.3
        return f"{len(made)} ".encode() + made
    return made


def _stamp(time_nano: int) -> str:
    """RFC 3164, 4.1.2: local time, and English names."""
    now = time.localtime(time_nano // SECOND)
    return f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"


class Sender(Sink):
    """Sends one container's messages, on a thread of its own from the first one on. Calls may come from any thread."""

    def __init__(
        self,
        target: Target,
        tag: str,
        *,
        limit: int = BUFFER,
        connect: "Callable[[Target], socket.socket] | None" = None,
    ) -> None:
        self._target = target
        self._tag = tag
        self._host = socket.gethostname()
        self._limit = limit
        self._connect = connect or connected
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None
        self.dropped = 0
        """Messages that found no room, or no server at the end."""

    @override
    def reach(self) -> None:
        try:
            self._socket = self._connect(self._target)
        except OSError as exc:
            raise SyslogError(
                f"failed to initialize logging driver: cannot reach {self._target}: {exc.strerror or exc}",
                hint="start the syslog server, or give another --log-opt syslog-address",
            ) from exc

    @override
    def send(self, message: bytes, stream: str, time_nano: int) -> None:
        if not message.removesuffix(b"\n"):
            return  # Docker leaves empty lines out
        made = record(self._target, self._tag, self._host, message, stream, time_nano)
        with self._changed:
            if self._closing or self._bytes + len(made) > self._limit:
                self.dropped += 1
                return
            self._waiting.append(made)
            self._bytes += len(made)
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lading-syslog", daemon=True)
                self._thread.start()

    @override
    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()
        if self._socket is not None:
            self._socket.close()
        if self.dropped:
            _log.warning("syslog_messages_dropped", server=str(self._target), messages=self.dropped)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                made = self._waiting[0]
            delivered = self._deliver(made)
            with self._changed:
                if delivered and self._waiting:
                    self._waiting.popleft()
                    self._bytes -= len(made)
                elif not delivered:
                    if self._closing:
                        return
                    self._changed.wait(_RETRY_SECONDS)

    def _deliver(self, made: bytes) -> bool:
        """Whether the server, or the network, has taken a message; a connection that broke is made anew once."""
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = self._connect(self._target)
                self._socket.sendall(made)
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
            else:
                return True
        return False


def connected(target: Target) -> socket.socket:
    """A socket that takes messages. Blocking. Raises `OSError`."""
    if not target.scheme:
        return _local()
    if target.scheme.startswith("unix"):
        kind = socket.SOCK_DGRAM if target.scheme == "unixgram" else socket.SOCK_STREAM
        return _unix(target.path, kind)
    if target.scheme == "udp":
        return _datagrams(target)
    made = socket.create_connection((target.host, target.port), _CONNECT_SECONDS)
    if target.scheme != _SECURE:
        return made
    with contextlib.ExitStack() as stack:
        stack.callback(made.close)
        secure = _context(target).wrap_socket(made, server_hostname=target.host)
        stack.pop_all()
        return secure


def _local() -> socket.socket:
    """As the C library's syslog(3) finds it."""
    problem: OSError = FileNotFoundError(2, "no syslog server listens on " + ", ".join(_LOCAL))
    for path in _LOCAL:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            try:
                return _unix(path, kind)
            except FileNotFoundError:
                continue
            except OSError as exc:
                problem = exc
    raise problem


def _unix(path: str, kind: int) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.settimeout(_CONNECT_SECONDS)
    try:
        made.connect(path)
    except BaseException:
        made.close()
        raise
    return made


def _datagrams(target: Target) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)[0]
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _context(target: Target) -> "ssl.SSLContext":
    import ssl  # noqa: PLC0415 - only who logs over TLS pays for it

    context = ssl.create_default_context(cafile=target.ca or None)
    if target.certificate:
        context.load_cert_chain(target.certificate, target.key or None)
    if not target.verified:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
