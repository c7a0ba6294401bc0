"""`ClientSession` keeps the promises of its port, over the wire and against hostile clients."""

import subprocess
from contextlib import asynccontextmanager

import anyio
import pytest
from support.wire_client import WireClient

from lading.core.session import Offer, SyncWish
from lading.errors import AlreadyExistsError, InvalidArgumentError, LadingError, NotFoundError
from lading.formats.buildkit._pb.fsutil_pb2 import Packet, Stat
from lading.kit.grpc.server import serve
from lading.kit.grpc.status import Code, GrpcError
from lading.sessions.registry import SessionRegistry
from lading.testing.pipes import pipe
from lading.testing.sessions import Client, SessionSuite

pytestmark = pytest.mark.anyio
DIRECTORY = 1 << 31 | 0o755
LINK = 1 << 27 | 0o777


@asynccontextmanager
async def session_of(client: Client):
    registry = SessionRegistry()
    wire = WireClient(client)
    ours, theirs = pipe()
    async with anyio.create_task_group() as tasks:
        with ours, theirs:
            tasks.start_soon(wire.run, theirs)
            tasks.start_soon(registry.serve, ours, wire.offer("one"))
            yield await registry.get("one")
            tasks.cancel_scope.cancel()


class TestClientSession(SessionSuite):
    @pytest.fixture
    def connect(self):
        return session_of


def entry(path: str, mode: int = 0o644, **fields: object) -> Packet:
    return Packet(type=Packet.STAT, stat=Stat(path=path, mode=mode, mod_time=1, **fields))


END = Packet(type=Packet.STAT)
FIN = Packet(type=Packet.FIN)
ATTACKS = {
    "parent": [entry("../x")],
    "inner parent": [entry("a", DIRECTORY), entry("a/../../x")],
    "absolute": [entry("/etc/x")],
    "empty": [entry("")],
    "dot": [entry(".")],
    "double slash": [entry("a", DIRECTORY), entry("a//b")],
    "nul": [entry("a\0b")],
    "trailing slash": [entry("a/")],
    "below a symbolic link": [entry("a", LINK, linkname="/tmp"), entry("a/x")],
    "below a file": [entry("a"), entry("a/x")],
    "below nothing": [entry("a/x")],
    "twice": [entry("a", DIRECTORY), entry("a", LINK, linkname="/tmp"), entry("a/x")],
    "out of order": [entry("b"), entry("a")],
    "a device that deletes": [entry("a", 1 << 26 | 1 << 21 | 0o666)],
    "a device of no number": [entry("a", 1 << 26 | 0o666, devmajor=1 << 40)],
    "an unknown type": [entry("a", 1 << 31 | 1 << 27)],
    "a hard link out": [entry("a", linkname="../../etc/passwd"), END],
    "a hard link to nothing": [entry("a", linkname="b"), END],
    "data unasked": [Packet(type=Packet.DATA, id=7, data=b"x")],
    "a request": [Packet(type=Packet.REQ, id=0)],
    "too deep": [entry("/".join(["d"] * n), DIRECTORY) for n in range(1, 1030)],
    "more after the end": [END, entry("a")],
    "a link to nothing": [entry("a", LINK, linkname="")],
    "a link of any length": [entry("a", LINK, linkname="x" * 5000)],
    "attributes of no name": [entry("a", DIRECTORY, xattrs={"user.": b"x"})],
    "attributes of any length": [entry("a", DIRECTORY, xattrs={"user.a": bytes(100_000)})],
    "a path of any length": [
        *(entry("/".join(["d" * 250] * n), DIRECTORY) for n in range(1, 40)),
        entry("/".join(["d" * 250] * 39 + ["x"])),
        Packet(type=Packet.DATA, id=39, data=b"x"),
        END,
    ],
    "a hard link through a symbolic link": [
        entry("a", LINK, linkname="/etc"),
        entry("b", linkname="a/passwd"),
        END,
    ],
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_hostile_trees_are_refused(attack: str, tmp_path) -> None:
    into, outside = tmp_path / "into", tmp_path / "outside"
    into.mkdir()
    outside.mkdir()

    async def send(call) -> None:
        for packet in ATTACKS[attack]:
            await call.send(packet.SerializeToString())
        while await call.receive() is not None:
            pass

    method = "/moby.filesync.v1.FileSync/DiffCopy"
    ours, theirs = pipe()
    registry = SessionRegistry()
    async with anyio.create_task_group() as tasks:
        with ours, theirs:
            failed = lambda error, _: GrpcError(Code.UNKNOWN, str(error))  # noqa: E731
            tasks.start_soon(lambda: serve(theirs, {method: send}, failed=failed))
            tasks.start_soon(registry.serve, ours, Offer(id="bad", methods=[method]))
            session = await registry.get("bad")
            with pytest.raises(LadingError):
                with anyio.fail_after(30):
                    await session.sync(SyncWish(name="context"), str(into))
            tasks.cancel_scope.cancel()
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "x").exists()
    # One attack is deeper than what removes old test directories can follow.
    subprocess.run(["rm", "-rf", into], check=True)


async def test_lookups_wait_and_a_session_ends_with_its_connection(tmp_path) -> None:
    registry = SessionRegistry()
    wire = WireClient(Client())
    ours, theirs = pipe()
    async with anyio.create_task_group() as tasks:
        with ours, theirs:
            found = []

            async def look() -> None:
                found.append(await registry.get("late"))

            tasks.start_soon(look)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(wire.run, theirs)
            tasks.start_soon(registry.serve, ours, wire.offer("late"))
            with anyio.fail_after(5):
                while not found:
                    await anyio.lowlevel.checkpoint()
            with pytest.raises(AlreadyExistsError):
                registry.check(Offer(id="late"))
            theirs.close()
            ours.close()
            with anyio.fail_after(5):
                while True:
                    try:
                        await registry.get("late", timeout=0)
                    except NotFoundError:
                        break
                    await anyio.sleep(0.01)
            with pytest.raises(LadingError):
                await found[0].secret("x")


async def test_a_session_without_an_id_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        SessionRegistry().check(Offer(id=""))
