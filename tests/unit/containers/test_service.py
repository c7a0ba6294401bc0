"""The service on a runtime in memory: life, waiting, streams, restarts of the daemon."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.containers import NoLeases, TreeImages, collect, service

from lading.containers.attaching import AttachOptions, LogOptions
from lading.containers.environment import ContainerImage, Environment
from lading.containers.journal import Chunk
from lading.containers.lifecycle import LOST_EXIT
from lading.containers.service import ContainerService
from lading.containers.startfailures import CommandError
from lading.containers.streams import BUFFER, Broadcast, frames
from lading.core.mounts import Mount
from lading.core.snapshots import SnapshotKey
from lading.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    NotModifiedError,
    UnsupportedError,
)
from lading.oci.config import Healthcheck, RunConfig
from lading.oci.descriptor import Descriptor
from lading.testing.memory.runtime import Machine, MemoryRuntime

pytestmark = pytest.mark.anyio


class House:
    """A service that can be closed and opened again on the same machine and directory."""

    def __init__(self, directory: Path, machine: Machine) -> None:
        self.directory = directory
        self.machine = machine
        self.images = TreeImages()
        self._stack = AsyncExitStack()
        self.service: ContainerService
        self.env: Environment

    async def open(self) -> None:
        runtime = MemoryRuntime(self.machine)
        opened = service(self.directory, runtime, images=self.images)
        self.service, self.env = await self._stack.enter_async_context(opened)
        self._stack.push_async_callback(runtime.close)

    async def close(self) -> None:
        await self._stack.aclose()

    async def create(
        self, *command: str, name: str = "", host: dict[str, Any] | None = None, **config: Any
    ) -> str:
        body = {
            "Image": "box",
            "Cmd": list(command),
            **config,
            "HostConfig": {"NetworkMode": "none", **(host or {})},
        }
        return (await self.service.create(body, name=name)).id

    async def run(self, *command: str, **options: Any) -> str:
        id_ = await self.create(*command, **options)
        await self.service.start(id_)
        return id_

    async def wait(self, id_: str, condition: Any = "not-running") -> int:
        with anyio.fail_after(15):
            return await self.service.begin_wait(self.service.find(id_), condition)()

    def actions(self) -> list[str]:
        return [event.action for event in self.env.bus.history(0, 2**63)]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with Machine() as machine:
        made = House(tmp_path, machine)
        await made.open()
        yield made
        for container in made.service.all():
            await made.service.remove(container.id, force=True)
        await made.close()


async def test_a_start_unpacks_what_is_missing_and_reads_no_image_else(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """Layers that an unclean boot took are made again; where all is there, the image is not even looked at."""
    unpacked: list[str] = []
    lost = False

    async def unpack(manifest: Descriptor, **_: object) -> None:
        unpacked.append(manifest.digest)

    async def mounts(key: SnapshotKey) -> list[Mount]:
        if lost and not unpacked:
            raise NotFoundError(f"no snapshot of a layer, which {key} stands on")
        return await kept(key)

    id_ = await house.create("true")
    kept = house.env.snapshotter.mounts
    monkeypatch.setattr(house.images, "unpack", unpack)
    monkeypatch.setattr(house.env.snapshotter, "mounts", mounts)
    await house.service.start(id_)
    assert await house.wait(id_) == 0
    assert unpacked == []
    lost = True
    await house.service.start(id_)
    assert await house.wait(id_) == 0
    assert unpacked == [house.service.find(id_).document.manifest.digest]


async def test_what_was_read_of_an_image_is_handed_on(house: House, monkeypatch: pytest.MonkeyPatch):
    handed: list[object] = []

    async def unpack(manifest: Descriptor, *, image: ContainerImage | None = None, **_: object) -> None:
        handed.append(image and image.manifest == manifest)

    monkeypatch.setattr(house.images, "unpack", unpack)
    await house.create("true")
    assert handed == [True]


async def test_life_and_events(house: House):
    id_ = await house.create("sh", "-c", "echo hello; echo oops >&2; exit 3", name="first")
    assert not house.env.leases.held if isinstance(house.env.leases, NoLeases) else False
    waiting = house.service.begin_wait(house.service.find(id_), "next-exit")
    await house.service.start("first")
    assert await waiting() == 3
    document = await house.service.inspect(id_[:8])
    assert document["State"]["Status"] == "exited"
    assert document["State"]["ExitCode"] == 3
    assert document["Name"] == "/first"
    both = await collect(house.service.logs(id_, LogOptions()))
    assert sorted(both.splitlines()) == [b"hello", b"oops"]  # two pipes have no order between them
    assert await collect(house.service.logs(id_, LogOptions(stdout=False))) == b"oops\n"
    await house.service.remove("first")
    assert house.actions() == ["create", "start", "die", "destroy"]
    assert list((house.directory / "snapshots").iterdir()) == []
    assert await house.env.store.list() == []
    assert not (house.env.root / id_).exists()
    assert not (house.env.state / id_).exists()


async def test_state_errors(house: House):
    id_ = await house.run("sleep", "100", name="busy")
    with pytest.raises(NotModifiedError):
        await house.service.start(id_)
    with pytest.raises(ConflictError, match="container is running"):
        await house.service.remove(id_)
    with pytest.raises(AlreadyExistsError, match="already in use by container"):
        await house.create("true", name="busy")
    await house.service.kill(id_)
    assert await house.wait(id_) == 137
    with pytest.raises(NotModifiedError):
        await house.service.stop(id_)
    with pytest.raises(ConflictError, match="is not running"):
        await house.service.kill(id_)
    with pytest.raises(ConflictError, match="is not running"):
        await house.service.execs.create(house.service.find(id_), {"Cmd": ["true"]})


async def test_lookup_prefers_full_id_then_name_then_prefix(house: House):
    one = await house.create("true", name="one")
    two = await house.create("true", name=one[:12])
    assert house.service.find(one).id == one
    assert house.service.find(one[:12]).id == two
    assert house.service.find(one[:11]).id == one
    with pytest.raises(NotFoundError, match="No such container: nope"):
        house.service.find("nope")
    with pytest.raises((InvalidArgumentError, NotFoundError)):
        house.service.find("")


async def test_create_without_image_leaves_nothing(house: House):
    with pytest.raises(NotFoundError, match="No such image: other"):
        await house.service.create({"Image": "other"})
    with pytest.raises(UnsupportedError, match="UsernsMode"):
        await house.create("true", host={"UsernsMode": "keep"})
    assert await house.env.store.list() == []
    assert list((house.directory / "snapshots").iterdir()) == []


async def test_image_defaults_and_warnings(house: House):
    house.images.run = RunConfig(
        entrypoint=("sh", "-c"),
        cmd=("exit 4",),
        env=("A=1",),
        labels={"from": "image"},
        volumes={"/data": {}},
        healthcheck=Healthcheck(test=("CMD", "x")),
    )
    created = await house.service.create({"Image": "box", "Labels": {"own": "1"}, "HostConfig": None})
    assert created.warnings == []
    container = house.service.find(created.id)
    assert container.labels == {"from": "image", "own": "1"}
    assert container.config.healthcheck is not None
    assert container.config.healthcheck.test == ["CMD", "x"]
    await house.service.start(created.id)
    assert await house.wait(created.id) == 4


async def test_failed_start_keeps_the_words_and_the_code(house: House):
    id_ = await house.create("nosuch")
    with pytest.raises(CommandError, match="executable file not found"):
        await house.service.start(id_)
    state = (await house.service.inspect(id_))["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    gone = await house.create("nosuch", host={"AutoRemove": True})
    waiting = house.service.begin_wait(house.service.find(gone), "removed")
    with pytest.raises(CommandError):
        await house.service.start(gone)
    assert await waiting() == 127


async def test_auto_remove_answers_with_the_true_code(house: House):
    id_ = await house.create("sh", "-c", "exit 9", host={"AutoRemove": True})
    waiting = house.service.begin_wait(house.service.find(id_), "removed")
    await house.service.start(id_)
    assert await waiting() == 9
    with pytest.raises(NotFoundError):
        house.service.find(id_)


async def test_restart_policy_counts_and_stop_ends_it(house: House):
    id_ = await house.run("false", host={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}})
    assert await house.wait(id_) == 1
    assert house.service.find(id_).document.restart_count == 2
    loop = await house.run("true", host={"RestartPolicy": {"Name": "always"}})
    with anyio.fail_after(10):
        while house.service.find(loop).document.restart_count < 1:
            await anyio.sleep(0.01)
        while not house.service.find(loop).state.restarting:
            await anyio.sleep(0.01)
    await house.service.stop(loop)
    await house.wait(loop)
    assert not house.service.find(loop).state.running


class Client:
    """One end of a hijacked connection."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = list(parts)
        self.received = b""
        self.echoed = anyio.Event()

    async def read(self) -> bytes:
        if self._parts:
            return self._parts.pop(0)
        await self.echoed.wait()
        return b""

    async def write(self, data: bytes) -> None:
        self.received += data
        if b"two" in self.received:
            self.echoed.set()


