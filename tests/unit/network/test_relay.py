"""Connections that are passed on, with both ends on loopback."""

import socket
from collections.abc import AsyncGenerator, Generator

import anyio
import anyio.abc
import pytest

from lading.network.relay import Relays, Way, open_relays

pytestmark = pytest.mark.anyio


@pytest.fixture
def held() -> Generator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        yield listener


@pytest.fixture
async def relays() -> AsyncGenerator[Relays]:
    async with open_relays() as relays:
        yield relays


async def shout(stream: anyio.abc.SocketStream) -> None:
    """Answer all that came, in capitals, once no more comes."""
    async with stream:
        said = b"".join([part async for part in stream])
        await stream.send(said.upper())


async def test_bytes_and_ends_are_passed_on(held: socket.socket, relays: Relays) -> None:
    server = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = server.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, shout)
        relays.start("web", [Way(held, "127.0.0.1", port)])
        for _ in range(2):
            async with await anyio.connect_tcp(*held.getsockname()) as client:
                await client.send(b"x" * 1_000_000)
                await client.send_eof()
                assert b"".join([part async for part in client]) == b"X" * 1_000_000
        tasks.cancel_scope.cancel()
    await server.aclose()


async def test_a_connection_that_leads_nowhere_is_closed(held: socket.socket, relays: Relays) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    relays.start("web", [Way(held, "127.0.0.1", port)])
    async with await anyio.connect_tcp(*held.getsockname()) as client:
        assert [part async for part in client] == []


async def test_stopping_ends_connections_and_leaves_the_socket(held: socket.socket, relays: Relays) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        relays.start("web", [Way(held, "127.0.0.1", silent.getsockname()[1])])
        async with await anyio.connect_tcp(*held.getsockname()) as client:
            await client.send(b"a")
            relays.stop("web")
            relays.stop("web")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await client.receive()
    assert held.getsockname()[1]
    relays.start("web", [])
