"""The frontend over a gateway in memory: contexts, questions, platforms, remarks."""

import base64
import json
from typing import Any

import pytest
from support.gateways import AMD64, ARM64, MemoryGateway

from lading.builder.errors import SourceError
from lading.builder.frontend import options
from lading.builder.frontend.bases import Images
from lading.builder.frontend.contexts import Contexts
from lading.builder.frontend.frontend import DockerfileFrontend
from lading.builder.results import Result
from lading.errors import InvalidArgumentError, LadingError, NotFoundError, UnsupportedError
from lading.formats.llb import graph, make, ops
from lading.formats.llb.decode import DecodedOp
from lading.oci.digest import Digest

pytestmark = pytest.mark.anyio
BASE = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]},
    }
).encode()
ARM = BASE.replace(b"amd64", b"arm64")
CONFIGS = {"docker.io/library/base:latest": BASE, "docker.io/library/base:latest::linux/arm64": ARM}


def door(dockerfile: str, files: Any = (), given: Any = (), **attributes: str) -> MemoryGateway:
    wanted = {key.replace("__", ":").replace("_", "-"): value for key, value in attributes.items()}
    return MemoryGateway(
        {"dockerfile": {"Dockerfile": dockerfile.encode()}, **dict(files)},
        CONFIGS,
        wanted,
        given=dict(given),
    )


async def build(gateway: MemoryGateway) -> Result:
    return await DockerfileFrontend().build(gateway)


def names(result: Result, key: str = "") -> list[str]:
    ref = result.refs[key]
    assert ref is not None
    return [vertex.name for vertex in graph.load(ref.definition).vertices.values()]


def identifiers(result: Result) -> list[str]:
    (ref,) = result.refs.values()
    assert ref is not None
    found = [vertex.op for vertex in graph.load(ref.definition).vertices.values()]
    return [op.identifier for op in found if isinstance(op, ops.SourceOp)]


# Platforms.


async def test_each_platform_has_its_ref_and_config() -> None:
    gateway = door(
        "FROM base AS x\nARG TARGETARCH\nRUN echo $TARGETARCH\n", platform="linux/amd64,linux/arm64"
    )
    result = await build(gateway)
    assert set(result.refs) == {"linux/amd64", "linux/arm64"}
    config = json.loads(result.metadata["containerimage.config/linux/arm64"])
    assert config["architecture"] == "arm64"
    assert json.loads(result.metadata["refs.platforms"])["Platforms"][1] == {
        "ID": "linux/arm64",
        "Platform": {"architecture": "arm64", "os": "linux"},
    }
    assert names(result, "linux/arm64")[1].startswith("[linux/arm64 2/2] RUN")
    assert result.metadata["containerimage.base.config/linux/arm64"] == ARM
    assert sum("load metadata" in name for _, name, _ in gateway.looked_up) == 2


async def test_a_stage_that_builds_for_another_machine_says_so() -> None:
    gateway = door(
        "FROM --platform=$BUILDPLATFORM base AS build\nARG TARGETPLATFORM\nRUN x\nFROM base\nCOPY --from=build /x /\n",
        platform="linux/amd64,linux/arm64",
    )
    result = await build(gateway)
    assert "[linux/amd64->arm64 build 2/2] RUN x" in names(result, "linux/arm64")
    assert "[linux/amd64 build 2/2] RUN x" in names(result, "linux/amd64")


async def test_without_a_platform_that_of_the_base_is_taken() -> None:
    gateway = MemoryGateway(
        {"dockerfile": {"Dockerfile": b"FROM only-arm\nRUN x\n"}}, {"docker.io/library/only-arm:latest": ARM}
    )
    result = await build(gateway)
    assert json.loads(result.metadata["containerimage.config"])["architecture"] == "arm64"


async def test_a_base_for_another_machine_is_remarked() -> None:
    gateway = MemoryGateway(
        {"dockerfile": {"Dockerfile": b"FROM only-arm\nRUN x\n"}},
        {"docker.io/library/only-arm:latest": ARM},
        {"platform": "linux/amd64"},
    )
    await build(gateway)
    assert [event.short for event in gateway.warnings] == [
        (
            b'InvalidBaseImagePlatform: Base image only-arm was pulled with platform "linux/arm64", expected '
            b'"linux/amd64" for current build (line 1)'
        )
    ]


