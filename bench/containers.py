"""Containers beside a peer's: both daemons run at once, and every command is given to each in turn, so that noise meets both.

Each engine has a network namespace of its own with a default bridge, as on a machine of its own, and an image that was loaded from a file.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import engines

from lading.kit import linux

Note = Callable[[str, str, float], None]
"""Told of an operation, an engine, a value."""
IMAGE = "tiny:latest"
AT_ONCE = 100
RESTORED = 50
_WORKERS = 32
_MB = 1_000_000
_IDLE = ("/busybox", "sleep", "100000")


def measure(machines: Sequence[engines.Engine], archive: pathlib.Path, rounds: int, note: Note) -> None:
    """Run, exec, memory of idle containers, many at once, restarts with containers running."""
    with contextlib.ExitStack() as stack:
        pair = [stack.enter_context(_machine(each, archive)) for each in machines]
        for number in range(rounds + 1):
            for engine in pair if number % 2 == 0 else pair[::-1]:
                for operation, seconds in _commands(engine):
                    if number:  # the first round is for warming up
                        note(operation, engine.name, seconds)
            print(f"containers: {number} of {rounds}", flush=True)
        for engine in pair:
            for operation, value in _memory(engine):
                note(operation, engine.name, value)
        for work in (_crowd, _restarts):
            for number in range(rounds):
                for engine in pair if number % 2 == 0 else pair[::-1]:
                    for operation, value in work(engine):
                        note(operation, engine.name, value)
                print(f"containers, {work.__name__.strip('_')}: {number + 1} of {rounds}", flush=True)


@contextlib.contextmanager
def _machine(engine: engines.Engine, archive: pathlib.Path) -> Iterator[engines.Engine]:
    """An engine on a new file system and in a new network, with the image and one running container."""
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as place, engine.volume:
        network = pathlib.Path(place) / "net"
        linux.make_network_namespace(str(network))
        engine.network = network
        try:
            with engines.running(engine):
                engine.load(archive)
                engine.docker("run", "-d", "--name", "target", IMAGE, *_IDLE)
                try:
                    yield engine
                finally:
                    _remove_all(engine)
        finally:
            linux.remove_network_namespace(str(network))


def _commands(engine: engines.Engine) -> Iterator[tuple[str, float]]:
    for network in ("bridge", "none", "host"):
        yield (
            f"run --rm, network {network}",
            _timed(
                lambda network=network: engine.docker("run", "--rm", "--network", network, IMAGE, "/true")
            ),
        )
    yield "exec", _timed(lambda: engine.docker("exec", "target", "/true"))
    yield "run -d", _timed(lambda: engine.docker("run", "-d", "--name", "one", IMAGE, *_IDLE))
    yield "rm -f", _timed(lambda: engine.docker("rm", "-f", "one"))


def _memory(engine: engines.Engine) -> Iterator[tuple[str, float]]:
    """What idle containers take; `RESTORED` of them stay, for `_restarts`."""
    before = engine.proportional_memory()
    with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
        made = list(pool.map(lambda _: _create(engine), range(AT_ONCE)))
        list(pool.map(lambda each: _start(engine, each), made))
        time.sleep(3)  # what a start leaves to be done afterwards
        after = engine.proportional_memory()
        list(pool.map(lambda each: _remove(engine, each), made[RESTORED:]))
    yield "memory MB of the daemon, 1 container", before / _MB
    yield "memory MB per idle container", (after - before) / AT_ONCE / _MB
    yield f"memory MB in all, {AT_ONCE + 1} containers", after / _MB


def _crowd(engine: engines.Engine) -> Iterator[tuple[str, float]]:
    """Many containers at once, by the API: a hundred clients would cost more than the daemon."""
    for network in ("bridge", "none"):
        with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
            begun = time.perf_counter()
            made = list(pool.map(lambda _, network=network: _create(engine, network), range(AT_ONCE)))
            yield f"create {AT_ONCE} at once, network {network}", time.perf_counter() - begun
            begun = time.perf_counter()
            list(pool.map(lambda each: _start(engine, each), made))
            yield f"start {AT_ONCE} at once, network {network}", time.perf_counter() - begun
            begun = time.perf_counter()
            list(pool.map(lambda each: _remove(engine, each), made))
            yield f"remove {AT_ONCE} at once, network {network}", time.perf_counter() - begun


def _restarts(engine: engines.Engine) -> Iterator[tuple[str, float]]:
    """A restart of the daemon while containers run."""
    engine.restart()
    found = json.loads(engine.api("GET", "/containers/json"))
    yield f"restart, ready with {RESTORED} containers", engine.started
    if len(found) != RESTORED + 1:
        raise RuntimeError(f"{engine.name} has {len(found)} containers after a restart")


def _start(engine: engines.Engine, container: str) -> None:
    engine.api("POST", f"/containers/{container}/start")


def _create(engine: engines.Engine, network: str = "bridge") -> str:
    asked = {"Image": IMAGE, "Cmd": _IDLE, "HostConfig": {"NetworkMode": network}}
    body = json.dumps(asked).encode()
    return str(json.loads(engine.api("POST", "/containers/create", body, "application/json"))["Id"])


def _remove(engine: engines.Engine, container: str) -> None:
    engine.api("DELETE", f"/containers/{container}?force=1")


def _remove_all(engine: engines.Engine) -> None:
    found = json.loads(engine.api("GET", "/containers/json?all=1"))
    with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(lambda each: _remove(engine, str(each["Id"])), found))


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def own_mount_namespace() -> None:
    """Begin this program again in a mount namespace of its own: two measurements share a chroot and must not meet."""
    if os.environ.get("LADING_BENCH_ALONE") != "1":
        os.environ["LADING_BENCH_ALONE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])
