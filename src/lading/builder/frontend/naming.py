"""Names of vertices, as people and tools know them: ``[linux/arm64 build 2/5] RUN make``."""

from collections.abc import Mapping
from dataclasses import replace

from lading.builder.frontend.state import StageNode
from lading.errors import InvalidArgumentError
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.shell import Lexer
from lading.oci import platform as platforms
from lading.oci.descriptor import Platform


def step_name(
    node: StageNode,
    number: int,
    text: str,
    platform: Platform | None,
    variables: Mapping[str, str],
    *,
    onbuild: bool = False,
) -> str:
    """``text`` with its place before it. ``platform`` is told if several are built."""
    if not node.steps:
        return text
    shown = ""
    if platform is not None:
        shown = f"{platforms.formatted(platform)}{_crossing(platform, variables)} "
    stage = f"{node.shown} " if node.shown else ""
    place = f"{number:{len(str(node.steps))}d}/{node.steps}"
    return f"[{shown}{stage}{place}] {'ONBUILD ' if onbuild else ''}{text}"


def _crossing(base: Platform, variables: Mapping[str, str]) -> str:
    """``->arm64`` for a stage that runs here and builds for elsewhere, as far as its build arguments tell."""
    target = _target(variables)
    if target is None:
        return ""
    target = platforms.normalize(replace_missing(target, base))
    if target.os != base.os:
        return f"->{platforms.formatted(target)}"
    if target.architecture == base.architecture:
        return ""
    return f"->{target.architecture}" + (f"/{target.variant}" if target.variant else "")


def replace_missing(target: Platform, base: Platform) -> Platform:
    """The target, with the base's operating system and architecture where it has none."""
    return Platform(
        os=target.os or base.os,
        architecture=target.architecture or base.architecture,
        variant=target.variant,
    )


def _target(variables: Mapping[str, str]) -> Platform | None:
    if "TARGETPLATFORM" in variables:
        try:
            return platforms.parse(variables["TARGETPLATFORM"])
        except InvalidArgumentError:
            pass
    parts = {key: variables[key] for key in ("TARGETOS", "TARGETARCH", "TARGETVARIANT") if key in variables}
    if not parts:
        return None
    return Platform(
        os=parts.get("TARGETOS", ""),
        architecture=parts.get("TARGETARCH", ""),
        variant=parts.get("TARGETVARIANT", ""),
    )


def shown_command(code: str, lexer: Lexer, variables: Mapping[str, str]) -> str:
    """An instruction's text with variables replaced and its name in capitals."""
    try:
        text = lexer.expand(code, variables).text
    except DockerfileError:
        text = code
    name, space, rest = text.partition(" ")
    return name.upper() + space + rest


def raw(lexer: Lexer) -> Lexer:
    """A lexer that keeps quotes and unset variables, for the text of a RUN."""
    return replace(lexer, raw_quotes=True, keep_unset=True)


def summary(document: str) -> str:
    """The first line of a heredoc."""
    lines = document.strip().replace("\r\n", "\n").split("\n")
    return lines[0] + ("..." if len(lines) > 1 else "")