async def test_a_base_for_another_machine_is_none_where_they_must_be_exact() -> None:
    name = "docker.io/library/only-arm:latest"
    gateway = MemoryGateway({}, {name: ARM})
    contexts = Contexts(gateway, options.parse({}))
    images = Images(gateway, exact=True)
    assert (await images.resolve(contexts, name, AMD64, "x", asked=False)).config == ARM
    with pytest.raises(NotFoundError, match="does not provide the specified platform"):
        await images.resolve(contexts, name, AMD64, "x", asked=True)
    assert (await images.resolve(contexts, name, ARM64, "x", asked=True)).config == ARM


async def test_remarks_may_be_errors_and_are_told_all_the_same() -> None:
    gateway = door("# check=error=true\nFROM base AS Foo\n")
    with pytest.raises(InvalidArgumentError, match="lint violation found for rules: StageNameCasing"):
        await build(gateway)
    assert len(gateway.warnings) == 1


# Contexts.


async def test_the_dockerfile_may_be_lower_case_or_missing() -> None:
    gateway = MemoryGateway({"dockerfile": {"dockerfile": b"FROM base\nRUN x\n"}}, CONFIGS)
    assert names(await build(gateway))
    with pytest.raises(
        NotFoundError, match="failed to read dockerfile: open Dockerfile: no such file or directory"
    ):
        await build(MemoryGateway({}, CONFIGS))
    with pytest.raises(InvalidArgumentError, match="the Dockerfile cannot be empty"):
        await build(door(""))


async def test_a_repository_as_context() -> None:
    url = "https://host/r.git#main:sub"
    gateway = MemoryGateway(
        {"git://host/r.git#main:sub": {"Dockerfile": b"FROM base\nCOPY a /\n"}}, CONFIGS, {"context": url}
    )
    result = await build(gateway)
    assert identifiers(result)[1] == "git://host/r.git#main:sub"
    assert "[internal] load git source https://host/r.git#main:sub" in names(result)


async def test_an_archive_and_a_file_from_the_web_as_context() -> None:
    url = "http://host/c"
    gateway = MemoryGateway({url: {"context": b"FROM base\nCOPY context /x\n"}}, CONFIGS, {"context": url})
    result = await build(gateway)
    assert identifiers(result)[1] == url
    archive = MemoryGateway({url: {"context": b"\x1f\x8b\x08rest"}}, CONFIGS, {"context": url})
    with pytest.raises(NotFoundError):
        await build(archive)
    op = DecodedOp(archive.solved[-1].ops[1]).op
    assert isinstance(op, ops.FileOp)
    assert op.actions[0].action == ops.Copy(src="/context", dest="/", attempt_unpack=True)


async def test_inputs_and_their_metadata() -> None:
    tree = make.source(ops.SourceOp(identifier="local://elsewhere"), make.Style())
    metadata = json.dumps({"containerimage.config": base64.b64encode(BASE).decode()})
    gateway = door(
        "FROM linked\nCOPY --from=other /x /\nCOPY y /\n",
        given={
            "0-linked": make.definition(tree),
            "other": make.definition(tree),
            "context": make.definition(tree),
        },
        context__linked="input:0-linked",
        context__other="input:other",
        input_metadata__0_linked=metadata,
    )
    gateway.attributes = {**gateway.attributes, "input-metadata:0-linked": metadata}
    result = await build(gateway)
    assert set(identifiers(result)) == {"local://elsewhere"}
    assert json.loads(result.metadata["containerimage.config"])["config"]["Env"][0] == "A=b"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nonsense", "invalid context specifier nonsense for other"),
        ("ftp://x", "unsupported context source ftp for other"),
        ("input:gone", "invalid input gone for other"),
        ("oci-layout://x", 'oci-layout reference "x" has no digest'),
        ("git:nothing", "invalid git context git:nothing"),
    ],
)
async def test_bad_named_contexts(given: str, message: str) -> None:
    gateway = door("FROM base\nCOPY --from=other /x /\n", context__other=given)
    with pytest.raises(SourceError) as caught:
        await build(gateway)
    assert caught.value.message == message


