"""HTTP heads, challenges and the window: what is pure."""

import random
import threading

import pytest

from lading.remotes import challenge, http1
from lading.remotes.challenge import Challenge
from lading.remotes.errors import ProtocolError
from lading.remotes.http1 import CHUNKED, NO_LENGTH
from lading.remotes.window import OUTSTANDING, SinkError, Window


@pytest.mark.parametrize(
    ("head", "method", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "GET", 5),
        (b"HTTP/1.1 200\r\nContent-Length: 0", "GET", 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", "GET", CHUNKED),
        (b"HTTP/1.1 200 OK", "GET", NO_LENGTH),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "HEAD", 0),
        (b"HTTP/1.1 204 No\r\nContent-Length: 5", "GET", 0),
        (b"HTTP/1.1 304 No", "GET", 0),
    ],
)
def test_lengths(head: bytes, method: str, length: int) -> None:
    assert http1.body_length(http1.parse_head(head), method) == length


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/2 200 OK",
        b"HTTP/1.1 99 X",
        b"HTTP/1.1 200 OK\r\nBad Name: x",
        b"HTTP/1.1 200 OK\r\n folded",
        b"HTTP/1.1 200 OK\r\nX: a\nb",
        b"HTTP/1.1 200 OK\r\n: x",
    ],
)
def test_heads_that_are_none(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        http1.parse_head(head)


def test_requests_cannot_be_split() -> None:
    assert http1.encode_request("GET", "/a", [("X", "y")]) == b"GET /a HTTP/1.1\r\nX: y\r\n\r\n"
    for method, target, fields in (
        ("GET", "/a b", []),
        ("GET", "/a\r\nX: y", []),
        ("GET", "/ä", []),
        ("GET", "/", [("X", "a\r\nY: b")]),
        ("GET", "/", [("X Y", "a")]),
        ("GET", "/", [("X", "\u20ac")]),
    ):
        with pytest.raises(ProtocolError):
            http1.encode_request(method, target, fields)


@pytest.mark.parametrize(("text", "held"), [("0-0", 0), ("0-9", 10), ("bytes=0-9", 10)])
def test_how_much_of_an_upload_is_there(text: str, held: int) -> None:
    assert http1.parse_uploaded(text) == held


@pytest.mark.parametrize("text", ["", "5-9", "0-", "0-9 ", "0-1_0", "-1"])
def test_how_much_of_an_upload_cannot_be_there(text: str) -> None:
    with pytest.raises(ProtocolError):
        http1.parse_uploaded(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('Bearer realm="https://a/t",service="s",scope="x:y:pull,push"', [Challenge("bearer", {"realm": "https://a/t", "service": "s", "scope": "x:y:pull,push"})]),
        ("Basic realm=simple", [Challenge("basic", {"realm": "simple"})]),
        ('Negotiate, Basic realm="a, b"', [Challenge("negotiate", {}), Challenge("basic", {"realm": "a, b"})]),
        ('BEARER REALM = "q\\"uo\\\\te"', [Challenge("bearer", {"realm": 'q"uo\\te'})]),
        ("Digest abc==, Basic realm=x", [Challenge("digest", {}), Challenge("basic", {"realm": "x"})]),
        (', , Basic realm="x" ,', [Challenge("basic", {"realm": "x"})]),
        ('Bearer realm="a",realm="b"', [Challenge("bearer", {"realm": "a"})]),
        ("", []),
        ('"', []),
        ("Basic", [Challenge("basic", {})]),
    ],
)  # fmt: skip
def test_challenges(text: str, found: list[Challenge]) -> None:
    assert challenge.parse([text]) == found


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    "text", ['B realm="' + "\\" * 100_000, "a" * 100_000, "a=" * 50_000, ", " * 50_000, 'x y="' * 20_000]
)
def test_challenges_that_mean_harm_take_no_time(text: str) -> None:
    challenge.parse([text])


@pytest.mark.parametrize("seed", range(5))
def test_chunks_are_delivered_in_order(seed: int) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(100_000)
    received = bytearray()
    window = Window(received.extend, 1000, len(data))
    received += data[:1000]
    threads: list[threading.Thread] = []

    def work(random_: random.Random) -> None:
        while chunk := window.claim(3000) or (window.unclaimed and window.claim(3000)):
            while not chunk.complete:
                end = min(chunk.end, chunk.next + random_.randrange(1, 900))
                window.put(chunk, memoryview(data)[chunk.next : end])
            window.finish(chunk)

    for n in range(4):
        threads.append(threading.Thread(target=work, args=(random.Random(n),)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    work(chance)
    assert bytes(received) == data


def test_a_chunk_that_two_threads_could_finish_is_delivered_once() -> None:
    """Its own thread completes it and is about to finish it, when the thread of the chunk before it comes by and does."""
    received: list[bytes] = []

    def sink(view: memoryview) -> None:
        received.append(bytes(view))
        if view == b"second":
            window.finish(second)  # its own thread, meanwhile

    window = Window(sink, 0, 17)
    first, second, third = (window.claim(length) for length in (5, 6, 6))
    assert first is not None
    assert second is not None
    assert third is not None
    window.put(second, memoryview(b"second"))
    window.put(first, memoryview(b"first"))
    window.finish(first)
    assert received == [b"first", b"second"]
    window.put(third, memoryview(b"third!"))
    window.finish(third)
    assert received == [b"first", b"second", b"third!"]


def test_a_window_is_bounded() -> None:
    window = Window(lambda _: None, 0, 1 << 30)
    chunks = [window.claim(10) for _ in range(OUTSTANDING + 3)]
    assert chunks.count(None) == 3
    first = chunks[0]
    assert first is not None
    window.put(first, memoryview(bytes(10)))
    window.finish(first)
    assert window.claim(10) is not None


def test_a_sink_that_raises() -> None:
    def sink(_: memoryview) -> None:
        raise OSError("full")

    window = Window(sink, 0, 10)
    chunk = window.claim(10)
    assert chunk is not None
    with pytest.raises(SinkError):
        window.put(chunk, memoryview(b"x"))
    assert window.position == 0
