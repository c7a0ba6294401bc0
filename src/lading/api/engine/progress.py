"""Progress of transfers as the objects that docker draws bars from."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, TypeVar

import anyio

from lading.api.engine.streams import ProgressStream
from lading.core.progress import Item, Phase, Progress
from lading.kit.tasks import task_group

T = TypeVar("T")
Json = dict[str, Any]

PERIOD_SECONDS: Final = 0.1
"""How often counters are read; a bar that moves ten times a second looks alive and costs nothing."""

_MOVING: Final = frozenset({Phase.DOWNLOADING, Phase.EXTRACTING, Phase.UPLOADING})
_COURSE: Final = {
    phase: number
    for number, phase in enumerate(
        (Phase.WAITING, Phase.DOWNLOADING, Phase.DOWNLOADED, Phase.EXTRACTING, Phase.COMPLETE)
    )
} | {Phase.EXISTS: 0, Phase.RETRYING: 1}
"""The order in which a blob goes through its phases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """How one kind of operation tells of its blobs."""

    statuses: Mapping[Phase, str]
    """What a phase is called; phases without a word are not told."""
    steps: tuple[Phase, ...] = ()
    """Phases that are told also if they were over before anybody looked: programs count on these lines."""


PULLING: Final = Words(
    statuses={
        Phase.WAITING: "Pulling fs layer",
        Phase.DOWNLOADING: "Downloading",
        Phase.RETRYING: "Retrying",
        Phase.DOWNLOADED: "Download complete",
        Phase.EXTRACTING: "Extracting",
        Phase.COMPLETE: "Pull complete",
        Phase.EXISTS: "Already exists",
    },
    steps=(Phase.WAITING, Phase.DOWNLOADED),
)
PUSHING: Final = Words(
    statuses={
        Phase.WAITING: "Waiting",
        Phase.UPLOADING: "Pushing",
        Phase.RETRYING: "Retrying",
        Phase.UPLOADED: "Pushed",
        Phase.COMPLETE: "Pushed",
        Phase.EXISTS: "Layer already exists",
        Phase.MOUNTED: "Mounted from",
    }
)
LOADING: Final = Words(statuses={Phase.DOWNLOADING: "Loading layer"})
SILENT: Final = Words(statuses={})


def _object(item: Item, phase: Phase, words: Words) -> Json | None:
    """What is said about one blob in a phase."""
    status = words.statuses.get(phase)
    if status is None:
        return None
    if phase is Phase.MOUNTED:
        status = f"{status} {item.detail}"
    made: Json = {"status": status, "progressDetail": {}, "id": item.id}
    if phase in _MOVING:
        made["progressDetail"] = {"current": item.current, "total": item.total}
    return made


class _Teller:
    """Remembers what was told, so that only changes go out."""

    def __init__(self, progress: Progress, words: Words) -> None:
        self._progress = progress
        self._words = words
        self._told: dict[str, tuple[Phase, int]] = {}
        self._messages = 0

    def news(self) -> list[Json]:
        """Objects for everything that changed since the last call, each step of all blobs before the next step."""
        messages = self._progress.messages[self._messages :]
        self._messages += len(messages)
        objects: list[tuple[int, Json]] = []
        for item in list(self._progress.items.values()):
            phase, current = item.phase, item.current
            before = self._told.get(item.id)
            if before == (phase, current) or (
                before is not None and before[0] is phase and phase not in _MOVING
            ):
                continue
            self._told[item.id] = (phase, current)
            for each in (*self._passed(before[0] if before else None, phase), phase):
                made = _object(item, each, self._words)
                if made is not None:
                    objects.append((_COURSE.get(each, 0), made))
        objects.sort(key=itemgetter(0))
        return [{"status": message} for message in messages] + [made for _, made in objects]

    def _passed(self, before: Phase | None, now: Phase) -> list[Phase]:
        """The steps between the phase that was told last and this one."""
        since = _COURSE.get(before, 0) if before else -1
        return [step for step in self._words.steps if since < _COURSE[step] < _COURSE.get(now, 0)]


async def tell(
    stream: ProgressStream,
    work: Callable[[Progress], Awaitable[T]],
    words: Words,
    *,
    heading: Json | None = None,
) -> T:
    """Do the work and meanwhile tell the client how it goes, ``heading`` first. If the client leaves, the work is cancelled.

    Work that fails before it has anything to tell has told nothing: its error is still a real status.
    """
    progress = Progress()
    teller = _Teller(progress, words)
    head = [heading] if heading is not None else []

    async def say(objects: list[Json], *, always: bool = False) -> None:
        if objects or (always and head):
            await stream.send_many([*head, *objects])
            head.clear()

    async def ticker() -> None:
        while True:
            await anyio.sleep(PERIOD_SECONDS)
            await say(teller.news())

    async with task_group() as group:
        group.start_soon(ticker)
        result = await work(progress)
        group.cancel_scope.cancel()
    await say(teller.news(), always=True)
    return result
