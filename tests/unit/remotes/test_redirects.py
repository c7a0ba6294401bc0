"""Redirects, addresses, TLS, proxies: hostile-input.md R1, R3, R9."""

import contextlib
import pathlib
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Generator
from typing import Self

import pytest
from support.remotes import at, world

from lading.core.remotes import Credentials
from lading.errors import LadingError, PermissionDeniedError, UnavailableError
from lading.oci import mediatypes, reference
from lading.remotes.connection import Origin
from lading.remotes.dial import Dialer, Proxies, Trust, classify
from lading.remotes.errors import ForbiddenAddressError, NotTLSError
from lading.testing.memory.content import MemoryReader
from lading.testing.registry import FakeRegistry, Fault
from lading.testing.remotes import blob, ignore_progress, image

pytestmark = pytest.mark.anyio

ME = Credentials(username="me", password="hunter2")
DATA = b"layer" * 1000


@pytest.fixture
def registry() -> Generator[FakeRegistry]:
    with FakeRegistry() as fake:
        yield fake


def redirect(where: str, *, times: int = 1, status: int = 307) -> Fault:
    return Fault(path="/blobs/", status=status, fields=(("Location", where),), times=times)


async def fetch(registry: FakeRegistry, credentials: Credentials | None = None, **config: object) -> bytes:
    layer = registry.add_blob("app", DATA)
    received = bytearray()
    async with world(**config) as client:
        await client.resolver(credentials).fetcher(at(registry)).fetch(layer, received.extend)
    return bytes(received)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_storage_is_followed_without_credentials(
    registry: FakeRegistry, status: int
) -> None:
    registry.login, registry.bearer = ("me", "hunter2"), False
    with FakeRegistry(bind="127.0.0.2") as storage:
        storage.add_blob("app", DATA)
        registry.faults.append(
            redirect(f"http://{storage.host}/v2/app/blobs/{digest(registry)}", status=status)
        )
        assert await fetch(registry, ME) == DATA
        assert all("authorization" not in one.fields for one in storage.requests)


async def test_a_redirect_to_another_port_is_another_host(registry: FakeRegistry) -> None:
    registry.login, registry.bearer = ("me", "hunter2"), False
    with FakeRegistry() as storage:
        storage.add_blob("app", DATA)
        registry.faults.append(redirect(f"http://{storage.host}/v2/app/blobs/{digest(registry)}"))
        async with world() as client:
            layer = registry.add_blob("app", DATA)
            await client.resolver(ME, headers={"X-Meta-Job": "1"}).fetcher(at(registry)).fetch(layer, len)
        assert storage.requests
        assert all({"authorization", "x-meta-job"}.isdisjoint(one.fields) for one in storage.requests)


async def test_a_redirect_within_the_host_keeps_them(registry: FakeRegistry) -> None:
    registry.login, registry.bearer = ("me", "hunter2"), False
    registry.faults.append(redirect(f"/v2/app/blobs/{digest(registry)}?again"))
    assert await fetch(registry, ME) == DATA


def digest(registry: FakeRegistry) -> str:
    return registry.add_blob("app", DATA).digest


async def test_redirects_without_end(registry: FakeRegistry) -> None:
    registry.faults.append(redirect(f"/v2/app/blobs/{digest(registry)}", times=-1))
    with pytest.raises(LadingError):
        await fetch(registry)
    assert len(registry.seen("GET", "/blobs/")) <= 11


async def test_ten_redirects(registry: FakeRegistry) -> None:
    registry.faults.append(redirect(f"/v2/app/blobs/{digest(registry)}", times=10))
    assert await fetch(registry) == DATA


@pytest.mark.parametrize(
    "where",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/x",
        "http://0.0.0.0/x",
        "http://[::ffff:169.254.1.1]/",
    ],
)
async def test_a_redirect_to_where_nobody_has_business(registry: FakeRegistry, where: str) -> None:
    registry.faults.append(redirect(where, times=-1))
    with pytest.raises(PermissionDeniedError):
        await fetch(registry)


