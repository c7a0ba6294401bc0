"""Resuming against Debian's docker-registry, through a relay that cuts connections."""

import contextlib
import random
import socket
import threading
from collections.abc import Generator
from typing import Self

import pytest
from support.registry import docker_registry
from support.remotes import world

from lading.oci import reference
from lading.testing.memory.content import MemoryReader
from lading.testing.remotes import blob, ignore_progress

pytestmark = pytest.mark.anyio

DATA = random.Random(3).randbytes(3_000_000)
LAYER = blob(DATA)


class Relay:
    """Copies to a registry and back; the connections whose number is in ``cuts`` end after so many bytes."""

    def __init__(self, target: str) -> None:
        self.up: list[int] = []
        """Bytes towards the registry after which the next connections are cut; each is used once."""
        self.down: list[int] = []
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._open):
            sock.close()

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # pyright: ignore[reportArgumentType]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += [near, far]
            self._start(self._copy, near, far, self.up)
            self._start(self._copy, far, near, self.down)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, cuts: list[int]) -> None:
        copied = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
                copied += len(data)
                if cuts and copied > cuts[0]:
                    cuts.pop(0)
                    break
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def docker_host() -> Generator[str]:
    with docker_registry() as host:
        yield host


@pytest.fixture
def relay(docker_host: str) -> Generator[Relay]:
    with Relay(docker_host) as made:
        yield made


@pytest.mark.parametrize("chunk", [500_000, 1 << 30])
async def test_a_push_survives_cuts(relay: Relay, chunk: int) -> None:
    repository = reference.parse(f"{relay.host}/cut/push{chunk}")
    async with world(limits={"monolithic": 1000, "upload_chunk": chunk, "idle": 5.0}) as client:
        pusher = client.resolver().pusher(repository)
        assert not await pusher.exists(LAYER)
        relay.up += [900_000, 800_000, 700_000]
        await pusher.push(LAYER, MemoryReader(DATA), on_bytes=ignore_progress)
        assert not relay.up
        received = bytearray()
        relay.down += [1_000_000, 1_000_000, 500_000]
        await client.resolver().fetcher(repository).fetch(LAYER, received.extend)
        assert not relay.down
    assert bytes(received) == DATA
