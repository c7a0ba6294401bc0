"""Secrets and SSH agents of the client, as files and sockets of a process. Neither is ever on a disk."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import SocketStream

from lading.core.session import Session, Stream
from lading.errors import LadingError
from lading.formats.llb import ops
from lading.kit import aio, linux
from lading.kit.tasks import task_group

_CHUNK = 1 << 15


@asynccontextmanager
async def private_directory(place: Path) -> AsyncGenerator[Path]:
    """A directory in memory, for what must not be written to a disk."""
    await aio.run(aio.DISK, _make, place)
    try:
        yield place
    finally:
        with anyio.CancelScope(shield=True):
            await aio.run(aio.DISK, _unmake, place)


def _make(place: Path) -> None:
    place.mkdir(mode=0o700, parents=True)
    linux.mount("tmpfs", str(place), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=711,size=16m")


def _unmake(place: Path) -> None:
    linux.unmount(str(place))
    place.rmdir()


def forget_private(parent: Path) -> None:
    """Unmake the private directories that an earlier process left below ``parent``, secrets included. Blocking."""
    for point in linux.mount_points(str(parent)):
        linux.unmount(point)
    for place in parent.glob("*"):
        place.rmdir()


def write_secret(path: Path, data: bytes, options: ops.SecretOptions) -> None:
    """A secret as a file with its owner and mode. Blocking."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fchown(fd, options.uid, options.gid)
        os.fchmod(fd, options.mode & 0o7777)
    finally:
        os.close(fd)


@asynccontextmanager
async def agent_socket(path: Path, session: Session, options: ops.SecretOptions) -> AsyncGenerator[None]:
    """A socket that leads to an agent of the client while the context lasts."""
    listener = await anyio.create_unix_listener(path)
    os.chown(path, options.uid, options.gid)
    path.chmod(options.mode & 0o7777)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            try:
                async with session.open_agent(options.id) as agent:
                    await _join(stream, agent)
            except (LadingError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return  # the process sees that its agent is gone

    async with listener, task_group() as group:
        group.start_soon(listener.serve, serve)
        yield
        group.cancel_scope.cancel()


async def _join(stream: SocketStream, agent: Stream) -> None:
    async with task_group() as group:

        async def back() -> None:
            while data := await agent.receive():
                await stream.send(data)
            group.cancel_scope.cancel()

        group.start_soon(back)
        while True:
            try:
                data = await stream.receive(_CHUNK)
            except anyio.EndOfStream:
                break
            await agent.send(data)
        group.cancel_scope.cancel()
