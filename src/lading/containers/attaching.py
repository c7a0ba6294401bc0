"""Attach a client to a container's streams, and read its log."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

from lading.containers import jsonlog
from lading.containers.journal import Chunk
from lading.containers.model import Container
from lading.containers.runs import Run
from lading.containers.streams import DetachFilter, Peer, Subscription, encode
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

    def __init__(self, container: Container, options: AttachOptions) -> None:
        self._container = container
        self._options = options
        self._multiplexed = not container.config.tty
        self._subscription: Subscription | None = None
        if options.stream:
            self._subscription = container.output.subscribe(options.outputs)

    async def serve(self, peer: Peer, log: Path, run: Callable[[], Run | None]) -> None:
        """Connect ``peer`` until the container ends, the client leaves, detaches, or does not read for too long."""
        try:
            if self._options.logs:
                for message in (await aio.run(aio.DISK, jsonlog.tail, log, -1))[0]:
                    if message.stream in self._options.outputs:
                        await self._send(peer, Chunk(stream=message.stream, data=message.log.encode()))
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
                    scope.cancel()
                    return
        if container.config.stdin_once and not container.config.tty:
            with contextlib.suppress(LadingError):
                if container.task is not None:
                    await container.task.close_stdin()
        elif not self._options.outputs:
            scope.cancel()


async def read_log(
    container: Container, options: LogOptions, log: Path, run: Callable[[], Run | None]
) -> AsyncGenerator[Chunk]:
    """The messages of a container's log, then with ``follow`` those to come until the container ends.

    Raises `UnsupportedError` if the container keeps no log.
    """
    if container.host.log_config and container.host.log_config.type == "none":
        raise UnsupportedError("configured logging driver does not support reading")
    wanted = {name for name, has in zip(_STREAMS, (options.stdout, options.stderr), strict=True) if has}
    filtered = options.since or options.until
    messages, offset = await aio.run(aio.DISK, jsonlog.tail, log, -1 if filtered else options.tail)
    chosen = [m for m in messages if _in_time(m, options)]
    if options.tail >= 0:
        chosen = chosen[len(chosen) - min(options.tail, len(chosen)) :]
    for message in chosen:
        if message.stream in wanted:
            yield _chunk(message, options)
    if not options.follow or not container.state.running:
        return
    follower = jsonlog.Follower(log, offset)
    try:
        while True:
            now = run()
            changed = now.changed if now is not None else None
            for message in await aio.run(aio.DISK, follower.poll):
                if options.until and message.time_nano > options.until:
                    return
                if message.stream in wanted and _in_time(message, options):
                    yield _chunk(message, options)
            if changed is None:
                return
            await _wait(changed, container, options.until)
            if options.until and times.now_nano() > options.until:
                return
    finally:
        follower.close()


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


def _in_time(message: jsonlog.Message, options: LogOptions) -> bool:
    if not (options.since or options.until):
        return True
    moment = message.time_nano
    return moment >= options.since and (not options.until or moment <= options.until)


def _chunk(message: jsonlog.Message, options: LogOptions) -> Chunk:
    text = message.log
    if options.timestamps:
        text = f"{_padded(message.time)} {text}"
    return Chunk(stream=message.stream, data=text.encode())


def _padded(moment: str) -> str:
    """Docker shows log times with all nine decimals, so that columns align."""
    whole, _, decimals = moment.removesuffix("Z").partition(".")
    return f"{whole}.{decimals.ljust(9, '0')}Z"
