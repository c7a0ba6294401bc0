"""Hijack, as a raw socket sees it."""

import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.abc
import pytest
from aiohttp import web
from unit.api.serving import get, read_all, serving, until

from lading.api.engine.hijack import HijackedStream, hijack
from lading.api.engine.routing import Request, Router
from lading.errors import CancelledError, NotFoundError

pytestmark = pytest.mark.anyio
UPGRADE = b"POST /containers/a/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
TAKEN = (
    b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)


def attach(talk: Callable[[HijackedStream], Awaitable[None]], *, multiplexed: bool = False) -> Router:
    async def handler(request: Request) -> web.StreamResponse:
        await request.body()
        if request.param("name") == "missing":
            raise NotFoundError("No such container: missing")
        async with hijack(request, multiplexed=multiplexed) as stream:
            await talk(stream)
        return stream.response

    async def ping(request: Request) -> web.StreamResponse:
        return web.Response(body=b"OK")

    table = Router()
    table.add("POST", "/containers/{name}/attach", handler)
    table.add("GET", "/_ping", ping)
    return table


async def cat(stream: HijackedStream) -> None:
    while data := await stream.read():
        await stream.write(data)
    await stream.write(b"[end]")


async def test_bytes_behind_the_headers_belong_to_the_stream() -> None:
    async with serving(attach(cat)) as path, await anyio.connect_unix(path) as client:
        await client.send(UPGRADE + b"\r\nearly ")
        assert await until(client, b"early ") == TAKEN + b"early "
        await client.send(b"late")
        await until(client, b"late")
        await client.send_eof()
        assert await read_all(client) == b"[end]"


async def test_everything_at_once_and_end_of_input() -> None:
    async with serving(attach(cat)) as path, await anyio.connect_unix(path) as client:
        await client.send(UPGRADE + b"\r\nall")
        await client.send_eof()
        with anyio.fail_after(10):
            assert await read_all(client) == TAKEN + b"all[end]"


async def test_a_body_comes_before_the_stream() -> None:
    async with serving(attach(cat)) as path, await anyio.connect_unix(path) as client:
        head = b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        await client.send(UPGRADE + head + b"{}after")
        assert await until(client, b"after") == TAKEN + b"after"
        await client.send_eof()
        assert await read_all(client) == b"[end]"


async def test_our_end_of_output_leaves_input_open() -> None:
    got: list[bytes] = []

    async def talk(stream: HijackedStream) -> None:
        await stream.write(b"bye")
        await stream.write_eof()
        while data := await stream.read():
            got.append(data)

    async with serving(attach(talk)) as path, await anyio.connect_unix(path) as client:
        await client.send(UPGRADE + b"\r\n")
        assert await read_all(client) == TAKEN + b"bye"
        await client.send(b"still here")
        await client.send_eof()
    assert b"".join(got) == b"still here"


async def test_output_is_whole_although_input_is_unread() -> None:
    payload = b"x" * 5_000_000

    async def talk(stream: HijackedStream) -> None:
        await stream.write(payload)

    async with serving(attach(talk)) as path, await anyio.connect_unix(path) as client:
        await client.send(UPGRADE + b"\r\nnobody reads this")
        assert len(await read_all(client)) == len(TAKEN) + len(payload)