async def test_attach_passes_input_and_ends_with_the_container(house: House):
    id_ = await house.create("cat", OpenStdin=True, StdinOnce=True)
    container = house.service.find(id_)
    attachment = house.service.attach(container, AttachOptions(stdin=True, stdout=True, stream=True))
    client = Client(b"one\n", b"two\n")
    with anyio.fail_after(15):
        async with anyio.create_task_group() as group:
            group.start_soon(house.service.serve_attachment, container, attachment, client)
            await house.service.start(id_)
    assert (
        client.received.replace(b"\1\0\0\0\0\0\0\4", b"").replace(b"\1\0\0\0\0\0\0\10", b"") == b"one\ntwo\n"
    )
    assert await house.wait(id_) == 0


async def test_exec_output_code_and_leftovers(house: House):
    id_ = await house.run("sleep", "100")
    house.service.find(id_).document.state.pid = os.getpid()  # the machine's process IDs are not real
    exec_id = await house.service.execs.create(
        house.service.find(id_),
        {"Cmd": ["sh", "-c", "echo hi; exit 7"], "AttachStdout": True, "AttachStderr": True, "User": "0"},
    )
    client, exec_ = Client(), house.service.execs.find(exec_id)
    with anyio.fail_after(15):
        await house.service.execs.start(exec_, peer=client)
    assert client.received == b"\1\0\0\0\0\0\0\3hi\n"
    assert exec_.exit_code == 7
    with pytest.raises(ConflictError, match="already run"):
        await house.service.execs.start(exec_, peer=client)
    with anyio.fail_after(15):  # its streams go after the client was let go
        while [path.name for path in (house.env.state / id_).glob("exec-*")]:
            await anyio.sleep(0.01)


