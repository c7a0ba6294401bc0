"""The server: what clients see whatever happens."""

import json

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web
from unit.api.serving import get, read_all, send, serving, until

from lading.api.engine.routing import Request, Router
from lading.api.engine.streams import (
    ProgressStream,
    array_response,
    encoded_response,
    json_response,
    open_stream,
    write,
)
from lading.errors import ConflictError

pytestmark = pytest.mark.anyio


async def echo(request: Request) -> web.StreamResponse:
    return json_response({"name": request.param("name"), "version": request.version})


def router() -> Router:
    table = Router()
    table.add("GET", "/images/{name:.*}/json", echo)
    return table


@pytest.mark.parametrize("prefix", ["", "/v1.40", "/v1.55"])
async def test_routes_answer_with_and_without_a_version(prefix: str) -> None:
    async with serving(router()) as path:
        answer = await get(path, f"{prefix}/images/library/alpine%3alatest/json")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["api-version"] == "1.55"
    document = json.loads(answer.body)
    assert document["name"] == "library/alpine:latest"
    assert document["version"] == ([1, 40] if "40" in prefix else [1, 55])


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        (
            "/v1.56/images/a/json",
            400,
            "client version 1.56 is too new. Maximum supported API version is 1.55",
        ),
        (
            "/v1.24/images/a/json",
            400,
            "client version 1.24 is too old. Minimum supported API version is 1.40, please",
        ),
        ("/nothing/here", 404, "page not found"),
        ("/images/a/../json", 400, "not acceptable"),
        ("/images/%2e%2e/json", 400, "not acceptable"),
        ("/images/a%2f%2e%2e%2fb/json", 400, "not acceptable"),
        ("/images//json", 400, "not acceptable"),
        ("/images/a%00b/json", 400, "not acceptable"),
        ("/images/a%0d%0aX:%20y/json", 400, "not acceptable"),
        ("/images/%ff/json", 400, "not UTF-8"),
        ("/images/" + "a" * 65536 + "/json", 400, "longer than"),
        ("/images/a/json?x=%00", 400, "NUL"),
    ],
)
async def test_bad_targets_get_a_clear_json_error(target: str, status: int, words: str) -> None:
    async with serving(router()) as path:
        answer = await get(path, target)
        assert answer.status == status
        assert answer.headers["content-type"] == "application/json"
        assert words in json.loads(answer.body)["message"]
        assert (await get(path, "/images/well/json")).status == 200


async def test_a_path_is_decoded_once() -> None:
    async with serving(router()) as path:
        answer = await get(path, "/images/%252e%252e/json")
    assert json.loads(answer.body)["name"] == "%2e%2e"


async def test_what_is_not_http_gets_json_too() -> None:
    async with serving(router()) as path:
        answer = await send(path, "NONSENSE\n\n")
    assert answer.status == 400
    assert json.loads(answer.body)["message"]


async def test_browsers_are_refused() -> None:
    async with serving(router()) as path:
        answer = await get(path, "/images/a/json", extra="Origin: http://evil.example\n")
    assert answer.status == 403


async def test_a_client_that_sends_no_headers_is_dropped() -> None:
    async with serving(router(), header_seconds=0.05) as path, await anyio.connect_unix(path) as stream:
        await stream.send(b"GET /images/a/json HTTP/1.1\r\n")
        with anyio.fail_after(5):
            assert await read_all(stream) == b""


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\r\n\r\n",
        b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /images/a/json HTTP/1.1\nHost: x\n\n",
    ],
)
async def test_a_connection_without_a_request_is_dropped(junk: bytes) -> None:
    async with serving(router(), header_seconds=0.05) as path, await anyio.connect_unix(path) as stream:
        await stream.send(junk)
        with anyio.fail_after(5):
            await read_all(stream)


async def test_empty_lines_before_a_request_mean_nothing() -> None:
    async with serving(router()) as path, await anyio.connect_unix(path) as stream:
        for _ in range(2):
            await stream.send(b"\r\n\r\n")
            await stream.send(b"\r\nGET /images/a/json HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b'"a"' in await until(stream, b"}\n")


async def test_a_request_may_take_longer_than_its_headers() -> None:
    async def slow(request: Request) -> web.StreamResponse:
        await anyio.sleep(0.2)
        return json_response({"slow": True})

    table = Router()
    table.add("GET", "/slow", slow)
    async with serving(table, header_seconds=0.05) as path:
        assert (await get(path, "/slow")).status == 200


async def test_a_client_that_ends_its_input_still_gets_its_answer() -> None:
    async def slow(request: Request) -> web.StreamResponse:
        await anyio.sleep(0.05)
        return json_response({"slow": True})

    table = Router()
    table.add("GET", "/slow", slow)
    async with serving(table) as path, await anyio.connect_unix(path) as stream:
        await stream.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await stream.send_eof()
        with anyio.fail_after(5):
            answer = await read_all(stream)
    assert b'{"slow":true}' in answer


