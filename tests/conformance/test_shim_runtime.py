"""Real shims keep the port's promises: Debian's containerd-shim-runc-v2 with runc and with crun, and a newer one."""

import os
import shutil
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.newer import NEWER
from support.shims import ShimWorld, processes

from lading.core.runtime import ContainerID, Exit, Runtime, Status, Task
from lading.errors import NotFoundError
from lading.runtime.launch import Launcher
from lading.runtime.probe import HYBRID_CONTROLLERS
from lading.runtime.shim import Shim, ShimTask
from lading.runtime.spares import Spares
from lading.testing.runtime import RuntimeSuite, World

pytestmark = pytest.mark.anyio
OTHER = ContainerID("other")


class ShimSuite(RuntimeSuite):
    """The suite on a shim, and that nothing stays when everything was deleted."""

    def make_world(self, directory: Path) -> ShimWorld:
        raise NotImplementedError

    @pytest.fixture
    async def world(self, tmp_path: Path) -> AsyncGenerator[ShimWorld]:
        world = self.make_world(tmp_path)
        try:
            yield world
        finally:
            await world.clean()
        assert world.leftovers() == []


class TestRunc(ShimSuite):
    def make_world(self, directory: Path) -> ShimWorld:
        return ShimWorld(directory, options={"BinaryName": "runc"})

    async def test_what_the_shim_deleted_is_not_cleaned_up_by_another_program(
        self, world: World, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(*_: object) -> Exit:
            raise AssertionError("the shim's executable was started to clean up")

        task = await self.run(world, runtime, "true")
        await task.wait()
        monkeypatch.setattr(Launcher, "delete", refuse)
        await task.delete()

    async def test_a_shim_serves_one_container_after_another_and_never_two(
        self, world: World, runtime: Runtime
    ) -> None:
        first = await self.run(world, runtime, "true")
        second = await self.run(world, runtime, "sleep", "1000", id=OTHER)
        assert shim_of(first) != shim_of(second)
        await first.wait()
        await first.delete()
        third = await self.run(world, runtime, "true")
        assert shim_of(third) == shim_of(first)
        await third.wait()
        await third.delete()
        assert (await second.state()).status is Status.RUNNING
        with pytest.raises(NotFoundError):
            await first.state()

    async def test_an_idle_shim_that_was_killed_is_not_used(self, world: ShimWorld, runtime: Runtime) -> None:
        first = await self.run(world, runtime, "true")
        await first.wait()
        await first.delete()
        await world.kill_shim(first)
        with anyio.fail_after(10):
            while Path(f"/proc/{shim_of(first)}").exists():
                await anyio.sleep(0.01)
        second = await self.run(world, runtime, "true")
        assert (await second.wait()).status == 0
        assert shim_of(second) != shim_of(first)
        await second.delete()

    async def test_a_container_whose_idle_shim_dies_before_it_is_made_gets_another(
        self, world: ShimWorld, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[Shim] = []
        call = Shim.call

        async def die_at_first(self: Shim, method: str, *arguments: Any) -> Any:
            if method == "Create":
                taken.append(self)
                if len(taken) == 1:
                    os.kill(self.pid, signal.SIGKILL)
                    await self.client.wait_closed()
            return await call(self, method, *arguments)

        monkeypatch.setattr(Shim, "call", die_at_first)
        task = await self.run(world, runtime, "true")
        assert (await task.wait()).status == 0
        assert len({shim.pid for shim in taken}) == 2
        await task.delete()

    async def test_a_shim_that_dies_takes_its_own_container_only(
        self, world: ShimWorld, runtime: Runtime
    ) -> None:
        first = await self.run(world, runtime, "true")
        await first.wait()
        await first.delete()
        again = await self.run(world, runtime, "sleep", "1000")
        other = await self.run(world, runtime, "sleep", "1000", id=OTHER)
        await world.kill_shim(again)
        assert (await again.wait()).status == 137
        await again.delete()
        assert (await other.state()).status is Status.RUNNING

    async def test_a_shim_that_is_being_started_when_the_daemon_leaves_is_ended(
        self, world: ShimWorld
    ) -> None:
        async with anyio.create_task_group() as group, world.open_shims() as runtime:
            group.start_soon(runtime.warm, world.runtime)
            with anyio.fail_after(20):
                while not list(world.state.glob(".shims/*/*/config.json")):
                    await anyio.sleep(0.001)
            group.cancel_scope.cancel()
        assert shims_of(world) == []

    async def test_idle_shims_of_a_daemon_that_was_killed_are_ended(
        self, world: ShimWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def killed(self: Spares) -> None:
            del self

        with monkeypatch.context() as patch:
            patch.setattr(Spares, "close", killed)
            async with world.open_shims() as runtime:
                kept = await self.run(world, runtime, "sleep", "1000")
                await runtime.warm(world.runtime)
        assert len(shims_of(world)) == 2
        async with world.open_shims() as runtime:
            [task] = await runtime.load()
            assert task.id == kept.id
            with anyio.fail_after(10):
                while len(shims_of(world)) > 1:
                    await anyio.sleep(0.01)
            assert (await task.state()).status is Status.RUNNING


def shim_of(task: Task) -> int:
    assert isinstance(task, ShimTask)
    return task.shim_pid


def shims_of(world: ShimWorld) -> list[str]:
    """Shims of this world that live."""
    return [line for line in processes() if f"{world.state}/" in line and "containerd-shim" in line]


class TestCrun(ShimSuite):
    def make_world(self, directory: Path) -> ShimWorld:
        if not shutil.which("crun"):
            pytest.skip("crun is not installed")
        return ShimWorld(directory, options={"BinaryName": crun(directory)})


class TestNewShim(ShimSuite):
    """containerd 2.1's shim: JSON at its start, Task v3 only."""

    def make_world(self, directory: Path) -> ShimWorld:
        shim = NEWER / "usr/bin/containerd-shim-runc-v2"
        if not shim.exists():
            pytest.skip(f"no newer containerd in {NEWER} (make setup)")
        return ShimWorld(directory, shim=str(shim), options={"BinaryName": "runc"})


def crun(directory: Path) -> str:
    """crun itself; on a machine of mixed hierarchies, which crun refuses, crun where the second one is not mounted."""
    if not HYBRID_CONTROLLERS.exists() or not HYBRID_CONTROLLERS.read_text().strip():
        return "crun"
    unified = HYBRID_CONTROLLERS.parent
    script = directory / "crun"
    script.write_text(f'#!/bin/sh\nexec unshare -m sh -c \'umount {unified} && exec "$0" "$@"\' crun "$@"\n')
    script.chmod(0o755)
    return str(script)
