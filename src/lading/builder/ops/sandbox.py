"""A container in which a client runs processes by hand: see `lading.builder.interactive`."""

import os
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
from typing_extensions import override

from lading.builder.interactive import (
    Container,
    ContainerWish,
    ProcessClient,
    ProcessWish,
    RunningProcess,
)
from lading.builder.ops.exec import check_granted
from lading.builder.ops.mounting import Clients, ExecTools, Made, secret_environment, visited
from lading.builder.ops.processes import Process, end_task, opened_to_read, pieces
from lading.containers import execs
from lading.containers.spec import DEFAULT_PATH
from lading.core.runtime import Stdio, Task
from lading.errors import LadingError, NotFoundError, UnavailableError
from lading.formats.llb import ops
from lading.kit import aio
from lading.kit.fifo import FifoInput, Fifos, make_fifos
from lading.kit.tasks import task_group
from lading.oci.descriptor import Platform

_DRAIN_SECONDS: Final = 2.0
"""How long output is awaited after a process's end, in case a descendant holds the stream."""


class Sandbox(Container):
    """`Container` over what was mounted for it; the caller takes that down. ``granted`` are the build's entitlements."""

    def __init__(
        self,
        tools: ExecTools,
        made: Made,
        wish: ContainerWish,
        clients: Clients,
        *,
        host: Platform,
        granted: frozenset[str],
    ) -> None:
        self._tools = tools
        self._made = made
        self._wish = wish
        self._clients = clients
        self._platform = wish.platform or host
        self._granted = granted
        self._begun = False
        self._task: Task | None = None
        self._base: Mapping[str, Any] = {}
        self._directory = Path()

    @override
    async def run(self, wish: ProcessWish, client: ProcessClient) -> int:
        check_granted(wish.security, self._wish.network, self._granted.__contains__)
        env = await self._env(wish)
        if self._begun:
            return await self._further(wish, env, client)
        self._begun = True
        return await self._first(wish, env, client)

    async def _env(self, wish: ProcessWish) -> list[str]:
        env = list(wish.meta.env)
        for name, value in (("PATH", DEFAULT_PATH), ("TERM", "xterm" if wish.terminal else "")):
            if value and not any(one.startswith(f"{name}=") for one in env):
                env.append(f"{name}={value}")
        return env + await secret_environment(wish.secret_env, self._clients)

    async def _first(self, wish: ProcessWish, env: list[str], client: ProcessClient) -> int:
        made, meta, processes = self._made, wish.meta, self._tools.processes
        user, _ = await visited(self._tools, made).look(user=meta.user, cwd=meta.cwd)
        process = Process(
            meta=replace(meta, hostname=self._wish.hostname, extra_hosts=self._wish.extra_hosts),
            env=env,
            user=user,
            rootfs=made.rootfs,
            readonly=made.readonly,
            mounts=made.mounts,
            network=self._wish.network,
            insecure=wish.security is ops.SecurityMode.INSECURE,
            platform=self._platform,
            terminal=wish.terminal,
        )
        async with (
            processes.prepared(process) as prepared,
            _streams(prepared.directory, "init", wish) as streams,
        ):
            task = await processes.create(prepared, streams.stdio)
            ended = False
            try:
                await task.start()
                self._task, self._directory = task, prepared.directory
                self._base = prepared.document["process"]
                status = await streams.attend(task, "", client)
                ended = True
            finally:
                self._task = None
                with anyio.CancelScope(shield=True):
                    await end_task(task, ended=ended)
        return status

    async def _further(self, wish: ProcessWish, env: list[str], client: ProcessClient) -> int:
        task = self._task
        if task is None:
            raise NotFoundError("the container's first process has ended")
        request = execs.ExecRequest(
            user=wish.meta.user or "0",
            privileged=wish.security is ops.SecurityMode.INSECURE,
            tty=wish.terminal,
            working_dir=wish.meta.cwd or "/",
            cmd=list(wish.meta.args),
        )
        document = {**await execs.plan(request, self._base, task.pid, ""), "env": env}
        exec_id = secrets.token_hex(8)
        async with _streams(self._directory, f"exec-{exec_id}", wish) as streams:
            await task.exec(exec_id, document, streams.stdio)
            try:
                await task.start(exec_id)
                return await streams.attend(task, exec_id, client)
            finally:
                with anyio.CancelScope(shield=True):
                    await _end(task, exec_id)


async def _end(task: Task, id: str) -> None:
    """Delete a process that was added to a task, killed if need be. It may have gone with the task."""
    try:
        await task.kill(9, id)
        await task.wait(id)
    except LadingError:
        pass  # it has ended
    try:
        await task.delete(id)
    except LadingError:
        return  # so has the task


class _Running(RunningProcess):
    def __init__(self, task: Task, id: str) -> None:
        self._task = task
        self._id = id

    @override
    async def resize(self, width: int, height: int) -> None:
        try:
            await self._task.resize(width, height, self._id)
        except LadingError:
            return  # it has ended, or has no terminal

    @override
    async def kill(self, signal: int) -> None:
        try:
            await self._task.kill(signal, self._id)
        except LadingError:
            return  # it has ended


class _Streams:
    """The FIFOs of one process, and who is at their other end."""

    def __init__(self, fifos: Fifos, outputs: Mapping[int, int], *, terminal: bool) -> None:
        self._fifos = fifos
        self._outputs = outputs
        self.stdio = Stdio(stdin=fifos.stdin, stdout=fifos.stdout, stderr=fifos.stderr, terminal=terminal)

    async def attend(self, task: Task, id: str, client: ProcessClient) -> int:
        """Pass everything on until the process has ended; its exit code."""
        client.started(_Running(task, id))
        async with task_group() as group:
            if self._fifos.stdin:
                group.start_soon(self._feed, task, id, client)
            async with task_group() as outputs:
                for number, fd in self._outputs.items():
                    outputs.start_soon(_forward, number, fd, client)
                end = await task.wait(id)
                outputs.cancel_scope.deadline = anyio.current_time() + _DRAIN_SECONDS
            group.cancel_scope.cancel()
        return end.status

    async def _feed(self, task: Task, id: str, client: ProcessClient) -> None:
        try:
            with FifoInput(self._fifos.stdin) as stdin:
                while data := await client.read():
                    await stdin.write(data)
        except UnavailableError:
            return  # it reads no more
        try:
            await task.close_stdin(id)
        except LadingError:
            return  # it has ended


async def _forward(number: int, fd: int, client: ProcessClient) -> None:
    async for data in pieces(fd):
        await client.write(number, data)


@asynccontextmanager
async def _streams(directory: Path, name: str, wish: ProcessWish) -> AsyncGenerator[_Streams]:
    def make() -> tuple[Fifos, dict[int, int]]:
        fifos = make_fifos(directory, name, stdin=wish.input, terminal=wish.terminal)
        paths = {1: fifos.stdout, 2: fifos.stderr}
        return fifos, {number: opened_to_read(path) for number, path in paths.items() if path}

    fifos, outputs = await aio.run(aio.DISK, make)
    try:
        yield _Streams(fifos, outputs, terminal=wish.terminal)
    finally:
        for fd in outputs.values():
            os.close(fd)
        with anyio.CancelScope(shield=True):
            await aio.run(aio.DISK, fifos.remove)
