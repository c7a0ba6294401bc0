"""Containers outlive a daemon that is killed, and many of them leave nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest
from support.shims import ShimWorld, zombies

from lading.core.runtime import ContainerID, Status, Stdio
from lading.kit import aio
from lading.runtime.spares import BUSY
from lading.testing.runtime import FOREVER, seen

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
_IDLE_FDS = 4
"""Descriptors that an idle shim takes: its connection, its process, its log."""

DAEMON = """
import sys, anyio, structlog
from pathlib import Path
from support.shims import ShimWorld
from lading.core.runtime import ContainerID, Stdio

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main(directory, parent, binary="runc"):
    world = ShimWorld.__new__(ShimWorld)
    world.attach(Path(directory), parent, options={"BinaryName": binary})
    async with world.open_shims() as runtime:
        for name, args in (("runs", ("sleep", "1000")), ("ends", ("sh", "-c", "read line < /tmp/go; exit 42")), ("waits", ("true",))):
            id = ContainerID(name)
            task = await runtime.create(id, runtime=world.runtime, spec=world.spec(id, *args), rootfs=world.rootfs, stdio=Stdio())
            if name != "waits":
                await task.start()
        print("ready", flush=True)
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[ShimWorld]:
    world = ShimWorld(tmp_path, options={"BinaryName": "runc"})
    try:
        yield world
    finally:
        await world.clean()
    assert world.leftovers() == []


async def test_a_killed_daemons_containers_are_found_again(world: ShimWorld, tmp_path: Path) -> None:
    go = Path(world.rootfs[0].source) / "tmp/go"
    os.mkfifo(go)
    paths = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", DAEMON, str(tmp_path), world.parent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}) as daemon:
        assert daemon.stdout is not None
        try:
            assert await aio.run(aio.DISK, daemon.stdout.readline) == b"ready\n"
        finally:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            daemon.stdout.close()
    go.write_text("go\n")
    async with world.open_shims() as runtime:
        with anyio.fail_after(10):
            tasks = {task.id: task for task in await runtime.load()}
        assert set(tasks) == {"runs", "ends", "waits"}
        assert (await tasks[ContainerID("runs")].state()).status is Status.RUNNING
        assert (await tasks[ContainerID("waits")].state()).status is Status.CREATED
        assert (await tasks[ContainerID("ends")].wait()).status == 42
        event = (await seen(runtime, "/tasks/exit"))[-1]
        assert (event.container, event.exit_status) == ("ends", 42)
        for task in tasks.values():
            if task.id == "runs":
                await task.kill(signal.SIGKILL)
                await task.wait()
            await task.delete()
    assert world.leftovers() == []  # idle shims go with their daemon


async def test_a_daemon_killed_while_it_starts_a_shim_leaves_none(world: ShimWorld, tmp_path: Path) -> None:
    """The shim is there, and where it listens was not recorded."""
    points = {"LADING_FAILPOINT": "shim.started:kill", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DAEMON, str(tmp_path), world.parent]
    daemon = await aio.run(
        aio.DISK, lambda: subprocess.run(command, env={**os.environ, **points}, check=False)
    )
    assert daemon.returncode == -signal.SIGKILL
    assert any("containerd-shim" in line for line in world.leftovers())
    async with world.open_shims() as runtime:
        with anyio.fail_after(10):
            assert await runtime.load() == []
        assert world.leftovers() == []


SLOW = """#!/bin/sh
# runc, which takes its time for a container of which it has made only the cgroup
set -e
for word; do
    test "$word" = create || continue
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        if test -e "$hierarchy/cgroup.procs"; then mkdir -p "$hierarchy{parent}/runs"; fi
    done
    touch {marker}
    exec sleep 1000
done
exec runc "$@"
"""


async def test_a_daemon_killed_while_runc_makes_a_container_leaves_no_cgroups(
    world: ShimWorld, tmp_path: Path
) -> None:
    """The shim ends its runc with the connection, and that has no record of the container yet."""
    binary, marker = tmp_path / "slow-runc", tmp_path / "made"
    binary.write_text(SLOW.format(parent=world.parent, marker=marker), "utf-8")
    binary.chmod(0o700)
    command = [sys.executable, "-c", DAEMON, str(tmp_path), world.parent, str(binary)]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env={**os.environ, **paths}) as daemon:
        try:
            with anyio.fail_after(20):
                while not marker.exists():
                    await anyio.sleep(0.01)
        finally:
            daemon.kill()
            daemon.wait()
    assert any("/sys/fs/cgroup" in line for line in world.leftovers())
    async with world.open_shims() as runtime:
        with anyio.fail_after(10):
            assert await runtime.load() == []
        assert world.leftovers() == []


async def test_fifty_containers_leave_nothing(world: ShimWorld) -> None:
    before, dead = len(os.listdir("/proc/self/fd")), zombies()
    limit = anyio.CapacityLimiter(8)
    ends: list[int] = []

    async with world.open_shims() as runtime:

        async def life(number: int) -> None:
            name = ContainerID(f"c{number}")
            async with limit:
                task = await runtime.create(
                    name,
                    runtime=world.runtime,
                    spec=world.spec(name, *FOREVER),
                    rootfs=world.rootfs,
                    stdio=Stdio(),
                )
                await task.start()
                await task.kill(signal.SIGKILL)
                ends.append((await task.wait()).status)
                await task.delete()

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(life, number)
        runtime_fds = len(os.listdir("/proc/self/fd"))
    assert world.leftovers() == []
    assert ends == [137] * 50
    assert runtime_fds - before < 2 + _IDLE_FDS * BUSY
    assert len(os.listdir("/proc/self/fd")) <= before
    assert set(zombies()) <= set(dead)


async def test_a_create_that_is_given_up_leaves_nothing(world: ShimWorld) -> None:
    name = ContainerID("one")
    async with world.open_shims() as runtime:
        for delay in (0.0, 0.01, 0.03, 0.06, 0.1):
            with anyio.move_on_after(delay) as scope:
                task = await runtime.create(
                    name,
                    runtime=world.runtime,
                    spec=world.spec(name, *FOREVER),
                    rootfs=world.rootfs,
                    stdio=Stdio(),
                )
            if not scope.cancelled_caught:
                await task.delete()
            assert [line for line in world.leftovers() if "/.shim" not in line] == []  # but idle ones
    assert world.leftovers() == []
