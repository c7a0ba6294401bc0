"""``docker build`` beside BuildKit: contexts, and what is measured of them. Every pair of samples builds the same files."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import engines
import operations
from operations import Note, timed

TOOLS = pathlib.Path(__file__).parents[1] / ".tools"
PLUGINS = TOOLS / "sid/usr/libexec/docker/cli-plugins"
PROGRAMS = {
    "amd64": pathlib.Path("/usr/bin/busybox"),
    "arm64": TOOLS / "arm64/bin/busybox",
}
FILES = 20_000
STAGES = 16
LARGE = 1_000_000_000
_BASE = """\
FROM scratch AS base
ARG TARGETARCH
COPY bin/$TARGETARCH/busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install /bin"]
ENV PATH=/bin
"""
# In Debian 12's QEMU busybox cannot run its own applets by a bare name, hence the paths.
SMALL = f"""{_BASE}
FROM base
COPY stamp /stamp
RUN /bin/cat /stamp > /made && /bin/mkdir -p /srv
COPY hello.txt /srv/
RUN /bin/cat /srv/hello.txt >> /made
CMD ["/bin/cat", "/made"]
"""
MANY_FILES = f"""{_BASE}
FROM base
COPY stamp /stamp
COPY src /src
RUN ls /src | wc -l > /count
"""
PARALLEL = f"""{_BASE}
FROM base AS stamped
COPY stamp /stamp
{
    "".join(
        f'''
FROM stamped AS stage{number}
RUN echo {number} > /out{number} && cat /stamp >> /out{number}
RUN sleep 0.2 && echo again >> /out{number}
'''
        for number in range(STAGES)
    )
}
FROM base
{"".join(f"COPY --from=stage{number} /out{number} /out/{chr(10)}" for number in range(STAGES))}
"""
LARGE_FILE = """\
FROM scratch
COPY stamp /stamp
COPY large /large
"""


class Context:
    """A build context. ``stamp`` is what makes a build cold below the first steps, ``hello.txt`` is late."""

    def __init__(self, directory: pathlib.Path, dockerfile: str) -> None:
        self.directory = directory
        for architecture, program in PROGRAMS.items():
            if program.exists():
                (directory / "bin" / architecture).mkdir(parents=True, exist_ok=True)
                shutil.copy(program, directory / "bin" / architecture / "busybox")
        (directory / "Dockerfile").write_text(dockerfile)
        (directory / "hello.txt").write_text("hello\n")
        self.stamp("first")

    def stamp(self, text: str) -> None:
        """Make what follows the first steps new."""
        (self.directory / "stamp").write_text(text)

    def fill(self, count: int) -> pathlib.Path:
        """Small files in directories of a hundred; one of them."""
        for number in range(count):
            directory = self.directory / "src" / f"d{number // 100}"
            if number % 100 == 0:
                directory.mkdir(parents=True)
            (directory / f"file{number}.txt").write_bytes(f"{number}\n".encode() * (number % 200 + 1))
        return self.directory / "src/d7/file700.txt"

    def enlarge(self) -> None:
        """Add a large file of bytes that do not compress."""
        part = os.urandom(1 << 20)
        with (self.directory / "large").open("wb") as file:
            for _ in range(LARGE >> 20):
                file.write(part)


def prepare(engine: engines.Engine) -> None:
    """Give the client its plugin."""
    config = engine.volume.path / "client"
    config.mkdir(exist_ok=True)
    if not (config / "cli-plugins").exists():
        (config / "cli-plugins").symlink_to(PLUGINS)


def build(engine: engines.Engine, context: Context, *arguments: str, host: str = "") -> str:
    """One build by the client, of the engine or another ``host``; what it says. Processes share the machine's network: engines
    here have no bridge.
    """
    done = subprocess.run(
        ["docker", "build", "--progress=plain", "--network=host", *arguments, str(context.directory)],
        env=engine.environment | ({"DOCKER_HOST": host} if host else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{engine.name}: build: {done.stderr[-1500:]}")
    return done.stderr


@contextlib.contextmanager
def instant(directory: pathlib.Path) -> Iterator[str]:
    """The host of a daemon that does nothing, at once."""
    path = directory / "instant.sock"
    command = [sys.executable, str(pathlib.Path(__file__).with_name("instant.py")), str(path)]
    server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(engines.SOURCES)})
    try:
        deadline = time.monotonic() + 30
        while not path.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the instant daemon did not come up")
            time.sleep(0.01)
        yield f"unix://{path}"
    finally:
        server.kill()
        server.wait()


def floor(engine: engines.Engine, note: Note) -> None:
    """What a build costs before anything is built: the client alone, beside the same of the engine; with the Dockerfile's checks only."""
    directory = engine.volume.path / "floor"
    directory.mkdir()
    context = Context(directory, "FROM scratch\n")
    with instant(engine.volume.path) as host:
        for name, arguments in (("build", ("-t", "floor")), ("build --check", ("--check",))):
            build(engine, context, *arguments)
            for _ in range(3):
                note(
                    f"{name}, nothing in it",
                    timed(lambda arguments=arguments: build(engine, context, *arguments)),
                )
                note(
                    f"{name}, the client alone",
                    timed(lambda arguments=arguments: build(engine, context, *arguments, host=host)),
                )


