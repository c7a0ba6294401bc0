"""Provenance: how a result was made, as SLSA v0.2 or v1 (BuildKit, docs/attestations/slsa-definitions.md)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lading.builder.attest import captured
from lading.builder.attest.captured import Captured, Needed
from lading.builder.results import Layer
from lading.errors import InvalidArgumentError
from lading.kit import times
from lading.oci import platform as platforms

V02: Final = "https://slsa.dev/provenance/v0.2"
V1: Final = "https://slsa.dev/provenance/v1"
_BUILD_TYPE_V02: Final = "https://mobyproject.org/buildkit@v1"
_BUILD_TYPE_V1: Final = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
_LEFT_OUT: Final = (
    "platform",
    "cache-imports",
    "image-resolve-mode",
    "cgroup-parent",
    "cache-from",
    "filename",  # the entry point of the configuration says it
)
_FALSE: Final = frozenset({"false", "0", "f", "F", "FALSE", "False"})
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a client asked for with ``attest:provenance``."""

    full: bool = True
    """``mode=max``."""
    version: str = V02
    inline_only: bool = False
    reproducible: bool = False
    builder: str = ""


def parse(text: str) -> Wish | None:
    """Read the attribute; ``None`` if it is switched off. Raises `InvalidArgumentError`."""
    fields = dict(_pair(part) for part in text.split(",") if part)
    fields.pop("type", "")
    if fields.pop("disabled", "false") not in _FALSE:
        return None
    mode = fields.pop("mode", "max")
    version = fields.pop("version", "v0.2")
    if mode not in ("min", "max"):
        raise InvalidArgumentError(f"invalid provenance mode {mode[:64]!r}", hint="use min or max")
    if version not in ("v0.2", "v1"):
        raise InvalidArgumentError(f"invalid provenance version {version[:64]!r}", hint="use v0.2 or v1")
    wish = Wish(
        full=mode == "max",
        version=V02 if version == "v0.2" else V1,
        inline_only=fields.pop("inline-only", "false") not in _FALSE,
        reproducible=fields.pop("reproducible", "false") not in _FALSE,
        builder=fields.pop("builder-id", ""),
    )
    fields.pop("filename", "")
    if fields:
        raise InvalidArgumentError(f"provenance has no attribute {min(fields)[:64]!r}")
    return wish


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    return key, value if separator else "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One platform's build: everything that provenance tells, but the layers. Times are nanoseconds since the epoch."""

    ref: str
    frontend: str
    options: Mapping[str, str]
    captured: Captured
    started: int
    native: str
    """What the builder itself runs on."""
    locals: Sequence[str] = ()
    """Directories of the client, also those that left no trace in the graph."""
    sessions: Mapping[str, str] = field(default_factory=dict[str, str])


def predicate(subject: Subject, wish: Wish, layers: Sequence[Layer], *, finished: int) -> bytes:
    """The predicate as JSON."""
    made = _v02(subject, wish, layers, finished)
    if wish.version == V1:
        made = _as_v1(made, wish)
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode()


def _v02(subject: Subject, wish: Wish, layers: Sequence[Layer], finished: int) -> Document:
    found = subject.captured
    args, complete = arguments(subject.options, full=wish.full)
    parameters: Document = {"frontend": subject.frontend, "args": args}
    if wish.full:
        if found.secrets:
            parameters["secrets"] = _needed(found.secrets)
        if found.agents:
            parameters["ssh"] = _needed(found.agents)
    names = sorted({*found.locals, *subject.locals})
    if names:
        parameters["locals"] = [{"name": name} for name in names]
    incomplete = found.incomplete or bool(names)
    metadata: Document = {
        "buildInvocationID": subject.ref,
        "buildStartedOn": times.format_nano(subject.started),
        "buildFinishedOn": times.format_nano(finished),
        "completeness": {"parameters": complete, "environment": True, "materials": not incomplete},
        "reproducible": wish.reproducible,
        f"{_BUILD_TYPE_V02}#hermetic": not (found.network or incomplete),
        f"{_BUILD_TYPE_V02}#metadata": _metadata(subject, wish, layers),
    }
    made: Document = {
        "builder": {"id": wish.builder},
        "buildType": _BUILD_TYPE_V02,
        "materials": [{"uri": each.uri, "digest": dict(each.digest)} for each in found.materials],
        "invocation": {
            "configSource": _config_source(subject),
            "parameters": parameters,
            "environment": {"platform": subject.native},
        },
        "metadata": metadata,
    }
    if wish.full:
        made["buildConfig"] = captured.build_config(found)
    return made


