"""A server on a private Unix socket, and a raw client that sends exactly the bytes it is told to."""

import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.abc

from lading.api.engine.routing import Router
from lading.api.engine.server import EngineServer, Listener


@asynccontextmanager
async def serving(
    router: Router, *, tls: ssl.SSLContext | None = None, **options: float
) -> AsyncGenerator[str]:
    with TemporaryDirectory() as directory:
        path = str(Path(directory, "engine.sock"))
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(path)
        async with EngineServer(router, **options).serving([Listener(socket=listening, tls=tls)]):
            yield path


class Answer:
    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:])}


async def read_all(stream: anyio.abc.ByteStream) -> bytes:
    data = b""
    try:
        async for part in stream:
            data += part
    except anyio.BrokenResourceError:
        pass
    return data


async def send(path: str, text: str, body: bytes = b"") -> Answer:
    """One request on its own connection."""
    async with await anyio.connect_unix(path) as stream:
        await stream.send(text.replace("\n", "\r\n").encode("utf-8", "surrogateescape") + body)
        with anyio.fail_after(20):
            return Answer(await read_all(stream))


async def get(path: str, target: str, method: str = "GET", extra: str = "") -> Answer:
    return await send(path, f"{method} {target} HTTP/1.1\nHost: docker\nConnection: close\n{extra}\n")


async def until(stream: anyio.abc.ByteStream, mark: bytes) -> bytes:
    """Read until ``mark`` has come."""
    data = b""
    with anyio.fail_after(20):
        while mark not in data:
            data += await stream.receive()
    return data
