"""Arguments before the first FROM, and those that are always there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.shell import Lexer
from lading.formats.llb.ops import ProxyEnv
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A build argument with its value, for an outline."""

    argument: ins.Argument
    value: str = ""
    uses: frozenset[str] = frozenset()
    """Arguments that its default needs."""
    lines: Lines


@dataclass(slots=True, kw_only=True)
class Globals:
    """Variables for FROM, and for an ARG that only repeats a name."""

    variables: dict[str, str]
    definitions: dict[str, Definition] = field(default_factory=dict[str, Definition])


def platform_variables(
    build: Platform, target: Platform, stage: str, given: Mapping[str, str]
) -> dict[str, str]:
    """BUILDPLATFORM and its kin. ``given`` build arguments win."""
    found = {
        "BUILDPLATFORM": platforms.formatted(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": platforms.formatted(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": target.os_version,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }
    return {key: given.get(key, value) for key, value in found.items()}


def global_arguments(
    predefined: Mapping[str, str], commands: Sequence[ins.Arg], given: Mapping[str, str], lexer: Lexer
) -> Globals:
    """Evaluate the ARGs before the first FROM. Raises `DockerfileError`."""
    result = Globals(variables=dict(predefined))
    for command in commands:
        for argument in command.args:
            _evaluate(result, argument, command.lines, given, lexer)
    return result


def _evaluate(
    result: Globals, argument: ins.Argument, lines: Lines, given: Mapping[str, str], lexer: Lexer
) -> None:
    key, value, uses = argument.key, given.get(argument.key), frozenset[str]()
    if value is None and argument.value is not None:
        try:
            expanded = lexer.expand(argument.value, result.variables)
        except DockerfileError as exc:
            raise exc.at(lines) from exc
        value, uses = expanded.text, expanded.found - {key}
        before = result.definitions.get(key)
        if key in expanded.found and before is not None:
            uses |= before.uses
    if value is not None:
        result.variables.pop(key, None)
        result.variables[key] = value
    result.definitions[key] = Definition(argument=argument, value=value or "", uses=uses, lines=lines)


def proxy(given: Mapping[str, str]) -> ProxyEnv | None:
    """The proxies among the build arguments: usable without being declared, and kept out of the history."""
    found: dict[str, str] = {}
    for key, value in given.items():
        if key.lower() in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"):
            found[key.lower()] = value
    return ProxyEnv(**found) if found else None
