"""Frontends that are images: how their program is run, and what becomes of what it returns."""

import json
from collections.abc import Awaitable, Callable

import anyio
import pytest
from support.gateways import MemoryGateway

from lading.builder import line
from lading.builder.bridge import Bridge
from lading.builder.errors import ClientError, FrontendCapError, SourceError
from lading.builder.external import NESTED, ExternalFrontend
from lading.builder.frontend.frontend import DockerfileFrontend
from lading.builder.model import Frontend, Program, Talk
from lading.builder.results import Result
from lading.errors import FailedPreconditionError, InvalidArgumentError, LadingError, NotFoundError
from lading.kit.grpc.connection import Transport
from lading.kit.grpc.merging import PREFACE

pytestmark = pytest.mark.anyio
NAME = "docker.io/me/frontend:latest"
LABELS = {"moby.buildkit.frontend.caps": "moby.buildkit.frontend.inputs, a"}


def config(**run: object) -> bytes:
    run = {"Entrypoint": ["/bin/f", "x"], "Env": ["A=b"], "Labels": LABELS} | run
    document = {"os": "linux", "architecture": "amd64", "config": run}
    return json.dumps(document | {"rootfs": {"type": "layers", "diff_ids": []}}).encode()


class Programs:
    """Programs that return what they are told to, and end."""

    def __init__(self, outcome: Result | LadingError | None, *, status: int = 0, said: bytes = b"") -> None:
        self.outcome = outcome
        self.status = status
        self.said = said
        self.bridges: list[Bridge] = []

    async def serve(self, transport: Transport, bridge: Bridge) -> None:
        self.bridges.append(bridge)
        if self.outcome is not None:
            bridge.give_back(self.outcome)

    async def run(self, program: Program, talk: Talk, log: Callable[[bytes], None]) -> int:
        log(self.said)
        await talk(None)  # type: ignore[arg-type]
        return self.status


async def workers() -> bytes:
    return b"[]"


def frontend(programs: Programs) -> ExternalFrontend:
    return ExternalFrontend(frontends={}, serve=programs.serve, workers=workers)


def gateway(programs: Programs, image: bytes | None = None, **attributes: str) -> MemoryGateway:
    return MemoryGateway(
        files={},
        configs={NAME: image or config()},
        attributes={"source": "me/frontend", **attributes},
        program=programs.run,
    )


async def test_the_program_is_told_everything_by_its_environment() -> None:
    programs = Programs(Result(metadata={"x": b"y"}))
    asked = gateway(programs, target="t")
    assert await frontend(programs).build(asked) == Result(metadata={"x": b"y"})
    (program,) = asked.ran
    assert program.args == ("/bin/f", "x")
    assert program.cwd == "/"
    assert program.network
    assert program.env == (
        "A=b",
        "BUILDKIT_FRONTEND_OPT_0=source=me/frontend",
        "BUILDKIT_FRONTEND_OPT_1=target=t",
        "BUILDKIT_SESSION_ID=",
        "BUILDKIT_WORKERS=[]",
        "BUILDKIT_EXPORTEDPRODUCT=lading",
    )
    assert asked.looked_up == [(NAME, f"resolve image config for docker-image://{NAME}", "")]


async def test_what_its_image_says_of_it() -> None:
    programs = Programs(Result())
    labels = {"moby.buildkit.frontend.network.none": "true"}
    image = config(Entrypoint=None, Env=None, WorkingDir="/w", Labels=labels)
    asked = gateway(programs, image)
    await frontend(programs).build(asked)
    (program,) = asked.ran
    assert (program.args, program.cwd, program.network) == (("/run",), "/w", False)


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        (Programs(None), "frontend me/frontend: it returned nothing"),
        (Programs(Result(), status=3), "frontend me/frontend: exit code: 3"),
        (Programs(None, status=1, said=b"why\n"), 'exit code: 1: "why"'),
        (Programs(NotFoundError("its own"), status=1), "its own"),
    ],
)
async def test_its_own_error_counts_most_and_a_bad_end_more_than_a_result(
    programs: Programs, expected: str
) -> None:
    with pytest.raises(LadingError) as caught:
        await frontend(programs).build(gateway(programs))
    assert expected in str(caught.value)


class Recursive(Programs):
    """Programs that leave the build to the same image."""

    def __init__(self) -> None:
        super().__init__(None)
        self.frontends: dict[str, Frontend] = {}
        self.frontends["gateway.v0"] = ExternalFrontend(
            frontends=self.frontends, serve=self.serve, workers=workers
        )

    async def serve(self, transport: Transport, bridge: Bridge) -> None:
        self.bridges.append(bridge)
        options = {"source": "me/frontend"}
        bridge.give_back(
            await bridge.solve(
                definition=None, frontend="gateway.v0", options=options, inputs={}, evaluate=False
            )
        )


async def test_programs_ask_for_each_other_to_some_depth_only() -> None:
    programs = Recursive()
    with pytest.raises(FailedPreconditionError, match="8 frontends have asked for each other already: me/f"):
        await programs.frontends["gateway.v0"].build(gateway(programs))
    assert len(programs.bridges) == NESTED == 8


