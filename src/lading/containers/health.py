"""Health checks: a command run in the container again and again, and what its results say (moby, ``daemon/health.go``).

`Health` is the state and its rules, without I/O. `Monitor` runs the command while the container runs and is not paused.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import msgspec
import structlog

from lading.errors import InvalidArgumentError, LadingError
from lading.kit import times

_SECOND: Final = 10**9
_INTERVAL: Final = 30 * _SECOND
_TIMEOUT: Final = 30 * _SECOND
_START_INTERVAL: Final = 5 * _SECOND
_RETRIES: Final = 3
_LOG_ENTRIES: Final = 5
OUTPUT_LIMIT: Final = 4096
"""Bytes of a check's output that are kept."""
_MINIMUM: Final = 10**6
_FAILED_TO_RUN: Final = -1
_log: Final[structlog.stdlib.BoundLogger] = structlog.get_logger("lading.containers")


class Healthcheck(msgspec.Struct, rename="pascal"):
    """``Config.Healthcheck``; durations in nanoseconds, 0 for the default."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


def check(asked: Healthcheck | None) -> None:
    """Refuse what cannot be. Raises `InvalidArgumentError`."""
    if asked is None:
        return
    for name, value in (
        ("Interval", asked.interval),
        ("Timeout", asked.timeout),
        ("StartPeriod", asked.start_period),
        ("StartInterval", asked.start_interval),
    ):
        if value and value < _MINIMUM:
            raise InvalidArgumentError(f"{name} in Healthcheck cannot be less than 1ms")
    if asked.retries < 0:
        raise InvalidArgumentError("Retries in Healthcheck cannot be negative")
    if asked.test and asked.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgumentError(
            f"Unknown healthcheck type '{asked.test[0][:40]}' (expected 'CMD')", hint="use CMD or CMD-SHELL"
        )


def merged(asked: Mapping[str, Any] | None, image: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is asked for, and what it leaves open from the image."""
    if not asked or not image:
        return dict(asked or image or {}) or None
    return {**image, **{key: value for key, value in asked.items() if value}}


def command(asked: Healthcheck | None, shell: list[str] | None) -> list[str]:
    """The command of a check; empty if there is none."""
    kind, *words = (asked and asked.test) or ["NONE"]
    if kind == "CMD":
        return words
    if kind == "CMD-SHELL" and words:
        return [*(shell or ["/bin/sh", "-c"]), words[0]]
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One check: nanoseconds since the epoch, exit code (-1 if it could not run or took too long), output."""

    start: int
    end: int
    exit_code: int
    output: str


@dataclass(slots=True, kw_only=True)
class Health:
    """How a container is. ``starting`` until the first success, or too many failures after the start period."""

    config: Healthcheck
    started_at: int
    status: str = "starting"
    failing_streak: int = 0
    log: deque[Result] = field(default_factory=lambda: deque[Result](maxlen=_LOG_ENTRIES))

    def take(self, result: Result) -> bool:
        """Judge a result; whether the status changed."""
        before = self.status
        self.log.append(result)
        if result.exit_code == 0:
            self.failing_streak, self.status = 0, "healthy"
        elif self.status != "starting" or result.start - self.started_at >= self.config.start_period:
            self.failing_streak += 1
            if self.failing_streak >= (self.config.retries or _RETRIES):
                self.status = "unhealthy"
        return self.status != before

    def pause(self, now: int) -> float:
        """Seconds until the next check."""
        starting = self.status == "starting" and now - self.started_at < self.config.start_period
        if starting:
            return (self.config.start_interval or _START_INTERVAL) / _SECOND
        return (self.config.interval or _INTERVAL) / _SECOND

    @property
    def timeout(self) -> float:
        """Seconds that one check may take."""
        return (self.config.timeout or _TIMEOUT) / _SECOND

    def shown(self) -> dict[str, Any]:
        """``State.Health`` of inspect."""
        entries = [
            {
                "Start": times.format_nano(each.start),
                "End": times.format_nano(each.end),
                "ExitCode": each.exit_code,
                "Output": each.output,
            }
            for each in self.log
        ]
        return {"Status": self.status, "FailingStreak": self.failing_streak, "Log": entries}


Probe = Callable[[float], Awaitable[tuple[int, bytes]]]
"""Runs the command once, within seconds; exit code and output. Raises `LadingError`; ``TimeoutError`` with what came so far."""


class Monitor:
    """Checks one container until it is stopped. ``changed`` is called with the new status."""

    def __init__(self, health: Health, probe: Probe, changed: Callable[[str], None]) -> None:
        self._health = health
        self._probe = probe
        self._changed = changed
        self._scope = anyio.CancelScope()
        self.stopped = anyio.Event()
        """Set when no check runs any more."""

    async def run(self) -> None:
        """Check until `stop`."""
        try:
            with self._scope:
                while True:
                    await anyio.sleep(self._health.pause(time.time_ns()))
                    if self._health.take(await self._check()):
                        self._changed(self._health.status)
        finally:
            self.stopped.set()

    def stop(self) -> None:
        """No more checks; one that runs is given up."""
        self._scope.cancel()

    async def _check(self) -> Result:
        begun, seconds = time.time_ns(), self._health.timeout
        code, output = _FAILED_TO_RUN, b""
        try:
            code, output = await self._probe(seconds)
        except TimeoutError as exc:
            text = f"Health check exceeded timeout ({_go_duration(seconds)})"
            so_far = exc.args[0] if exc.args else b""
            output = text.encode() + (b": " + so_far if so_far else b"")
        except LadingError as exc:
            output = exc.message.encode()
        return Result(
            start=begun,
            end=time.time_ns(),
            exit_code=code,
            output=output[:OUTPUT_LIMIT].decode("utf-8", "replace"),
        )


def _go_duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
