"""The command line's own HTTP client: the standard library's, over a Unix socket or TLS, because it starts fast."""

import contextlib
import http.client
import json
import os
import socket
import ssl
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from lading.errors import InvalidArgumentError, LadingError, UnavailableError

DEFAULT_HOST: Final = "unix:///run/lading/lading.sock"
_CONNECT_SECONDS: Final = 15.0
_PORTS: Final = 0xFFFF


class DaemonError(LadingError):
    """The daemon refused; its own words."""

    code = "daemon-error"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("lading")
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_SECONDS)
        self.sock.connect(self._path)
        self.sock.settimeout(None)


def default_host() -> str:
    """Root's daemon; for another user the user's own, if there is one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    socket = os.path.join(runtime, "docker.sock")
    return f"unix://{socket}" if os.geteuid() and os.path.exists(socket) else DEFAULT_HOST


class Client:
    """Talks to one daemon. ``host`` is as Docker writes it; certificates are found where ``docker`` finds them."""

    def __init__(self, host: str = "") -> None:
        self.host = host or os.environ.get("DOCKER_HOST", "") or default_host()

    def tls(self) -> ssl.SSLContext | None:
        """The client's certificates, for a host that needs them. Raises `InvalidArgumentError`."""
        return _tls() if self.host.startswith("tcp://") else None

    def get(self, path: str) -> Any:
        """A JSON document. Raises `DaemonError`, `UnavailableError`."""
        connection, response = self._send("GET", path)
        with self._whole(connection):
            return json.loads(response.read())

    def stream(self, path: str) -> Iterator[dict[str, Any]]:
        """Post, and yield the objects of a progress stream as they come. Raises as `get`, also for an in-band error."""
        connection, response = self._send("POST", path)
        with self._whole(connection):
            for line in response:
                if line.strip():
                    document = json.loads(line)
                    if "error" in document:
                        raise DaemonError(str(document["error"]))
                    yield document
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)

    @contextlib.contextmanager
    def _whole(self, connection: http.client.HTTPConnection) -> Generator[None]:
        """Read an answer, to its end; however long the daemon works on it."""
        try:
            if connection.sock is not None:  # the answer has it alone, if it ends with the connection
                connection.sock.settimeout(None)
            yield
        except (OSError, ValueError, http.client.HTTPException) as exc:
            raise UnavailableError(
                f"the daemon at {self.host} broke off its answer: {exc}", hint="see its log"
            ) from exc
        finally:
            connection.close()

    def _send(self, method: str, path: str) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection()
        try:
            connection.request(method, path, headers={"User-Agent": "lading"})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise UnavailableError(
                f"cannot reach the Lading daemon at {self.host}: {exc}",
                hint="start it with 'lading daemon', or name it with --host or DOCKER_HOST",
            ) from exc
        if response.status >= http.client.BAD_REQUEST:
            body = response.read(64 * 1024)
            connection.close()
            raise DaemonError(_message(body, response))
        return connection, response

    def _connection(self) -> http.client.HTTPConnection:
        scheme, _, rest = self.host.partition("://")
        if scheme == "unix" and rest.startswith("/"):
            return _UnixConnection(rest)
        if scheme == "tcp":
            name, _, port = rest.rpartition(":")
            if name and port.isascii() and port.isdigit() and int(port) <= _PORTS:
                return http.client.HTTPSConnection(
                    name.strip("[]"), int(port), context=_tls(), timeout=_CONNECT_SECONDS
                )
        raise InvalidArgumentError(f"invalid host {self.host!r}", hint="use unix:///path or tcp://host:port")


def _tls() -> ssl.SSLContext:
    directory = Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    except OSError as exc:
        raise InvalidArgumentError(
            f"cannot load the client's certificates from {directory}: {exc}",
            hint="set DOCKER_CERT_PATH to a directory with ca.pem, cert.pem and key.pem",
        ) from exc
    return context


def _message(body: bytes, response: http.client.HTTPResponse) -> str:
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{response.status} {response.reason}"
    if response.status == http.client.NOT_FOUND and message == "page not found":
        return "this daemon is not Lading: point --host or DOCKER_HOST to one"
    return message
