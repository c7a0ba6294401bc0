"""Containers in the foreground: one execution of runc, or of a program with its commands, from their start to their end.

``runc run`` creates the container, starts it, passes its output on, and deletes it when its first process has ended. It ends
when that is done, with the exit code of the process. Where nobody but its starter asks for the container, that saves two
executions of runc, and the shim.
"""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
from typing_extensions import override

from lading.core.runtime import ContainerID, Foreground, Running
from lading.kit import aio
from lading.runtime import cgroups
from lading.runtime.bundle import Bundle
from lading.runtime.config import RuntimeConfig, field_name, is_runc
from lading.runtime.direct import be_killed_before_us, score_before_us
from lading.runtime.linux import children_named, children_of, processes_with
from lading.runtime.shim import RuntimeRefusedError, check_identifier, check_process

_UMASK: Final = 0o022
"""containerd's. The runtime makes missing mount points with it, in the container's own tree: others must be able to pass."""
_KILLED: Final = 128
_AGAIN: Final = 0.02
_PATIENCE: Final = 5.0
"""Seconds that runc has to end after its container; a container of which nothing is left is deleted within some milliseconds."""
_STAGES: Final = ("runc:[0:PARENT]", "runc:[1:CHILD]", "runc:[2:INIT]")
"""What runc's children are called until they are the container's first process."""
_FLAGS: Final = {"systemd_cgroup": "--systemd-cgroup"}
_RUN_FLAGS: Final = {"no_pivot_root": "--no-pivot", "no_new_keyring": "--no-new-keyring"}


def foreground(config: RuntimeConfig, root: Path, hasten: Callable[[], None]) -> "RuncForeground | None":
    """What runs containers of a runtime without its shim; ``None`` if that is not runc's, has options of its own, or no program.

    ``root`` is the directory of the program's state. ``hasten`` is told when a process will soon be moved into a cgroup.
    """
    options = {field_name(key): value for key, value in config.options.items()}
    program = shutil.which(str(options.pop("binary_name", "") or "runc"))
    if program is None or not is_runc(config.runtime) or options.keys() - {*_FLAGS, *_RUN_FLAGS}:
        return None
    flags = [flag for name, flag in _FLAGS.items() if options.get(name)]
    run_flags = [flag for name, flag in _RUN_FLAGS.items() if options.get(name)]
    return RuncForeground([program, "--root", str(root), *flags], run_flags, hasten)


class RuncForeground(Foreground):
    """`Foreground` by a program that takes runc's commands."""

    def __init__(self, program: Sequence[str], run_flags: Sequence[str], hasten: Callable[[], None]) -> None:
        self._program = list(program)
        self._run_flags = list(run_flags)
        self._hasten = hasten

    @override
    def expect(self) -> None:
        self._hasten()

    @override
    def start(
        self, id: ContainerID, directory: str, spec: Mapping[str, Any], streams: tuple[int, int, int]
    ) -> "RuncRunning":
        check_identifier(id)
        check_process(spec["process"], id)
        place = Path(directory)
        process = {"oomScoreAdj": score_before_us(), **spec["process"]}
        (place / "config.json").write_text(json.dumps({**spec, "process": process}), "utf-8")
        log = ["--log", str(place / "log.json"), "--log-format", "json"]
        command = [*self._program, *log, "run", *self._run_flags, "--bundle", directory, id]
        os.umask(_UMASK)
        pid = os.posix_spawn(
            command[0],
            command,
            # Nothing else of the daemon's environment is for containers' parents: no sockets, no proxies, no credentials.
            {"PATH": os.environ.get("PATH", os.defpath), "GOMAXPROCS": "1"},  # as shims have it: ADR 0153
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)],
            setpgroup=0,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
        )
        be_killed_before_us(pid)
        return RuncRunning(self, id, place, pid)

    @override
    async def end(self, id: ContainerID, directory: str) -> None:
        for pid in await aio.run(aio.DISK, processes_with, *self._program[1:], "run", id):
            with contextlib.suppress(ProcessLookupError):
                fd = os.pidfd_open(pid)
                try:
                    await _end(pid, fd)
                    _collect(fd)
                finally:
                    os.close(fd)
        await self.delete(id, Path(directory))

    async def delete(self, id: ContainerID, bundle: Path) -> None:
        """Delete what an execution of the program that was killed left of a container. None is fine."""
        await anyio.run_process([*self._program, "delete", "--force", id], check=False)
        await aio.run(aio.DISK, cgroups.remove_left, bundle)


class RuncRunning(Running):
    """`Running` of `RuncForeground`."""

    def __init__(self, owner: RuncForeground, id: ContainerID, directory: Path, pid: int) -> None:
        self._owner = owner
        self._id = id
        self._directory = directory
        self._pid = pid
        self._fd = os.pidfd_open(pid)

    @override
    async def wait(self) -> int:
        try:
            await anyio.wait_readable(self._fd)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._kill()
            raise
        status = self._collect()
        said = Bundle(self._id, self._directory, self._directory).runtime_error() if status else ""
        if said:
            raise RuntimeRefusedError(said, subject=self._id)
        return status

    async def _kill(self) -> None:
        if not await _end(self._pid, self._fd):
            await self._owner.delete(self._id, self._directory)
        self._collect()

    def _collect(self) -> int:
        """The exit code of a process that has ended."""
        found = os.waitid(os.P_PIDFD, self._fd, os.WEXITED)
        os.close(self._fd)
        assert found is not None
        return found.si_status + (0 if found.si_code == os.CLD_EXITED else _KILLED)


async def _end(pid: int, fd: int) -> bool:
    """Have runc end by killing what it runs, which it then deletes. False if it had to be killed. ``fd`` is its pidfd.

    While it still prepares the container its child is the one that will become the first process, so that there is no moment
    in which something can slip away. A child that it did not wait for is then ours (`become_subreaper`), and is collected.
    """
    children: dict[int, int] = {}
    try:
        with anyio.move_on_after(_PATIENCE):
            while True:
                for child in await aio.run(aio.DISK, children_of, pid):
                    with contextlib.suppress(ProcessLookupError):
                        if child not in children:
                            children[child] = os.pidfd_open(child)
                        signal.pidfd_send_signal(children[child], signal.SIGKILL)
                with anyio.move_on_after(_AGAIN):
                    await anyio.wait_readable(fd)
                    return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        await anyio.wait_readable(fd)
        return False
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_PATIENCE):
            for stage in _STAGES:  # one that came after the last look ends by itself, without runc
                for child in await aio.run(aio.DISK, children_named, stage):
                    with contextlib.suppress(ProcessLookupError):
                        if child not in children:
                            children[child] = os.pidfd_open(child)
            for child in children.values():
                await anyio.wait_readable(child)
                _collect(child)
        for child in children.values():
            os.close(child)


def _collect(fd: int) -> None:
    """Have a process that has ended be no zombie of ours. It may be one of runc, or of PID 1."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG)
