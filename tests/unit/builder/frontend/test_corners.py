"""Corners of the frontend that the corpus does not reach; what is expected is what BuildKit 0.25 does."""

import io
import json
import tarfile
from typing import Any

import pytest
from support.gateways import MemoryGateway

from lading.builder.errors import SourceError
from lading.builder.frontend.arguments import global_arguments
from lading.builder.frontend.frontend import DockerfileFrontend
from lading.builder.model import Frontend, Gateway
from lading.builder.results import Result
from lading.errors import InvalidArgumentError, LadingError, NotFoundError
from lading.formats.dockerfile.directives import directive
from lading.formats.dockerfile.parse import parse
from lading.formats.dockerfile.shell import Lexer
from lading.formats.llb import graph, make, ops

pytestmark = pytest.mark.anyio


def config(**fields: Any) -> bytes:
    made = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
        **fields,
    }
    return json.dumps(made).encode()


CONFIGS = {
    "docker.io/library/base:latest": config(),
    "docker.io/library/empty:latest": config(rootfs={"type": "layers", "diff_ids": []}),
    "docker.io/library/strange:latest": config(architecture="riscv64"),
    "docker.io/library/windows:latest": config(os="windows"),
}


def door(dockerfile: str | bytes, files: Any = (), given: Any = (), **attributes: str) -> MemoryGateway:
    wanted = {key.replace("__", ":").replace("_", "-"): value for key, value in attributes.items()}
    data = dockerfile.encode() if isinstance(dockerfile, str) else dockerfile
    return MemoryGateway(
        {"dockerfile": {"Dockerfile": data}, **dict(files)}, CONFIGS, wanted, given=dict(given)
    )


async def build(gateway: MemoryGateway, frontend: DockerfileFrontend | None = None) -> Result:
    return await (frontend or DockerfileFrontend()).build(gateway)


async def vertices(gateway: MemoryGateway, key: str = "") -> list[graph.Vertex]:
    ref = (await build(gateway)).refs[key]
    assert ref is not None
    return list(graph.load(ref.definition).vertices.values())


async def refused(gateway: MemoryGateway) -> str:
    with pytest.raises(LadingError) as caught:
        await build(gateway)
    return caught.value.message


def remarks(gateway: MemoryGateway) -> list[str]:
    return [event.short.decode().partition(":")[0] for event in gateway.warnings]


# Arguments.


def test_an_argument_that_adds_to_itself_needs_what_it_needed() -> None:
    arguments = parse(b"ARG x=1\nARG a=$x\nARG a=${a}y\nFROM base\n").arguments
    found = global_arguments({}, arguments, {}, Lexer())
    assert found.variables["a"] == "1y"
    assert found.definitions["a"].uses == {"x"}


async def test_a_default_that_cannot_be_is_an_error_only_if_nobody_gives_another() -> None:
    text = "ARG a=${b?needed}\nFROM $a\nRUN x\n"
    with pytest.raises(SourceError, match="b: needed") as caught:
        await build(door(text))
    assert caught.value.ranges[0].start == 1
    assert await vertices(door(text, build_arg__a="base"))


async def test_a_base_without_a_default_is_not_remarked_if_it_must_be_given() -> None:
    gateway = door("ARG a\nFROM ${a?no}\nRUN x\n", build_arg__a="base")
    assert await vertices(gateway)
    assert remarks(gateway) == []


async def test_a_name_that_is_nearly_a_variable_is_suggested() -> None:
    said = await refused(door("FROM --platform=$BULDPLATFORM base\nRUN x\n"))
    assert "empty platform value" in said
    assert "(did you mean BUILDPLATFORM?)" in said


# Platforms.


async def test_a_part_of_a_platform_is_not_redundant() -> None:
    gateway = door("FROM --platform=$TARGETPLATFORM/v2 base\nRUN x\n", platform="linux/amd64")
    await build(gateway)
    assert "RedundantTargetPlatform" not in remarks(gateway)


async def test_a_constant_platform_that_is_none() -> None:
    assert "failed to parse platform a/b/c/d/e" in await refused(door("FROM --platform=a/b/c/d/e base\n"))


async def test_a_base_for_a_machine_that_nobody_has_is_built_for_this_one() -> None:
    gateway = door("FROM strange\nRUN x\n")
    result = await build(gateway)
    listed = json.loads(result.metadata["refs.platforms"])["Platforms"]
    assert listed[0]["ID"] == "linux/amd64"
    assert remarks(gateway) == ["InvalidBaseImagePlatform"]


async def test_a_stage_that_builds_for_another_system_says_so() -> None:
    gateway = door(
        "FROM --platform=linux/amd64 base\nARG TARGETPLATFORM\nRUN x\n",
        platform="windows/amd64",
        multi_platform="1",
    )
    names = [one.name for one in await vertices(gateway, "windows/amd64")]
    assert "[linux/amd64->windows/amd64 2/2] RUN x" in names


async def test_a_target_that_is_no_platform_is_passed_over() -> None:
    gateway = door("FROM base\nENV TARGETPLATFORM=a/b/c/d/e\nRUN x\n", platform="linux/amd64,linux/arm64")
    names = [one.name for one in await vertices(gateway, "linux/amd64")]
    assert "[linux/amd64 2/2] RUN x" in names


async def test_windows_has_no_path_of_ours() -> None:
    gateway = door("FROM windows\nENV a=b\n", platform="windows/amd64")
    result = await build(gateway)
    assert json.loads(result.metadata["containerimage.config"])["config"]["Env"] == ["a=b"]


# Bases and contexts.


