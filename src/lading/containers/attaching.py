"""Attach a client to a container's streams, and read its log."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_plus

import anyio

from lading.containers.journal import Chunk
from lading.containers.logfile import LogFiles, Message
from lading.containers.model import Container
from lading.containers.runs import Run
from lading.containers.streams import DetachFilter, Peer, Subscription, encode
from lading.core.events import Bus
from lading.errors import CancelledError, LadingError, UnsupportedError
from lading.kit import aio, times

_STREAMS: Final = ("stdout", "stderr")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions:
    """What a client attaches to. ``logs`` replays what was written before; ``stream`` goes on from there."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stream: bool = False
    logs: bool = False
    detach_keys: bytes = b""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the wanted outputs."""
        return tuple(name for name, has in zip(_STREAMS, (self.stdout, self.stderr), strict=True) if has)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """Which messages of a log; times in nanoseconds since the epoch, 0 for no limit; ``tail`` < 0 for all."""

    stdout: bool = True
    stderr: bool = True
    follow: bool = False
    since: int = 0
    until: int = 0
    tail: int = -1
    timestamps: bool = False
    details: bool = False


class Attachment:
    """One client of one container. It gets everything from the moment this object is made."""

    def __init__(
        self, container: Container, options: AttachOptions, bus: Bus, *, multiplexed: bool = True
    ) -> None:
        """``multiplexed`` outputs of a container without a terminal are told apart by frames."""
        self._container = container
        self._bus = bus
        self._options = options
        self._multiplexed = multiplexed and not container.config.tty
        self._subscription: Subscription | None = None
        if options.stream:
            self._subscription = container.output.subscribe(options.outputs)

    async def serve(self, peer: Peer, log: LogFiles | None, run: Callable[[], Run | None]) -> None:
        """Connect ``peer`` until the container ends, the client leaves, detaches, or does not read for too long."""
        try:
            if self._options.logs:
                await self._replay(peer, log)
            if self._subscription is None:
                return
            async with anyio.create_task_group() as group:
                if self._options.stdin and self._container.config.open_stdin:
                    group.start_soon(self._input, peer, run, group.cancel_scope)
                while chunk := await self._subscription.receive():
                    await self._send(peer, chunk)
                group.cancel_scope.cancel()
        except* CancelledError:
            pass  # the client left; the container does not mind
        finally:
            self.close()

    async def _replay(self, peer: Peer, log: LogFiles | None) -> None:
        """What the container wrote before."""
        if log is None:
            return
        reader = await aio.run(aio.DISK, log.reader)
        try:
            while messages := await aio.run(aio.DISK, reader.poll):
                for message in messages:
                    if message.stream in self._options.outputs:
                        await self._send(peer, Chunk(stream=message.stream, data=message.log.encode()))
        finally:
            reader.close()

    def close(self) -> None:
        """Stop listening. Idempotent."""
        if self._subscription is not None:
            self._container.output.unsubscribe(self._subscription)

    async def _send(self, peer: Peer, chunk: Chunk) -> None:
        await peer.write(encode(chunk, multiplexed=self._multiplexed))

    async def _input(self, peer: Peer, run: Callable[[], Run | None], scope: anyio.CancelScope) -> None:
        """Forward input. Its end closes the container's input if that was asked for, else ends the attachment."""
        container = self._container
        keys = DetachFilter(self._options.detach_keys if container.config.tty else b"")
        await container.started.wait()
        with contextlib.suppress(LadingError):
            while data := await peer.read():
                data, detached = keys.feed(data)
                now = run()
                if data and now is not None:
                    await now.write_stdin(data)
                if detached:
                    self._bus.publish("container", "detach", container.id, container.attributes())
                    scope.cancel()
                    return
        if container.config.stdin_once and not container.config.tty:
            with contextlib.suppress(LadingError):
                if container.task is not None:
                    await container.task.close_stdin()
        elif not self._options.outputs:
            scope.cancel()


async def read_log(
    container: Container, options: LogOptions, log: LogFiles | None, run: Callable[[], Run | None]
) -> AsyncGenerator[Chunk]:
    """The messages of a container's log, then with ``follow`` those to come until the container ends.

    Raises `UnsupportedError` if the container keeps no log.
    """
    if log is None:
        raise UnsupportedError("configured logging driver does not support reading")
    wanted = {name for name, has in zip(_STREAMS, (options.stdout, options.stderr), strict=True) if has}
    reader = await aio.run(aio.DISK, log.reader, options.tail)
    try:
        while True:
            now = run()
            changed = now.changed if now is not None else None
            while messages := await aio.run(aio.DISK, reader.poll):
                for message in messages:
                    if options.until and message.time_nano > options.until:
                        return
                    if message.stream in wanted and message.time_nano >= options.since:
                        yield _chunk(message, options)
            if not options.follow or changed is None:
                return
            await _wait(changed, container, options.until)
            if options.until and times.now_nano() > options.until:
                return
    finally:
        reader.close()


async def _wait(changed: anyio.Event, container: Container, until: int) -> None:
    """Until the log may have grown, or the container ended, or nothing more can be wanted."""
    stopped = container.stopped
    limit = max(0.0, (until - times.now_nano()) / 1e9) if until else None

    async def either(event: anyio.Event, scope: anyio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    with anyio.move_on_after(limit):
        async with anyio.create_task_group() as group:
            group.start_soon(either, changed, group.cancel_scope)
            group.start_soon(either, stopped, group.cancel_scope)


def _chunk(message: Message, options: LogOptions) -> Chunk:
    text = message.log
    if options.details:
        text = f"{_details(message.attrs or {})} {text}"
    if options.timestamps:
        text = f"{_padded(message.time)} {text}"
    return Chunk(stream=message.stream, data=text.encode())


def _details(attributes: Mapping[str, str]) -> str:
    """As Docker shows them: in order of name, with what could be mistaken for a separator escaped."""
    return ",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(attributes.items()))


def _padded(moment: str) -> str:
    """Docker shows log times with all nine decimals, so that columns align."""
    whole, _, decimals = moment.removesuffix("Z").partition(".")
    return f"{whole}.{decimals.ljust(9, '0')}Z"