def rebuilt(
    engine: engines.Engine,
    note: Note,
    name: str,
    context: Context,
    *,
    rounds: int,
    touched: pathlib.Path | None = None,
    arguments: Sequence[str] = (),
) -> None:
    """Cold, the same again, and with one file changed, ``rounds`` times, each under a name of its own: while a name moves,
    Docker's collector may take the layers that the next image of it is being unpacked on.
    """

    def measured(what: str, work: Callable[[], object] = lambda: None) -> None:
        work()
        tag = f"bench:{time.monotonic_ns()}"
        note(f"build {name}, {what}", timed(lambda: build(engine, context, "-t", tag, *arguments)))

    for number in range(rounds):
        measured("cold", lambda number=number: context.stamp(f"round {number} {time.time_ns()}"))
        measured("no-op")
        if touched is not None:
            measured("one file", lambda number=number, path=touched: path.write_text(f"changed {number}\n"))


def builds(engine: engines.Engine, which: str, note: Note, *, rounds: int) -> None:
    """The named measurement of a fresh engine."""
    prepare(engine)
    directory = engine.volume.path / "context"
    directory.mkdir()
    {
        "small": _small,
        "files": _files,
        "parallel": _parallel,
        "platforms": _platforms,
        "large": _large,
    }[which](engine, directory, note, rounds)
    note(f"build {which}, peak memory MB", engine.peak_memory() / 1e6)


def _small(engine: engines.Engine, directory: pathlib.Path, note: Note, rounds: int) -> None:
    floor(engine, note)
    context = Context(directory, SMALL)
    note("build small, first of a daemon", timed(lambda: build(engine, context, "-t", "bench")))
    rebuilt(engine, note, "small", context, rounds=rounds, touched=directory / "hello.txt")


def _files(engine: engines.Engine, directory: pathlib.Path, note: Note, rounds: int) -> None:
    context = Context(directory, MANY_FILES)
    touched = context.fill(FILES)
    rebuilt(engine, note, f"{FILES} files", context, rounds=rounds, touched=touched)


def _parallel(engine: engines.Engine, directory: pathlib.Path, note: Note, rounds: int) -> None:
    rebuilt(engine, note, f"{STAGES} stages", Context(directory, PARALLEL), rounds=rounds)


def _platforms(engine: engines.Engine, directory: pathlib.Path, note: Note, rounds: int) -> None:
    with operations.attempted(engine, "two platforms"):
        rebuilt(
            engine,
            note,
            "two platforms",
            Context(directory, SMALL),
            rounds=rounds,
            touched=directory / "hello.txt",
            arguments=("--platform=linux/amd64,linux/arm64",),
        )


def _large(engine: engines.Engine, directory: pathlib.Path, note: Note, rounds: int) -> None:
    del rounds
    context = Context(directory, LARGE_FILE)
    context.enlarge()
    rebuilt(engine, note, "1 GB file", context, rounds=1)


KINDS = ("small", "files", "parallel", "platforms", "large")


def missing() -> str:
    """Why there can be no builds here, or nothing."""
    return "" if (PLUGINS / "docker-buildx").exists() else f"no docker-buildx in {PLUGINS}: make setup"
