"""Build caches that this daemon and the real BuildKit give each other, by every way there is: nothing is run a second time."""

import functools
import http.server
import subprocess
import threading
import uuid
from collections.abc import Generator
from pathlib import Path

import pytest
from support import caches, dockerd
from support.buildx import docker, give_plugins
from support.daemon import Daemon, running_daemon
from support.images import busybox_image
from support.repositories import commit, git_daemon

pytestmark = pytest.mark.e2e
BOTH = "linux/amd64,linux/arm64"
OURS, THEIRS = "lading", "BuildKit"


@pytest.fixture(scope="module")
def builder() -> Generator[Daemon]:
    with running_daemon() as daemon:
        give_plugins(daemon)
        yield daemon


@pytest.fixture(scope="module")
def real() -> Generator[str]:
    """The address of a Docker Engine 28 with the containerd store."""
    if why := dockerd.missing():
        pytest.skip(why)
    with dockerd.classic_dockerd(dockerd.ContainerdDockerd) as peer:
        peer.start()
        yield peer.host


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return caches.context(tmp_path / "context", salt=str(uuid.uuid4()))


@pytest.fixture
def web(tmp_path: Path) -> Generator[str]:
    """The URL of a file."""
    place = tmp_path / "web"
    place.mkdir()
    (place / "file").write_text("from the web\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(place))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/file"
        server.shutdown()
        thread.join()


@pytest.fixture
def sources(registry: str, web: str, tmp_path: Path) -> Generator[tuple[Path, tuple[str, str]]]:
    """A context that takes from a registry, a web server, a repository and an OCI layout; the argument that gives it the latter."""
    name = f"{registry}/{uuid.uuid4()}"
    index = busybox_image(tmp_path / "layout", name, layers=2)
    commit(tmp_path / "served" / "repository", {"dir/file": "of a commit\n"})
    with git_daemon(tmp_path / "served") as url:
        context = caches.context_with_sources(
            tmp_path / "context",
            image=name,
            file=web,
            repository=f"{url}/repository",
            salt=str(uuid.uuid4()),
        )
        yield context, ("--build-context", f"layout=oci-layout://{tmp_path}/layout@{index}")


def build(builder: Daemon, host: str, context: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = ("buildx", "build", "--progress=plain", "--provenance=false", "--network=none", *arguments)
    done = docker(builder, *words, str(context), DOCKER_HOST=host)
    assert done.returncode == 0, f"{done.stderr}\n{builder.tail()}"
    return done


def forget(builder: Daemon, host: str) -> None:
    done = docker(builder, "builder", "prune", "--all", "--force", DOCKER_HOST=host)
    assert done.returncode == 0, done.stderr


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("platforms", ["", BOTH], ids=["one", "two"])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("kind", ["registry", "local", "inline"])
@pytest.mark.parametrize("giver", [OURS, THEIRS])
def test_a_cache_goes_both_ways(
    builder: Daemon, real: str, registry: str, context: Path, giver: str, kind: str, mode: str, platforms: str
) -> None:
    if kind == "inline" and mode == "max":
        pytest.skip("an inline cache has what is in the image, whatever its mode")
    if kind == "inline" and platforms and giver == OURS:
        pytest.skip("BuildKit 0.25 finds one platform of an inline cache of two, also of its own")
    first, second = (builder.host, real) if giver == OURS else (real, builder.host)
    place, name = context.parent / "cache", f"{registry}/{uuid.uuid4()}"
    to, source, pushed = {
        "registry": (f"type=registry,mode={mode},ref={name}", f"type=registry,ref={name}", ()),
        "local": (f"type=local,mode={mode},dest={place}", f"type=local,src={place}", ()),
        "inline": ("type=inline", f"type=registry,ref={name}", ("--push", "-t", name)),
    }[kind]
    asked = ("--platform", platforms) if platforms else ()
    made, again = context.parent / "made", context.parent / "again"
    assert "has run" in build(builder, first, context, *asked, *pushed, "--cache-to", to).stderr
    build(builder, first, context, *asked, "-o", str(made))
    forget(builder, second)
    done = build(builder, second, context, *asked, "--cache-from", source, "-o", str(again))
    assert "has run" not in done.stderr, done.stderr
    assert caches.said(again) == caches.said(made)
    assert len(caches.said(made)) == (2 if platforms else 1)


def test_sources_are_known_by_buildkits_keys(
    builder: Daemon, real: str, sources: tuple[Path, tuple[str, str]]
) -> None:
    """Only what lies in the client's directory is known by a name that no other build has."""
    context, layout = sources
    roots: list[frozenset[str]] = []
    for host in (builder.host, real):
        place = context.parent / f"cache-{len(roots)}"
        build(builder, host, context, *layout, "--cache-to", f"type=local,mode=max,dest={place}")
        roots.append(caches.read(place).roots)
    ours, theirs = roots
    assert len(ours) == len(theirs)
    assert len(ours - theirs) == len(theirs - ours) == 1


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["registry", "local", "inline"])
@pytest.mark.parametrize("giver", [OURS, THEIRS])
def test_a_cache_of_what_comes_from_elsewhere_goes_both_ways(
    builder: Daemon,
    real: str,
    registry: str,
    sources: tuple[Path, tuple[str, str]],
    giver: str,
    kind: str,
) -> None:
    context, layout = sources
    first, second = (builder.host, real) if giver == OURS else (real, builder.host)
    place, name = context.parent / "cache", f"{registry}/{uuid.uuid4()}"
    to, source, pushed = {
        "registry": (f"type=registry,mode=max,ref={name}", f"type=registry,ref={name}", ()),
        "local": (f"type=local,mode=max,dest={place}", f"type=local,src={place}", ()),
        "inline": ("type=inline", f"type=registry,ref={name}", ("--push", "-t", name)),
    }[kind]
    build(builder, first, context, *layout, *pushed, "--cache-to", to)
    forget(builder, second)
    again = context.parent / "again"
    done = build(builder, second, context, *layout, "--cache-from", source, "-o", str(again))
    # An inline one has what is in the image: the last stage. The last step may tell how its layers come instead.
    steps = 2 if kind == "inline" else caches.SOURCES_STEPS
    assert done.stderr.count(" CACHED\n") >= steps - 1, done.stderr
    assert kind == "inline" or "has run" not in done.stderr, done.stderr


def test_a_cache_that_buildkit_made_is_used(builder: Daemon, tmp_path: Path) -> None:
    """The recorded one (``scripts/record_build_cache.py``), on every run."""
    place = caches.unpacked(tmp_path)
    forget(builder, builder.host)
    source = f"type=local,src={place / 'cache'}"
    done = build(
        builder, builder.host, place / "context", "--cache-from", source, "-o", str(tmp_path / "out")
    )
    assert done.stderr.count(" CACHED\n") == caches.RECORDED_STEPS, done.stderr
    assert caches.files(tmp_path / "out") == caches.files(place / "out")


def test_the_cache_that_we_make_says_what_buildkits_says(builder: Daemon, tmp_path: Path) -> None:
    place = caches.unpacked(tmp_path)
    ours = tmp_path / "ours"
    build(
        builder,
        builder.host,
        place / "context",
        "--no-cache",
        "--cache-to",
        f"type=local,mode=max,dest={ours}",
    )
    made, recorded = caches.read(ours), caches.read(place / "cache")
    assert made.media_types == recorded.media_types
    assert made.annotations == recorded.annotations
    assert made.results == recorded.results