async def test_without_upgrade_the_answer_is_a_raw_200() -> None:
    async def talk(stream: HijackedStream) -> None:
        await stream.write(b"hello")
        assert await stream.read() == b"in"

    async with serving(attach(talk)) as path, await anyio.connect_unix(path) as client:
        await client.send(b"POST /containers/a/attach HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await until(client, b"hello")
        assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n")
        await client.send(b"in")
        await client.send_eof()


async def test_a_refused_upgrade_is_an_ordinary_answer_and_the_connection_goes_on() -> None:
    async with serving(attach(cat)) as path, await anyio.connect_unix(path) as client:
        await client.send(UPGRADE.replace(b"/a/", b"/missing/") + b"\r\n")
        answer = await until(client, b"}\n")
        assert answer.startswith(b"HTTP/1.1 404")
        await client.send(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await until(client, b"OK")).startswith(b"HTTP/1.1 200")


async def test_multiplexed_streams_say_so() -> None:
    async with serving(attach(cat, multiplexed=True)) as path, await anyio.connect_unix(path) as client:
        await client.send(UPGRADE + b"\r\n")
        assert b"multiplexed-stream" in await until(client, b"\r\n\r\n")
        await client.send_eof()
        await read_all(client)


async def test_a_client_that_never_reads_is_dropped() -> None:
    dropped = anyio.Event()

    async def handler(request: Request) -> web.StreamResponse:
        async with hijack(request, deadline=0.1) as stream:
            try:
                while True:
                    await stream.write(b"x" * 65536)
            except CancelledError:
                dropped.set()
                raise
        return stream.response

    table = Router()
    table.add("POST", "/containers/{name}/attach", handler)
    async with serving(table) as path, await anyio.connect_unix(path) as client:
        await client.send(UPGRADE + b"\r\n")
        with anyio.fail_after(10):
            await dropped.wait()


async def test_a_client_that_floods_is_held_back() -> None:
    sizes: list[int] = []

    async def talk(stream: HijackedStream) -> None:
        await anyio.wait_all_tasks_blocked()
        sizes.append(len(stream._buffer))
        while await stream.read():
            sizes.append(len(stream._buffer))
        await stream.write(b"done")

    async with (
        serving(attach(talk)) as path,
        await anyio.connect_unix(path) as client,
        anyio.create_task_group() as tasks,
    ):

        async def flood() -> None:
            await client.send(UPGRADE + b"\r\n" + b"y" * 8_000_000)
            await client.send_eof()

        tasks.start_soon(flood)
        assert (await read_all(client)).endswith(b"done")
    assert max(sizes) < 1_000_000


async def test_a_client_that_leaves_cancels_the_handler() -> None:
    began, ended = anyio.Event(), anyio.Event()

    async def talk(stream: HijackedStream) -> None:
        began.set()
        try:
            while True:
                await stream.write(b"tick")
                await anyio.sleep(0.001)
        finally:
            ended.set()

    async with serving(attach(talk)) as path:
        async with await anyio.connect_unix(path) as client:
            await client.send(UPGRADE + b"\r\n")
            await began.wait()
        with anyio.fail_after(5):
            await ended.wait()
        assert (await get(path, "/_ping")).status == 200


async def test_the_end_of_input_over_tls_leaves_output_open(tmp_path: Path) -> None:
    """What ``docker run`` does over TCP: it sends ``close_notify`` once attached, and reads on."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-days",
        "2",
    ]
    await anyio.run_process(
        [*words, "-keyout", str(key), "-out", str(certificate)], stderr=subprocess.DEVNULL
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing)

    async with serving(attach(cat), tls=server) as path, await anyio.connect_unix(path) as client:

        async def turn(step: Callable[[], object]) -> object:
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    result = None
                if waiting := outgoing.read():
                    await client.send(waiting)
                if result is not None:
                    return result
                incoming.write(await client.receive())

        with anyio.fail_after(10):
            await turn(lambda: tls.do_handshake() or True)
            await turn(lambda: tls.write(UPGRADE + b"\r\nall"))
            data = b""
            while b"all" not in data:
                data += bytes(await turn(lambda: tls.read(4096)))  # pyright: ignore[reportArgumentType]
            with pytest.raises(ssl.SSLWantReadError):
                tls.unwrap()
            await client.send(outgoing.read())
            data = b""
            while b"[end]" not in data:
                data += bytes(await turn(lambda: tls.read(4096)))  # pyright: ignore[reportArgumentType]
            with pytest.raises(anyio.EndOfStream):
                while True:
                    await client.receive()
