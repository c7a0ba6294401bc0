"""Making connections: names to addresses, proxies, TLS."""

import base64
import contextlib
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from lading.remotes.connection import Connection, Origin
from lading.remotes.errors import (
    CertificateError,
    ForbiddenAddressError,
    NotTLSError,
    ProtocolError,
    TransportError,
    UnknownHostError,
)
from lading.remotes.names import IPAddress, parse_address

Address = tuple[int, tuple[str, int]]
"""Address family, and address with port."""
Resolve = Callable[[str, int], list[Address]]

ORDINARY: Final = "ordinary"
LOOPBACK: Final = "loopback"
LINK_LOCAL: Final = "link-local"
RESERVED: Final = "reserved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom to believe, and who we are, on one host. Paths are of PEM files; ``ca`` joins the system's authorities."""

    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()
    """Certificate and key, or a file with both and an empty name."""
    skip_verify: bool = False

    def without_client(self) -> "Trust":
        """For another host: our own certificate is none of its business."""
        return Trust(ca=self.ca, skip_verify=self.skip_verify)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Which proxy to use for what, as Go reads the environment. A proxy is a URL with scheme ``http``."""

    http: str = ""
    https: str = ""
    exempt: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Proxies(http={bool(self.http)}, https={bool(self.https)}, exempt={self.exempt})"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Proxies":
        """``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY``, in capital or small letters."""

        def value(name: str) -> str:
            return environment.get(name) or environment.get(name.lower()) or ""

        exempt = tuple(part.strip().lower() for part in value("NO_PROXY").split(",") if part.strip())
        return cls(http=value("HTTP_PROXY"), https=value("HTTPS_PROXY"), exempt=exempt)

    def choose(self, origin: Origin) -> str:
        """The proxy's URL, or empty for a direct connection."""
        proxy = self.https if origin.scheme == "https" else self.http
        return "" if not proxy or self._is_exempt(origin.host.lower(), origin.port) else proxy

    def _is_exempt(self, host: str, port: int) -> bool:
        address = parse_address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_exempts(entry, host, port, address) for entry in self.exempt)


def _exempts(entry: str, host: str, port: int, address: IPAddress | None) -> bool:
    if entry == "*":
        return True
    if "/" in entry and address is not None:
        with contextlib.suppress(ValueError):
            return address in ipaddress.ip_network(entry, strict=False)
    name, colon, number = entry.rpartition(":")
    if colon and number.isascii() and number.isdigit() and ":" not in name.strip("[]").replace("::", ""):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*")
    bare = entry.removeprefix(".")
    return host.endswith("." + bare) or (host == bare and not entry.startswith("."))


def classify(host: str) -> str:
    """What kind of address a literal is."""
    address = parse_address(host)
    if address is None:
        return ORDINARY
    if address.is_loopback:
        return LOOPBACK
    if address.is_link_local:
        return LINK_LOCAL
    return RESERVED if address.is_unspecified or address.is_multicast or address.is_reserved else ORDINARY


def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a name, in the order in which they should be tried. Blocking."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise UnknownHostError(f"cannot find the address of {host}: {_why(exc)}") from exc
    return [(family, (str(address[0]), port)) for family, _, _, _, address in found]


