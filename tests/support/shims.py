"""A world of real shims for the runtime's suite, which leaves nothing behind."""

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from lading.core.mounts import Mount
from lading.core.runtime import ContainerID, Runtime, Task
from lading.runtime.config import RUNC_V2, RuntimeConfig
from lading.runtime.service import ShimRuntime
from lading.runtime.shim import ShimTask
from lading.testing.runtime import World
from support.bundles import cgroup_directories, cgroup_parent, make_rootfs, process, remove_cgroups, spec

NAMESPACE = "lading-test"


class ShimWorld(World):
    runtime = "under-test"

    def __init__(
        self, directory: Path, *, shim: str = RUNC_V2, options: Mapping[str, Any] | None = None
    ) -> None:
        make_rootfs(directory / "image")
        self.attach(directory, cgroup_parent(), shim=shim, options=options)

    def attach(
        self, directory: Path, parent: str, *, shim: str = RUNC_V2, options: Mapping[str, Any] | None = None
    ) -> None:
        """Use the world that another process has made."""
        self.directory = directory / "streams"
        self.state = directory / "state"
        self.root = directory / "root"
        self.socket = str(directory / "e.sock")
        self.parent = parent
        self.rootfs = [Mount(type="bind", source=str(directory / "image"), options=("rbind", "ro"))]
        self.config = RuntimeConfig(runtime=shim, options=options or {})

    def open(self) -> AbstractAsyncContextManager[Runtime]:
        return self.open_shims()

    def open_shims(self) -> ShimRuntime:
        return ShimRuntime(
            self.state,
            self.root,
            namespace=NAMESPACE,
            ttrpc_address=self.socket,
            publish_binary="/bin/false",
            runtimes={self.runtime: self.config},
        )

    def spec(self, id: ContainerID, *args: str, terminal: bool = False) -> dict[str, Any]:
        return spec(f"{self.parent}/{id}", *args, terminal=terminal)

    def process(self, *args: str, terminal: bool = False) -> dict[str, Any]:
        return process(*args, terminal=terminal)

    async def kill_shim(self, task: Task) -> None:
        assert isinstance(task, ShimTask)
        fd = os.pidfd_open(task.shim_pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        finally:
            os.close(fd)

    async def clean(self) -> None:
        """End everything of this world; the checks are the tests' own."""
        async with self.open_shims() as runtime:
            for task in await runtime.load():
                assert isinstance(task, ShimTask)
                await task.destroy()
        remove_cgroups(self.parent)

    def leftovers(self) -> list[str]:
        """Processes, mounts, cgroups, bundles and runtime state that are still there."""
        name = str(self.state)
        found = [line for line in processes() if name in line]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if name in line]
        found += [
            str(path / child)
            for path in cgroup_directories(self.parent)
            for child in os.listdir(path)
            if (path / child).is_dir()
        ]
        for directory in (self.state / NAMESPACE, self.root / NAMESPACE, self.state / ".runc" / NAMESPACE):
            found += [
                str(directory / entry) for entry in (os.listdir(directory) if directory.exists() else [])
            ]
        return found


def processes() -> list[str]:
    """Command lines, states and working directories of all processes."""
    found: list[str] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{pid} {command} {os.readlink(f'/proc/{pid}/cwd')}")
        except OSError:
            continue
    return found


def zombies() -> list[str]:
    """Our own children that ended and were not collected."""
    command = ["ps", "-o", "pid=,stat=,args=", "--ppid", str(os.getpid())]
    out = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line for line in out.splitlines() if line.split()[1].startswith("Z")]
