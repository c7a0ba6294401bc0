"""Both roles of ttrpc against each other, and against peers that misbehave."""

import os
import re
import socket
from pathlib import Path

import anyio
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from lading.errors import (
    ConflictError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    UnsupportedError,
)
from lading.formats.ttrpc import Frame, FrameDecoder, Kind, encode
from lading.runtime._pb import rpc_pb2
from lading.runtime.ttrpc import DeadlineError, DisconnectedError, Metadata, connect, serve

pytestmark = pytest.mark.anyio


async def echo(payload: bytes, metadata: Metadata) -> bytes:
    return StringValue(
        value=StringValue.FromString(payload).value + metadata.get("suffix", "")
    ).SerializeToString()


async def test_a_call_brings_its_metadata_and_its_answer(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with serve(path, {"a.B/Echo": echo}):
        assert os.stat(path).st_mode & 0o777 == 0o600
        client = await connect(f"unix://{path}")
        answer = await client.call(
            "a.B", "Echo", StringValue(value="x"), StringValue, metadata={"suffix": "y"}, timeout=5
        )
        assert answer.value == "xy"
        client.close()
    assert os.listdir(tmp_path) == []


async def test_answers_come_in_any_order(tmp_path: Path) -> None:
    gate = anyio.Event()
    done: list[str] = []

    async def slow(payload: bytes, _: Metadata) -> bytes:
        await gate.wait()
        return payload

    async with serve(str(tmp_path / "s"), {"a.B/Slow": slow, "a.B/Echo": echo}):
        client = await connect(str(tmp_path / "s"))

        async def call(method: str) -> None:
            await client.call("a.B", method, StringValue(value="x"), StringValue)
            done.append(method)

        async with anyio.create_task_group() as group:
            group.start_soon(call, "Slow")
            await call("Echo")
            gate.set()
        assert done == ["Echo", "Slow"]
        client.close()


@pytest.mark.parametrize("error", [NotFoundError("gone"), ConflictError("busy"), UnavailableError("later")])
async def test_errors_keep_their_class(tmp_path: Path, error: Exception) -> None:
    async def fail(_: bytes, __: Metadata) -> bytes:
        raise error

    async with serve(str(tmp_path / "s"), {"a.B/Fail": fail}):
        client = await connect(str(tmp_path / "s"))
        with pytest.raises(type(error), match=re.escape(str(error))):
            await client.call("a.B", "Fail", Empty(), Empty)
        with pytest.raises(UnsupportedError, match=r"a\.B/Other"):
            await client.call("a.B", "Other", Empty(), Empty)
        client.close()


async def test_a_bug_in_a_handler_ends_one_call_only(tmp_path: Path) -> None:
    async def fail(_: bytes, __: Metadata) -> bytes:
        raise ZeroDivisionError

    async with serve(str(tmp_path / "s"), {"a.B/Fail": fail, "a.B/Echo": echo}):
        client = await connect(str(tmp_path / "s"))
        with pytest.raises(InternalError):
            await client.call("a.B", "Fail", Empty(), Empty)
        assert (await client.call("a.B", "Echo", StringValue(value="x"), StringValue)).value == "x"
        client.close()


async def test_the_deadline_holds_on_both_sides(tmp_path: Path) -> None:
    cancelled = anyio.Event()

    async def hang(_: bytes, __: Metadata) -> bytes:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return b""

    async with serve(str(tmp_path / "s"), {"a.B/Hang": hang}):
        client = await connect(str(tmp_path / "s"))
        with pytest.raises(UnavailableError):
            await client.call("a.B", "Hang", Empty(), Empty, timeout=0.05)
        with anyio.fail_after(5):
            await cancelled.wait()
        client.close()


async def test_the_end_of_the_connection_fails_every_call(tmp_path: Path) -> None:
    failed = 0
    with _listening(tmp_path / "s") as listener:
        client = await connect(str(tmp_path / "s"))

        async def call() -> None:
            nonlocal failed
            with pytest.raises(DisconnectedError):
                await client.call("a.B", "Any", Empty(), Empty)
            failed += 1

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(call)
            peer, _ = listener.accept()
            await anyio.wait_readable(peer)
            peer.close()
        assert failed == 3
        await call()


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.REQUEST])
async def test_a_server_that_sends_what_it_may_not_is_dropped(tmp_path: Path, kind: Kind) -> None:
    await _misbehave(tmp_path, encode(Frame(stream=1, kind=kind, payload=b"")))


