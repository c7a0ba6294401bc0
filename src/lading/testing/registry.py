"""A registry over real HTTP on loopback, in this process, that misbehaves on demand.

::

    with FakeRegistry() as registry:
        registry.add_blob("app", data)
        registry.faults.append(Fault(path="/blobs/", cut_at=1000))

Faults are looked at in order; the first that fits a request is applied and, after ``times`` requests, spent.
"""

import base64
import contextlib
import json
import re
import secrets
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from lading.errors import InvalidArgumentError
from lading.oci import mediatypes
from lading.oci.descriptor import Descriptor
from lading.oci.digest import Digest

_API: Final = re.compile(r"/v2/(.+)/(manifests|blobs|tags|referrers)/(.*)")
_PIECE: Final = 16 << 10


@dataclass(slots=True, kw_only=True)
class Fault:
    """What goes wrong with requests whose method is in ``method`` and whose target ``path`` (a pattern) is found in."""

    path: str = ""
    method: str = "GET"
    times: int = 1
    """How many requests it spoils; negative for all."""
    skip: int = 0
    """How many it lets pass before."""
    status: int = 0
    """Answer with this status, ``fields`` and ``body`` instead."""
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    raw: bytes | None = None
    """Send exactly these bytes, and close."""
    cut_at: int | None = None
    """Close after so many bytes of a reply's body, or of a request's."""
    stall_at: int | None = None
    """Likewise, but stand still."""
    ignore_range: bool = False
    """Answer 200 with everything."""
    length: str | None = None
    """Say this as ``Content-Length``, and send what there is."""
    content_range: str | None = None
    """Say this as ``Content-Range``."""
    rate: float = 0.0
    """Bytes per second of each connection."""
    data: bytes | None = None
    """Send these bytes as the blob or manifest."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that was received; field names in lower case."""

    method: str
    target: str
    fields: dict[str, str]


@dataclass(slots=True)
class Repository:
    """What one repository holds."""

    blobs: dict[str, bytes] = field(default_factory=dict[str, bytes])
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict[str, tuple[str, bytes]])
    """Digest to media type and body."""
    tags: dict[str, str] = field(default_factory=dict[str, str])


class FakeRegistry:
    """Start it by entering its context; ``host`` is then ``127.0.0.1:port``."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, bind: str = "127.0.0.1") -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Seen] = []
        self.login: tuple[str, str] | None = None
        """User name and password; needed for everything once set."""
        self.bearer = True
        """Whether it wants a token (else basic authentication), once ``login`` is set or ``anonymous_tokens``."""
        self.anonymous_tokens = False
        self.realm = ""
        """Where it sends clients for tokens; its own ``/token`` by default."""
        self.token_uses = 1 << 30
        """After so many requests a token is refused."""
        self.issued: list[tuple[str, ...]] = []
        """The scopes of each token that was made."""
        self.identity_token = ""
        """Given to whoever asks for an offline token, and taken as a refresh token."""
        self.has_referrers = True
        self.head_allowed = True
        self.chunk_least = 0
        self.page = 1 << 30
        """Tags per page."""
        self.uploads: dict[str, bytearray] = {}
        self.connections = 0
        """How many were accepted."""
        self.in_use = 0
        self.most_in_use = 0
        self._tokens: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server((bind, 0), self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.port: int = self._server.server_address[1]
        self.scheme = "https" if tls else "http"
        self.host = f"{bind}:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()

    def repository(self, path: str) -> Repository:
        """The repository of this path, made on first use."""
        return self.repositories.setdefault(path, Repository())

    def add_blob(self, path: str, data: bytes, media_type: str = mediatypes.OCI_LAYER) -> Descriptor:
        """Store a blob; its descriptor."""
        digest = Digest.of(data)
        self.repository(path).blobs[digest] = data
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def add_manifest(self, path: str, body: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Store a manifest, unchecked; its descriptor."""
        digest = Digest.of(body)
        repository = self.repository(path)
        repository.manifests[digest] = (media_type, body)
        if tag is not None:
            repository.tags[tag] = digest
        return Descriptor(media_type=media_type, digest=digest, size=len(body))

    def seen(self, method: str, pattern: str) -> list[Seen]:
        """The requests of this method whose target the pattern is found in."""
        return [one for one in list(self.requests) if one.method == method and re.search(pattern, one.target)]

    def fault_for(self, method: str, target: str) -> Fault | None:
        """Take the fault that fits a request, if any."""
        with self._lock:
            for fault in self.faults:
                if fault.times and method in fault.method.split("|") and re.search(fault.path, target):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def make_token(self, scopes: tuple[str, ...]) -> str:
        """A fresh token."""
        with self._lock:
            token = secrets.token_hex(16)
            self._tokens[token] = self.token_uses
            self.issued.append(scopes)
            return token

    def takes(self, authorization: str) -> bool:
        """Whether a request with this field may pass; uses up one use of a token."""
        kind, _, value = authorization.partition(" ")
        if self.bearer:
            with self._lock:
                left = self._tokens.get(value, 0) if kind == "Bearer" else 0
                self._tokens[value] = left - 1
                return left > 0
        return kind == "Basic" and self.knows(value)

    def knows(self, encoded: str) -> bool:
        """Whether this is the base64 form of the login."""
        return self.login is not None and encoded == base64.b64encode(":".join(self.login).encode()).decode()

    def enter(self, step: int) -> None:
        """Count requests that are being served."""
        with self._lock:
            self.in_use += step
            self.most_in_use = max(self.most_in_use, self.in_use)

    def hang_up(self) -> None:
        """Cut every open connection."""
        self._server.hang_up()

    def pause(self, seconds: float) -> bool:
        """Wait; true if the registry was stopped meanwhile."""
        return self._stopped.wait(seconds)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], registry: FakeRegistry, tls: ssl.SSLContext | None) -> None:
        self.registry = registry
        self._tls = tls
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    @override
    def finish_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        assert isinstance(request, socket.socket)
        self.registry.connections += 1
        with contextlib.suppress(OSError):
            if self._tls is not None:
                request = self._tls.wrap_socket(request, server_side=True)
            self._open.add(request)
            try:
                _Handler(request, client_address, self)
            finally:
                self._open.discard(request)
                request.close()

    @override
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients come and go."""

    def hang_up(self) -> None:
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _registry(self) -> FakeRegistry:
        assert isinstance(self.server, _Server)
        return self.server.registry

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Tests look at `FakeRegistry.requests`."""

    def _serve(self) -> None:
        registry = self._registry
        registry.enter(1)
        try:
            registry.requests.append(
                Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            )
            self._fault = registry.fault_for(self.command, self.path) or Fault()
            if self._fault.raw is not None:
                self.wfile.write(self._fault.raw)
                self.close_connection = True
            elif self._fault.status:
                self._drain()
                self._reply(self._fault.status, self._fault.body, self._fault.fields)
            else:
                self._route(registry)
        except ConnectionError:
            self.close_connection = True
        finally:
            registry.enter(-1)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  as the base class calls them

    def _route(self, registry: FakeRegistry) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token(registry, parts.query)
            return
        if not self._authorized(registry):
            return
        if parts.path in {"/v2/", "/v2"}:
            self._reply(200, b"{}")
            return
        match = _API.fullmatch(parts.path)
        if match is None:
            self._error(404, "NAME_UNKNOWN")
            return
        path, kind, rest = match.groups()
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if kind == "blobs" and rest.startswith("uploads/"):
            self._upload(registry, path, rest.removeprefix("uploads/"), query)
            return
        if self.command != "PUT" and path not in registry.repositories:
            self._error(404, "NAME_UNKNOWN")
            return
        if kind == "tags":
            self._tags(registry, path, query.get("last", ""))
        else:
            serve = {"manifests": self._manifest, "blobs": self._blob, "referrers": self._referrers}[kind]
            serve(registry, path, rest)

    # -- authentication

    def _authorized(self, registry: FakeRegistry) -> bool:
        if registry.login is None and not registry.anonymous_tokens:
            return True
        if registry.takes(self.headers.get("Authorization", "")):
            return True
        self._drain()
        challenge = 'Basic realm="fake"'
        if registry.bearer:
            realm = registry.realm or f"{registry.scheme}://{registry.host}/token"
            challenge = f'Bearer realm="{realm}",service="fake"'
        self._error(401, "UNAUTHORIZED", (("WWW-Authenticate", challenge),))
        return False

    def _token(self, registry: FakeRegistry, query: str) -> None:
        fields = parse_qs(query)
        if self.command == "POST":
            fields = parse_qs(self._drain().decode())
            known = fields.get("refresh_token", [""])[0] == registry.identity_token != ""
        else:
            kind, _, value = self.headers.get("Authorization", "").partition(" ")
            known = registry.anonymous_tokens or (kind == "Basic" and registry.knows(value))
        if not known:
            self._error(401, "UNAUTHORIZED")
            return
        reply = {"token": registry.make_token(tuple(sorted(" ".join(fields.get("scope", [])).split())))}
        if "offline_token" in fields:
            reply["refresh_token"] = registry.identity_token
        self._reply(200, json.dumps(reply).encode())

    # -- content

    def _manifest(self, registry: FakeRegistry, path: str, target: str) -> None:
        repository = registry.repository(path)
        if self.command == "PUT":
            body = self._drain()
            digest = Digest.of(body)
            if ":" in target and target != digest:
                self._error(400, "DIGEST_INVALID")
                return
            media_type = self.headers.get("Content-Type", "")
            document = json.loads(body)
            children = document.get("layers", []) + [c for c in (document.get("config"),) if c]
            if any(child["digest"] not in repository.blobs for child in children):
                self._error(400, "MANIFEST_BLOB_UNKNOWN")
                return
            registry.add_manifest(path, body, media_type, tag=None if ":" in target else target)
            fields = (("Docker-Content-Digest", digest),)
            if registry.has_referrers and document.get("subject"):
                fields += (("OCI-Subject", document["subject"]["digest"]),)
            self._reply(201, b"", fields)
            return
        if self.command == "HEAD" and not registry.head_allowed:
            self._error(405, "UNSUPPORTED")
            return
        digest_text = target if ":" in target else repository.tags.get(target, "")
        found = repository.manifests.get(digest_text)
        if found is None:
            self._error(404, "MANIFEST_UNKNOWN")
            return
        fields = (("Content-Type", found[0]), ("Docker-Content-Digest", digest_text))
        fields = tuple(pair for pair in fields if pair[0] not in dict(self._fault.fields))
        self._reply(
            200, found[1] if self._fault.data is None else self._fault.data, (*fields, *self._fault.fields)
        )

    def _blob(self, registry: FakeRegistry, path: str, digest: str) -> None:
        data = registry.repository(path).blobs.get(digest)
        if data is None:
            self._error(404, "BLOB_UNKNOWN")
            return
        if self._fault.data is not None:
            data = self._fault.data
        fields: list[tuple[str, str]] = [("Content-Type", "application/octet-stream")]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200
        if asked and not self._fault.ignore_range:
            start = int(asked[1])
            end = min(int(asked[2]) + 1 if asked[2] else len(data), len(data))
            if start >= len(data):
                self._error(416, "RANGE_INVALID")
                return
            said = self._fault.content_range or f"bytes {start}-{end - 1}/{len(data)}"
            fields.append(("Content-Range", said))
            status, data = 206, data[start:end]
        self._reply(status, data, tuple(fields))

    def _tags(self, registry: FakeRegistry, path: str, last: str) -> None:
        tags = sorted(tag for tag in registry.repository(path).tags if tag > last)
        fields: tuple[tuple[str, str], ...] = ()
        if len(tags) > registry.page:
            tags = tags[: registry.page]
            fields = (("Link", f'</v2/{path}/tags/list?last={tags[-1]}&n={registry.page}>; rel="next"'),)
        self._reply(200, json.dumps({"name": path, "tags": tags}).encode(), fields)

    def _referrers(self, registry: FakeRegistry, path: str, digest: str) -> None:
        if not registry.has_referrers:
            self._error(404, "UNSUPPORTED")
            return
        found: list[dict[str, object]] = []
        for name, (media_type, body) in registry.repository(path).manifests.items():
            document: dict[str, dict[str, str]] = json.loads(body)
            if (document.get("subject") or {}).get("digest") == digest:
                kind = document.get("artifactType") or document["config"]["mediaType"]
                found.append(
                    {"mediaType": media_type, "digest": name, "size": len(body), "artifactType": kind}
                )
        body = json.dumps({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": found})
        self._reply(200, body.encode(), (("Content-Type", mediatypes.OCI_INDEX),))

    # -- uploads

    def _upload(self, registry: FakeRegistry, path: str, name: str, query: dict[str, str]) -> None:
        repository = registry.repository(path)
        if self.command == "POST":
            self._drain()
            source = registry.repositories.get(query.get("from", ""), Repository()).blobs
            if query.get("mount") in source:
                repository.blobs[query["mount"]] = source[query["mount"]]
                self._reply(201, b"", (("Docker-Content-Digest", query["mount"]),))
                return
            name = secrets.token_hex(8)
            registry.uploads[name] = bytearray()
            self._reply(202, b"", self._upload_fields(registry, path, name))
            return
        held = registry.uploads.get(name)
        if held is None:
            self._drain()
            self._error(404, "BLOB_UPLOAD_UNKNOWN")
            return
        if self.command == "GET":
            self._reply(204, b"", self._upload_fields(registry, path, name))
        elif self.command == "DELETE":
            del registry.uploads[name]
            self._reply(204, b"")
        elif self.command == "PATCH":
            said = self.headers.get("Content-Range", f"{len(held)}-")
            if int(said.partition("-")[0]) != len(held):
                self._drain()
                self._error(416, "RANGE_INVALID")
                return
            self._receive(held)
            self._reply(202, b"", self._upload_fields(registry, path, name))
        else:
            self._receive(held)
            self._commit(registry, path, name, query)

    def _commit(self, registry: FakeRegistry, path: str, name: str, query: dict[str, str]) -> None:
        data = bytes(registry.uploads.pop(name))
        with contextlib.suppress(InvalidArgumentError):
            digest = Digest(query.get("digest", ""))
            if digest.matches(data):
                registry.repository(path).blobs[digest] = data
                self._reply(201, b"", (("Docker-Content-Digest", digest),))
                return
        self._error(400, "DIGEST_INVALID")

    def _upload_fields(self, registry: FakeRegistry, path: str, name: str) -> tuple[tuple[str, str], ...]:
        fields = (
            ("Location", f"/v2/{path}/blobs/uploads/{name}"),
            ("Range", f"0-{max(0, len(registry.uploads[name]) - 1)}"),
        )
        if registry.chunk_least:
            fields += (("OCI-Chunk-Min-Length", str(registry.chunk_least)),)
        return fields

    # -- the wire

    def _receive(self, into: bytearray) -> None:
        left = int(self.headers.get("Content-Length", "0"))
        limit = left if self._fault.cut_at is None else min(left, self._fault.cut_at)
        while limit > 0:
            piece = self.rfile.read(min(limit, _PIECE))
            if not piece:
                raise ConnectionResetError
            into += piece
            limit -= len(piece)
        if self._fault.cut_at is not None:
            raise ConnectionResetError

    def _drain(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _error(self, status: int, code: str, fields: tuple[tuple[str, str], ...] = ()) -> None:
        message = code.lower().replace("_", " ")
        self._reply(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), fields)

    def _reply(self, status: int, body: bytes, fields: tuple[tuple[str, str], ...] = ()) -> None:
        fault = self._fault
        lines = [f"HTTP/1.1 {status} Fake", *(f"{name}: {value}" for name, value in fields)]
        if status != 204:
            lines.append(f"Content-Length: {len(body) if fault.length is None else fault.length}")
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if self.command == "HEAD" or status == 204:
            return
        if fault.length is not None:
            self.close_connection = True
        end = min(at for at in (fault.cut_at, fault.stall_at, len(body)) if at is not None)
        if fault.rate:
            self._trickle(body[:end], fault.rate)
        else:
            self.wfile.write(body[:end])
        self.wfile.flush()
        if end < len(body) or fault.cut_at is not None or fault.stall_at is not None:
            self.close_connection = True
            if fault.stall_at is not None and end == fault.stall_at:
                self._stand_still()

    def _trickle(self, body: bytes, rate: float) -> None:
        began = time.monotonic()
        for start in range(0, len(body), _PIECE):
            self.wfile.write(body[start : start + _PIECE])
            ahead = (start + _PIECE) / rate - (time.monotonic() - began)
            if ahead > 0 and self._registry.pause(ahead):
                raise ConnectionResetError

    def _stand_still(self) -> None:
        """Until the client leaves or the registry is stopped."""
        self.connection.settimeout(0.05)
        while not self._registry.pause(0):
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