class Silent(Transport):
    """Says what it is told to, and then nothing."""

    def __init__(self, said: list[bytes]) -> None:
        self.said = said

    async def read(self) -> bytes:
        if not self.said:
            await anyio.sleep_forever()
        return self.said.pop(0)

    async def write(self, data: bytes) -> None:
        return


class Lingering(Programs):
    """Programs whose connection is served until they stop speaking, and that do not end by themselves."""

    def __init__(self, said: list[bytes], outcome: Result | None = None) -> None:
        super().__init__(outcome)
        self.transport = Silent(said)

    async def serve(self, transport: Transport, bridge: Bridge) -> None:
        await super().serve(transport, bridge)
        while await transport.read():
            pass

    async def run(self, program: Program, talk: Talk, log: Callable[[bytes], None]) -> int:
        log(b"why")
        async with anyio.create_task_group() as group:
            group.start_soon(talk, self.transport)
            await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([b"PRI * HT", b"usage: f"], "does not speak gRPC on its standard output, which begins with b'PRI"),
        ([b"\xff"], r"begins with b'\\xff'"),
        ([PREFACE, b"more", b""], "has ended its connection, but runs on"),
        ([b""], "has ended its connection, but runs on"),
        ([], "has said nothing for"),
    ],
)
async def test_a_program_that_there_is_no_sense_in_waiting_for(
    said: list[bytes], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(line, "FAREWELL_SECONDS", 0.05)
    programs = Lingering(said)
    with pytest.raises(FailedPreconditionError, match=f'{problem}.*: "why"'), anyio.fail_after(5):
        await frontend(programs).build(gateway(programs))


async def test_what_a_program_returned_counts_though_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "FAREWELL_SECONDS", 0.05)
    programs = Lingering([PREFACE, b""], Result(metadata={"x": b"y"}))
    with anyio.fail_after(5):
        assert await frontend(programs).build(gateway(programs)) == Result(metadata={"x": b"y"})


async def test_it_must_be_able_to_do_what_is_asked() -> None:
    programs = Programs(Result())
    able = {"frontend.caps": "a+forward"}
    await frontend(programs).build(gateway(programs, **able))
    for wanted in ("b", "b+forward"):
        with pytest.raises(FrontendCapError, match="unsupported frontend capability b"):
            await frontend(programs).build(gateway(programs, **{"frontend.caps": wanted}))
    with pytest.raises(InvalidArgumentError, match="no source specified"):
        await frontend(programs).build(gateway(programs, source=""))


def dockerfile(text: str, programs: Programs, **attributes: str) -> MemoryGateway:
    return MemoryGateway(
        files={"dockerfile": {"Dockerfile": text.encode()}, "context": {}},
        configs={NAME: config()},
        attributes=attributes,
        program=programs.run,
    )


Build = Callable[[MemoryGateway], Awaitable[Result]]


async def test_a_file_names_its_frontend() -> None:
    programs = Programs(Result(metadata={"x": b"y"}))
    built = await DockerfileFrontend(frontend(programs)).build(
        dockerfile("# syntax=me/frontend and more\nWHATEVER\n", programs)
    )
    assert built.metadata == {"x": b"y"}
    (bridge,) = programs.bridges
    assert bridge.outcome is not None
    with_argument = dockerfile("FROM scratch\n", programs, **{"build-arg:BUILDKIT_SYNTAX": "me/frontend"})
    assert (await DockerfileFrontend(frontend(programs)).build(with_argument)).metadata == {"x": b"y"}


@pytest.mark.parametrize(
    "text", ["# syntax=me/frontend\nX\n", '{"syntax": "me/frontend"}', "// syntax=me/frontend\n"]
)
async def test_its_failure_points_to_the_line(text: str) -> None:
    programs = Programs(FailedPreconditionError("no"))
    with pytest.raises(SourceError, match="no") as caught:
        await DockerfileFrontend(frontend(programs)).build(dockerfile(text, programs))
    assert caught.value.source.data == text.encode()


async def test_an_error_that_it_returned_is_passed_on_as_it_is() -> None:
    error = ClientError("no", status=b"")
    programs = Programs(error)
    with pytest.raises(ClientError) as caught:
        await DockerfileFrontend(frontend(programs)).build(dockerfile("# syntax=me/frontend\n", programs))
    assert caught.value is error
    programs = Programs(FailedPreconditionError("no"))
    asked = dockerfile("FROM x\n", programs, **{"build-arg:BUILDKIT_SYNTAX": "me/frontend"})
    with pytest.raises(
        FailedPreconditionError, match="failed with build-arg:BUILDKIT_SYNTAX = me/frontend: no"
    ):
        await DockerfileFrontend(frontend(programs)).build(asked)


async def test_without_others_only_the_built_in_one_is_there() -> None:
    programs = Programs(Result())
    with pytest.raises(SourceError, match="only docker/dockerfile"):
        await DockerfileFrontend().build(dockerfile("# syntax=me/frontend\n", programs))
