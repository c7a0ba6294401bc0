"""Connections to a published port on ``[::1]``, passed on by this process.

The kernel leads no packet from the IPv6 loopback to another interface, whatever rules say (IPv4 has ``route_localnet`` for it).
`Guard` leads these connections to the socket that holds the port instead, as with Docker's userland proxy; so they need a daemon
that runs. TCP only.
"""

import contextlib
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.abc
import structlog

_BACKLOG: Final = 128
_PAUSE: Final = 0.1
"""Seconds until another try where the kernel has no descriptor or memory for a connection."""
_GONE: Final = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)
_log: Final = structlog.get_logger("lading.network")


@dataclass(frozen=True, slots=True)
class Way:
    """A socket that listens, and where its connections lead to."""

    listener: socket.socket
    address: str
    port: int


class Relays:
    """All of them, by whom they are held for. Made with `open_relays`."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._scopes: dict[str, anyio.CancelScope] = {}

    def start(self, holder: str, ways: Sequence[Way]) -> None:
        """Pass connections on until `stop`. The sockets stay the caller's."""
        scope = self._scopes[holder] = anyio.CancelScope()
        for way in ways:
            way.listener.listen(_BACKLOG)
        self._tasks.start_soon(_serve_all, [(way, way.listener.dup()) for way in ways], scope)

    def stop(self, holder: str) -> None:
        """Take no more connections, and end those that there are. Idempotent."""
        if scope := self._scopes.pop(holder, None):
            scope.cancel()


@asynccontextmanager
async def open_relays() -> AsyncGenerator[Relays]:
    """Leaving ends all."""
    async with anyio.create_task_group() as tasks:
        yield Relays(tasks)
        tasks.cancel_scope.cancel()


async def _serve_all(ways: Sequence[tuple[Way, socket.socket]], scope: anyio.CancelScope) -> None:
    with scope:
        async with anyio.create_task_group() as tasks:
            for way, duplicate in ways:
                tasks.start_soon(_serve, way, duplicate)


async def _serve(way: Way, duplicate: socket.socket) -> None:
    with duplicate:
        duplicate.setblocking(False)
        async with (
            await anyio.abc.SocketListener.from_socket(duplicate) as listener,
            anyio.create_task_group() as tasks,
        ):
            while True:
                try:
                    client = await listener.accept()
                except OSError as exc:
                    _log.warning(
                        "connection_not_accepted", port=way.listener.getsockname()[1], reason=str(exc)
                    )
                    await anyio.sleep(_PAUSE)
                    continue
                tasks.start_soon(_pass_on, client, way)


async def _pass_on(client: anyio.abc.SocketStream, way: Way) -> None:
    async with client:
        try:
            server = await anyio.connect_tcp(way.address, way.port)
        except OSError:
            return
        async with server, anyio.create_task_group() as tasks:
            tasks.start_soon(_copy, client, server)
            tasks.start_soon(_copy, server, client)


async def _copy(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
    """Until the source says that no more comes, or one of them is gone."""
    with contextlib.suppress(*_GONE):
        async for data in source:
            await sink.send(data)
    with contextlib.suppress(*_GONE):
        await sink.send_eof()