@pytest.mark.parametrize(
    "where", ["file:///etc/passwd", "unix:///run/x.sock", "ftp://h/x", "http://a:b@127.0.0.1/", "http://"]
)
async def test_a_redirect_to_what_is_no_address(registry: FakeRegistry, where: str) -> None:
    registry.faults.append(redirect(where, times=-1))
    with pytest.raises(LadingError):
        await fetch(registry)


def test_a_name_cannot_hide_its_address() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    public = Origin("http", "registry.example", port)
    inner = Origin("http", "innocent.example", 80)
    answers = {"registry.example": "192.0.2.1", "innocent.example": "127.0.0.1"}
    dialer = Dialer(Proxies(), idle=1, resolver=lambda host, port: [(socket.AF_INET, (answers[host], port))])
    with pytest.raises(ForbiddenAddressError):
        dialer.connect(inner, Trust(), timeout=1, guard=public)
    answers["registry.example"] = "127.0.0.1"
    dialer.connect(public, Trust(), timeout=1, guard=None).close()
    dialer.connect(Origin("http", "innocent.example", port), Trust(), timeout=1, guard=public).close()
    listener.close()


def test_a_registry_that_resets_before_the_handshake_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`ssl` itself forgets to close it: the warning about it, which is an error here, would come with the exception's end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        make = ssl.create_default_context

        def reset_meanwhile() -> ssl.SSLContext:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            return make()

        monkeypatch.setattr(ssl, "create_default_context", reset_meanwhile)
        dialer = Dialer(Proxies(), idle=1)
        with pytest.raises(NotTLSError):
            dialer.connect(
                Origin("https", "127.0.0.1", listener.getsockname()[1]), Trust(), timeout=5, guard=None
            )


def test_a_registry_cannot_move_to_where_it_wants_to_lead() -> None:
    """DNS rebinding: it was elsewhere when it sent the redirect."""
    answers = {"registry.example": "127.0.0.1", "target.example": "127.0.0.1"}
    dialer = Dialer(Proxies(), idle=1, resolver=lambda host, port: [(socket.AF_INET, (answers[host], port))])
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        registry = Origin("http", "registry.example", port)
        dialer.connect(registry, Trust(), timeout=1, guard=None).close()
        answers["registry.example"] = "0.0.0.0"
        dialer.connect(registry, Trust(), timeout=1, guard=None).close()
        with pytest.raises(ForbiddenAddressError):
            dialer.connect(Origin("http", "target.example", port), Trust(), timeout=1, guard=registry)


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.9.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("0.0.0.0", "reserved"),
        ("224.0.0.1", "reserved"),
        ("10.0.0.1", "ordinary"),
        ("registry.example", "ordinary"),
    ],
)
def test_kinds_of_address(host: str, kind: str) -> None:
    assert classify(host) == kind


