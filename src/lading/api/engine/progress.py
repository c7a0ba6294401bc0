"""Progress of transfers as the objects that docker draws bars from."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import anyio

from lading.api.engine.streams import ProgressStream
from lading.core.progress import Item, Phase, Progress
from lading.kit.tasks import task_group

T = TypeVar("T")
Json = dict[str, Any]

PERIOD_SECONDS: Final = 0.1
"""How often counters are read; a bar that moves ten times a second looks alive and costs nothing."""

_PULL: Final = {
    Phase.WAITING: "Pulling fs layer",
    Phase.DOWNLOADING: "Downloading",
    Phase.RETRYING: "Retrying",
    Phase.DOWNLOADED: "Download complete",
    Phase.EXTRACTING: "Extracting",
    Phase.COMPLETE: "Pull complete",
    Phase.EXISTS: "Already exists",
}
_PUSH: Final = {
    Phase.WAITING: "Waiting",
    Phase.UPLOADING: "Pushing",
    Phase.RETRYING: "Retrying",
    Phase.UPLOADED: "Pushed",
    Phase.COMPLETE: "Pushed",
    Phase.EXISTS: "Layer already exists",
    Phase.MOUNTED: "Mounted from",
}
_MOVING: Final = frozenset({Phase.DOWNLOADING, Phase.EXTRACTING, Phase.UPLOADING})


def pull_object(item: Item) -> Json | None:
    """What a pull says about one blob."""
    return _object(item, _PULL)


def push_object(item: Item) -> Json | None:
    """What a push says about one blob."""
    made = _object(item, _PUSH)
    if made is not None and item.phase is Phase.MOUNTED:
        made["status"] = f"Mounted from {item.detail}"
    return made


def _object(item: Item, words: dict[Phase, str]) -> Json | None:
    status = words.get(item.phase)
    if status is None:
        return None
    made: Json = {"status": status, "progressDetail": {}, "id": item.id}
    if item.phase in _MOVING:
        made["progressDetail"] = {"current": item.current, "total": item.total}
    return made


class _Teller:
    """Remembers what was told, so that only changes go out."""

    def __init__(self, progress: Progress, render: Callable[[Item], Json | None]) -> None:
        self._progress = progress
        self._render = render
        self._told: dict[str, tuple[Phase, int]] = {}
        self._messages = 0

    def news(self) -> list[Json]:
        """Objects for everything that changed since the last call."""
        messages = self._progress.messages[self._messages :]
        self._messages += len(messages)
        objects: list[Json] = [{"status": message} for message in messages]
        for item in list(self._progress.items.values()):
            state = (item.phase, item.current)
            before = self._told.get(item.id)
            if before == state or (
                before is not None and before[0] is item.phase and item.phase not in _MOVING
            ):
                continue
            self._told[item.id] = state
            made = self._render(item)
            if made is not None:
                objects.append(made)
        return objects


async def tell(
    stream: ProgressStream,
    work: Callable[[Progress], Awaitable[T]],
    render: Callable[[Item], Json | None],
    *,
    heading: Json | None = None,
) -> T:
    """Do the work and meanwhile tell the client how it goes, ``heading`` first. If the client leaves, the work is cancelled.

    Work that fails before it has anything to tell has told nothing: its error is still a real status.
    """
    progress = Progress()
    teller = _Teller(progress, render)
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