async def test_a_response_to_nothing_is_not_taken(tmp_path: Path) -> None:
    await _misbehave(tmp_path, encode(Frame(stream=99, kind=Kind.RESPONSE, payload=b"")))


async def test_bytes_that_are_no_ttrpc_end_the_connection(tmp_path: Path) -> None:
    await _misbehave(tmp_path, b"HTTP/1.1 400 Bad Request\r\n")


async def _misbehave(tmp_path: Path, answer: bytes) -> None:
    with _listening(tmp_path / "s") as listener:
        client = await connect(str(tmp_path / "s"))

        async def peer() -> None:
            connection, _ = listener.accept()
            with connection:
                await anyio.wait_readable(connection)
                connection.send(answer)
                await client.wait_closed()

        async with anyio.create_task_group() as group:
            group.start_soon(peer)
            with pytest.raises(DisconnectedError):
                await client.call("a.B", "Any", Empty(), Empty, timeout=5)


@pytest.mark.parametrize(
    "frames",
    [
        b"\xff" * 10,
        encode(Frame(stream=2, kind=Kind.REQUEST, payload=b"")),
        encode(Frame(stream=1, kind=Kind.DATA, payload=b"")),
        encode(Frame(stream=3, kind=Kind.REQUEST, payload=b""))
        + encode(Frame(stream=1, kind=Kind.REQUEST, payload=b"")),
    ],
)
async def test_a_client_that_misbehaves_is_dropped_and_others_go_on(tmp_path: Path, frames: bytes) -> None:
    async with serve(str(tmp_path / "s"), {"a.B/Echo": echo}):
        good = await connect(str(tmp_path / "s"))
        async with await anyio.connect_unix(str(tmp_path / "s")) as bad:
            await bad.send(frames)
            with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:
                    await bad.receive()
        assert (await good.call("a.B", "Echo", StringValue(value="x"), StringValue)).value == "x"
        good.close()


async def test_a_late_answer_is_let_go(tmp_path: Path) -> None:
    with _listening(tmp_path / "s") as listener:
        client = await connect(str(tmp_path / "s"))
        with pytest.raises(DeadlineError):
            await client.call("a.B", "Any", Empty(), Empty, timeout=0.01)
        peer, _ = listener.accept()
        with peer:
            peer.send(encode(Frame(stream=1, kind=Kind.RESPONSE, payload=b"")))
            assert [frame.stream for frame in FrameDecoder().feed(peer.recv(4096))] == [1]

            async def answer() -> None:
                await anyio.wait_readable(peer)
                payload = rpc_pb2.Response(payload=StringValue(value="second").SerializeToString())
                peer.send(encode(Frame(stream=3, kind=Kind.RESPONSE, payload=payload.SerializeToString())))

            async with anyio.create_task_group() as group:
                group.start_soon(answer)
                assert (await client.call("a.B", "Any", Empty(), StringValue, timeout=5)).value == "second"
        client.close()


async def test_a_message_over_the_limit_is_not_sent(tmp_path: Path) -> None:
    async with serve(str(tmp_path / "s"), {"a.B/Echo": echo}):
        client = await connect(str(tmp_path / "s"))
        with pytest.raises(ResourceExhaustedError):
            await client.call("a.B", "Echo", StringValue(value="x" * (4 << 20)), StringValue)
        assert (await client.call("a.B", "Echo", StringValue(value="x"), StringValue)).value == "x"
        client.close()


async def test_an_address_that_is_dead_or_strange_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="nowhere"):
        await connect(str(tmp_path / "nowhere"))
    with pytest.raises(UnsupportedError):
        await connect("vsock://2:1024")


def _listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener
