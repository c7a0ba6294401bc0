"""Every build check, by a Dockerfile that it finds something in, and one that it does not."""

import json

import pytest
from support.gateways import MemoryGateway

from lading.builder.frontend.frontend import DockerfileFrontend
from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import rules

pytestmark = pytest.mark.anyio
BASE = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}}
).encode()
ARM = BASE.replace(b"amd64", b"arm64")
FOUND: dict[str, tuple[str, str]] = {
    "StageNameCasing": ("FROM base AS Foo", "Stage name 'Foo' should be lowercase"),
    "FromAsCasing": ("FROM base as foo", "'as' and 'FROM' keywords' casing do not match"),
    "NoEmptyContinuation": ("FROM base\nRUN a \\\n\n b", "Empty continuation line"),
    "ConsistentInstructionCasing": (
        "FROM base\nRUN a\nrun b",
        "Command 'run' should match the case of the command majority (uppercase)",
    ),
    "DuplicateStageName": (
        "FROM base AS a\nFROM base AS a",
        'Duplicate stage name "a", stage names should be unique',
    ),
    "ReservedStageName": (
        "FROM base AS context",
        'Stage name should not use the same name as reserved stage "context"',
    ),
    "JSONArgsRecommended": (
        "FROM base\nENTRYPOINT x",
        "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
    ),
    "MaintainerDeprecated": (
        "FROM base\nMAINTAINER x",
        "Maintainer instruction is deprecated in favor of using label",
    ),
    "UndefinedArgInFrom": (
        "ARG VERSION=base\nFROM ${VERSIO:-base}",
        "FROM argument 'VERSIO' is not declared (did you mean VERSION?)",
    ),
    "WorkdirRelativePath": (
        "FROM base\nWORKDIR a",
        'Relative workdir "a" can have unexpected results if the base image changes',
    ),
    "UndefinedVar": (
        "FROM base\nENV VALUE=1\nWORKDIR /$VALU",
        "Usage of undefined variable '$VALU' (did you mean $VALUE?)",
    ),
    "MultipleInstructionsDisallowed": (
        'FROM base\nCMD ["a"]\nCMD ["b"]',
        "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
    ),
    "LegacyKeyValueFormat": (
        "FROM base\nENV a b",
        '"ENV key=value" should be used instead of legacy "ENV key value" format',
    ),
    "InvalidBaseImagePlatform": (
        "FROM arm",
        'Base image arm was pulled with platform "linux/arm64", expected "linux/amd64" for current build',
    ),
    "RedundantTargetPlatform": (
        "FROM --platform=$TARGETPLATFORM base",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    ),
    "SecretsUsedInArgOrEnv": (
        "FROM base\nARG API_KEY",
        'Do not use ARG or ENV instructions for sensitive data (ARG "API_KEY")',
    ),
    "InvalidDefaultArgInFrom": (
        "ARG TAG\nFROM base:$TAG",
        "Default value for ARG base:$TAG results in empty or invalid base image name",
    ),
    "FromPlatformFlagConstDisallowed": (
        "FROM --platform=linux/amd64 base",
        'FROM --platform flag should not use constant value "linux/amd64"',
    ),
    "CopyIgnoredFile": (
        "FROM base\nCOPY ignored /",
        'Attempting to Copy file "ignored" that is excluded by .dockerignore',
    ),
    "InvalidDefinitionDescription": (
        "# words\nFROM base AS foo",
        "Comment for FROM should follow the format: `# foo <description>`",
    ),
    "ExposeProtoCasing": (
        "FROM base\nEXPOSE 80/TCP",
        "Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
    ),
    "ExposeInvalidFormat": (
        "FROM base\nEXPOSE 80:80",
        "EXPOSE instruction should not define an IP address or host-port mapping, found '80:80'",
    ),
}
QUIET = (
    "# syntax=docker/dockerfile:1\n# check=experimental=all\nARG TAG=latest\nFROM --platform=$BUILDPLATFORM base:$TAG AS build\n"
    "ARG PUBLIC_KEY=x\nWORKDIR /a\nWORKDIR b\nENV A=1\nENV B=$A\nRUN echo $UNSET\nCOPY kept /\nFROM --platform=linux/amd64 base AS amd64\n"
    'FROM base\nCOPY --from=build ignored /\nCMD ["a"]\nENTRYPOINT ["b"]\nEXPOSE 80/tcp\nSHELL ["/bin/sh", "-c"]\n'
)


async def remarks(dockerfile: str) -> list[tuple[str, str]]:
    gateway = MemoryGateway(
        {
            "dockerfile": {"Dockerfile": dockerfile.encode()},
            "context": {".dockerignore": b"ignored\n"},
        },
        {
            "docker.io/library/base:latest": BASE,
            "docker.io/library/base:1": BASE,
            "docker.io/library/arm:latest": ARM,
        },
        {"requestid": "frontend.lint", "build-arg:TAG": "1", "platform": "linux/amd64"},
    )
    result = await DockerfileFrontend().build(gateway)
    document = json.loads(result.metadata["result.json"])
    assert "buildError" not in document, document
    return [(one["ruleName"], one["detail"]) for one in document["warnings"] or []]


def test_all_of_them_are_here() -> None:
    named = {value.name for value in vars(rules).values() if isinstance(value, rules.Rule)}
    assert named == set(FOUND)
    assert len(named) == 22


@pytest.mark.parametrize("name", FOUND)
async def test_a_check_finds_what_it_is_for(name: str) -> None:
    dockerfile, message = FOUND[name]
    assert await remarks(f"# check=experimental=all\n{dockerfile}\n") == [(name, message)]


async def test_a_check_may_be_skipped() -> None:
    assert await remarks("# check=skip=StageNameCasing\nFROM base AS Foo\n") == []


async def test_a_good_file_gives_no_cause() -> None:
    assert await remarks(QUIET) == []


async def test_a_bad_choice_is_an_error() -> None:
    files = {"dockerfile": {"Dockerfile": b"# check=nonsense\nFROM scratch\n"}}
    said = 'failed to parse check options: invalid check option "nonsense"'
    with pytest.raises(InvalidArgumentError, match=said):
        await DockerfileFrontend().build(MemoryGateway(files))
    asked = MemoryGateway(files, {}, {"requestid": "frontend.lint"})
    document = json.loads((await DockerfileFrontend().build(asked)).metadata["result.json"])
    assert document["buildError"] == {"message": said, "location": {}}