async def test_a_client_that_ends_its_input_and_then_leaves_cancels_its_handler() -> None:
    began, cancelled = anyio.Event(), anyio.Event()

    async def handler(request: Request) -> web.StreamResponse:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    table = Router()
    table.add("GET", "/long", handler)
    async with serving(table) as path:
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.send_eof()
            await began.wait()
        with anyio.fail_after(5):
            await cancelled.wait()


async def test_a_request_cut_in_its_body_is_dropped() -> None:
    async def handler(request: Request) -> web.StreamResponse:
        return json_response(await request.json())

    table = Router()
    table.add("POST", "/auth", handler)
    async with serving(table) as path, await anyio.connect_unix(path) as stream:
        head = (
            b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
        )
        await stream.send(head + b"{")
        await stream.send_eof()
        with anyio.fail_after(5):
            assert await read_all(stream) == b""


async def test_a_client_that_asks_first_is_told_to_go_ahead() -> None:
    async def handler(request: Request) -> web.StreamResponse:
        return json_response(await request.json())

    table = Router()
    table.add("POST", "/auth", handler)
    async with serving(table) as path, await anyio.connect_unix(path) as stream:
        head = (
            b"POST /auth HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2\r\nConnection: close\r\n\r\n"
        )
        await stream.send(head)
        assert await until(stream, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send(b"{}")
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200 OK")


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with serving(router()) as path, await anyio.connect_unix(path) as stream:
        for name in ("a", "b"):
            await stream.send(f"GET /images/{name}/json HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert f'"{name}"'.encode() in await until(stream, b"}\n")


async def test_errors_are_a_status_before_the_first_object_and_in_band_after_it() -> None:
    async def handler(request: Request) -> web.StreamResponse:
        async with ProgressStream(request) as stream:
            if request.flag("late"):
                await stream.send({"status": "Pulling"})
            raise ConflictError("it conflicts")
        return stream.response

    table = Router()
    table.add("POST", "/images/create", handler)
    async with serving(table) as path:
        early = await get(path, "/images/create", "POST")
        late = await get(path, "/images/create?late=1", "POST")
    assert (early.status, json.loads(early.body)) == (409, {"message": "it conflicts"})
    assert late.status == 200
    assert b'{"status":"Pulling"}\r\n' in late.body
    assert b'{"errorDetail":{"message":"it conflicts"},"error":"it conflicts"}\r\n' in late.body
    assert late.body.endswith(b"0\r\n\r\n")


async def test_a_broken_stream_is_not_ended_as_if_it_were_whole() -> None:
    async def handler(request: Request) -> web.StreamResponse:
        response = await open_stream(request, "application/x-tar")
        await write(response, b"half")
        raise ConflictError("gone")

    table = Router()
    table.add("GET", "/images/get", handler)
    async with serving(table) as path:
        answer = await get(path, "/images/get")
    assert answer.body == b"4\r\nhalf\r\n"


async def test_a_bug_is_a_500_that_tells_no_secret() -> None:
    async def handler(request: Request) -> web.StreamResponse:
        raise ZeroDivisionError("password=hunter2")

    table = Router()
    table.add("GET", "/bug", handler)
    async with serving(table) as path:
        answer = await get(path, "/bug")
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert b"ZeroDivisionError" in answer.body


async def test_headers_of_a_stream_go_out_before_its_first_byte() -> None:
    leave = anyio.Event()

    async def handler(request: Request) -> web.StreamResponse:
        response = await open_stream(request)
        await leave.wait()
        return response

    table = Router()
    table.add("POST", "/containers/{name}/wait", handler)
    async with serving(table) as path, await anyio.connect_unix(path) as stream:
        await stream.send(b"POST /containers/a/wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        leave.set()


async def test_a_client_that_leaves_cancels_its_handler() -> None:
    began, cancelled = anyio.Event(), anyio.Event()

    async def handler(request: Request) -> web.StreamResponse:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    table = Router()
    table.add("GET", "/long", handler)
    async with serving(table) as path:
        async with await anyio.connect_unix(path) as stream:
            await stream.send(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
            await began.wait()
        with anyio.fail_after(5):
            await cancelled.wait()


@pytest.mark.parametrize("finishes", [False, True])
async def test_a_client_that_leaves_is_no_reason_to_stop_halfway(finishes: bool) -> None:
    """What is shielded runs to its end; a route that finishes runs on after it, others are cancelled there."""
    steps: list[str] = []
    begun, gone, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def handler(_: Request) -> web.StreamResponse:
        try:
            with anyio.CancelScope(shield=True):
                begun.set()
                await gone.wait()
                await anyio.sleep(0.01)
                steps.append("shielded")
            await anyio.lowlevel.checkpoint()
            steps.append("finished")
        finally:
            ended.set()
        return json_response({})

    table = Router()
    table.add("POST", "/containers/{name}/stop", handler, finishes=finishes)
    async with serving(table) as path:
        async with await anyio.connect_unix(path) as client:
            await client.send(b"POST /containers/a/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            await begun.wait()
        await anyio.sleep(0.05)  # the server sees that it has left
        gone.set()
        with anyio.fail_after(5):
            await ended.wait()
    assert steps == (["shielded", "finished"] if finishes else ["shielded"])


async def test_many_long_streams_do_not_hold_up_a_short_request() -> None:
    table = router()
    count = 0
    all_in = anyio.Event()

    async def handler(request: Request) -> web.StreamResponse:
        nonlocal count
        response = await open_stream(request)
        count += 1
        if count == 200:
            all_in.set()
        await anyio.sleep_forever()
        return response

    table.add("GET", "/events", handler, endless=True)
    async with serving(table) as path:
        streams = [await anyio.connect_unix(path) for _ in range(200)]
        for stream in streams:
            await stream.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        with anyio.fail_after(20):
            await all_in.wait()
            assert (await get(path, "/images/a/json")).status == 200
        for stream in streams:
            await stream.aclose()


async def test_stopping_ends_endless_streams_properly_and_lets_short_requests_finish() -> None:
    began, leave = anyio.Event(), anyio.Event()

    async def events(request: Request) -> web.StreamResponse:
        response = await open_stream(request)
        await anyio.sleep_forever()
        return response

    async def short(request: Request) -> web.StreamResponse:
        began.set()
        await leave.wait()
        return json_response({})

    table = Router()
    table.add("GET", "/events", events, endless=True)
    table.add("GET", "/short", short)
    async with anyio.create_task_group() as tasks, serving(table) as path:
        endless = await anyio.connect_unix(path)
        await endless.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(endless, b"\r\n\r\n")
        other = await anyio.connect_unix(path)
        await other.send(b"GET /short HTTP/1.1\r\nHost: x\r\n\r\n")
        await began.wait()

        async def finish() -> None:
            assert (await read_all(endless)).endswith(b"0\r\n\r\n")
            leave.set()
            assert (await read_all(other)).startswith(b"HTTP/1.1 200")

        tasks.start_soon(finish)
    await endless.aclose()
    await other.aclose()


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"{", "application/json", "invalid JSON"),
        (b"[]", "application/json", "expected an object"),
        (b"{}", "text/plain", "Content-Type"),
        (b"[" * 100_000, "application/json", "invalid JSON"),
    ],
)
async def test_bad_json_bodies_are_refused(body: bytes, kind: str, words: str) -> None:
    async def handler(request: Request) -> web.StreamResponse:
        return json_response(await request.json())

    table = Router()
    table.add("POST", "/auth", handler)
    async with serving(table) as path:
        head = f"POST /auth HTTP/1.1\nHost: x\nConnection: close\nContent-Type: {kind}\nContent-Length: {len(body)}\n\n"
        answer = await send(path, head, body)
        twin = await send(
            path,
            head.replace(kind, "application/json").replace(f"Length: {len(body)}", "Length: 7"),
            b'{"a":1}',
        )
    assert answer.status == 400
    assert words in json.loads(answer.body)["message"]
    assert json.loads(twin.body) == {"a": 1}


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_over_its_cap_is_refused(chunked: bool) -> None:
    async def handler(request: Request) -> web.StreamResponse:
        return json_response({"length": len(await request.body(limit=10))})

    table = Router()
    table.add("POST", "/auth", handler)
    async with serving(table) as path:
        head = "POST /auth HTTP/1.1\nHost: x\nConnection: close\n"
        if chunked:
            answer = await send(
                path, head + "Transfer-Encoding: chunked\n\n", b"b\r\nhello world\r\n0\r\n\r\n"
            )
        else:
            answer = await send(path, head + "Content-Length: 11\n\n", b"hello world")
        twin = await send(path, head + "Content-Length: 10\n\n", b"hello worl")
    assert answer.status == 400
    assert b"too large" in answer.body
    assert json.loads(twin.body) == {"length": 10}


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 512, 10_000])
async def test_an_array_of_any_length_is_one_document_now_and_when_it_is_kept(count: int) -> None:
    kept: list[bytes] = []

    async def handler(request: Request) -> web.StreamResponse:
        if kept:
            return encoded_response(request, kept[0])
        response, body = await array_response(
            request, ({"number": n, "pad": "x" * 200} for n in range(count))
        )
        kept.append(body)
        return response

    table = Router()
    table.add("GET", "/images/json", handler)
    expected = [{"number": n, "pad": "x" * 200} for n in range(count)]
    async with serving(table) as path:
        first = await send(path, "GET /images/json HTTP/1.0\nHost: docker\n\n")
        again = await get(path, "/images/json")
    assert json.loads(first.body) == json.loads(again.body) == expected
    assert first.body == again.body
    assert int(again.headers["content-length"]) == len(again.body)
