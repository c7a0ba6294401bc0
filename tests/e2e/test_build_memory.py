"""The daemon's memory is bounded, whatever is built: neither the number of files nor their length is kept in it."""

import os
from pathlib import Path

import pytest
from support.buildx import build, give_plugins
from support.daemon import Daemon, running_daemon

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]
LIMIT = 192 << 20
FILES = 20_000
LARGE = 1 << 30


def peak(daemon: Daemon) -> int:
    """Largest resident size so far, in bytes."""
    assert daemon.process is not None
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def many(place: Path) -> None:
    for number in range(FILES):
        directory = place / "src" / str(number // 100)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}.txt").write_bytes(f"{number}\n".encode() * 50)


def large(place: Path) -> None:
    (place / "src").mkdir()
    part = os.urandom(1 << 20)
    with (place / "src" / "large").open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(part)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("fill", [many, large])
def test_memory_of_a_build(tmp_path: Path, fill) -> None:
    context = tmp_path / "context"
    context.mkdir()
    fill(context)
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /src\n")
    with running_daemon() as daemon:
        give_plugins(daemon)
        for _ in range(2):
            build(daemon, context, "-q", "-t", "built", timeout=600)
        print(f"{fill.__name__}: {peak(daemon) >> 20} MiB")
        assert peak(daemon) < LIMIT, f"{peak(daemon) >> 20} MiB"
