"""gRPC over a byte stream: both sides of this package against each other; Go's side is tests/e2e/test_build.py's."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import h2.config
import h2.connection
import pytest
from hpack.huffman import HuffmanEncoder

from lading.kit.grpc.client import Channel
from lading.kit.grpc.connection import open_connection
from lading.kit.grpc.server import Handlers, ServerCall, serve
from lading.kit.grpc.status import Code, GrpcError, parse_timeout, parse_trailers, trailers
from lading.testing.pipes import PipeEnd, pipe

pytestmark = pytest.mark.anyio
LIMIT = 16 << 20


@asynccontextmanager
async def connected(handlers: Handlers) -> AsyncGenerator[tuple[Channel, PipeEnd]]:
    ours, theirs = pipe()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with theirs:
                await serve(theirs, handlers, failed=lambda error, _: GrpcError(Code.INTERNAL, repr(error)))

        tasks.start_soon(run)
        with ours:
            async with open_connection(ours, client=True, limit=LIMIT) as connection:
                yield Channel(connection), ours


async def echo(call: ServerCall) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


async def test_unary_calls_and_metadata() -> None:
    async def shout(call: ServerCall) -> None:
        await call.send((await call.only()).upper() + call.value("suffix").encode())

    async with connected({"/a.B/C": shout}) as (channel, _):
        assert await channel.call("/a.B/C", b"hello", [("suffix", "!")]) == b"HELLO!"


async def test_a_message_as_large_as_the_limit_passes_and_a_larger_one_does_not() -> None:
    async with connected({"/a.B/C": echo}) as (channel, _):
        assert len(await channel.call("/a.B/C", bytes(LIMIT))) == LIMIT
        with pytest.raises(GrpcError) as caught:
            await channel.call("/a.B/C", bytes(LIMIT + 1))
        assert caught.value.code is Code.CANCELLED


async def test_errors_come_with_their_details() -> None:
    async def fail(call: ServerCall) -> None:
        raise GrpcError(Code.NOT_FOUND, "naïve: 100% \n gone", details=b"\x08\x05\xff")

    async with connected({"/a.B/C": fail}) as (channel, _):
        with pytest.raises(GrpcError) as caught:
            await channel.call("/a.B/C", b"")
    error = caught.value
    assert (error.code, error.message, error.details) == (
        Code.NOT_FOUND,
        "naïve: 100% \n gone",
        b"\x08\x05\xff",
    )


async def test_headers_go_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Huffman code of `hpack` takes the square of a value's length: a long error would hold up the whole process."""

    def never(encoder: HuffmanEncoder, text: bytes | None) -> bytes:
        raise AssertionError(f"{len(text or b'')} bytes of a header were encoded")

    async def fail(call: ServerCall) -> None:
        raise GrpcError(Code.NOT_FOUND, "long", details=b"x" * 40_000)

    monkeypatch.setattr(HuffmanEncoder, "encode", never)
    async with connected({"/a.B/C": fail}) as (channel, _):
        with pytest.raises(GrpcError) as caught:
            await channel.call("/a.B/C", b"")
    assert len(caught.value.details) == 40_000


async def test_an_error_of_a_handler_is_translated_and_ends_no_other_call() -> None:
    async def fail(call: ServerCall) -> None:
        raise ValueError("bug")

    async with (
        connected({"/a.B/Fail": fail, "/a.B/Echo": echo}) as (channel, _),
        channel.open("/a.B/Echo") as call,
    ):
        await call.send(b"1")
        assert await call.receive() == b"1"
        with pytest.raises(GrpcError, match="bug"):
            await channel.call("/a.B/Fail", b"")
        await call.send(b"2")
        assert await call.receive() == b"2"
        await call.close_send()
        assert await call.receive() is None


async def test_unknown_methods_are_unimplemented() -> None:
    async with connected({}) as (channel, _):
        with pytest.raises(GrpcError) as caught:
            await channel.call("/a.B/C", b"")
    assert caught.value.code is Code.UNIMPLEMENTED


async def test_a_slow_call_holds_up_no_other() -> None:
    blocked = anyio.Event()

    async def flood(call: ServerCall) -> None:
        for _ in range(64):
            await call.send(bytes(1 << 20))
        blocked.set()

    async with (
        connected({"/a.B/Flood": flood, "/a.B/Echo": echo}) as (channel, _),
        channel.open("/a.B/Flood") as slow,
    ):
        await slow.close_send()
        assert await slow.receive() is not None
        for number in range(50):
            assert await channel.call("/a.B/Echo", b"%d" % number) == b"%d" % number
        assert not blocked.is_set(), "the flood was to be held back by its own window"
        count = 1
        while await slow.receive() is not None:
            count += 1
        assert count == 64


