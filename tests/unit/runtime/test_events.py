"""Events of shims, over the socket and through the daemon's executable."""

from pathlib import Path

import anyio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from lading.core.runtime import ContainerID, TaskEvent
from lading.errors import InvalidArgumentError, UnavailableError
from lading.kit import aio
from lading.runtime._pb import task_pb2
from lading.runtime.events import EventQueue, events_service, publish_main
from lading.runtime.ttrpc import serve
from lading.runtime.wire import any_message

EXIT = task_pb2.TaskExit(container_id="one", id="one", pid=7, exit_status=3)


@pytest.mark.anyio
@pytest.mark.parametrize("dash", ["-", "--"])
async def test_an_event_published_by_the_executable_arrives(tmp_path: Path, dash: str) -> None:
    path = str(tmp_path / "s")
    got: list[TaskEvent] = []
    event = any_message("containerd.events.TaskExit", EXIT).SerializeToString()
    async with serve(path, events_service("n", got.append)):
        for namespace in ("other", "n"):
            argv = [f"{dash}topic", "/tasks/exit", f"{dash}namespace", namespace]
            await aio.run(aio.DISK, publish_main, argv, event, {"TTRPC_ADDRESS": path})
    [arrived] = got
    assert (arrived.topic, arrived.container, arrived.exec_id, arrived.pid, arrived.exit_status) == (
        "/tasks/exit",
        "one",
        "",
        7,
        3,
    )
    assert arrived.time_nano > 0


def test_publish_says_what_is_wrong(tmp_path: Path) -> None:
    good = ["--topic", "/t", "--namespace", "n"]
    for argv, environment in (([], {"TTRPC_ADDRESS": "/x"}), (good, {})):
        with pytest.raises(InvalidArgumentError):
            publish_main(argv, b"", environment)
    with pytest.raises(InvalidArgumentError):
        publish_main(good, b"\xff", {"TTRPC_ADDRESS": str(tmp_path / "x")})
    with pytest.raises(UnavailableError):
        publish_main([*good, "--address", str(tmp_path / "x")], AnyMessage().SerializeToString(), {})


@pytest.mark.anyio
async def test_the_queue_keeps_order_drops_the_oldest_and_ends() -> None:
    queue = EventQueue()
    for number in range(10_002):
        queue.put(TaskEvent(topic="/t", container=ContainerID("one"), pid=number))
    queue.close()
    queue.put(TaskEvent(topic="/late", container=ContainerID("one")))
    with anyio.fail_after(5):
        assert [event.pid async for event in queue] == list(range(2, 10_002))