# -- TLS


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An authority, and certificates for 127.0.0.1: good, expired, of another name; and one of a client."""
    path = tmp_path_factory.mktemp("pki")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=path, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA", "-days", "30"
    )
    names = {"good": "IP:127.0.0.1", "other": "DNS:other.example", "expired": "IP:127.0.0.1", "me": "DNS:me"}
    (path / "index.txt").touch()
    (path / "serial").write_text("01")
    (path / "ca.cnf").write_text(
        "[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n"
        "policy=p\ncertificate=ca.pem\nprivate_key=ca.key\n[p]\ncommonName=supplied\n"
    )
    for name, alternative in names.items():
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (path / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
        end = "20210101000000Z" if name == "expired" else "20990101000000Z"
        openssl("ca", "-batch", "-config", "ca.cnf", "-in", f"{name}.csr", "-out", f"{name}.pem",
                "-startdate", "20200101000000Z", "-enddate", end, "-extfile", f"{name}.ext")  # fmt: skip
    return path


def server(pki: pathlib.Path, name: str, *, client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / f"{name}.pem", pki / f"{name}.key")
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(pki / "ca.pem")
    return context


async def resolve(
    registry: FakeRegistry, tmp_path: pathlib.Path, settings: str, scheme: str = "https"
) -> bytes:
    registry.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
    directory = tmp_path / "secure.example"
    directory.mkdir(exist_ok=True)
    (directory / "hosts.toml").write_text(f'server = "{scheme}://127.0.0.1:{registry.port}"\n{settings}\n')
    async with world(host_directories=(str(tmp_path),)) as client:
        found = await client.resolver().resolve(reference.parse("secure.example/app:v1"))
    return found.body


async def test_a_certificate_of_our_authority(pki: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with FakeRegistry(tls=server(pki, "good")) as registry:
        assert await resolve(registry, tmp_path, f'ca = "{pki}/ca.pem"\nskip_verify = false') == image([])


@pytest.mark.parametrize("name", ["other", "expired"])
async def test_bad_certificates(pki: pathlib.Path, tmp_path: pathlib.Path, name: str) -> None:
    with FakeRegistry(tls=server(pki, name)) as registry:
        with pytest.raises(UnavailableError, match="not trusted"):
            await resolve(registry, tmp_path, f'ca = "{pki}/ca.pem"\nskip_verify = false')
        assert not registry.requests
        assert await resolve(registry, tmp_path, "skip_verify = true") == image([])


async def test_an_unknown_authority(pki: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with FakeRegistry(tls=server(pki, "good")) as registry:
        with pytest.raises(UnavailableError, match="not trusted"):
            await resolve(registry, tmp_path, "skip_verify = false")
        assert not registry.requests


async def test_a_registry_that_must_be_encrypted_is_never_asked_in_clear(tmp_path: pathlib.Path) -> None:
    with FakeRegistry() as registry:
        with pytest.raises(UnavailableError, match="does not speak TLS"):
            await resolve(registry, tmp_path, "skip_verify = false")
        assert not [one for one in registry.requests if one.method in {"GET", "HEAD"}]


async def test_one_that_may_be_is(tmp_path: pathlib.Path) -> None:
    with FakeRegistry() as registry:
        assert await resolve(registry, tmp_path, "skip_verify = true", scheme="http") == image([])


async def test_a_loopback_registry_may_have_a_bad_certificate(pki: pathlib.Path) -> None:
    with FakeRegistry(tls=server(pki, "expired")) as registry:
        registry.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
        async with world() as client:
            assert (await client.resolver().resolve(at(registry))).body == image([])


async def test_our_own_certificate(pki: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with FakeRegistry(tls=server(pki, "good", client=True)) as registry:
        ca = f'ca = "{pki}/ca.pem"\n'
        pair = f'client = [["{pki}/me.pem", "{pki}/me.key"]]'
        assert await resolve(registry, tmp_path, ca + pair) == image([])
        with pytest.raises(UnavailableError):
            await resolve(registry, tmp_path, ca)


async def test_a_missing_certificate_file_is_named(pki: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with (
        FakeRegistry(tls=server(pki, "good")) as registry,
        pytest.raises(UnavailableError, match=r"missing\.pem"),
    ):
        await resolve(registry, tmp_path, 'ca = "missing.pem"')


async def test_a_redirect_from_https_to_http(pki: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with FakeRegistry(tls=server(pki, "good")) as registry, FakeRegistry() as clear:
        clear.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
        where = (("Location", f"http://{clear.host}/v2/app/manifests/v1"),)
        registry.faults.append(Fault(path="manifests", method="GET|HEAD", status=307, fields=where, times=-1))
        with pytest.raises(PermissionDeniedError, match="https to http"):
            await resolve(registry, tmp_path, f'ca = "{pki}/ca.pem"')
        assert not clear.requests


async def test_an_upload_that_is_led_from_https_to_http(pki: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with FakeRegistry(tls=server(pki, "good")) as registry, FakeRegistry() as clear:
        raw = f"HTTP/1.1 202 Accepted\r\nLocation: http://{clear.host}/v2/app/blobs/uploads/u\r\nContent-Length: 0\r\n\r\n"
        registry.faults.append(Fault(method="POST", raw=raw.encode(), times=-1))
        (tmp_path / "secure.example").mkdir()
        (tmp_path / "secure.example/hosts.toml").write_text(
            f'server = "https://{registry.host}"\nca = "{pki}/ca.pem"\n'
        )
        async with world(host_directories=(str(tmp_path),)) as client:
            pusher = client.resolver().pusher(reference.parse("secure.example/app:v1"))
            with pytest.raises(PermissionDeniedError):
                await pusher.push(blob(DATA), MemoryReader(DATA), on_bytes=ignore_progress)
        assert not clear.requests


# -- proxies


@pytest.mark.parametrize(
    ("url", "exempt", "proxied"),
    [
        ("http://registry.example:80", "", True),
        ("https://registry.example:443", "", True),
        ("http://localhost:80", "", False),
        ("http://127.0.0.9:80", "", False),
        ("http://registry.example:80", "example", False),
        ("http://registry.example:80", ".example", False),
        ("http://example:80", ".example", True),
        ("http://registry.example:80", "other.example, REGISTRY.example", False),
        ("http://registry.example:80", "*", False),
        ("http://notregistry.example:80", "registry.example", True),
        ("http://registry.example:8080", "registry.example:8080", False),
        ("http://registry.example:80", "registry.example:8080", True),
        ("http://10.1.2.3:80", "10.0.0.0/8", False),
        ("http://11.1.2.3:80", "10.0.0.0/8", True),
        ("http://10.1.2.3:80", "10.1.2.3", False),
    ],
)
def test_which_hosts_are_proxied(url: str, exempt: str, proxied: bool) -> None:
    environment = {"HTTP_PROXY": "http://p", "https_proxy": "http://p", "no_proxy": exempt}
    scheme, _, rest = url.partition("://")
    host, _, port = rest.partition(":")
    chosen = Proxies.from_environment(environment).choose(Origin(scheme, host, int(port)))
    assert bool(chosen) is proxied


def test_proxies_keep_their_secrets() -> None:
    assert "pw" not in repr(Proxies(http="http://u:pw@proxy"))


async def test_a_plain_request_through_a_proxy(registry: FakeRegistry, tmp_path: pathlib.Path) -> None:
    """The registry plays the proxy: it sees an absolute form, and what the proxy's credentials are."""
    directory = tmp_path / "far.example"
    directory.mkdir()
    (directory / "hosts.toml").write_text('server = "http://far.example"\n')
    body = image([])
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {mediatypes.OCI_MANIFEST}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    registry.faults += [
        Fault(method="HEAD", raw=head.encode(), times=-1),
        Fault(raw=head.encode() + body, times=-1),
    ]
    proxies = Proxies(http=f"http://u:p@{registry.host}")
    async with world(host_directories=(str(tmp_path),), proxies=proxies) as client:
        found = await client.resolver().resolve(reference.parse("far.example/app:v1"))
    assert found.body == body
    assert registry.requests[0].target == "http://far.example/v2/app/manifests/v1"
    assert registry.requests[0].fields["proxy-authorization"] == "Basic dTpw"


class ConnectProxy:
    """Serves CONNECT, one after the other, to a given port of loopback."""

    def __init__(self, port: int, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.asked = b""
        self._port = port
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with near:
                self._tunnel(near)

    def _tunnel(self, near: socket.socket) -> None:
        self.asked = b""
        while not self.asked.endswith(b"\r\n\r\n"):
            self.asked += near.recv(4096)
        near.sendall(self._answer)
        if b" 200 " not in self._answer:
            return
        with socket.create_connection(("127.0.0.1", self._port)) as far:
            back = threading.Thread(target=self._copy, args=(far, near), daemon=True)
            back.start()
            self._copy(near, far)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


async def test_an_encrypted_request_through_a_proxy(pki: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with FakeRegistry(tls=server(pki, "other")) as registry, ConnectProxy(registry.port) as proxy:
        registry.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
        directory = tmp_path / "other.example"
        directory.mkdir()
        (directory / "hosts.toml").write_text(f'ca = "{pki}/ca.pem"\n')
        async with world(
            host_directories=(str(tmp_path),), proxies=Proxies(https=f"http://{proxy.host}")
        ) as client:
            found = await client.resolver().resolve(reference.parse("other.example/app:v1"))
        assert found.body == image([])
        assert proxy.asked.startswith(b"CONNECT other.example:443 HTTP/1.1\r\n")


async def test_a_proxy_that_refuses() -> None:
    with ConnectProxy(1, b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as proxy:
        async with world(proxies=Proxies(https=f"http://{proxy.host}")) as client:
            with pytest.raises(UnavailableError, match="407"):
                await client.resolver().resolve(reference.parse("other.example/app:v1"))