class Dialer:
    """Connects. Blocking; thread-safe."""

    def __init__(self, proxies: Proxies, *, idle: float, resolver: Resolve = resolve) -> None:
        self._proxies = proxies
        self._idle = idle
        self._resolve = resolver
        self._lock = threading.Lock()
        self._peers: dict[tuple[str, int], frozenset[str]] = {}
        self._contexts: dict[object, ssl.SSLContext] = {}

    def kinds(self, origin: Origin) -> frozenset[str]:
        """The kind of address that ``origin`` is at: what its own redirects and realms may therefore lead to.

        It counts where we really connected to. A name that was at several kinds of address has none: its owner is
        trying something.
        """
        if self._proxies.choose(origin):
            return frozenset({classify(origin.host)})
        with self._lock:
            seen = self._peers.get((origin.host, origin.port), frozenset[str]())
        return seen if len(seen) == 1 else frozenset()

    def connect(self, origin: Origin, trust: Trust, *, timeout: float, guard: Origin | None) -> Connection:
        """Connect to ``origin``.

        ``guard``, if given, is the registry on whose word we go there: unless it is itself of that kind, loopback,
        link-local and reserved addresses are refused, by the address that is then connected to.

        Raises:
            ForbiddenAddressError: See ``guard``.
            TransportError: No connection; `CertificateError` and `NotTLSError` say why TLS failed.

        """
        deadline = time.monotonic() + timeout
        proxy = self._proxies.choose(origin)
        allowed = None if guard is None else self.kinds(guard) | {ORDINARY}
        sock = (
            self._through_proxy(proxy, origin, deadline, allowed)
            if proxy
            else self._direct(origin.host, origin.port, deadline, allowed)
        )
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if origin.scheme == "https":
                sock = self._handshake(sock, origin, trust)
            sock.settimeout(self._idle)
        except BaseException:
            sock.close()
            raise
        return Connection(sock, origin, idle=self._idle, absolute=bool(proxy) and origin.scheme == "http")

    def _direct(self, host: str, port: int, deadline: float, allowed: frozenset[str] | None) -> socket.socket:
        failure: OSError | None = None
        for family, address in self._addresses(host, port):
            kind = classify(address[0])
            if allowed is not None and kind not in allowed:
                raise ForbiddenAddressError(
                    f"refused to follow the registry to {host}, which is a {kind} address",
                    hint="only a registry that is itself at such an address may lead there",
                    subject=host,
                )
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(max(0.01, deadline - time.monotonic()))
                sock.connect(address)
            except OSError as exc:
                failure = exc
                sock.close()
            else:
                with self._lock:
                    self._peers[host, port] = self._peers.get((host, port), frozenset()) | {kind}
                return sock
        timed_out = isinstance(failure, TimeoutError)
        why = "timed out" if timed_out else _why(failure) if failure else "it has no address"
        raise TransportError(f"cannot connect to {host}:{port}: {why}", timed_out=timed_out) from failure

    def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            return self._resolve(host, port)
        except UnknownHostError as exc:
            if (host, port) not in self._peers:
                raise
            raise TransportError(exc.message) from exc  # it had one a while ago, and may have again

    def _through_proxy(
        self, proxy: str, origin: Origin, deadline: float, allowed: frozenset[str] | None
    ) -> socket.socket:
        if allowed is not None and classify(origin.host) not in allowed:
            raise ForbiddenAddressError(
                f"refused to follow the registry to {origin.host}", subject=origin.host
            )
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme != "http" or not parts.hostname:
            raise TransportError(f"a proxy of scheme {parts.scheme!r} is not supported")
        sock = self._direct(parts.hostname, parts.port or 80, deadline, None)
        if origin.scheme == "http":
            return sock
        try:
            name = f"[{origin.host}]" if ":" in origin.host else origin.host
            target = f"{name}:{origin.port}"
            lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
            lines += [f"{key}: {value}" for key, value in proxy_fields(proxy)]
            sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            self._tunnel(sock, parts.hostname)
        except OSError as exc:
            sock.close()
            raise TransportError(f"the proxy {parts.hostname} failed: {_why(exc)}") from exc
        except BaseException:
            sock.close()
            raise
        return sock

    @staticmethod
    def _tunnel(sock: socket.socket, name: str) -> None:
        reply = bytearray()
        while not reply.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)  # one by one: what follows belongs to TLS
            if not byte or len(reply) > 16 << 10:
                raise ProtocolError(f"the proxy {name} did not answer as one")
            reply += byte
        words = bytes(reply).split(b"\r\n")[0].split(b" ")
        if len(words) < 2 or words[1] != b"200":
            said = words[1][:3].decode("latin-1") if len(words) > 1 else "nothing"
            raise TransportError(f"the proxy {name} refused to connect: it said {said}")

    def _handshake(self, sock: socket.socket, origin: Origin, trust: Trust) -> ssl.SSLSocket:
        try:
            return self._context(trust).wrap_socket(sock, server_hostname=origin.host)
        except ssl.SSLCertVerificationError as exc:
            raise CertificateError(
                f"the certificate of {origin.netloc} is not trusted: {exc.verify_message}"
            ) from exc
        except ssl.SSLError as exc:
            if exc.reason in {
                "WRONG_VERSION_NUMBER",
                "HTTP_REQUEST",
                "UNKNOWN_PROTOCOL",
                "RECORD_LAYER_FAILURE",
            }:
                raise NotTLSError(f"{origin.netloc} does not speak TLS") from exc
            raise CertificateError(f"TLS with {origin.netloc} failed: {exc.reason or 'unknown'}") from exc
        except (ConnectionError, EOFError) as exc:
            raise NotTLSError(f"{origin.netloc} closed the connection at the TLS handshake") from exc
        except TimeoutError as exc:
            raise TransportError(f"the TLS handshake with {origin.netloc} timed out", timed_out=True) from exc
        except (OSError, ValueError) as exc:
            raise TransportError(f"TLS with {origin.netloc} failed: {exc}") from exc

    def _context(self, trust: Trust) -> ssl.SSLContext:
        key = (
            trust,
            tuple(_stamp(name) for name in (*trust.ca, *(n for pair in trust.client for n in pair))),
        )
        context = self._contexts.get(key)
        if context is None:
            context = ssl.create_default_context()
            context.sslsocket_class = _Socket
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            try:
                for name in trust.ca:
                    context.load_verify_locations(name)
                for certificate, private_key in trust.client:
                    context.load_cert_chain(certificate, private_key or None)
            except (OSError, ssl.SSLError) as exc:
                names = ", ".join((*trust.ca, *(pair[0] for pair in trust.client)))
                raise CertificateError(f"cannot load the certificates {names}: {_why(exc)}") from exc
            if trust.skip_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._contexts[key] = context
        return context

    def proxy_fields(self, origin: Origin) -> list[tuple[str, str]]:
        """Header fields for the proxy itself, for requests in absolute form."""
        proxy = self._proxies.choose(origin)
        return proxy_fields(proxy) if proxy and origin.scheme == "http" else []


class _Socket(ssl.SSLSocket):
    """Closes itself when it is dropped.

    `ssl.SSLContext.wrap_socket` takes the descriptor and then raises without closing it, if the peer reset the connection
    before the handshake; nobody else has it then.
    """

    def __del__(self) -> None:
        self.close()


def proxy_fields(proxy: str) -> list[tuple[str, str]]:
    """The proxy's credentials, if its URL has some."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.username is None:
        return []
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return [("Proxy-Authorization", "Basic " + base64.b64encode(pair.encode()).decode())]


def _stamp(name: str) -> tuple[int, int]:
    try:
        stat = os.stat(name)
    except OSError:
        return (0, 0)
    return (stat.st_mtime_ns, stat.st_size)


def _why(exc: BaseException) -> str:
    return (exc.strerror if isinstance(exc, OSError) else "") or str(exc) or type(exc).__name__
