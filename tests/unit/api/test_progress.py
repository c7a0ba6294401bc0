"""What clients are told of each blob: changes, and the steps that programs count on though nobody saw them pass."""

from typing import Any

import anyio
import pytest

from lading.api.engine.progress import LOADING, PULLING, PUSHING, SILENT, Words, tell
from lading.core.progress import Phase, Progress

pytestmark = pytest.mark.anyio


class Listener:
    """Stands for a `ProgressStream`."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []
        self.heard = anyio.Event()

    async def send_many(self, values: list[dict[str, Any]]) -> None:
        self.objects += values
        self.heard.set()


async def told(words: Words, *looks: dict[str, Phase]) -> list[str]:
    """What is said of blobs that have these phases each time that somebody looks; what comes at once between bars."""
    listener = Listener()
    said: list[str] = []

    def take() -> None:
        assert all("progressDetail" in each for each in listener.objects)
        said.append(" ".join(f"{each['id']}:{each['status']}" for each in listener.objects))
        listener.objects.clear()
        listener.heard = anyio.Event()

    async def work(progress: Progress) -> None:
        for number, look in enumerate(looks):
            if number:
                with anyio.fail_after(20):
                    await listener.heard.wait()
                take()
            for name, phase in look.items():
                item = progress.item(name, 10)
                item.phase, item.detail = phase, "library/base"

    await tell(listener, work, words)  # type: ignore[arg-type]
    take()
    return said


async def test_steps_that_nobody_saw_are_told_all_blobs_before_the_next_step() -> None:
    said = await told(PULLING, {"a": Phase.COMPLETE, "b": Phase.COMPLETE, "c": Phase.EXISTS})
    assert said[0].split(" a:Download") == [
        "a:Pulling fs layer b:Pulling fs layer c:Already exists",
        " complete b:Download complete a:Pull complete b:Pull complete",
    ]


async def test_a_step_is_told_once() -> None:
    said = await told(PULLING, {"a": Phase.WAITING}, {"a": Phase.DOWNLOADING}, {"a": Phase.COMPLETE})
    assert said == ["a:Pulling fs layer", "a:Downloading", "a:Download complete a:Pull complete"]
    said = await told(PULLING, {"a": Phase.EXTRACTING}, {"a": Phase.COMPLETE})
    assert said == ["a:Pulling fs layer a:Download complete a:Extracting", "a:Pull complete"]


async def test_what_turns_out_to_be_there_is_told_so() -> None:
    said = await told(PULLING, {"a": Phase.WAITING}, {"a": Phase.EXISTS})
    assert said == ["a:Pulling fs layer", "a:Already exists"]


@pytest.mark.parametrize(
    ("words", "phase", "said"),
    [
        (PUSHING, Phase.UPLOADED, "a:Pushed"),
        (PUSHING, Phase.MOUNTED, "a:Mounted from library/base"),
        (PUSHING, Phase.EXISTS, "a:Layer already exists"),
        (LOADING, Phase.DOWNLOADING, "a:Loading layer"),
        (LOADING, Phase.COMPLETE, ""),
        (SILENT, Phase.DOWNLOADING, ""),
    ],
)
async def test_every_operation_has_its_words(words: Words, phase: Phase, said: str) -> None:
    assert await told(words, {"a": phase}) == [said]
