"""What is told while a build runs: the records of a BuildKit status stream.

Times are nanoseconds since the epoch, 0 for not yet.
"""

from dataclasses import dataclass
from typing import Protocol

from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.oci.digest import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class VertexEvent:
    """The present state of a vertex. Sent again whenever it changes; the last one stands."""

    digest: Digest
    inputs: tuple[Digest, ...] = ()
    name: str = ""
    cached: bool = False
    started: int = 0
    completed: int = 0
    error: str = ""
    progress_group: tuple[str, str, bool] | None = None
    """ID, name, weak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """One part of a vertex's work, such as a layer that is fetched: ``current`` of ``total`` bytes, 0 for unknown."""

    id: str
    vertex: Digest
    name: str = ""
    current: int = 0
    total: int = 0
    timestamp: int = 0
    started: int = 0
    completed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """Output of a vertex's process: stream 1 or 2."""

    vertex: Digest
    stream: int
    data: bytes
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningEvent:
    """A remark of a frontend, shown after the build. ``level`` 1 is shown by default."""

    vertex: Digest
    level: int
    short: bytes
    detail: tuple[bytes, ...] = ()
    url: str = ""
    source: SourceFile | None = None
    ranges: tuple[SourceRange, ...] = ()


Event = VertexEvent | StatusEvent | LogEvent | WarningEvent


class Progress(Protocol):
    """Takes what happens in one build; never blocks, may be called from any thread."""

    def tell(self, event: Event) -> None:
        """Pass on one event."""
        ...
