"""The conformance suite of `lading.core.runtime.Runtime`.

Subclass `RuntimeSuite` and give it a ``world`` fixture: a place in which runtimes come and go while tasks go on.
"""

import contextlib
import os
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import pytest

from lading.core.mounts import Mount
from lading.core.runtime import ContainerID, Exit, Runtime, Status, Stdio, Task, TaskEvent
from lading.errors import AlreadyExistsError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from lading.kit.fifo import make_fifos

ID: Final = ContainerID("one")
SIGKILL: Final = 9
SIGTERM: Final = 15
FOREVER: Final = ("sleep", "1000")


class World(Protocol):
    """Where tasks live. Implementations clean up after themselves, whatever a test leaves."""

    directory: Path
    """For FIFOs."""
    runtime: str
    """The name under which `Runtime.create` finds the runtime under test."""
    rootfs: Sequence[Mount]
    """A root file system with busybox's ``sh cat echo sleep true``."""

    def open(self) -> AbstractAsyncContextManager[Runtime]:
        """A runtime on this world, as a daemon that starts would have; several in turn, never two at a time."""
        ...

    def spec(self, id: ContainerID, *args: str, terminal: bool = False) -> Mapping[str, Any]:
        """An OCI spec that runs a program."""
        ...

    def process(self, *args: str, terminal: bool = False) -> Mapping[str, Any]:
        """An OCI process object."""
        ...

    async def kill_shim(self, task: Task) -> None:
        """End a task's shim, and nothing else, with SIGKILL."""
        ...