async def test_named_contexts_of_every_kind() -> None:
    digest = "sha256:" + "2" * 64
    config = {f"docker.io/library/lay@{digest}": BASE}
    gateway = MemoryGateway(
        {
            "dockerfile": {
                "Dockerfile": b"FROM lay\nCOPY --from=web /x /\nCOPY --from=repo /x /\nCOPY --from=none /x /\nCOPY --from=dir a /\n"
            },
            "dir": {".dockerignore": b"secret\n"},
        },
        {**CONFIGS, **config},
        {
            "context:lay::linux/amd64": f"oci-layout://store:latest@{digest}",
            "context:web": "https://host/file",
            "context:repo": "https://host/x.git",
            "context:none": "docker-image://scratch",
            "context:dir": "local:dir",
        },
    )
    result = await build(gateway)
    assert set(identifiers(result)) == {
        f"oci-layout://docker.io/library/lay@{digest}",
        "https://host/file",
        "git://host/x.git",
        "local://dir",
    }
    assert gateway.looked_up[-1][2] == "store"
    ref = result.refs[""]
    assert ref is not None
    (local,) = [
        vertex.op
        for vertex in graph.load(ref.definition).vertices.values()
        if isinstance(vertex.op, ops.SourceOp) and vertex.op.identifier == "local://dir"
    ]
    assert local.attrs["local.followpaths"] == '["a"]'
    assert local.attrs["local.excludepatterns"] == '["secret"]'


# Other frontends.


@pytest.mark.parametrize(
    "syntax",
    ["docker/dockerfile:1", "docker.io/docker/dockerfile:1.7-labs", "docker/dockerfile-upstream:master"],
)
async def test_dockerfile_frontends_are_built_in(syntax: str) -> None:
    assert names(await build(door(f"# syntax={syntax}\nFROM base\nRUN x\n")))


async def test_another_frontend_is_named() -> None:
    with pytest.raises(SourceError, match="frontend r2d4/mockerfile is not supported"):
        await build(door("# syntax=r2d4/mockerfile\nFROM base\n"))
    with pytest.raises(InvalidArgumentError, match="frontend x/y is not supported"):
        await build(
            MemoryGateway(
                {"dockerfile": {"Dockerfile": b"FROM base\n"}},
                CONFIGS,
                {"build-arg:BUILDKIT_SYNTAX": "x/y z"},
            )
        )
    with pytest.raises(SourceError, match="invalid syntax"):
        await build(door("# syntax=X!\nFROM base\n"))
    assert names(await build(door("# syntax=x/y\nFROM base\nRUN x\n", cmdline="x/y")))


# Questions.

QUESTIONED = """\
# A first
ARG A=1
# build makes
FROM base AS build
ARG A
ARG B=$A
RUN --mount=type=secret,id=s,required --mount=type=ssh true
FROM scratch
COPY --from=build /x /
"""


async def test_the_outline() -> None:
    gateway = door(QUESTIONED, requestid="frontend.outline")
    result = await build(gateway)
    document = json.loads(result.metadata["result.json"])
    assert [(one["name"], one["value"]) for one in document["args"]] == [("A", "1"), ("B", "1")]
    assert document["args"][0]["description"] == "first"
    assert document["secrets"] == [
        {"name": "s", "required": True, "location": {"ranges": [{"start": {"line": 7}, "end": {"line": 7}}]}}
    ]
    assert document["ssh"][0]["name"] == "default"
    assert result.metadata["version"] == b"1.0.0"
    text = result.metadata["result.txt"].decode()
    assert text.startswith("BUILD ARG   VALUE   DESCRIPTION\nA           1       first\n")
    named = await build(door(QUESTIONED, requestid="frontend.outline", target="build"))
    assert named.metadata["result.txt"].decode().startswith("TARGET:      build\nDESCRIPTION: makes\n")


async def test_remarks_that_are_errors_leave_no_outline() -> None:
    asked = door(
        "# check=error=true\nFROM base AS foo\nMAINTAINER x\nENV a b\n", requestid="frontend.outline"
    )
    order = "MaintainerDeprecated, LegacyKeyValueFormat"
    with pytest.raises(InvalidArgumentError, match=f"lint violation found for rules: {order}"):
        await build(asked)
    assert len(asked.warnings) == 2
    assert await build(door("FROM base AS foo\nMAINTAINER x\n", requestid="frontend.outline"))


