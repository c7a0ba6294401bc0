"""Registries that want a certificate, that show one which nobody knows, or that speak no TLS; and how much is fetched at once."""

import contextlib
import json
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from support.daemon import Daemon, NetnsDaemon, daemon_in_netns, running_daemon

from lading.oci import mediatypes
from lading.testing import images as make
from lading.testing.registry import FakeRegistry, Fault

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.stores("containerd", "classic", itself=True),
    pytest.mark.timeout(180),
]
STORES = {"containerd": (), "classic": ("--storage-driver=overlay2",)}
ADDRESS = "10.99.7.1"
"""Of the registries: not loopback, to which Docker is never strict."""


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a certificate of `ADDRESS`, and one of a client."""
    path = tmp_path_factory.mktemp("pki")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=path, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=Test CA")
    for name, alternative in (("server", f"IP:{ADDRESS}"), ("client", "DNS:client")):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (path / "ext").write_text(f"subjectAltName={alternative}\n")
        words = ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]
        openssl(*words, "-extfile", "ext", "-out", f"{name}.cert")
    return path


def context(pki: Path, *, client: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(pki / "server.cert", pki / "server.key")
    if client:
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(pki / "ca.crt")
    return made


@contextlib.contextmanager
def served(daemon: NetnsDaemon, tls: ssl.SSLContext | None) -> Generator[FakeRegistry]:
    """A registry at `ADDRESS` in the daemon's network."""
    daemon.machine.run("ip", "addr", "replace", f"{ADDRESS}/32", "dev", "lo")
    with daemon.machine.call(lambda: FakeRegistry(tls=tls, bind=ADDRESS)) as registry:
        yield registry


def layers_of(path: str, layers: int) -> list[make.TestLayer]:
    return [make.layer({f"{path}-{n}": b"x" * 1000}) for n in range(layers)]


def published(registry: FakeRegistry, path: str, layers: int = 1) -> str:
    made = make.image(layers_of(path, layers))
    for descriptor, blob in made.blobs.items():
        registry.add_blob(path, blob, descriptor.media_type)
    registry.add_manifest(path, made.body, mediatypes.OCI_MANIFEST, tag="latest")
    return f"{registry.host}/{path}"


def goes_both_ways(daemon: Daemon, registry: FakeRegistry, name: str) -> None:
    daemon.docker("pull", "-q", name)
    daemon.docker("tag", name, f"{registry.host}/copies/one")
    daemon.docker("push", "-q", f"{registry.host}/copies/one")
    assert registry.repositories["copies/one"].tags.keys() == {"latest"}


def says(daemon: Daemon, *command: str) -> str:
    done = daemon.run(*command)
    assert done.returncode, command
    return done.stderr.decode()


@pytest.mark.parametrize("store", STORES)
def test_dockers_certificates_open_a_registry(store: str, pki: Path) -> None:
    with daemon_in_netns(*STORES[store]) as daemon, served(daemon, context(pki, client=True)) as registry:
        name = published(registry, "guarded/image")
        place = Path("/etc/docker/certs.d") / registry.host
        assert "not trusted" in says(daemon, "pull", name)
        try:
            place.mkdir(parents=True)
            shutil.copy(pki / "ca.crt", place / "ca.crt")
            assert "cannot resolve" in says(daemon, "pull", name)  # it is ours that the registry misses
            for file in ("client.cert", "client.key"):
                shutil.copy(pki / file, place / file)
            goes_both_ways(daemon, registry, name)
            (place / "client.key").unlink()
            assert "client.key" in says(daemon, "pull", name)
        finally:
            shutil.rmtree(place, ignore_errors=True)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("secure", [True, False])
def test_an_insecure_registry_has_to_be_named(store: str, pki: Path, tmp_path: Path, secure: bool) -> None:
    config = tmp_path / "daemon.json"
    config.write_text("{}")
    tls = context(pki, client=False) if secure else None
    with (
        daemon_in_netns(f"--config-file={config}", *STORES[store]) as daemon,
        served(daemon, tls) as registry,
    ):
        name = published(registry, "open/image")
        assert ("not trusted" if secure else "TLS") in says(daemon, "pull", name)
        assert not registry.requests
        for entry in ("10.99.0.0/16", registry.host)[: 1 if secure else 2]:
            config.write_text(json.dumps({"insecure-registries": [entry]}))
            daemon.stop()
            daemon.start()
            daemon.machine.run("ip", "addr", "replace", f"{ADDRESS}/32", "dev", "lo")
            goes_both_ways(daemon, registry, name)
            daemon.docker("rmi", name, f"{registry.host}/copies/one")
            registry.repositories.pop("copies/one")


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("verb", ["pull", "push"])
def test_limits_on_transfers_are_the_daemons(store: str, verb: str, tmp_path: Path) -> None:
    """Two images at once share the limit, which a reload changes."""
    config = tmp_path / "daemon.json"
    config.write_text(json.dumps({"max-concurrent-downloads": 1, "max-concurrent-uploads": 1}))
    method = "GET" if verb == "pull" else "PUT"
    with FakeRegistry() as registry, running_daemon(f"--config-file={config}", *STORES[store]) as daemon:
        names = [published(registry, f"limited/{n}", layers=3) for n in range(2)]
        layers = {layer.descriptor.digest for n in range(2) for layer in layers_of(f"limited/{n}", 3)}
        if verb == "push":
            for name in names:
                daemon.docker("pull", "-q", name)
            registry.repositories.clear()
        stalled = "|".join(layers) if verb == "pull" else "/blobs/"
        registry.faults.append(Fault(path=stalled, method=method, times=-1, stall_at=0))

        def begun() -> int:
            sent = [
                seen.target
                for seen in registry.requests
                if seen.method == method and "/blobs/" in seen.target
            ]
            return len([path for path in sent if verb == "push" or path.rpartition("/")[2] in layers])

        def ready() -> set[str]:
            """Configs that were fetched."""
            got = [one.target for one in registry.requests if one.method == "GET" and "/blobs/" in one.target]
            return {path for path in got if path.rpartition("/")[2] not in layers}

        registry.requests.clear()
        with contextlib.ExitStack() as stack:
            for name in names:
                client = subprocess.Popen(
                    ["docker", f"--host={daemon.host}", verb, "-q", name],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                stack.callback(client.wait)
                stack.callback(client.kill)
            if (
                verb == "pull"
            ):  # both images have come so far that all of their layers would come, were there no limit
                await_count(lambda: len(ready()), 2)
            await_count(begun, 1)
            config.write_text(json.dumps({"max-concurrent-downloads": 2, "max-concurrent-uploads": 2}))
            daemon.signal(signal.SIGHUP)
            await_count(begun, 2)
            for _ in range(5):  # and the daemon has had time for more
                assert daemon.api("GET", "/info")[0] == 200
            assert begun() == 2


def await_count(count: Callable[[], int], wanted: int) -> None:
    deadline = time.monotonic() + 30
    while count() < wanted:
        assert time.monotonic() < deadline, count()
        time.sleep(0.02)
    assert count() == wanted
