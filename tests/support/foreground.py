"""A place to run containers in the foreground, which can tell what is left of them."""

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from lading.builder.ops.trees import Room
from lading.core.runtime import ContainerID, Foreground, Running
from lading.kit import aio
from lading.runtime.config import RuntimeConfig
from lading.runtime.foreground import foreground
from support.bundles import cgroup_directories, cgroup_parent, make_rootfs, remove_cgroups, spec
from support.shims import processes


class Ground:
    """Its containers see a root file system of busybox. ``program`` is runc, or what takes its commands."""

    def __init__(self, directory: Path, program: str) -> None:
        make_rootfs(directory / "image")
        self.attach(directory, cgroup_parent(), program)

    def attach(self, directory: Path, parent: str, program: str) -> None:
        """Use what another process has made."""
        self.directory = directory
        self.parent = parent
        self.state = directory / "state"
        made = foreground(RuntimeConfig(options={"BinaryName": program}), self.state, lambda: None)
        assert made is not None
        self.foreground: Foreground = made

    @asynccontextmanager
    async def started(self, id: ContainerID, *args: str) -> AsyncGenerator[tuple[Running, int]]:
        """A container that runs a program, and the reading end of its outputs."""
        bundle = self.directory / id
        bundle.mkdir()
        document = spec(f"{self.parent}/{id}", *args)
        document["root"]["path"] = str(self.directory / "image")
        room = Room(document["root"]["path"])
        reading, writing = os.pipe2(os.O_CLOEXEC)
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            running = await room.run(
                lambda: self.foreground.start(id, str(bundle), document, (nothing, writing, writing))
            )
            os.close(writing)
            yield running, reading
        finally:
            os.close(reading)
            os.close(nothing)
            await aio.run(aio.DISK, room.leave)
            shutil.rmtree(bundle)

    def leftovers(self) -> list[str]:
        """Processes, cgroups and state that are still there."""
        found = [
            line
            for line in processes()
            if str(self.directory) in line and str(os.getpid()) != line.split()[0]
        ]
        found += [
            str(path / child)
            for path in cgroup_directories(self.parent)
            for child in os.listdir(path)
            if (path / child).is_dir()
        ]
        return found + (os.listdir(self.state) if self.state.exists() else [])

    def clean(self) -> None:
        """Remove the cgroup that all had above them."""
        remove_cgroups(self.parent)
