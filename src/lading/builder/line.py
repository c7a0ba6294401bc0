"""The line to a frontend's program: a program that does not speak, or not gRPC, must not keep its build waiting."""

from typing import Final

import anyio
from typing_extensions import override

from lading.kit.grpc.connection import Transport
from lading.kit.grpc.merging import PREFACE

SILENCE_SECONDS: Final = 300.0
"""Until the first bytes. A program that is emulated, and large, may need minutes to begin."""
FAREWELL_SECONDS: Final = 10.0
"""Between the end of what a program says and its own."""


class Line(Transport):
    """The standard output and input of a program, which `watch` waits for. The caller tells with `end` that it was served."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._begin = b""
        self._heard = anyio.Event()
        self._ended = anyio.Event()

    @override
    async def read(self) -> bytes:
        data = await self._transport.read()
        if len(self._begin) < len(PREFACE):
            self._begin += data[: len(PREFACE) - len(self._begin)]
            self._heard.set()
        return data

    @override
    async def write(self, data: bytes) -> None:
        await self._transport.write(data)

    def end(self) -> None:
        """Nobody listens to the program any more."""
        self._heard.set()
        self._ended.set()

    @property
    def complaint(self) -> str:
        """What is wrong with what it said first; empty if nothing is."""
        if PREFACE.startswith(self._begin):
            return ""
        return f"its program does not speak gRPC on its standard output, which begins with {self._begin!r}"

    async def watch(self) -> str:
        """Wait until there is no sense in waiting for the program; why."""
        with anyio.move_on_after(SILENCE_SECONDS):
            await self._heard.wait()
        if not self._heard.is_set():
            return f"its program has said nothing for {SILENCE_SECONDS:.0f} seconds"
        if not self.complaint:
            await self._ended.wait()
        if self.complaint:
            return self.complaint
        await anyio.sleep(FAREWELL_SECONDS)
        return "its program has ended its connection, but runs on"