class RuntimeSuite:
    """Every promise of the port."""

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    @pytest.fixture
    async def runtime(self, world: World) -> AsyncGenerator[Runtime]:
        async with world.open() as runtime:
            yield runtime

    @staticmethod
    async def create(
        world: World, runtime: Runtime, *args: str, id: ContainerID = ID, stdio: Stdio | None = None
    ) -> Task:
        stdio = stdio or Stdio()
        spec = world.spec(id, *args, terminal=stdio.terminal)
        return await runtime.create(id, runtime=world.runtime, spec=spec, rootfs=world.rootfs, stdio=stdio)

    async def run(self, world: World, runtime: Runtime, *args: str, id: ContainerID = ID) -> Task:
        task = await self.create(world, runtime, *args, id=id)
        await task.start()
        return task

    # life

    async def test_a_task_is_created_started_awaited_and_deleted(
        self, world: World, runtime: Runtime
    ) -> None:
        task = await self.create(world, runtime, "sh", "-c", "exit 3")
        assert (task.id, (await task.state()).status) == (ID, Status.CREATED)
        assert await task.start() == task.pid == (await task.state()).pid
        end = await task.wait()
        assert end.status == 3
        assert end.exited_at_nano > 0
        state = await task.state()
        assert (state.status, state.exit_status, state.exited_at_nano) == (
            Status.STOPPED,
            3,
            end.exited_at_nano,
        )
        assert await task.delete() == end

    async def test_it_is_found_by_its_id_until_deleted(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        assert (await runtime.get(ID)).pid == task.pid
        assert (await task.state()).status is Status.RUNNING
        await self.end(task)
        with pytest.raises(NotFoundError):
            await runtime.get(ID)

    async def test_every_waiter_gets_the_end_early_and_late(self, world: World, runtime: Runtime) -> None:
        task = await self.create(world, runtime, "sh", "-c", "exit 5")
        ends: list[int] = []

        async def wait() -> None:
            ends.append((await task.wait()).status)

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
            await task.start()
        assert [*ends, (await task.wait()).status] == [5, 5, 5, 5]

    async def test_giving_up_a_wait_changes_nothing(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        with anyio.move_on_after(0.05):
            await task.wait()
        assert (await task.state()).status is Status.RUNNING
        assert (await self.end(task)).status == 128 + SIGKILL

    async def test_a_deleted_task_is_gone(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, "true")
        await task.wait()
        await task.delete()
        for call in (task.start, task.state, task.wait, task.pause, task.pids, task.metrics, task.delete):
            with pytest.raises(NotFoundError):
                await call()
        with pytest.raises(NotFoundError):
            await task.kill(SIGKILL)

    async def test_an_id_can_be_used_again(self, world: World, runtime: Runtime) -> None:
        for status in (1, 2):
            task = await self.run(world, runtime, "sh", "-c", f"exit {status}")
            assert (await task.wait()).status == status
            await task.delete()

    async def test_a_created_task_can_be_deleted(self, world: World, runtime: Runtime) -> None:
        task = await self.create(world, runtime, *FOREVER)
        assert (await task.delete()).status == 128 + SIGKILL
        with pytest.raises(NotFoundError):
            await runtime.get(ID)

    async def test_a_running_task_cannot_be_deleted(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        with pytest.raises(FailedPreconditionError):
            await task.delete()
        assert (await task.state()).status is Status.RUNNING

    # refusals

    async def test_a_second_task_of_a_container_is_refused(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        with pytest.raises(AlreadyExistsError):
            await self.create(world, runtime, "true")
        assert (await task.state()).status is Status.RUNNING

    async def test_an_unknown_runtime_is_not_found(self, world: World, runtime: Runtime) -> None:
        for name in ("io.containerd.nothing.v1", "nothing", "/nowhere/containerd-shim"):
            with pytest.raises(NotFoundError, match=name):
                await runtime.create(
                    ID, runtime=name, spec=world.spec(ID, "true"), rootfs=world.rootfs, stdio=Stdio()
                )

    @pytest.mark.parametrize("id", ["", ".", "..", "../x", "a/b", "a..b", "-a", "a\n", "a\0", "x" * 77])
    async def test_an_id_that_could_be_a_path_is_refused(
        self, world: World, runtime: Runtime, id: str
    ) -> None:
        with pytest.raises(InvalidArgumentError):
            await self.create(world, runtime, "true", id=ContainerID(id))

    async def test_a_missing_program_is_told_in_the_runtimes_words(
        self, world: World, runtime: Runtime
    ) -> None:
        with pytest.raises(FailedPreconditionError, match=r"nonsense.*not found"):
            await self.create(world, runtime, "nonsense")
        with pytest.raises(NotFoundError):
            await runtime.get(ID)
        assert (await (await self.run(world, runtime, "true")).wait()).status == 0

    # signals

    async def test_a_signal_ends_the_program(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await task.kill(SIGKILL)
        assert (await task.wait()).status == 128 + SIGKILL
        with pytest.raises(NotFoundError):
            await task.kill(SIGKILL)

    async def test_all_processes_are_killed(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await self.exec(world, task, *FOREVER)
        await task.kill(SIGKILL, all=True)
        assert (await task.wait()).status == 128 + SIGKILL

    # further processes

    async def exec(
        self, world: World, task: Task, *args: str, exec_id: str = "more", stdio: Stdio | None = None
    ) -> int:
        await task.exec(exec_id, world.process(*args), stdio or Stdio())
        return await task.start(exec_id)

    async def test_an_exec_runs_and_ends_by_itself(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await task.exec("more", world.process("sh", "-c", "exit 7"), Stdio())
        assert (await task.state("more")).status is Status.CREATED
        pid = await task.start("more")
        assert pid not in (0, task.pid)
        assert (await task.wait("more")).status == 7
        assert (await task.state("more")).status is Status.STOPPED
        assert (await task.delete("more")).status == 7
        with pytest.raises(NotFoundError):
            await task.state("more")
        assert (await task.state()).status is Status.RUNNING

    async def test_an_exec_is_killed_alone(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await self.exec(world, task, *FOREVER)
        with pytest.raises(FailedPreconditionError):
            await task.delete("more")
        await task.kill(SIGKILL, "more")
        assert (await task.wait("more")).status == 128 + SIGKILL
        assert (await task.state()).status is Status.RUNNING

    async def test_an_exec_has_any_number_of_waiters_and_one_may_give_up(
        self, world: World, runtime: Runtime
    ) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await self.exec(world, task, *FOREVER)
        with anyio.move_on_after(0.1) as scope:
            await task.wait("more")
        assert scope.cancelled_caught
        ends: list[int] = []

        async def wait() -> None:
            ends.append((await task.wait("more")).status)

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
            await anyio.sleep(0.1)
            await task.kill(SIGKILL, "more")
        assert [*ends, (await task.wait("more")).status] == [128 + SIGKILL] * 3

    @pytest.mark.parametrize("length", [4095, 4096, 200_000])
    async def test_no_program_name_is_too_long_to_be_refused(
        self, world: World, runtime: Runtime, length: int
    ) -> None:
        """A shim that is held up by it would take nothing else, not even the end of the container."""
        task = await self.run(world, runtime, *FOREVER)
        with anyio.fail_after(10):
            with pytest.raises(FailedPreconditionError):
                await self.exec(world, task, "x" * length)
            with pytest.raises(FailedPreconditionError):
                await self.run(world, runtime, "x" * length, id=ContainerID("other"))
        assert (await task.state()).status is Status.RUNNING
        await self.exec(world, task, "true", exec_id="next")
        assert (await task.wait("next")).status == 0

    async def test_fifty_execs_start_at_once(self, world: World, runtime: Runtime) -> None:
        """The bound is none of speed: a shim that waits for what it holds back itself takes a second for each end."""
        task = await self.run(world, runtime, *FOREVER)

        async def run(exec_id: str) -> None:
            await self.exec(world, task, "sh", "-c", "exit 7", exec_id=exec_id)
            assert (await task.wait(exec_id)).status == 7
            assert (await task.delete(exec_id)).status == 7

        with anyio.fail_after(25):
            async with anyio.create_task_group() as group:
                for number in range(50):
                    group.start_soon(run, f"more-{number}")
        assert (await task.state()).status is Status.RUNNING

    async def test_exec_ids_are_single_and_known(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await self.exec(world, task, *FOREVER)
        with pytest.raises(AlreadyExistsError):
            await self.exec(world, task, "true")
        for call in (task.start, task.state, task.wait, task.delete):
            with pytest.raises(NotFoundError):
                await call("other")
        with pytest.raises(InvalidArgumentError):
            await self.exec(world, task, "true", exec_id="../other")

    async def test_a_missing_program_of_an_exec_is_told(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        with pytest.raises(FailedPreconditionError, match=r"nonsense.*(not found|no such file)"):
            await self.exec(world, task, "nonsense")
        assert (await task.state()).status is Status.RUNNING

    # standard streams

    @contextlib.contextmanager
    def streams(
        self, world: World, *, stdin: bool = False, terminal: bool = False
    ) -> Generator[tuple[Stdio, int, int]]:
        """FIFOs, and the reading ends of both outputs (of stdout alone, twice, with a terminal)."""
        fifos = make_fifos(world.directory, "one", stdin=stdin, terminal=terminal)
        stdio = Stdio(stdin=fifos.stdin, stdout=fifos.stdout, stderr=fifos.stderr, terminal=terminal)
        with reading(stdio.stdout) as out, reading(stdio.stderr or stdio.stdout) as err:
            yield stdio, out, err

    async def test_outputs_arrive_apart_and_end(self, world: World, runtime: Runtime) -> None:
        with self.streams(world) as (stdio, out, err):
            task = await self.create(world, runtime, "sh", "-c", "echo good; echo bad >&2", stdio=stdio)
            await task.start()
            await task.wait()
            assert (await drain(out), await drain(err)) == (b"good\n", b"bad\n")

    async def test_outputs_of_an_exec_arrive(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        with self.streams(world) as (stdio, out, err):
            await self.exec(world, task, "sh", "-c", "echo good; echo bad >&2", stdio=stdio)
            await task.wait("more")
            assert (await drain(out), await drain(err)) == (b"good\n", b"bad\n")

    async def test_a_reader_may_come_and_go(self, world: World, runtime: Runtime) -> None:
        with self.streams(world, stdin=True) as (stdio, out, _):
            task = await self.create(world, runtime, "sh", "-c", "echo early; cat", stdio=stdio)
        await task.start()
        with reading(stdio.stdout) as out, writing(stdio.stdin) as into:
            assert await receive(out, 6) == b"early\n"
            os.write(into, b"again\n")
            assert await receive(out, 6) == b"again\n"

    async def test_input_arrives_and_its_end_is_told(self, world: World, runtime: Runtime) -> None:
        with self.streams(world, stdin=True) as (stdio, out, _):
            task = await self.create(world, runtime, "cat", stdio=stdio)
            await task.start()
            with writing(stdio.stdin) as into:
                os.write(into, b"words\n")
                assert await receive(out, 6) == b"words\n"
            await task.close_stdin()
            assert (await task.wait()).status == 0

    async def test_a_terminal_can_be_resized(self, world: World, runtime: Runtime) -> None:
        with self.streams(world, stdin=True, terminal=True) as (stdio, _, _):
            task = await self.create(world, runtime, *FOREVER, stdio=stdio)
            await task.start()
            await task.resize(100, 40)
            assert (await task.state()).status is Status.RUNNING

    # control

    async def test_pause_and_resume(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await task.pause()
        assert (await task.state()).status is Status.PAUSED
        with pytest.raises(FailedPreconditionError):
            await task.pause()
        with pytest.raises(FailedPreconditionError):
            await task.delete()
        await task.resume()
        assert (await task.state()).status is Status.RUNNING
        with pytest.raises(FailedPreconditionError):
            await task.resume()

    async def test_processes_are_listed(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        assert await task.pids() == [task.pid]
        more = await self.exec(world, task, *FOREVER)
        assert sorted(await task.pids()) == sorted([task.pid, more])

    async def test_limits_are_changed_and_figures_reported(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await task.update({"pids": {"limit": 77}})
        figures = await task.metrics()
        assert figures["pids"]["limit"] == 77
        assert figures["pids"]["current"] >= 1  # the runtime's own threads may not all have ended
        assert {"cpu", "memory"} <= figures.keys()

    # events

    async def test_events_come_in_the_order_of_life(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, "sh", "-c", "exit 4")
        await task.wait()
        await task.delete()
        events = await seen(runtime, "/tasks/delete")
        assert [event.topic for event in events] == [
            f"/tasks/{word}" for word in ("create", "start", "exit", "delete")
        ]
        assert {(event.container, event.exec_id, event.pid) for event in events} == {(ID, "", task.pid)}
        assert [event.exit_status for event in events] == [0, 0, 4, 4]

    async def test_events_of_an_exec_bear_its_id(self, world: World, runtime: Runtime) -> None:
        task = await self.run(world, runtime, *FOREVER)
        pid = await self.exec(world, task, "sh", "-c", "exit 6")
        await seen(runtime, "/tasks/start")
        events = await seen(runtime, "/tasks/exit")
        assert [event.topic for event in events] == [
            f"/tasks/{word}" for word in ("exec-added", "exec-started", "exit")
        ]
        assert {event.exec_id for event in events} == {"more"}
        assert (events[-1].pid, events[-1].exit_status) == (pid, 6)

    async def test_closing_ends_the_events(self, world: World, runtime: Runtime) -> None:
        await self.run(world, runtime, *FOREVER)
        await runtime.close()
        await runtime.close()
        topics = [event.topic async for event in runtime.events()]
        assert set(topics) <= {"/tasks/create", "/tasks/start"}

    # other daemons, dead shims

    async def test_tasks_outlive_the_runtime(self, world: World) -> None:
        async with world.open() as first:
            pid = (await self.run(world, first, *FOREVER)).pid
        async with world.open() as second:
            [task] = await second.load()
            assert (task.id, task.pid, (await task.state()).status) == (ID, pid, Status.RUNNING)
            assert (await second.get(ID)).pid == pid
            with pytest.raises(AlreadyExistsError):
                await self.create(world, second, "true")
            await self.exec(world, task, "true")
            assert (await task.wait("more")).status == 0
            assert (await self.end(task)).status == 128 + SIGKILL

    async def test_an_end_between_two_daemons_is_not_lost(self, world: World) -> None:
        with self.streams(world, stdin=True) as (stdio, out, _):
            async with world.open() as first:
                task = await self.create(world, first, "sh", "-c", "cat; exit 9", stdio=stdio)
                await task.start()
                with writing(stdio.stdin):
                    await task.close_stdin()  # the end follows when the last writer has gone
                    await first.close()
            assert await drain(out) == b""
        async with world.open() as second:
            [task] = await second.load()
            assert (await task.wait()).status == 9
            [event] = [event for event in await seen(second, "/tasks/exit") if event.topic == "/tasks/exit"]
            assert (event.container, event.exec_id, event.exit_status) == (ID, "", 9)
            assert (await task.delete()).status == 9

    async def test_a_created_task_can_be_started_by_the_next_daemon(self, world: World) -> None:
        async with world.open() as first:
            await self.create(world, first, "sh", "-c", "exit 8")
        async with world.open() as second:
            [task] = await second.load()
            assert (await task.state()).status is Status.CREATED
            await task.start()
            assert (await task.wait()).status == 8

    async def test_the_death_of_a_shim_is_the_end_of_its_container(
        self, world: World, runtime: Runtime
    ) -> None:
        task = await self.run(world, runtime, *FOREVER)
        await self.exec(world, task, *FOREVER)
        await world.kill_shim(task)
        assert (await task.wait()).status == 128 + SIGKILL
        events = await seen(runtime, "/tasks/exit", exec_id="")
        assert (events[-1].pid, events[-1].exit_status) == (task.pid, 128 + SIGKILL)
        assert (await task.state()).status is Status.STOPPED
        with pytest.raises(NotFoundError):
            await task.kill(SIGTERM)
        assert (await task.delete()).status == 128 + SIGKILL
        assert (await (await self.run(world, runtime, "true")).wait()).status == 0

    async def test_a_shim_that_died_unseen_is_reported_by_load(self, world: World) -> None:
        async with world.open() as first:
            task = await self.run(world, first, *FOREVER)
        await world.kill_shim(task)
        async with world.open() as second:
            assert await second.load() == []
            event = (await seen(second, "/tasks/exit"))[-1]
            assert (event.container, event.exec_id, event.exit_status) == (ID, "", 128 + SIGKILL)
            with pytest.raises(NotFoundError):
                await second.get(ID)
            await self.run(world, second, *FOREVER)

    @staticmethod
    async def end(task: Task) -> Exit:
        """Kill, wait, delete."""
        await task.kill(SIGKILL)
        await task.wait()
        return await task.delete()


async def seen(runtime: Runtime, topic: str, exec_id: str | None = None) -> list[TaskEvent]:
    """Events up to the first of a topic."""
    events: list[TaskEvent] = []
    with anyio.fail_after(20):
        async for event in runtime.events():
            events.append(event)
            if event.topic == topic and exec_id in (None, event.exec_id):
                return events
    raise AssertionError(f"the events ended before {topic}")


@contextlib.contextmanager
def reading(path: str) -> Generator[int]:
    """The reading end of a FIFO; opening it waits for no writer."""
    with _opened(path, os.O_RDONLY | os.O_NONBLOCK) as fd:
        yield fd


@contextlib.contextmanager
def writing(path: str) -> Generator[int]:
    """The writing end of a FIFO that somebody reads."""
    with _opened(path, os.O_WRONLY | os.O_NONBLOCK) as fd:
        yield fd


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Generator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


async def receive(fd: int, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    with anyio.fail_after(20):
        while len(data) < size:
            await anyio.wait_readable(fd)
            data += os.read(fd, size - len(data))
    return data


async def drain(fd: int) -> bytes:
    """Everything until the last writer has gone."""
    data = b""
    with anyio.fail_after(20):
        while True:
            await anyio.wait_readable(fd)
            chunk = os.read(fd, 65536)
            if not chunk:
                return data
            data += chunk