async def test_an_image_without_layers_is_scratch() -> None:
    found = await vertices(door("FROM empty\nCOPY <<a /x\na\n"))
    assert not any(isinstance(one.op, ops.SourceOp) for one in found)


async def test_an_image_of_several_stages_is_looked_up_once() -> None:
    gateway = door("FROM base AS one\nRUN x\nFROM base\nCOPY --from=one / /\n")
    await build(gateway)
    assert len(gateway.looked_up) == 1


async def test_a_directory_in_place_of_a_stage() -> None:
    gateway = door(
        "FROM base AS stage\nRUN never\nFROM base\nCOPY --from=stage /a /\n",
        [("other", {"a": b""})],
        context__stage="local:other",
    )
    names = [one.name for one in await vertices(gateway)]
    assert not any("never" in name for name in names)
    assert "[context stage] load from client" in names


async def test_a_stage_whose_name_cannot_be_a_context() -> None:
    assert "invalid context name a--" in await refused(door("FROM base AS a--\nRUN x\n"))


async def test_a_repository_by_ssh_as_a_named_context() -> None:
    gateway = door("FROM base\nCOPY --from=code / /\n", context__code="git@host:a/b.git")
    sources = [one.op.identifier for one in await vertices(gateway) if isinstance(one.op, ops.SourceOp)]
    assert "git://host/a/b.git" in sources


def tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return made.getvalue()


async def test_an_archive_on_the_web_is_the_context() -> None:
    url = "https://host/context.tar"
    gateway = door(
        "FROM base\nCOPY a /\n", [(url, {"context": tar()})], context=url, dockerfilekey="dockerfile"
    )
    unpacking = [
        one.op.actions[0].action for one in await vertices(gateway) if isinstance(one.op, ops.FileOp)
    ]
    assert any(isinstance(one, ops.Copy) and one.attempt_unpack for one in unpacking)


async def test_a_directory_of_a_repository_is_the_context() -> None:
    gateway = door(
        "FROM base\nCOPY a /\n",
        context="https://host/a.git",
        contextsubdir="/sub/",
        dockerfilekey="dockerfile",
    )
    copies = [one.op.actions[0].action for one in await vertices(gateway) if isinstance(one.op, ops.FileOp)]
    assert ("/sub", "/") in [(one.src, one.dest) for one in copies if isinstance(one, ops.Copy)]


async def test_a_dockerfile_may_be_an_input() -> None:
    source = make.source(ops.SourceOp(identifier="local://elsewhere"), make.Style())
    gateway = door(
        "", [("elsewhere", {"Dockerfile": b"FROM base\nRUN x\n"})], [("dockerfile", make.definition(source))]
    )
    assert await vertices(gateway)


# Instructions.


async def test_arguments_alone_are_no_dockerfile() -> None:
    assert "dockerfile contains no stages to build" in await refused(door("ARG a=1\n"))


@pytest.mark.parametrize(
    ("instruction", "dest"),
    [("COPY a sub/.", "/sub/."), ("COPY a /.", "/."), ("COPY a .", "/"), ("COPY a s/", "/s/")],
)
async def test_destinations(instruction: str, dest: str) -> None:
    found = await vertices(door(f"FROM scratch\n{instruction}\n"))
    assert isinstance(found[-1].op, ops.FileOp)
    action = found[-1].op.actions[-1].action
    assert isinstance(action, ops.Copy)
    assert action.dest == dest


async def test_root_is_nobody_to_look_up() -> None:
    found = await vertices(door("FROM base\nCOPY --chown=root:root a /\n"))
    assert isinstance(found[-1].op, ops.FileOp)
    action = found[-1].op.actions[-1].action
    assert isinstance(action, ops.Copy)
    assert action.owner == ops.Owner(user=0, group=0)


async def test_an_empty_working_directory_is_the_one_before() -> None:
    result = await build(door("FROM base\nWORKDIR /a\nWORKDIR $none\nRUN x\n"))
    assert json.loads(result.metadata["containerimage.config"])["config"]["WorkingDir"] == "/a"


async def test_bytes_that_are_no_text_are_shown_in_a_config_and_refused_in_a_step() -> None:
    result = await build(door(b"FROM base\nLABEL a=\xe9 b=c\nENV \xe9=1\nRUN x\n"))
    made = json.loads(result.metadata["containerimage.config"])["config"]
    assert made["Labels"] == {"a": "\ufffd", "b": "c"}
    assert "no UTF-8" in await refused(door(b"FROM base\nCOPY \xe9 /\n"))


# Other frontends.


class Failing(Frontend):
    """One that cannot be had."""

    async def build(self, gateway: Gateway) -> Result:
        raise NotFoundError(f"{gateway.options['source']}: not found")


async def test_a_frontend_that_cannot_be_had_is_told_where_it_was_asked_for() -> None:
    with pytest.raises(SourceError, match="example/frontend: not found") as caught:
        await build(door("# syntax=example/frontend\nFROM base\n"), DockerfileFrontend(Failing()))
    assert caught.value.ranges[0].start == 1
    gateway = door("FROM base\n")
    gateway.attributes = {"build-arg:BUILDKIT_SYNTAX": "example/x y"}
    with pytest.raises(NotFoundError, match="failed with build-arg:BUILDKIT_SYNTAX = example/x y: "):
        await build(gateway, DockerfileFrontend(Failing()))
    assert "only docker/dockerfile" in await refused(door("# syntax=example/frontend\nFROM base\n"))
    with pytest.raises(InvalidArgumentError, match="invalid syntax A!"):
        await build(door("# syntax=A!\nFROM base\n"))


def test_a_directive_that_is_not_there() -> None:
    assert directive("check", b"# escape=`") is None
