"""What happens in one build, told to everyone who asks, from the beginning."""

import math
import threading
from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import anyio
import anyio.from_thread
from anyio.lowlevel import current_token
from typing_extensions import override

from lading.builder.reports import Event, LogEvent, Progress, StatusEvent, VertexEvent, WarningEvent
from lading.kit import times
from lading.kit.tasks import Signal
from lading.oci.digest import Digest

LOG_LIMIT: Final = 2 << 20
"""Bytes of output that are kept of one stream of a vertex, as with BuildKit."""
LOG_SPEED: Final = 200 << 10
"""Bytes of it for each second that has begun since the vertex was started."""
_NOTE: Final = "\n[output clipped, log limit {} reached]\n"
_BATCH_SECONDS: Final = 0.03


class ProgressLog(Progress):
    """Every event of a build. Must be made, read and closed on the event loop; `tell` may be called from any thread.

    What processes write is clipped, also if it comes too fast unless ``hasty``.
    """

    def __init__(self, *, hasty: bool = False) -> None:
        self._events: list[Event] = []
        self._hasty = hasty
        self._started: dict[Digest, int] = {}
        self._outputs: dict[tuple[Digest, int], _Output] = {}
        self._lock = threading.Lock()
        self._token = current_token()
        self._loop_thread = threading.get_ident()
        self._changed = Signal()
        self._closed = False
        self._over = anyio.Event()
        self._notified = False

    @override
    def tell(self, event: Event) -> None:
        with self._lock:
            if self._closed:
                return
            if isinstance(event, VertexEvent) and event.started:
                self._started[event.digest] = event.started
            if isinstance(event, LogEvent):
                clipped = self._clip(event)
                if clipped is None:
                    return
                event = clipped
            self._events.append(event)
            if self._notified:
                return
            self._notified = True
        self._notify()

    def _clip(self, event: LogEvent) -> LogEvent | None:
        output = self._outputs.setdefault((event.vertex, event.stream), _Output())
        limit, words = LOG_LIMIT, "2MiB"
        seconds = (event.timestamp - self._started.get(event.vertex, event.timestamp)) / 1e9
        allowed = max(math.ceil(seconds), 1) * LOG_SPEED
        if allowed <= LOG_LIMIT and not self._hasty:
            limit, words = allowed, "200KiB/s"
        data = output.clip(event.data, limit, _NOTE.format(words).encode())
        return replace(event, data=data) if data else None

    def _notify(self) -> None:
        if threading.get_ident() == self._loop_thread:
            self._wake()
        else:
            anyio.from_thread.run_sync(self._wake, token=self._token)

    def _wake(self) -> None:
        with self._lock:
            self._notified = False
        self._changed.wake()

    def close(self) -> None:
        """Nothing more happens; readers come to an end."""
        with self._lock:
            self._closed = True
        self._over.set()
        self._wake()

    @property
    def events(self) -> Sequence[Event]:
        """Everything so far."""
        return self._events

    @property
    def closed(self) -> bool:
        """Whether nothing more happens."""
        return self._closed

    async def follow(self) -> AsyncIterator[Sequence[Event]]:
        """Everything from the beginning until `close`, in batches."""
        read = 0
        while True:
            closed = self._closed
            new = self._events[read:]
            if new:
                read += len(new)
                yield new
                if not closed:
                    with anyio.move_on_after(_BATCH_SECONDS):
                        await self._over.wait()
            elif closed:
                return
            else:
                await self._changed.wait()


@dataclass(slots=True)
class _Output:
    """One stream of a vertex: what was written, clipped or not, and whether the last of it was clipped."""

    written: int = 0
    clipping: bool = False

    def clip(self, data: bytes, limit: int, note: bytes) -> bytes:
        """What is shown of ``data``, if so much may be by now; the first that is clipped has a note."""
        shown = data[: max(0, limit - self.written)]
        self.written += len(data)
        clipped = len(shown) < len(data)
        if clipped and not self.clipping:
            shown += note
        self.clipping = clipped
        return shown


class Step:
    """A vertex that is no operation of a graph, such as an export; see `step`."""

    def __init__(self, progress: Progress, digest: Digest) -> None:
        self._progress = progress
        self.digest = digest

    @contextmanager
    def part(self, name: str, *, total: int = 0) -> Generator["Part"]:
        """A part of the work, told at its begin and end."""
        part = Part(self._progress, self.digest, name, total)
        yield part
        part.done()

    def log(self, text: str, stream: int = 2) -> None:
        """Add a line of output."""
        self._progress.tell(
            LogEvent(vertex=self.digest, stream=stream, data=text.encode(), timestamp=times.now_nano())
        )

    def warn(self, text: str, *, level: int = 1) -> None:
        """Add a remark."""
        self._progress.tell(WarningEvent(vertex=self.digest, level=level, short=text.encode()))


class Part:
    """One part of a step's work."""

    def __init__(self, progress: Progress, vertex: Digest, name: str, total: int) -> None:
        self._progress = progress
        self._event = StatusEvent(id=name, vertex=vertex, name=name, total=total, started=times.now_nano())
        self._tell()

    def _tell(self) -> None:
        self._event = replace(self._event, timestamp=times.now_nano())
        self._progress.tell(self._event)

    def advance(self, current: int, total: int) -> None:
        """So many of so many bytes are done."""
        self._event = replace(self._event, current=current, total=total)
        self._tell()

    def done(self) -> None:
        """It is finished."""
        self._event = replace(self._event, completed=times.now_nano())
        self._tell()


@contextmanager
def step(progress: Progress, name: str, *, key: str) -> Generator[Step]:
    """A vertex called ``name`` while the context lasts; ``key`` makes its digest unique. An error ends it as failed."""
    digest = Digest.of(f"{key}\0{name}".encode())
    event = VertexEvent(digest=digest, name=name, started=times.now_nano())
    progress.tell(event)
    try:
        yield Step(progress, digest)
    except BaseException as exc:
        progress.tell(replace(event, completed=times.now_nano(), error=str(exc) or "context canceled"))
        raise
    progress.tell(replace(event, completed=times.now_nano()))
