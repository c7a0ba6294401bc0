"""Which hosts are asked: hosts.toml, Docker's certificate files, mirrors, insecure registries."""

import pathlib
import socket

import pytest
from support.remotes import world

from lading.errors import InvalidArgumentError
from lading.oci import mediatypes, reference
from lading.remotes import hostfiles, hosts, names
from lading.remotes.config import Config
from lading.remotes.dial import Trust, resolve
from lading.remotes.hosts import ALL, Capability, Host
from lading.testing.memory.content import MemoryReader
from lading.testing.registry import FakeRegistry, Fault
from lading.testing.remotes import blob, ignore_progress, image

PULL, RESOLVE, PUSH = Capability.PULL, Capability.RESOLVE, Capability.PUSH


def parse(text: str, namespace: str = "reg.example", **kwargs: bool) -> tuple[Host, ...]:
    return hosts.parse(text, directory="/certs", namespace=namespace, **kwargs)


def one(text: str, namespace: str = "reg.example") -> Host:
    return parse(f'[host."https://mirror.example"]\n{text}', namespace)[0]


def test_the_order_is_that_of_the_file_and_the_server_is_last() -> None:
    found = parse(
        'server = "https://s.example"\n[host."https://z.example"]\n[host."http://a.example:8080"]\n'
    )
    assert [(host.schemes, host.name, host.path) for host in found] == [
        (("https",), "z.example", "/v2"),
        (("http",), "a.example:8080", "/v2"),
        (("https",), "s.example", "/v2"),
    ]


@pytest.mark.parametrize(
    ("namespace", "server"),
    [
        ("reg.example", "reg.example"),
        ("reg.example:5000", "reg.example:5000"),
        ("docker.io", "registry-1.docker.io"),
    ],
)
def test_the_server_is_the_registry_itself_by_default(namespace: str, server: str) -> None:
    (found,) = parse("", namespace)
    assert (found.name, found.schemes, found.namespace) == (server, ("https",), "")


def test_settings_of_the_root_are_the_servers() -> None:
    found = parse('ca = "ca.pem"\ncapabilities = ["pull"]\n[host."https://m.example"]\n')
    assert found[0].trust == Trust()
    assert (found[1].trust.ca, found[1].capabilities) == (("/certs/ca.pem",), PULL)


@pytest.mark.parametrize(
    ("text", "capabilities"),
    [
        ("", ALL),
        ("capabilities = []", Capability(0)),
        ('capabilities = ["pull"]', PULL),
        ('capabilities = ["pull", "resolve", "push", "referrers"]', ALL),
        ('capabilities = ["resolve", "push"]', RESOLVE | PUSH),
    ],
)
def test_capabilities(text: str, capabilities: Capability) -> None:
    assert one(text).capabilities == capabilities


@pytest.mark.parametrize(
    ("text", "trust"),
    [
        ('ca = "a.pem"', Trust(ca=("/certs/a.pem",))),
        ('ca = ["a.pem", "/b.pem"]', Trust(ca=("/certs/a.pem", "/b.pem"))),
        ('client = "c.pem"', Trust(client=(("/certs/c.pem", ""),))),
        ('client = ["c.pem", "d.pem"]', Trust(client=(("/certs/c.pem", ""), ("/certs/d.pem", "")))),
        ('client = [["c.cert", "c.key"]]', Trust(client=(("/certs/c.cert", "/certs/c.key"),))),
        ('client = [["c.cert", ""], ["/d", "/e"]]', Trust(client=(("/certs/c.cert", ""), ("/d", "/e")))),
        ("skip_verify = true", Trust(skip_verify=True)),
        ("skip_verify = false", Trust()),
    ],
)
def test_certificates(text: str, trust: Trust) -> None:
    assert one(text).trust == trust


@pytest.mark.parametrize(
    ("name", "text", "path"),
    [
        ("https://m.example", "", "/v2"),
        ("https://m.example/", "", "/v2"),
        ("https://m.example/v2", "", "/v2"),
        ("https://m.example/cache", "", "/cache/v2"),
        ("https://m.example/cache", "override_path = true", "/cache"),
        ("https://m.example", "override_path = true", ""),
        ("m.example/cache", "", "/cache/v2"),
    ],
)
def test_paths(name: str, text: str, path: str) -> None:
    assert parse(f'[host."{name}"]\n{text}')[0].path == path


@pytest.mark.parametrize(
    ("namespace", "name", "ns"),
    [
        ("reg.example", "https://m.example", "reg.example"),
        ("reg.example", "https://reg.example", ""),
        ("reg.example:5000", "https://reg.example", "reg.example:5000"),
        ("docker.io", "https://registry-1.docker.io", ""),
        ("docker.io", "https://m.example", "docker.io"),
    ],
)
def test_the_namespace_is_sent_to_other_hosts(namespace: str, name: str, ns: str) -> None:
    assert parse(f'[host."{name}"]', namespace)[0].namespace == ns