async def test_running_container_is_taken_up_by_the_next_daemon(house: House):
    id_ = await house.run("sh", "-c", "echo before; sleep 0.3; echo after; exit 2")
    await house.close()
    await house.open()
    assert house.service.find(id_).state.running
    assert await house.wait(id_) == 2
    assert await collect(house.service.logs(id_, LogOptions())) == b"before\nafter\n"


async def test_container_that_ended_meanwhile(house: House):
    id_ = await house.run("sh", "-c", "echo last; sleep 0.1; exit 5")
    removed = await house.run("sh", "-c", "sleep 0.1", host={"AutoRemove": True})
    await house.close()
    with anyio.fail_after(10):
        while any(
            process.exit is None for r in house.machine.records.values() for process in r.processes.values()
        ):
            await anyio.sleep(0.01)
    await house.open()
    assert not house.service.find(id_).state.running  # from the beginning
    assert await house.wait(id_) == 5
    assert await collect(house.service.logs(id_, LogOptions())) == b"last\n"
    with anyio.fail_after(10):
        while removed in {container.id for container in house.service.all()}:
            await anyio.sleep(0.01)


async def test_killed_shim_is_seen(house: House):
    id_ = await house.run("sleep", "100")
    await house.close()
    house.machine.kill_shim(house.service.find(id_).id)
    await house.open()
    assert not house.service.find(id_).state.running
    assert await house.wait(id_) == 137


async def test_a_container_of_which_nothing_is_left_has_ended_from_the_beginning(house: House):
    """As after a reboot, or with the machine that a daemon of a user was: nobody will report an end."""
    id_ = await house.run("sleep", "100")
    await house.close()
    house.machine.kill_shim(house.service.find(id_).id)
    with anyio.fail_after(5):
        while not house.machine.unseen:
            await anyio.sleep(0.01)
    house.machine.unseen.clear()
    await house.open()
    state = (await house.service.inspect(id_))["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"]) == ("exited", LOST_EXIT, 0)


