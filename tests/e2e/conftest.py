"""Real daemons, registries and images; parametrise a daemon with ``@pytest.mark.daemon_args("--flag")``."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from support.daemon import Daemon, running_daemon
from support.images import busybox_image
from support.registry import docker_registry

MakeImage = Callable[..., str]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that says over which image stores it runs gets its daemon with each of them, unless it sees to that itself."""
    marker = next(metafunc.definition.iter_markers("stores"), None)
    for name in ("daemon", "shared_daemon"):
        if marker is not None and "itself" not in marker.kwargs and name in metafunc.fixturenames:
            scope = "module" if name == "shared_daemon" else "function"
            metafunc.parametrize(name, marker.args, indirect=True, scope=scope)


def store_arguments(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ("--storage-driver=overlay2",) if getattr(request, "param", "containerd") == "classic" else ()


@pytest.fixture
def daemon(request: pytest.FixtureRequest) -> Generator[Daemon]:
    """A daemon with an empty data root; fails the test if a process or a mount outlives it."""
    marker = request.node.get_closest_marker("daemon_args")
    with running_daemon(*store_arguments(request), *(marker.args if marker else ())) as running:
        yield running


@pytest.fixture(scope="module")
def shared_daemon(request: pytest.FixtureRequest) -> Generator[Daemon]:
    """One daemon for a module whose tests do not mind each other."""
    with running_daemon(*store_arguments(request)) as running:
        yield running


@pytest.fixture(scope="session")
def registry() -> Generator[str]:
    """Debian's docker-registry on loopback: ``127.0.0.1:port``."""
    with docker_registry() as address:
        yield address


@pytest.fixture(scope="session")
def images(registry: str, tmp_path_factory: pytest.TempPathFactory) -> MakeImage:
    """Make and push an image with a shell: ``images("name", layers=8, foreign=False)``; its full reference."""

    def make(name: str, *, layers: int = 1, compression: str = "gzip", foreign: bool = True) -> str:
        directory: Path = tmp_path_factory.mktemp("layout")
        reference = f"{registry}/{name}"
        busybox_image(directory, reference, layers=layers, compression=compression, foreign=foreign)
        return reference

    return make
