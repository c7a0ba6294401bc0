"""What a vertex has told so far: passed on to every build that wants it, and told again to those that come later."""

import threading
import time
from collections import deque
from typing import Final

from lading.builder.reports import Event, LogEvent, Progress, StatusEvent, VertexEvent
from lading.oci.digest import Digest

LOG_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of output that a vertex may have; the rest is dropped, with a note."""
_CLIPPED: Final = b"\n[output clipped, log limit 2MiB reached]\n"


class Reporter:
    """The state of one vertex. Safe to use from any thread."""

    def __init__(
        self,
        digest: Digest,
        *,
        name: str,
        inputs: tuple[Digest, ...] = (),
        group: tuple[str, str, bool] | None = None,
    ) -> None:
        self._digest = digest
        self._name = name
        self._inputs = inputs
        self._group = group
        self._lock = threading.Lock()
        self._listeners: list[Progress] = []
        self._started = self._completed = 0
        self._cached = False
        self._error = ""
        self._statuses: dict[str, StatusEvent] = {}
        self._logs: deque[LogEvent] = deque()
        self._logged = 0

    @property
    def begun(self) -> bool:
        """Whether anything was told."""
        return bool(self._started)

    def attach(self, listener: Progress) -> None:
        """Tell a build what was told so far, and what comes."""
        with self._lock:
            self._listeners.append(listener)
            earlier: list[Event] = [self._event(), *self._statuses.values(), *self._logs]
        for event in earlier:
            listener.tell(event)

    def detach(self, listener: Progress) -> None:
        """Tell it no more."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def start(self) -> None:
        """Work has begun, again or for the first time."""
        with self._lock:
            self._started = self._started or time.time_ns()
            self._completed, self._error, self._cached = 0, "", False
        self._tell(self._event())

    def complete(self, *, error: str = "", cached: bool = False) -> None:
        """Work has ended."""
        now = time.time_ns()
        with self._lock:
            self._started = self._started or now
            self._completed, self._error, self._cached = now, error, cached
        self._tell(self._event())

    def status(
        self,
        id: str,
        *,
        name: str = "",
        current: int = 0,
        total: int = 0,
        started: int = 0,
        completed: int = 0,
    ) -> None:
        """See `Context.status`."""
        now = time.time_ns()
        earlier = self._statuses.get(id)
        event = StatusEvent(
            id=id,
            vertex=self._digest,
            name=name or id,
            current=current,
            total=total,
            timestamp=now,
            started=started or (earlier.started if earlier else now),
            completed=completed,
        )
        with self._lock:
            self._statuses[id] = event
        self._tell(event)

    def log(self, stream: int, data: bytes) -> None:
        """See `Context.log`."""
        if self._logged >= LOG_LIMIT:
            return
        self._logged += len(data)
        if self._logged >= LOG_LIMIT:
            data += _CLIPPED
        event = LogEvent(vertex=self._digest, stream=stream, data=data, timestamp=time.time_ns())
        with self._lock:
            self._logs.append(event)
        self._tell(event)

    def _event(self) -> VertexEvent:
        return VertexEvent(
            digest=self._digest,
            inputs=self._inputs,
            name=self._name,
            cached=self._cached,
            started=self._started,
            completed=self._completed,
            error=self._error,
            progress_group=self._group,
        )

    def _tell(self, event: Event) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.tell(event)
