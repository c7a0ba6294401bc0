"""Events of tasks on their way out: the end of a first process is told once, whoever sees it first, the shim or we."""

from collections.abc import AsyncIterator, Callable
from typing import Final

from lading.core.runtime import ContainerID, Exit, TaskEvent
from lading.runtime.events import EventQueue
from lading.runtime.shim import ShimTask

_EXIT: Final = "/tasks/exit"
_DELETE: Final = "/tasks/delete"


class Reports:
    """What shims report, and what is told in their place. ``find`` gives the task of a container."""

    def __init__(self, find: Callable[[ContainerID], ShimTask | None]) -> None:
        self._find = find
        self._queue = EventQueue()
        self._early: set[ContainerID] | None = set()
        """Exits that came before `all_found`; None after it."""

    def __aiter__(self) -> AsyncIterator[TaskEvent]:
        return aiter(self._queue)

    def close(self) -> None:
        """End the iteration after what is queued."""
        self._queue.close()

    # While the tasks of earlier daemons are found.

    def found(self, task: ShimTask) -> None:
        """A task of an earlier daemon is known now; its shim may have reported its end before."""
        if self._early is not None and task.id in self._early:
            task.reported.add(_EXIT)
            task.exit_reported.set()

    def not_found(self, id: ContainerID, end: Exit) -> None:
        """There is no task any more; this is how it ended."""
        if self._early is None or id not in self._early:
            self._queue.put(_event(_EXIT, id, 0, end))

    def all_found(self) -> None:
        """All tasks of earlier daemons are known."""
        self._early = None

    # Reporting.

    def arrived(self, event: TaskEvent) -> None:
        """A shim reports. The end of a first process is passed on once, and only if it is of the task that is here."""
        if event.topic in (_EXIT, _DELETE) and not event.exec_id:
            task = self._find(event.container)
            if task is not None and task.pid == event.pid:
                self._report(task, event)
            elif self._early is not None:
                self._early.add(event.container)
                self._queue.put(event)
        else:
            self._queue.put(event)

    def exited(self, task: ShimTask, end: Exit) -> None:
        """Its first process ended: told in the shim's place, if it has not done so."""
        self._report(task, _event(_EXIT, task.id, task.pid, end))

    def deleted(self, task: ShimTask, end: Exit) -> None:
        """It was deleted: told in the shim's place, if it has not done so."""
        self._report(task, _event(_DELETE, task.id, task.pid, end))

    def _report(self, task: ShimTask, event: TaskEvent) -> None:
        if event.topic not in task.reported:
            task.reported.add(event.topic)
            if event.topic == _EXIT:
                task.record_exit(Exit(status=event.exit_status, exited_at_nano=event.time_nano))
                task.exit_reported.set()
            self._queue.put(event)


def _event(topic: str, id: ContainerID, pid: int, end: Exit) -> TaskEvent:
    return TaskEvent(topic=topic, container=id, pid=pid, exit_status=end.status, time_nano=end.exited_at_nano)
