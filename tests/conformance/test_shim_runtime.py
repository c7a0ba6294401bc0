"""Real shims keep the port's promises: Debian's containerd-shim-runc-v2 with runc and with crun, and a newer one."""

import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from support.newer import NEWER
from support.shims import ShimWorld

from lading.core.runtime import Exit, Runtime
from lading.runtime.launch import Launcher
from lading.runtime.probe import HYBRID_CONTROLLERS
from lading.testing.runtime import RuntimeSuite, World

pytestmark = pytest.mark.anyio


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
