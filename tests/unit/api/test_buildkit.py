"""The edge for BuildKit, through gRPC in memory: what clients see of builds that succeed, fail, wait and are given up."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from support.wire_client import WireClient

from lading import errors
from lading.api.buildkit.errors import CODES, grpc_error
from lading.api.buildkit.messages import solve_wish
from lading.api.buildkit.worker import Worker
from lading.builder.errors import SourceError, VertexError
from lading.builder.reports import LogEvent, Progress, VertexEvent
from lading.builder.results import Result
from lading.core.metadata import Namespace
from lading.daemon.building import make_builder
from lading.errors import FailedPreconditionError, InvalidArgumentError
from lading.formats.buildkit._pb import control_pb2 as control
from lading.formats.buildkit._pb import gateway_pb2 as gateway
from lading.formats.buildkit._pb.common_pb2 import BytesMessage, RpcStatus
from lading.formats.llb import make, ops
from lading.formats.llb._pb import ops_pb2 as llb
from lading.formats.llb.definition import Definition
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.kit.grpc.client import Channel
from lading.kit.grpc.connection import open_connection
from lading.kit.grpc.status import Code, GrpcError
from lading.oci import platform as platforms
from lading.oci.digest import Digest
from lading.testing.memory.builder import MemorySolver, MemoryTree
from lading.testing.memory.content import MemoryContentStore
from lading.testing.memory.metadata import MemoryDatabase
from lading.testing.pipes import PipeEnd, pipe
from lading.testing.sessions import Client

pytestmark = pytest.mark.anyio
CONTROL = "/moby.buildkit.v1.Control"
BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge"
CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LadingError)]
VERTEX = Digest.of(b"vertex")


def test_every_error_has_a_code() -> None:
    assert set(CLASSES) <= set(CODES)


def test_sources_and_vertices_are_typed_details() -> None:
    source = SourceFile(filename="Dockerfile", data=b"FROM x\nRUN false\n")
    error = grpc_error(
        VertexError("failed", vertex=VERTEX, exit_code=1, source=source, ranges=[SourceRange(start=2, end=2)])
    )
    status = RpcStatus.FromString(error.details)
    assert [each.type_url for each in status.details] == [
        "github.com/moby/buildkit/errdefs.Source+json",
        "github.com/moby/buildkit/errdefs.Vertex+json",
    ]
    assert json.loads(status.details[1].value) == {"digest": VERTEX}
    assert json.loads(status.details[0].value)["ranges"] == [{"start": {"line": 2}, "end": {"line": 2}}]


def test_a_bug_keeps_its_words_to_itself() -> None:
    assert "token" not in grpc_error(KeyError("token")).message


def graph_of(name: str) -> Definition:
    """The files of the directory ``name`` of the client."""
    return make.definition(make.source(ops.SourceOp(identifier=f"local://{name}"), make.Style()))


def last_of(name: str) -> Digest:
    """By which the solver knows the graph."""
    return Digest.of(graph_of(name).ops[-1])


class FakeGateway:
    platforms = (platforms.host(),)

    def __init__(self, job, wish, *, options, inputs, session, progress: Progress) -> None:
        self.job, self.options, self.inputs, self.session = job, options, inputs, session
        self.progress = progress

    async def solve(self, definition, *, evaluate=False):
        ref = await self.job.load(definition)
        if evaluate:
            await ref.evaluate()
        return ref

    def warn(self, event) -> None:
        self.progress.tell(event)

    def limited(self, policies):
        assert not policies
        return self

    @asynccontextmanager
    async def open_container(self, wish):
        yield FakeContainer(wish)


class FakeContainer:
    """Its processes say back what they are told, and end as their argument says."""

    def __init__(self, wish) -> None:
        self.wish = wish

    async def run(self, wish, client) -> int:
        if wish.meta.args == ("missing",):
            raise FailedPreconditionError("no such program")
        client.started(FakeProcess(client))
        while data := await client.read():
            await client.write(1, data.upper())
        return int(wish.meta.args[0])


class FakeProcess:
    def __init__(self, client) -> None:
        self.client = client

    async def kill(self, signal: int) -> None:
        await self.client.write(2, f"signal {signal}".encode())

    async def resize(self, width: int, height: int) -> None:
        await self.client.write(2, f"{width}x{height}".encode())


class FakeFrontend:
    async def build(self, gateway):
        gateway.progress.tell(VertexEvent(digest=VERTEX, name="[1/1] RUN true", started=1, completed=2))
        gateway.progress.tell(LogEvent(vertex=VERTEX, stream=1, data=b"hello\n", timestamp=1))
        if gateway.options.get("fail"):
            source = SourceFile(filename="Dockerfile", data=b"FORM x\n")
            raise SourceError("unknown instruction", source=source, ranges=[SourceRange(start=1, end=1)])
        ref = await gateway.solve(graph_of(gateway.options["last"]))
        return Result(refs={"": ref}, metadata={"containerimage.config": b"{}", "frontend.x": b"y"})


class FakeExporter:
    def __init__(self, wish) -> None:
        self.wish = wish

    async def export(self, result, context):
        return {"exported": ",".join(result.refs), "index": str(context.index)}


def make_exporter(wish, build):
    if wish.type == "bad":
        raise InvalidArgumentError("no such exporter")
    return FakeExporter(wish)


@dataclass
class World:
    solver: MemorySolver
    channel: Channel
    builder: object
    database: MemoryDatabase
    end: PipeEnd

    async def call(self, method, request, answer, build=""):
        metadata = [("buildkit-controlapi-buildid", build)] if build else []
        return answer.FromString(await self.channel.call(method, request.SerializeToString(), metadata))

    async def solve(self, ref="one", **fields):
        request = control.SolveRequest(ref=ref, **fields)
        answer = await self.call(f"{CONTROL}/Solve", request, control.SolveResponse)
        return dict(answer.exporter_response)

    async def bridge(self, method, request, answer, build="one"):
        return await self.call(f"{BRIDGE}/{method}", request, answer, build)

    async def status(self, ref="one"):
        found = control.StatusResponse()
        async with self.channel.open(f"{CONTROL}/Status") as call:
            await call.send(control.StatusRequest(ref=ref).SerializeToString())
            await call.close_send()
            while (message := await call.receive()) is not None:
                found.MergeFromString(message)
        return found

    async def history(self, **fields):
        request = control.BuildHistoryRequest(early_exit=True, **fields)
        records = []
        async with self.channel.open(f"{CONTROL}/ListenBuildHistory") as call:
            await call.send(request.SerializeToString())
            await call.close_send()
            while (message := await call.receive()) is not None:
                records.append(control.BuildHistoryEvent.FromString(message).record)
        return records


async def runnable():
    return [platforms.host()]


@asynccontextmanager
async def opened() -> AsyncGenerator[World]:
    database = MemoryDatabase()
    here = Namespace("here")
    solver = MemorySolver()
    builder = make_builder(
        database=database,
        namespace=here,
        blobs=MemoryContentStore(database.blobs(here), namespace=here),
        lease_manager=database.leases(here),
        solver=solver,
        frontends={"dockerfile.v0": FakeFrontend()},
        make_gateway=FakeGateway,
        make_exporter=make_exporter,
        worker=Worker(id="w", hostname="h", snapshotter=lambda: "overlayfs", platforms=runnable),
        state=Path(),
    )
    ours, theirs = pipe()
    with ours, theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(builder.server.serve_grpc, theirs)
            async with open_connection(ours, client=True, limit=16 << 20) as connection:
                yield World(solver, Channel(connection), builder, database, ours)
            tasks.cancel_scope.cancel()


async def test_a_frontend_builds_and_the_history_remembers() -> None:
    async with opened() as world:
        told = await world.solve(
            frontend="dockerfile.v0",
            frontend_attrs={"last": "a"},
            exporters=[control.Exporter(type="image", attrs={"name": "x"})],
        )
        assert told == {"exported": "", "index": "0", "frontend.x": "y"}
        replayed = await world.status()
        assert [each.name for each in replayed.vertexes] == ["[1/1] RUN true"]
        assert [each.msg for each in replayed.logs] == [b"hello\n"]
        (record,) = await world.history()
        assert (record.ref, record.frontend, record.num_total_steps) == ("one", "dockerfile.v0", 1)
        assert dict(record.exporter_response) == told
        assert record.completed_at.seconds
        assert world.solver.open == set()
        leases = await world.database.leases(Namespace("here")).list()
        assert [lease.id for lease in leases] == ["lading-build-one"]
        await world.call(
            f"{CONTROL}/UpdateBuildHistory",
            control.UpdateBuildHistoryRequest(ref="one", delete=True),
            control.UpdateBuildHistoryResponse,
        )
        assert await world.history() == []
        assert await world.database.leases(Namespace("here")).list() == []


async def test_the_bridge_in_any_order() -> None:
    async with opened() as world:
        told = []

        async def ping() -> None:
            pong = await world.bridge("Ping", gateway.PingRequest(), gateway.PongResponse)
            assert {"return", "proto.refarray"} <= {cap.id for cap in pong.frontend_caps}

        async def status() -> None:
            told.append(await world.status())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ping)
            tasks.start_soon(status)
            await anyio.wait_all_tasks_blocked()

            async def solve() -> None:
                told.append(
                    await world.solve(frontend_attrs={"a": "b"}, exporters=[control.Exporter(type="x")])
                )

            tasks.start_soon(solve)
            answer = await world.bridge(
                "Solve",
                gateway.BridgeSolveRequest(frontend="dockerfile.v0", frontend_opt={"last": "b"}),
                gateway.BridgeSolveResponse,
            )
            assert answer.result.ref.id
            assert tuple(answer.result.ref.definition.ops) == graph_of("b").ops
            result = gateway.BridgeResult(ref=gateway.Ref(id=answer.result.ref.id))
            await world.bridge("Return", gateway.ReturnRequest(result=result), gateway.ReturnResponse)
        assert {"exported": "", "index": "0"} in told
        (record,) = await world.history()
        assert record.frontend_attrs["a"] == "b"


async def test_a_preflight_build_returns_nothing_and_is_not_remembered() -> None:
    async with opened() as world, anyio.create_task_group() as tasks:

        async def solve() -> None:
            assert await world.solve(internal=True) == {}

        tasks.start_soon(solve)
        await world.bridge(
            "Return",
            gateway.ReturnRequest(result=gateway.BridgeResult(ref=gateway.Ref())),
            gateway.ReturnResponse,
        )
        assert await world.history() == []


async def test_what_the_client_gives_up_with_comes_back_as_it_is() -> None:
    status = RpcStatus(code=2, message="mine")
    status.details.add(type_url="github.com/moby/buildkit/errdefs.Frontend+json", value=b"{}")
    async with opened() as world, anyio.create_task_group() as tasks:

        async def solve() -> None:
            with pytest.raises(GrpcError) as caught:
                await world.solve()
            assert caught.value.details == status.SerializeToString()

        tasks.start_soon(solve)
        await world.bridge("Return", gateway.ReturnRequest(error=status), gateway.ReturnResponse)


async def test_failures_carry_their_place_and_are_remembered() -> None:
    async with opened() as world:
        with pytest.raises(GrpcError, match="unknown instruction") as caught:
            await world.solve(frontend="dockerfile.v0", frontend_attrs={"fail": "1"})
        assert b"errdefs.Source" in caught.value.details
        (record,) = await world.history(filter=["status==error"])
        assert record.error.message == "unknown instruction"
        assert await world.history(filter=["status==completed"]) == []
        with pytest.raises(GrpcError):
            await world.history(filter=["size>4"])


async def test_unknown_frontends_and_exporters_and_refs() -> None:
    async with opened() as world:
        for fields in ({"frontend": "other.v9"}, {"exporters": [control.Exporter(type="bad")]}):
            with pytest.raises(GrpcError):
                await world.solve(**fields)
        with pytest.raises(GrpcError) as caught:
            await world.bridge("Ping", gateway.PingRequest(), gateway.PongResponse, build="nobody")
        assert caught.value.code is Code.UNKNOWN


async def test_a_client_that_leaves_ends_its_build() -> None:
    async with opened() as world:
        tree = world.solver.trees[last_of("slow")] = MemoryTree(hangs=True)
        async with anyio.create_task_group() as tasks:

            async def solve() -> None:
                with pytest.raises(GrpcError):
                    await world.solve(frontend="dockerfile.v0", frontend_attrs={"last": "slow"})

            tasks.start_soon(solve)
            await tree.running.wait()
            world.end.close()
        with anyio.fail_after(1):
            while world.solver.open or world.builder.control.builds:
                await anyio.sleep(0.005)
        assert tree.cancelled == 1
        assert [each.id for each in await world.database.leases(Namespace("here")).list()] == [
            "lading-build-one"
        ]
        record = await world.database.builds(Namespace("here")).get("one")
        assert RpcStatus.FromString(record.error).code == Code.CANCELLED


async def test_a_definition_is_built_without_a_frontend_and_its_files_can_be_read(tmp_path) -> None:
    (tmp_path / "a").write_text("content")
    async with opened() as world:
        world.solver.trees[last_of("files")] = MemoryTree(path=tmp_path)
        graph = llb.Definition(ops=graph_of("files").ops)
        assert await world.solve(ref="direct", definition=graph) == {}
        assert world.solver.trees[last_of("files")].solved == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.solve)
            answer = await world.bridge(
                "Solve", gateway.BridgeSolveRequest(definition=graph), gateway.BridgeSolveResponse
            )
            ref = answer.result.ref.id
            read = await world.bridge(
                "ReadFile", gateway.ReadFileRequest(ref=ref, file_path="a"), gateway.ReadFileResponse
            )
            assert read.data == b"content"
            part = gateway.ReadFileRequest(
                ref=ref, file_path="a", range=gateway.FileRange(offset=3, length=2)
            )
            assert (await world.bridge("ReadFile", part, gateway.ReadFileResponse)).data == b"te"
            listed = await world.bridge(
                "ReadDir", gateway.ReadDirRequest(ref=ref, dir_path="/"), gateway.ReadDirResponse
            )
            assert [(each.path, each.size) for each in listed.entries] == [("a", 7)]
            with pytest.raises(GrpcError) as caught:
                await world.bridge(
                    "StatFile", gateway.StatFileRequest(ref=ref, path="b"), gateway.StatFileResponse
                )
            assert caught.value.code is Code.UNKNOWN
            error = RpcStatus(code=1, message="done")
            with pytest.raises(GrpcError):
                await world.bridge("Evaluate", gateway.EvaluateRequest(ref="other"), gateway.EvaluateResponse)
            await world.bridge(
                "Return",
                gateway.ReturnRequest(result=gateway.BridgeResult(ref=gateway.Ref(id=ref))),
                gateway.ReturnResponse,
            )
            del error


async def test_a_session_inside_a_call() -> None:
    wire = WireClient(Client(secrets={"a": b"b"}))
    async with opened() as world, anyio.create_task_group() as tasks:
        ours, theirs = pipe()
        with ours, theirs:
            tasks.start_soon(wire.run, theirs)
            metadata = [
                ("x-docker-expose-session-uuid", "inner"),
                *(("x-docker-expose-session-grpc-method", method) for method in wire.handlers),
            ]
            async with world.channel.open(f"{CONTROL}/Session", metadata) as call:

                async def outwards() -> None:
                    while data := await ours.read():
                        await call.send(BytesMessage(data=data).SerializeToString())

                async def inwards() -> None:
                    while (message := await call.receive()) is not None:
                        await ours.write(BytesMessage.FromString(message).data)

                tasks.start_soon(outwards)
                tasks.start_soon(inwards)
                session = await world.builder.sessions.get("inner")
                assert await session.secret("a") == b"b"
            tasks.cancel_scope.cancel()


async def test_the_worker_and_its_label() -> None:
    async with opened() as world:
        answer = await world.call(
            f"{CONTROL}/ListWorkers", control.ListWorkersRequest(), control.ListWorkersResponse
        )
        (record,) = answer.record
        assert record.labels["org.mobyproject.buildkit.worker.snapshotter"] == "overlayfs"
        assert record.platforms[0].Architecture == platforms.host().architecture
        none = control.ListWorkersRequest(filter=["id==other"])
        assert not (await world.call(f"{CONTROL}/ListWorkers", none, control.ListWorkersResponse)).record


async def test_a_build_that_is_over_before_its_status_is_asked_for_ends_it_at_once() -> None:
    async with opened() as world, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: world.solve(ref="quick", internal=True))
        nothing = gateway.ReturnRequest(result=gateway.BridgeResult(ref=gateway.Ref()))
        await world.bridge("Return", nothing, gateway.ReturnResponse, build="quick")
        while world.builder.control.builds:
            await anyio.sleep(0.001)
        with anyio.fail_after(2):
            assert not (await world.status("quick")).vertexes


def test_a_source_policy_is_read_and_one_of_a_session_refused_by_name() -> None:
    (policy,) = solve_wish(control.SolveRequest(ref="r", source_policy=b"\x08\x01")).policies
    assert not policy.rules
    assert not solve_wish(control.SolveRequest(ref="r")).policies
    with pytest.raises(errors.InvalidArgumentError, match="source policy is malformed"):
        solve_wish(control.SolveRequest(ref="r", source_policy=b"\xff"))
    with pytest.raises(errors.UnsupportedError, match="policies that a session decides"):
        solve_wish(control.SolveRequest(ref="r", source_policy_session="s"))


async def test_processes_run_in_a_container_of_a_build_until_it_is_released() -> None:
    async with opened() as world, anyio.create_task_group() as tasks:
        tasks.start_soon(world.solve)
        wish = gateway.NewContainerRequest(container_id="c", mounts=[llb.Mount(dest="/")])
        await world.bridge("NewContainer", wish, gateway.NewContainerResponse)
        with pytest.raises(GrpcError, match="Container c already exists"):
            await world.bridge("NewContainer", wish, gateway.NewContainerResponse)
        said = await _said(
            world,
            _started("p", "7", fds=[0, 1, 2]),
            gateway.ExecMessage(process_id="p", resize=gateway.ResizeMessage(cols=80, rows=25)),
            gateway.ExecMessage(process_id="p", signal=gateway.SignalMessage(name="HUP")),
            gateway.ExecMessage(process_id="p", file=gateway.FdMessage(data=b"hello")),
            gateway.ExecMessage(process_id="p", file=gateway.FdMessage(eof=True)),
        )
        assert said[0].HasField("started")
        assert {(each.file.fd, each.file.data) for each in said if each.file.data} == {
            (1, b"HELLO"),
            (2, b"80x25"),
            (2, b"signal 1"),
        }
        assert [each.file.fd for each in said if each.file.eof] == [1, 2]
        assert (said[-2].exit.code, said[-2].exit.error.message) == (7, "exit code: 7")
        assert said[-1].HasField("done")
        # One that cannot start is told of as an end, after which there may be others.
        failed = await _said(world, _started("q", "missing", fds=[]))
        assert failed[0].HasField("started")
        assert (failed[1].exit.code, failed[1].exit.error.message) == (255, "no such program")
        released = gateway.ReleaseContainerRequest(container_id="c")
        await world.bridge("ReleaseContainer", released, gateway.ReleaseContainerResponse)
        with pytest.raises(GrpcError, match="previously released or not created"):
            await _said(world, _started("p", "0", fds=[]))
        with pytest.raises(GrpcError, match="not found"):
            await world.bridge("ReleaseContainer", released, gateway.ReleaseContainerResponse)
        with pytest.raises(GrpcError, match='IO for process "p" not found'):
            await _said(world, gateway.ExecMessage(process_id="p", resize=gateway.ResizeMessage()))
        await world.bridge("Return", gateway.ReturnRequest(), gateway.ReturnResponse)


def _started(name: str, *args: str, fds: list[int]) -> gateway.ExecMessage:
    init = gateway.InitMessage(container_id="c", meta=llb.Meta(args=args), fds=fds)
    return gateway.ExecMessage(process_id=name, init=init)


async def _said(world: World, *messages: gateway.ExecMessage) -> list[gateway.ExecMessage]:
    """What the daemon says to messages on a call of their own; input ends with the process's start, if not before."""
    build = [("buildkit-controlapi-buildid", "one")]
    async with world.channel.open(f"{BRIDGE}/ExecProcess", build) as call:
        await call.send(messages[0].SerializeToString())
        first = await call.receive()
        for message in messages[1:]:
            await call.send(message.SerializeToString())
        await call.close_send()
        found = [first] if first is not None else []
        while (data := await call.receive()) is not None:
            found.append(data)
        await call.wait_end()
    return [gateway.ExecMessage.FromString(each) for each in found]
