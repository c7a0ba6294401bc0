"""Live streams between containers and clients: broadcast, multiplexing, detach keys.

A client that stops reading harms nobody: what it has not taken waits in a bounded buffer; when that is full the container waits
for a while, and then the client is dropped (hostile-input.md A4). The end of a container waits for no client.
"""

import re
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import anyio
from typing_extensions import override

from lading.containers.journal import Chunk
from lading.errors import CancelledError, InvalidArgumentError

BUFFER: Final = 1 << 20
"""Bytes that wait for one client before the container waits for it."""
STALL_SECONDS: Final = 30.0
_HEADER: Final = struct.Struct(">BxxxI")
_NUMBERS: Final = {"stdin": 0, "stdout": 1, "stderr": 2, "systemerr": 3}
_FRAME: Final = 32 * 1024
DEFAULT_DETACH_KEYS: Final = b"\x10\x11"
"""ctrl-p, ctrl-q."""


class Peer(Protocol):
    """The client's side of a hijacked connection."""

    async def read(self) -> bytes:
        """The next bytes of the client; empty once it has ended its input."""
        ...

    async def write(self, data: bytes) -> None:
        """Send; waits while the client is slow. Raises `CancelledError` if it is gone."""
        ...


class Line(Peer):
    """A client that may leave what goes on without it: what is then written finds nobody."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.left = anyio.Event()
        """Set when the client has left, or there is nothing more for it."""

    def leave(self) -> None:
        """The client is no longer there. Idempotent."""
        self.left.set()

    @override
    async def read(self) -> bytes:
        return b"" if self.left.is_set() else await self._peer.read()

    @override
    async def write(self, data: bytes) -> None:
        if self.left.is_set():
            raise CancelledError("the client left")
        await self._peer.write(data)


def frame(stream: str, data: bytes) -> bytes:
    """One multiplexed frame."""
    return _HEADER.pack(_NUMBERS[stream], len(data)) + data


def encode(chunk: Chunk, *, multiplexed: bool) -> bytes:
    """Bytes of a chunk for a client: raw for a terminal, in frames otherwise."""
    if not multiplexed:
        return chunk.data
    parts = (chunk.data[start : start + _FRAME] for start in range(0, len(chunk.data), _FRAME))
    return b"".join(frame(chunk.stream, part) for part in parts)


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Stream numbers and payloads of whole frames, as `encode` makes them."""
    at = 0
    while at < len(data):
        number, length = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        yield number, data[at : at + length]
        at += length


class Subscription:
    """What one client still has to get."""

    def __init__(self, streams: Sequence[str]) -> None:
        self.streams = frozenset(streams)
        self._chunks: deque[Chunk] = deque()
        self._waiting = 0
        self._ended = False
        self._room_for = BUFFER
        self._changed = anyio.Event()
        self._room = anyio.Event()
        self.dropped = False
        """Whether the client was given up because it did not read."""

    async def receive(self) -> Chunk | None:
        """The next chunk; ``None`` at the end."""
        while not self._chunks:
            if self._ended:
                return None
            self._changed = anyio.Event()
            await self._changed.wait()
        chunk = self._chunks.popleft()
        self._waiting -= len(chunk.data)
        self._room.set()
        return chunk

    def end(self) -> None:
        """Nothing more will come; what waits is still delivered."""
        self._ended = True
        self._changed.set()
        self._room.set()

    def hurry(self) -> None:
        """The process has ended: what pipes still hold of its output gets room of its own, and nobody waits for more."""
        self._room_for = 2 * BUFFER
        self._room.set()

    async def put(self, chunk: Chunk, patience: float) -> bool:
        """Hand over a chunk, waiting for room at most ``patience`` seconds without progress; whether the client is kept."""
        while self._waiting >= self._room_for and not self._ended:
            self._room = anyio.Event()
            with anyio.move_on_after(0 if self._room_for > BUFFER else patience) as scope:
                await self._room.wait()
            if scope.cancelled_caught:
                self.dropped = True
                self._chunks.clear()
                self.end()
                return False
        if self._ended:
            return False
        self._chunks.append(chunk)
        self._waiting += len(chunk.data)
        self._changed.set()
        return True


class Broadcast:
    """Everything that one process writes, for any number of clients."""

    def __init__(self, patience: float = STALL_SECONDS) -> None:
        self._subscriptions: list[Subscription] = []
        self._patience = patience

    def subscribe(self, streams: Sequence[str]) -> Subscription:
        """From now on."""
        made = Subscription(streams)
        self._subscriptions.append(made)
        return made

    def unsubscribe(self, subscription: Subscription) -> None:
        """The client left. Idempotent."""
        subscription.end()
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def publish(self, chunks: Sequence[Chunk]) -> None:
        """Hand chunks to every client that wants them."""
        for subscription in list(self._subscriptions):
            for chunk in chunks:
                if chunk.stream in subscription.streams and not await subscription.put(chunk, self._patience):
                    self.unsubscribe(subscription)
                    break

    def hurry(self) -> None:
        """The process has ended: what is left of its output is published without waiting for those who do not read."""
        for subscription in self._subscriptions:
            subscription.hurry()

    def end(self) -> None:
        """The process has ended and all of its output was published."""
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()


class DetachFilter:
    """Finds the key sequence by which the user of a terminal detaches. Sans-I/O."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the sequence was completed. Keys of an incomplete sequence are passed on late."""
        if not self._keys:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
                continue
            if self._matched:
                out += self._keys[: self._matched]
                self._matched = 1 if byte == self._keys[0] else 0
                if self._matched:
                    continue
            out.append(byte)
        return bytes(out), False


def detach_keys(text: str) -> bytes:
    """The bytes of ``ctrl-p,ctrl-q``-like text; the default if empty. Raises `InvalidArgumentError`."""
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = bytearray()
    for key in text.split(","):
        if re.fullmatch(r"ctrl-[a-z@\[\\\]^_]", key.lower()):
            keys.append(ord(key[-1].upper()) & 0x1F)
        elif key == "DEL":
            keys.append(127)
        elif len(key) == 1 and key.isascii():
            keys += key.encode()
        else:
            raise InvalidArgumentError(
                f"Unknown character: '{key[:40]}'", hint="detach keys look like ctrl-p,ctrl-q"
            )
    return bytes(keys)