@pytest.mark.parametrize(
    ("name", "text", "schemes"),
    [
        ("https://m.example", "", ("https",)),
        ("http://m.example", "", ("http",)),
        ("http://m.example:5000", 'ca = "x"', ("https", "http")),
        ("http://m.example:80", 'ca = "x"', ("http",)),
        ("https://m.example", "skip_verify = true", ("https",)),
        ("localhost:5000", "", ("https", "http")),
        ("https://localhost:5000", "", ("https",)),
    ],
)
def test_schemes(name: str, text: str, schemes: tuple[str, ...]) -> None:
    assert parse(f'[host."{name}"]\n{text}')[0].schemes == schemes


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("3s", 3), ("1.5m", 90), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert one(f'dial_timeout = "{text}"').dial_timeout == seconds


def test_headers() -> None:
    assert one('header = {X-A = "1", X-B = ["2", "3"]}').header == (("X-A", "1"), ("X-B", "2"), ("X-B", "3"))
    assert "secret" not in repr(one('header = {X-A = "secret"}'))


@pytest.mark.parametrize(
    ("name", "text", "upstream"),
    [
        ("https://m.example", "", False),
        ("https://m.example", 'auth = "upstream"', True),
        ("http://127.0.0.1:4001", "", True),
        ("http://localhost:4001", 'auth = "own"', False),
    ],
)
def test_whose_credentials(name: str, text: str, upstream: bool) -> None:
    assert parse(f'[host."{name}"]\n{text}')[0].upstream_auth is upstream


@pytest.mark.parametrize(
    "text",
    [
        "server = ",
        "server = 7",
        'server = "ftp://x.example"',
        'server = "https://"',
        'host = "x"',
        '[host."https://m.example"]\ncapabilities = ["pul"]',
        '[host."https://m.example"]\ncapabilities = [1]',
        '[host."https://m.example"]\nskip_verify = "yes"',
        '[host."https://m.example"]\nheader = ["x"]',
        '[host."https://m.example"]\nheader = {a = "b\\r\\nc: d"}',
        '[host."https://m.example"]\ndial_timeout = 3',
        '[host."https://m.example"]\ndial_timeout = "soon"',
        '[host."https://m.example"]\nauth = "mine"',
        '[host."https://m.example"]\nclient = 1',
        '[host."https://m.example"]\nclient = [["a", "b", "c"]]',
        '[host."https://m.example"]\nunknown = 1',
        '[host."https://m.example:x"]',
    ],
)
def test_malformed_files(text: str) -> None:
    with pytest.raises(InvalidArgumentError):
        parse(text)


@pytest.mark.parametrize(
    ("name", "insecure"),
    [
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("[::1]:5000", True),
        ("reg.example", False),
        ("reg.example:5000", True),
        ("all.example:1", True),
        ("10.1.2.3:5000", True),
        ("11.1.2.3:5000", False),
        ("localhost.example", False),
    ],
)
def test_insecure_registries(name: str, insecure: bool) -> None:
    assert names.is_insecure(name, ("reg.example:5000", "ALL.example", "10.0.0.0/8")) is insecure


def test_an_insecure_network_counts_for_names() -> None:
    assert names.is_insecure("reg.example", ("10.0.0.0/8",), ["10.0.0.1"])
    with pytest.raises(InvalidArgumentError):
        names.is_insecure("reg.example", ("10.0.0.0/99",))


@pytest.mark.parametrize(
    "url", ["mirror.example", "ftp://m.example", "https://", "https://u:p@m.example", "https://m.example/?x"]
)
def test_bad_mirrors(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        hosts.mirror_hosts((url,), ())


# -- files


def load(tmp_path: pathlib.Path, namespace: str, **config: object) -> tuple[Host, ...]:
    roots = (str(tmp_path / "first"), str(tmp_path / "second"))
    return hostfiles.load(Config(host_directories=roots, **config), namespace, resolve)


def write(tmp_path: pathlib.Path, name: str, text: str, file: str = "hosts.toml") -> None:
    path = tmp_path / name
    path.mkdir(parents=True, exist_ok=True)
    (path / file).write_text(text)


@pytest.mark.parametrize(
    ("directories", "winner"),
    [
        (["first/reg.example_5000_", "first/reg.example:5000", "first/_default"], "first/reg.example_5000_"),
        (["first/reg.example:5000", "first/_default"], "first/reg.example:5000"),
        (["first/_default", "second/reg.example_5000_"], "first/_default"),
        (["second/reg.example_5000_", "first/reg.example"], "second/reg.example_5000_"),
    ],
)
def test_where_files_are_looked_for(tmp_path: pathlib.Path, directories: list[str], winner: str) -> None:
    for name in directories:
        write(
            tmp_path,
            name,
            f'[host."https://{name.replace("/", ".").replace(":", ".").replace("_", "-")}.example"]',
        )
    found = load(tmp_path, "reg.example:5000")
    assert found[0].host.startswith(winner.replace("/", ".").replace(":", ".").replace("_", "-"))
    assert found[-1].name == "reg.example:5000"


def test_nothing_configured(tmp_path: pathlib.Path) -> None:
    (found,) = load(tmp_path, "reg.example")
    assert (found.schemes, found.trust.skip_verify) == (("https",), False)
    (found,) = load(tmp_path, "localhost:5000")
    assert (found.schemes, found.trust.skip_verify) == (("https", "http"), True)
    (found,) = load(tmp_path, "reg.example:80", insecure=("reg.example:80",))
    assert found.schemes == ("http",)


def test_dockers_certificate_files(tmp_path: pathlib.Path) -> None:
    for file in ("ca.crt", "other.crt", "client.cert", "client.key", "readme.txt"):
        write(tmp_path, "second/reg.example", "", file)
    (found,) = load(tmp_path, "reg.example")
    base = tmp_path / "second/reg.example"
    assert found.trust.ca == (f"{base}/ca.crt", f"{base}/other.crt")
    assert found.trust.client == ((f"{base}/client.cert", f"{base}/client.key"),)
    (base / "client.key").unlink()
    with pytest.raises(InvalidArgumentError, match=r"client\.key"):
        load(tmp_path, "reg.example")


def test_a_malformed_file_gives_way_to_the_certificates(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "first/reg.example", "not toml at all")
    write(tmp_path, "first/reg.example", "", "ca.crt")
    (found,) = load(tmp_path, "reg.example")
    assert found.trust.ca


def test_files_are_read_anew(tmp_path: pathlib.Path) -> None:
    assert len(load(tmp_path, "reg.example")) == 1
    write(tmp_path, "first/reg.example", '[host."https://m.example"]')
    assert len(load(tmp_path, "reg.example")) == 2


def test_mirrors_are_for_docker_hub_only_and_give_way_to_a_file(tmp_path: pathlib.Path) -> None:
    mirrors = ("https://m.example", "http://127.0.0.1:5000/cache/")
    found = load(tmp_path, "docker.io", mirrors=mirrors)
    assert [host.name for host in found] == ["m.example", "127.0.0.1:5000", "registry-1.docker.io"]
    assert [host.path for host in found] == ["/v2", "/cache/v2", "/v2"]
    assert PUSH not in found[0].capabilities
    assert len(load(tmp_path, "reg.example", mirrors=mirrors)) == 1
    write(tmp_path, "first/docker.io", '[host."https://other.example"]')
    assert load(tmp_path, "docker.io", mirrors=mirrors)[0].name == "other.example"


def test_an_insecure_network_is_checked_by_address(tmp_path: pathlib.Path) -> None:
    config = Config(host_directories=(), insecure=("10.0.0.0/8",))
    (found,) = hostfiles.load(config, "reg.example", lambda _, port: [(socket.AF_INET, ("10.1.1.1", port))])
    assert found.schemes == ("https", "http")
    (found,) = hostfiles.load(config, "reg.example", lambda _, port: [(socket.AF_INET, ("11.1.1.1", port))])
    assert found.schemes == ("https",)


# -- the whole way


@pytest.mark.anyio
async def test_capabilities_choose_hosts(tmp_path: pathlib.Path) -> None:
    with FakeRegistry() as puller, FakeRegistry() as pusher, FakeRegistry() as second:
        write(
            tmp_path,
            "reg.example",
            f'server = "http://{second.host}"\n'
            f'[host."http://{puller.host}"]\ncapabilities = ["pull"]\nheader = {{X-Who = "me"}}\n'
            f'[host."http://{pusher.host}"]\ncapabilities = ["pull", "resolve", "push"]\n',
        )
        pusher.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
        puller.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
        wanted = reference.parse("reg.example/app:v1")
        async with world(host_directories=(str(tmp_path),)) as client:
            found = await client.resolver().resolve(wanted)
            assert not puller.requests
            await client.resolver().resolve(wanted.with_digest(found.descriptor.digest))
            assert puller.requests[0].fields["x-who"] == "me"
            data = b"pushed"
            await (
                client.resolver()
                .pusher(wanted)
                .push(blob(data), MemoryReader(data), on_bytes=ignore_progress)
            )
            assert blob(data).digest in pusher.repository("app").blobs
            pusher.faults.append(Fault(method="GET|HEAD", status=500, times=-1))
            second.add_manifest("app", image([]), mediatypes.OCI_MANIFEST, tag="v1")
            await client.resolver().resolve(wanted)
            assert second.requests