async def test_leaving_a_call_cancels_its_handler() -> None:
    cancelled = anyio.Event()

    async def wait(call: ServerCall) -> None:
        try:
            call.begin()
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with connected({"/a.B/C": wait}) as (channel, _):
        async with channel.open("/a.B/C") as call:
            await call.send(b"")
        with anyio.fail_after(5):
            await cancelled.wait()


async def test_a_client_that_is_killed_cancels_what_it_had_under_way() -> None:
    began, cancelled = anyio.Event(), anyio.Event()

    async def wait(call: ServerCall) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async with connected({"/a.B/C": wait}) as (channel, end), channel.open("/a.B/C") as call:
        await call.send(b"")
        await began.wait()
        end.close()
        with anyio.fail_after(5):
            await cancelled.wait()
        with pytest.raises(GrpcError):
            await call.receive()


async def test_a_deadline_of_the_client_ends_the_call() -> None:
    async def wait(call: ServerCall) -> None:
        await anyio.sleep_forever()

    async with connected({"/a.B/C": wait}) as (channel, _):
        with pytest.raises(GrpcError) as caught:
            await channel.call("/a.B/C", b"", [("grpc-timeout", "10m")])
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_what_is_not_http2_ends_the_connection() -> None:
    ours, theirs = pipe()
    with ours:
        await ours.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        with theirs, anyio.fail_after(5):
            await serve(theirs, {}, failed=lambda error, _: GrpcError(Code.INTERNAL, repr(error)))
        parts = b""
        while data := await ours.read():
            parts += data

    assert parts, "the settings came before the end"


def test_trailers_survive_the_way_there_and_back() -> None:
    assert parse_trailers(trailers(None)) is None
    error = parse_trailers(trailers(GrpcError(Code.ABORTED, "ä%\n", details=b"\0\1")))
    assert error is not None
    assert (error.code, error.message, error.details) == (Code.ABORTED, "ä%\n", b"\0\1")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([], Code.UNKNOWN),
        ([("grpc-status", "x")], Code.UNKNOWN),
        ([("grpc-status", "99")], Code.UNKNOWN),
        ([("grpc-status", "5"), ("grpc-status-details-bin", "!")], Code.NOT_FOUND),
    ],
)
def test_bad_trailers_are_errors(fields: list[tuple[str, str]], code: Code) -> None:
    error = parse_trailers(fields)
    assert error is not None
    assert error.code is code


@pytest.mark.parametrize(
    ("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("", None), ("5x", None)]
)
def test_timeouts(text: str, seconds: float | None) -> None:
    assert parse_timeout(text) == seconds


async def test_what_nobody_reads_is_bounded() -> None:
    """A thousand calls that each hold a message back: the peer is kept waiting, and small calls go on until then."""
    opened = anyio.Event()

    async def hold(call: ServerCall) -> None:
        opened.set()
        await anyio.sleep_forever()

    async with (
        connected({"/a.B/Hold": hold, "/a.B/Echo": echo}) as (channel, _),
        anyio.create_task_group() as tasks,
    ):
        sent = 0

        async def flood() -> None:
            nonlocal sent
            async with channel.open("/a.B/Hold") as call:
                await call.send(bytes(8 << 20))
                sent += 1
                await anyio.sleep_forever()

        for _ in range(8):
            tasks.start_soon(flood)
        with anyio.fail_after(60):
            while sent < 8:
                await anyio.sleep(0.01)
            assert await channel.call("/a.B/Echo", b"x") == b"x"
            for _ in range(16):
                tasks.start_soon(flood)
            while sent < 14:
                await anyio.sleep(0.01)
        await anyio.sleep(0.5)
        assert 14 <= sent <= 16  # 128 MiB
        tasks.cancel_scope.cancel()


async def test_memory_of_calls_that_are_over_is_given_back() -> None:
    async def look_away(call: ServerCall) -> None:
        await call.send(b"enough")

    async with connected({"/a.B/Away": look_away}) as (channel, _):
        with anyio.fail_after(60):
            for _ in range(40):
                async with channel.open("/a.B/Away") as call:
                    await call.send(bytes(8 << 20))
                    assert await call.receive() == b"enough"


async def test_a_peer_that_takes_no_answers_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lading.kit.grpc.connection._UNSENT_WHILE_READING", 64 << 10)
    ours, theirs = pipe()
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    pings = (b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)) * 1000
    failed = partial(GrpcError, Code.INTERNAL)
    with theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(serve, theirs, {}, failed=lambda error, _: failed(repr(error))))
            with ours:
                await ours.write(client.data_to_send())
                with anyio.move_on_after(10) as scope:
                    for _ in range(1000):
                        await ours.write(pings)
                assert scope.cancelled_caught  # it reads no further until somebody takes what it says
            tasks.cancel_scope.cancel()