async def test_a_stop_signal_may_be_any_number() -> None:
    result = await build(door("FROM base\nSTOPSIGNAL 99\n"))
    assert json.loads(result.metadata["containerimage.config"])["config"]["StopSignal"] == "99"
    with pytest.raises(InvalidArgumentError, match="invalid signal: 0"):
        await build(door("FROM base\nSTOPSIGNAL 0\n"))


async def test_the_targets() -> None:
    result = await build(door(QUESTIONED, requestid="frontend.targets"))
    document = json.loads(result.metadata["result.json"])
    assert [(one.get("name"), one.get("default")) for one in document["targets"]] == [
        ("build", None),
        (None, True),
    ]
    assert result.metadata["result.txt"] == b"TARGET    DESCRIPTION\nbuild     makes\n(default) \n"


async def test_the_checks() -> None:
    result = await build(door("FROM base AS Foo\nCMD x\nFROM base\nRUN ${\n", requestid="frontend.lint"))
    document = json.loads(result.metadata["result.json"])
    assert [one["ruleName"] for one in document["warnings"]] == ["StageNameCasing", "JSONArgsRecommended"]
    assert result.metadata["result.statuscode"] == b"1"
    (source,) = document["sources"]
    assert list(source) == ["filename", "data", "definition", "language"]
    digest = Digest.of(base64.b64decode(source["definition"]["def"][0]))
    description = {"llb.customname": "[internal] load build definition from Dockerfile"}
    assert source["definition"]["metadata"][digest]["description"] == description
    assert source["definition"]["Source"] == {"locations": {digest: {}}}
    text = result.metadata["result.txt"].decode()
    assert text.startswith(
        "\nWARNING: StageNameCasing - https://docs.docker.com/go/dockerfile/rule/stage-name-casing/\n"
        "Stage name 'Foo' should be lowercase\nDockerfile:1\n--------------------\n   1 | >>> FROM base AS Foo\n"
    )
    clean = await build(door("FROM base\n", requestid="frontend.lint"))
    assert clean.metadata["result.statuscode"] == b"0"
    assert json.loads(clean.metadata["result.json"])["warnings"] is None
    broken = await build(door("FROM base\nEXPOSE x\n", requestid="frontend.lint"))
    error = json.loads(broken.metadata["result.json"])["buildError"]
    assert error["message"] == "invalid containerPort: x"
    assert error["location"]["ranges"][0]["start"]["line"] == 2


async def test_which_questions_there_are() -> None:
    result = await build(door("FROM base\n", requestid="frontend.subrequests.describe"))
    assert len(json.loads(result.metadata["result.json"])) == 4
    with pytest.raises(UnsupportedError, match="unsupported request x"):
        await build(door("FROM base\n", requestid="x"))


# SBOM.


async def test_a_scanner_runs_on_each_platform() -> None:
    config = json.loads(BASE)
    config["config"] = {"Entrypoint": ["/scan"], "WorkingDir": "/w"}
    gateway = MemoryGateway(
        {
            "dockerfile": {
                "Dockerfile": b"FROM base AS dep\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nRUN y\n"
                b"FROM base\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY --from=dep /x /\nCOPY z /\n"
            }
        },
        {**CONFIGS, "docker.io/x/scanner:1": json.dumps(config).encode()},
        {"attest:sbom": "generator=x/scanner:1,P=v"},
    )
    result = await build(gateway)
    (attestation,) = result.attestations[""]
    assert attestation.ref is not None
    vertices = list(graph.load(attestation.ref.definition).vertices.values())
    op = vertices[-1].op
    assert isinstance(op, ops.ExecOp)
    assert op.meta.args == ("/scan",)
    assert "BUILDKIT_SCAN_SOURCE_EXTRAS=/run/src/extras" in op.meta.env
    assert "BUILDKIT_SCAN_P=v" in op.meta.env
    assert {mount.dest for mount in op.mounts} == {
        "/",
        "/run/out/",
        "/run/src/core/sbom",
        "/run/src/extras/sbom-context",
        "/run/src/extras/sbom-dep",
        "/tmp",
    }
    assert "generating sbom using" in vertices[-1].name


async def test_a_scanner_needs_a_command() -> None:
    gateway = door("FROM base\n", attest__sbom="generator=base")
    with pytest.raises(InvalidArgumentError, match="does not have cmd"):
        await build(gateway)