async def test_log_follow_tail_and_times(house: House):
    id_ = await house.run("sh", "-c", "echo a; echo b; sleep 0.2; echo c")
    with anyio.fail_after(15):
        assert await collect(house.service.logs(id_, LogOptions(follow=True))) == b"a\nb\nc\n"
    assert await collect(house.service.logs(id_, LogOptions(tail=1))) == b"c\n"
    assert await collect(house.service.logs(id_, LogOptions(since=2**62))) == b""
    line = await collect(house.service.logs(id_, LogOptions(tail=1, timestamps=True)))
    assert len(line.split(b" ")[0]) == len("2024-05-06T07:08:09.123456789Z")


async def test_list_filters_and_prune(house: House):
    running = await house.run("sleep", "100", name="up", Labels={"a": "1"})
    stopped = await house.run("true", name="down")
    await house.wait(stopped)
    ids = lambda rows: [row["Id"] for row in rows]  # noqa: E731
    assert ids(await house.service.list({})) == [running]
    assert ids(await house.service.list({}, all=True)) == [stopped, running]
    assert ids(await house.service.list({"status": ["exited"]})) == [stopped]
    assert ids(await house.service.list({"label": ["a=1"]}, all=True)) == [running]
    assert ids(await house.service.list({"name": ["^/do"]}, all=True)) == [stopped]
    assert ids(await house.service.list({"before": ["down"]}, all=True)) == [running]
    assert ids(await house.service.list({}, limit=1)) == [stopped]
    assert list((await house.service.prune({})).ids) == [stopped]


async def test_rename(house: House):
    id_ = await house.create("true", name="old")
    await house.create("true", name="taken")
    with pytest.raises(AlreadyExistsError):
        await house.service.rename(id_, "taken")
    await house.service.rename("old", "/new")
    assert house.service.find("new").id == id_
    assert (await house.env.store.get(id_)).name == "new"


async def test_a_client_that_does_not_read_is_dropped(house: House):
    broadcast = Broadcast(patience=0.05)
    deaf, good = broadcast.subscribe(["stdout"]), broadcast.subscribe(["stdout"])
    chunk = Chunk(stream="stdout", data=b"x" * (BUFFER // 2))
    for _ in range(4):
        with anyio.fail_after(5):
            await broadcast.publish([chunk])
        assert await good.receive() == chunk
    assert deaf.dropped
    assert not good.dropped
    broadcast.end()
    assert await good.receive() is None


async def test_the_end_of_a_container_waits_for_no_client(house: House):
    """Of what was written nothing is lost on the way: the log has it, and so has who reads late."""
    line = "x" * 3999
    lines = BUFFER // 4000 + 10
    script = "; ".join([*[f"echo {line}"] * lines, "exit 5"])
    container = house.service.find(await house.create("sh", "-c", script))
    attachment = house.service.attach(container, AttachOptions(stdout=True, stream=True))
    await house.service.start(container.id)
    with anyio.fail_after(5):
        assert await house.wait(container.id) == 5
    client = Client()
    with anyio.fail_after(5):
        await house.service.serve_attachment(container, attachment, client)
    logged = await collect(house.service.logs(container.id, LogOptions()))
    received = b"".join(payload for _, payload in frames(client.received))
    assert received == logged == f"{line}\n".encode() * lines


async def test_inspect_shows_every_key_that_docker_sends(tmp_path: Path) -> None:
    house = House(tmp_path, Machine())
    await house.open()
    try:
        id_ = await house.create("true")
        made = await house.service.inspect(id_)
        host, config = made["HostConfig"], made["Config"]
        assert (host["Binds"], host["Memory"], host["Privileged"], host["PortBindings"]) == (
            None,
            0,
            False,
            None,
        )
        assert (host["IpcMode"], host["ShmSize"], host["Runtime"]) == ("private", 64 << 20, "runc")
        assert "/proc/kcore" in host["MaskedPaths"]
        assert "/proc/sys" in host["ReadonlyPaths"]
        assert (config["Tty"], config["OpenStdin"], config["AttachStdout"], config["OnBuild"]) == (
            False,
            False,
            False,
            None,
        )
        given = await house.create(
            "true", host={"Memory": 64 << 20, "Binds": None, "Privileged": True}, Tty=True
        )
        made = await house.service.inspect(given)
        assert made["HostConfig"]["Memory"] == 64 << 20
        assert made["HostConfig"]["MaskedPaths"] is None
        assert made["Config"]["Tty"] is True
        assert next(iter(made["NetworkSettings"]["Networks"].values()))["GwPriority"] == 0
    finally:
        await house.close()