def arguments(options: Mapping[str, str], *, full: bool) -> tuple[dict[str, str], bool]:
    """The frontend's arguments as they are told, and whether they are all."""
    args: dict[str, str] = {}
    complete = True
    for key, value in sorted(options.items()):
        if key in _LEFT_OUT or key.startswith(("attest:", "vcs:", "cache-imports", "local-sessionid:")):
            continue
        if not full and key.startswith(("build-arg:", "label:")):
            complete = False
            continue
        args[key] = value
    return args, complete


def _needed(things: Sequence[Needed]) -> list[Document]:
    return [{"id": each.id, "optional": True} if each.optional else {"id": each.id} for each in things]


def _config_source(subject: Subject) -> Document:
    source: Document = {"entryPoint": subject.options.get("filename", "Dockerfile")}
    context = subject.options.get("context", "")
    remote = next((each for each in subject.captured.materials if each.uri.startswith(context)), None)
    if context and remote is not None:
        source = {"uri": remote.uri, "digest": dict(remote.digest)} | source
    return source


def _metadata(subject: Subject, wish: Wish, layers: Sequence[Layer]) -> Document:
    found = subject.captured
    made: Document = {}
    vcs = {
        key.removeprefix("vcs:"): value for key, value in subject.options.items() if key.startswith("vcs:")
    }
    if vcs:
        made["vcs"] = dict(sorted(vcs.items()))
    if wish.full:
        made["source"] = captured.sources(found)
        made["layers"] = _layers(found, layers)
    return made


def _layers(found: Captured, layers: Sequence[Layer]) -> Document:
    """The stack of layers as each step left it."""
    made: Document = {}
    for number, layer in enumerate(layers):
        if layer.vertex is None or layer.vertex not in found.steps:
            continue
        stack = [
            {
                "mediaType": each.descriptor.media_type,
                "digest": str(each.descriptor.digest),
                "size": each.descriptor.size,
            }
            for each in layers[: number + 1]
        ]
        made.setdefault(f"{found.steps[layer.vertex]}:0", []).append(stack)
    return made


def _as_v1(made: Document, wish: Wish) -> Document:
    invocation, metadata = made["invocation"], made["metadata"]
    source = dict(invocation["configSource"])
    source["path"] = source.pop("entryPoint", "")
    internal: Document = {"builderPlatform": invocation["environment"]["platform"]}
    if "buildConfig" in made:
        internal["buildConfig"] = made["buildConfig"]
    completeness = metadata["completeness"]
    return {
        "buildDefinition": {
            "buildType": _BUILD_TYPE_V1,
            "externalParameters": {"configSource": source, "request": invocation["parameters"]},
            "internalParameters": internal,
            "resolvedDependencies": made["materials"],
        },
        "runDetails": {
            "builder": {"id": wish.builder},
            "metadata": {
                "invocationId": metadata["buildInvocationID"],
                "startedOn": metadata["buildStartedOn"],
                "finishedOn": metadata["buildFinishedOn"],
                "buildkit_metadata": metadata[f"{_BUILD_TYPE_V02}#metadata"],
                "buildkit_hermetic": metadata[f"{_BUILD_TYPE_V02}#hermetic"],
                "buildkit_completeness": {
                    "request": completeness["parameters"],
                    "resolvedDependencies": completeness["materials"],
                },
                "buildkit_reproducible": metadata["reproducible"],
            },
        },
    }


def native_platform() -> str:
    """The platform of this builder."""
    return platforms.formatted(platforms.host())
