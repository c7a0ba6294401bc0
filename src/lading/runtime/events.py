"""Events that shims forward, and the way round for those that publish through the daemon's executable."""

import argparse
import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

import anyio
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError

from lading.core.runtime import TaskEvent
from lading.errors import InvalidArgumentError
from lading.runtime._pb import task_pb2
from lading.runtime.ttrpc import Handler, Metadata, connect
from lading.runtime.wire import EVENTS_SERVICE, task_event

_TIMEOUT: Final = 5
_QUEUED: Final = 10_000
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.runtime")


class EventQueue:
    """Events on their way to the one consumer. Bounded: without a consumer the oldest are dropped."""

    def __init__(self) -> None:
        self._events: deque[TaskEvent] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, event: TaskEvent) -> None:
        """Append an event; after `close` it is dropped."""
        if self._closed:
            return
        if len(self._events) >= _QUEUED:
            _log.warning("task_event_dropped", topic=self._events.popleft().topic)
        self._events.append(event)
        self._changed.set()

    def close(self) -> None:
        """End the iteration after what is queued."""
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[TaskEvent]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._closed:
                return
            self._changed.clear()
            await self._changed.wait()


def events_service(namespace: str, deliver: Callable[[TaskEvent], None]) -> Mapping[str, Handler]:
    """The ttrpc methods with which shims report.

    ``deliver`` is called in the order in which each shim sent its events. Other namespaces' events are answered and dropped.
    """

    async def forward(payload: bytes, _: Metadata) -> bytes:
        try:
            envelope = task_pb2.ForwardRequest.FromString(payload).envelope
        except DecodeError as exc:
            raise InvalidArgumentError("the event does not parse") from exc
        event = task_event(envelope)
        if event is not None and envelope.namespace == namespace:
            deliver(event)
        return Empty().SerializeToString()

    return {f"{EVENTS_SERVICE}/Forward": forward}


async def publish(address: str, *, topic: str, namespace: str, event: bytes) -> None:
    """Forward one event, a serialised Any, to a daemon's ttrpc socket.

    Raises:
        InvalidArgumentError: It does not parse.
        UnavailableError: No daemon answers.

    """
    try:
        value = AnyMessage.FromString(event)
    except DecodeError as exc:
        raise InvalidArgumentError("standard input holds no protobuf Any", subject=topic) from exc
    envelope = task_pb2.Envelope(namespace=namespace, topic=topic, event=value)
    envelope.timestamp.FromNanoseconds(time.time_ns())
    client = await connect(address, timeout=_TIMEOUT)
    try:
        request = task_pb2.ForwardRequest(envelope=envelope)
        await client.call(EVENTS_SERVICE, "Forward", request, Empty, timeout=_TIMEOUT)
    finally:
        client.close()


def publish_main(argv: Sequence[str], stdin: bytes, environment: Mapping[str, str]) -> None:
    """What ``<daemon> publish --topic T --namespace N`` does: forward the event on standard input.

    ``argv`` follows the word ``publish``; shims write flags with one or two dashes. The socket is ``TTRPC_ADDRESS`` of the
    environment, or ``--address`` with ``.ttrpc`` appended, as containerd's own command has it.

    Raises:
        InvalidArgumentError: Bad arguments, or no socket named.
        UnavailableError: No daemon answers.

    """
    parser = argparse.ArgumentParser(prog="publish", exit_on_error=False, add_help=False)
    for flag in ("topic", "namespace", "address"):
        parser.add_argument(f"--{flag}", f"-{flag}", default="")
    try:
        arguments, _ = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as exc:
        raise InvalidArgumentError(f"publish: {exc}") from exc
    topic, namespace, grpc = str(arguments.topic), str(arguments.namespace), str(arguments.address)
    address = environment.get("TTRPC_ADDRESS") or (f"{grpc}.ttrpc" if grpc else "")
    if not (topic and namespace and address):
        raise InvalidArgumentError("publish needs --topic, --namespace and TTRPC_ADDRESS or --address")

    async def main() -> None:
        await publish(address, topic=topic, namespace=namespace, event=stdin)

    anyio.run(main)
