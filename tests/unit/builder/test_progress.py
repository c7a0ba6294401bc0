"""What is kept of processes' output."""

import pytest

from lading.builder.progress import LOG_LIMIT, LOG_SPEED, ProgressLog
from lading.builder.reports import LogEvent, VertexEvent
from lading.oci.digest import Digest

pytestmark = pytest.mark.anyio
VERTEX = Digest.of(b"vertex")
BEGIN = 10**18
SECOND = 10**9
SLOW = b"\n[output clipped, log limit 200KiB/s reached]\n"
LARGE = b"\n[output clipped, log limit 2MiB reached]\n"


def log(*, hasty: bool = False) -> ProgressLog:
    made = ProgressLog(hasty=hasty)
    made.tell(VertexEvent(digest=VERTEX, name="v"))
    made.tell(VertexEvent(digest=VERTEX, name="v", started=BEGIN))
    return made


def write(to: ProgressLog, size: int, *, after: float = 0, stream: int = 1) -> bytes:
    """What is kept of so many bytes after so many seconds."""
    before = len(to.events)
    at = BEGIN + int(after * SECOND)
    to.tell(LogEvent(vertex=VERTEX, stream=stream, data=b"x" * size, timestamp=at))
    return b"".join(event.data for event in to.events[before:] if isinstance(event, LogEvent))


async def test_output_that_comes_too_fast_is_clipped_until_time_has_passed() -> None:
    seen = log()
    assert write(seen, LOG_SPEED - 10) == b"x" * (LOG_SPEED - 10)
    assert write(seen, 100, after=0.5) == b"x" * 10 + SLOW
    assert write(seen, 100, after=0.9) == b""
    assert write(seen, 100, after=0.9, stream=2) == b"x" * 100, "each stream counts by itself"
    # The bytes that were dropped count too, as in BuildKit.
    assert write(seen, LOG_SPEED, after=1.1) == b"x" * (LOG_SPEED - 190)
    assert write(seen, 100, after=2.1) == b"x" * 100


async def test_no_more_than_so_much_is_kept() -> None:
    seen = log()
    for number in range(10):
        assert write(seen, LOG_SPEED, after=number + 0.5) == b"x" * LOG_SPEED
    assert write(seen, LOG_SPEED, after=100) == b"x" * (LOG_LIMIT - 10 * LOG_SPEED) + LARGE
    assert write(seen, 1, after=200) == b""


async def test_a_hasty_log_minds_only_how_much_it_is() -> None:
    seen = log(hasty=True)
    assert write(seen, LOG_LIMIT) == b"x" * LOG_LIMIT
    assert write(seen, 1) == LARGE
