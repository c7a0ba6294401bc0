"""runc and crun keep the promises of `lading.core.runtime.Foreground`."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest
from support.foreground import Ground
from support.shims import zombies

from lading.core.runtime import ContainerID
from lading.errors import FailedPreconditionError
from lading.kit import aio
from lading.runtime.config import RuntimeConfig
from lading.runtime.foreground import foreground
from lading.runtime.linux import become_subreaper
from lading.runtime.probe import HYBRID_CONTROLLERS

pytestmark = pytest.mark.anyio
ID = ContainerID("one")
DAEMON = """
import sys, anyio
from pathlib import Path
from support.foreground import Ground

async def main(directory, parent, program, id, *args):
    ground = Ground.__new__(Ground)
    ground.attach(Path(directory), parent, program)
    print("ready", flush=True)
    async with ground.started(id, *args) as (running, _):
        await running.wait()

anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture(params=["runc", "crun"])
def program(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    if name == "crun" and HYBRID_CONTROLLERS.exists() and HYBRID_CONTROLLERS.read_text().strip():
        pytest.skip("crun refuses machines with cgroups of both versions, as this one")
    return name


@pytest.fixture
async def ground(tmp_path: Path, program: str) -> AsyncGenerator[Ground]:
    become_subreaper()  # as the daemon does: orphans that nobody collects would stay
    ground = Ground(tmp_path, program)
    yield ground
    left = ground.leftovers()
    ground.clean()
    assert left == []
    assert [line for line in zombies() if "run" in line] == []


async def read(fd: int) -> bytes:
    parts: list[bytes] = []
    while data := await aio.run(aio.DISK, os.read, fd, 1 << 16):
        parts.append(data)
    return b"".join(parts)


async def test_it_gives_output_and_exit_code(ground: Ground) -> None:
    async with ground.started(ID, "sh", "-c", "echo out; echo err >&2; exit 3") as (running, fd):
        said = await read(fd)
        assert await running.wait() == 3
    assert sorted(said.splitlines()) == [b"err", b"out"]


async def test_a_signal_that_ended_it_is_told_as_a_shell_does(ground: Ground) -> None:
    async with ground.started(ID, "sh", "-c", "sh -c 'kill -9 $$'; exit $?") as (running, _):
        assert await running.wait() == 137


async def test_much_output_is_whole_when_it_has_ended(ground: Ground) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789; i=$((i+1)); done"
    async with ground.started(ID, "sh", "-c", script) as (running, fd):
        said = await read(fd)
        assert await running.wait() == 0
    assert len(said) == 3000 * 41


async def test_what_the_runtime_refuses_is_said_in_its_words(ground: Ground) -> None:
    async with ground.started(ID, "no-such-program") as (running, _):
        with pytest.raises(FailedPreconditionError, match="no-such-program"):
            await running.wait()


async def test_a_process_that_was_left_behind_ends_with_the_first(ground: Ground) -> None:
    async with ground.started(ID, "sh", "-c", "sleep 1000 & echo on") as (running, fd):
        with anyio.fail_after(10):
            assert await read(fd) == b"on\n"
            assert await running.wait() == 0


@pytest.mark.parametrize("seconds", [0, 0.005, 0.02, 0.04, 0.06, 0.1, 0.5])
async def test_cancelled_at_any_time_nothing_is_left(ground: Ground, seconds: float) -> None:
    async with ground.started(ID, "sh", "-c", "sleep 1000 & sleep 1000") as (running, _):
        with anyio.fail_after(5), anyio.move_on_after(seconds) as scope:
            await running.wait()
        assert scope.cancelled_caught
        assert ground.leftovers() == []


async def test_one_that_can_be_ended_only_by_killing_the_runtime_is_deleted(ground: Ground) -> None:
    async with ground.started(ID, "sleep", "1000") as (running, _):
        with anyio.move_on_after(0.5):
            async with anyio.create_task_group() as group:
                group.start_soon(running.wait)
                await anyio.sleep(0.4)
                [pid] = [int(line.split()[0]) for line in ground.leftovers() if " run --bundle " in line]
                os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize("number", range(4))
async def test_the_next_daemon_ends_what_a_killed_one_has_left(
    ground: Ground, program: str, number: int
) -> None:
    id = ContainerID(f"left-{number}")
    words = [str(ground.directory), ground.parent, program, id, "sleep", "1000"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, *words], stdout=subprocess.PIPE, env=environment
    ) as daemon:
        assert daemon.stdout is not None
        assert await aio.run(aio.DISK, daemon.stdout.readline) == b"ready\n"
        await anyio.sleep(number * 0.03 + random.random() * 0.03)
        daemon.kill()
        daemon.wait()
    with anyio.fail_after(10):
        await ground.foreground.end(id, str(ground.directory / id))
        await ground.foreground.end(id, str(ground.directory / id))
        assert ground.leftovers() == []


@pytest.mark.parametrize(
    ("options", "possible"),
    [
        ({}, True),
        ({"BinaryName": "runc", "SystemdCgroup": False}, True),
        ({"BinaryName": "no-such-program"}, False),
        ({"IoUid": 5}, False),
    ],
)
def test_only_what_runc_is_told_by_its_commands_is_run_without_a_shim(
    tmp_path: Path, options: dict[str, object], possible: bool
) -> None:
    assert (foreground(RuntimeConfig(options=options), tmp_path, lambda: None) is not None) is possible


def test_another_runtime_keeps_its_shim(tmp_path: Path) -> None:
    assert foreground(RuntimeConfig(runtime="io.containerd.kata.v2"), tmp_path, lambda: None) is None


async def test_where_memory_is_short_it_goes_before_the_daemon(ground: Ground) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    async with ground.started(ID, "cat", "/proc/self/oom_score_adj") as (running, fd):
        said = await read(fd)
        assert await running.wait() == 0
    assert int(said) == min(own + 1, 1000)