# Single instructions that the corpus does not reach.


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        (
            "FROM base\nRUN --device=x true\n",
            "RUN --device is not supported by this builder (it was given x)",
        ),
        ("FROM base\nADD --checksum=sha256:x a b\n", "checksum requires HTTP(S) or Git sources"),
        (
            "FROM base\nADD --checksum=x https://a https://b /\n",
            "checksum can't be specified for multiple sources",
        ),
        ("FROM base\nADD --checksum=x https://a/f /\n", "invalid digest 'x'"),
        ("FROM base\nCOPY https://a/f /\n", "source can't be a URL for COPY"),
        ("FROM base\nCOPY https://a/f.git /\n", "source can't be a git ref for COPY"),
        ("FROM base\nADD https://a/f.git?x=y /\n", 'unexpected query "x"'),
        (
            "FROM base\nADD --keep-git-dir=false https://a/f.git?keep-git-dir=1 /\n",
            "inconsistent keep-git-dir configuration",
        ),
        (
            "FROM base\nADD --checksum=abc https://a/f.git?checksum=abd /\n",
            'checksum mismatch "abc" != "abd"',
        ),
        ("FROM base\nCOPY --chmod=z+q a /\n", 'invalid mode "z+q"'),
        ("FROM base\nRUN --mount=type=ssh,source=x true\n", "ssh does not support source"),
        ("FROM base\nRUN --mount=type=bind,target=/ true\n", 'invalid mount target "/"'),
        (
            "FROM base\nCOPY --from=$x a /\n",
            "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        ),
        ("FROM base\nCOPY --from=7 a /\n", "invalid stage index 7"),
        ("FROM base AS a\nCOPY --from=b x /\nFROM base AS b\n", None),
        ("FROM BAD!\n", "failed to parse stage name \"BAD!\": invalid reference format 'BAD!'"),
        (
            "FROM --platform=linux/$NOPE base\n",
            "failed to parse platform linux/$NOPE: invalid platform 'linux/'",
        ),
        ("FROM bse\n", "bse: docker.io/library/bse:latest: not found"),
        ("FROM alpin\n", "alpin: docker.io/library/alpin:latest: not found (did you mean alpine?)"),
        ("FROM base\nVOLUME $NOPE\n", "VOLUME specified can not be an empty string"),
    ],
)
async def test_what_instructions_refuse(dockerfile: str, message: str | None) -> None:
    with pytest.raises(LadingError) as caught:
        await build(door(dockerfile, target="a" if message is None else ""))
    if message is not None:
        assert caught.value.message.startswith(message)
        assert isinstance(caught.value, SourceError)


async def test_files_from_the_web_and_repositories() -> None:
    digest = "sha256:" + "3" * 64
    result = await build(
        door(
            f"FROM base\nADD --checksum={digest} https://h/dir/f.tar.gz /a/\nADD --unpack https://h/ /b/\n"
            "ADD --keep-git-dir https://h/r.git?submodules=0 /c\nADD git@h:s.git#v1:sub /d\n"
        )
    )
    ref = result.refs[""]
    assert ref is not None
    sources = [
        vertex.op
        for vertex in graph.load(ref.definition).vertices.values()
        if isinstance(vertex.op, ops.SourceOp)
    ]
    attrs = {source.identifier: source.attrs for source in sources}
    assert attrs["https://h/dir/f.tar.gz"] == {"http.checksum": digest, "http.filename": "f.tar.gz"}
    assert attrs["https://h/"]["http.filename"] == "__unnamed__"
    assert attrs["git://h/r.git"]["git.keepgitdir"] == "true"
    assert attrs["git://h/r.git"]["git.skipsubmodules"] == "true"
    assert attrs["git://h/s.git#v1:sub"]["git.mountsshsock"] == "default"


async def test_platform_arguments_may_be_overridden() -> None:
    gateway = MemoryGateway(
        {"dockerfile": {"Dockerfile": b"FROM base\nARG TARGETARCH\nENV X=$TARGETARCH\n"}},
        CONFIGS,
        {"build-arg:TARGETARCH": "odd"},
        worker=(AMD64, ARM64),
    )
    config = json.loads((await build(gateway)).metadata["containerimage.config"])
    assert "X=odd" in config["config"]["Env"]
