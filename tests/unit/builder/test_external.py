"""Frontends that are images: how their program is run, and what becomes of what it returns."""

import json
from collections.abc import Awaitable, Callable

import pytest
from support.gateways import MemoryGateway

from lading.builder.bridge import Bridge
from lading.builder.errors import ClientError, FrontendCapError, SourceError
from lading.builder.external import ExternalFrontend
from lading.builder.frontend.frontend import DockerfileFrontend
from lading.builder.model import Program, Talk
from lading.builder.results import Result
from lading.errors import FailedPreconditionError, InvalidArgumentError, LadingError, NotFoundError
from lading.kit.grpc.connection import Transport

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
