"""Build checks that look at whole stages, or at variables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.shell import Expanded, Lexer
from lading.formats.dockerfile.suggest import nearest
from lading.oci import platform as platforms
from lading.oci import reference
from lading.oci.descriptor import Platform

RESERVED: Final = frozenset({"context", "scratch"})
NOT_VARIABLES: Final = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})
"""Arguments that steer the build and are not given to instructions."""
_SECRET: Final = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_PUBLIC: Final = re.compile(r"(?:_|^)public(?:_|$)", re.IGNORECASE)


def check_stages(stages: Sequence[ins.Stage], report: rules.Report) -> None:
    """Names of stages, and the case of instructions."""
    seen: set[str] = set()
    for stage in stages:
        head = stage.head
        if head.stage in RESERVED:
            message = f'Stage name should not use the same name as reserved stage "{head.stage}"'
            report(rules.RESERVED_STAGE_NAME, message, head.lines)
        if head.stage in seen:
            message = f'Duplicate stage name "{head.stage}", stage names should be unique'
            report(rules.DUPLICATE_STAGE_NAME, message, head.lines)
        if head.stage:
            seen.add(head.stage)
    _check_case([one for stage in stages for one in (stage.head, *stage.commands)], report)


def _check_case(all_: Sequence[ins.Instruction], report: rules.Report) -> None:
    lower = sum(one.name == one.name.lower() for one in all_)
    upper = sum(one.name == one.name.upper() for one in all_)
    wanted = "lowercase" if lower > upper else "uppercase"
    for one in all_:
        right = one.name.lower() if wanted == "lowercase" else one.name.upper()
        if one.name != right:
            message = f"Command '{one.name}' should match the case of the command majority ({wanted})"
            report(rules.CONSISTENT_INSTRUCTION_CASING, message, one.lines)


def check_default_bases(
    stages: Sequence[ins.Stage], defaults: Mapping[str, str], lexer: Lexer, report: rules.Report
) -> None:
    """Whether base names are valid when nobody gives build arguments."""
    for stage in stages:
        head = stage.head
        try:
            reference.parse(lexer.expand(head.base, defaults).text)
        except DockerfileError:
            return
        except InvalidArgumentError:
            message = f"Default value for ARG {head.base} results in empty or invalid base image name"
            report(rules.INVALID_DEFAULT_ARG_IN_FROM, message, head.lines)


def check_from_variables(
    expanded: Expanded, known: Iterable[str], lines: Lines, report: rules.Report
) -> None:
    """Variables of a FROM that nobody declared."""
    names = set(known)
    for name in sorted(expanded.missing - names):
        match = nearest(name, names)
        hint = f" (did you mean {match}?)" if match else ""
        message = f"FROM argument '{name}' is not declared{hint}"
        report(rules.UNDEFINED_ARG_IN_FROM, message, lines)


def check_platform_flag(
    head: ins.From, expanded: Expanded, variables: Mapping[str, str], report: rules.Report
) -> None:
    """A ``--platform`` that says nothing, or always the same."""
    if expanded.found == frozenset({"TARGETPLATFORM"}) and not expanded.missing:
        if expanded.text == variables.get("TARGETPLATFORM"):
            message = (
                f"Setting platform to predefined {head.platform} in FROM is redundant "
                "as this is the default behavior"
            )
            report(rules.REDUNDANT_TARGET_PLATFORM, message, head.lines)
    elif not expanded.found and not expanded.missing:
        _check_constant(head, expanded.text, report)


def _check_constant(head: ins.From, text: str, report: rules.Report) -> None:
    try:
        platform = platforms.parse(text)
    except InvalidArgumentError:
        return
    if platform.os not in head.stage and platform.architecture not in head.stage:
        message = f'FROM --platform flag should not use constant value "{text}"'
        report(rules.FROM_PLATFORM_FLAG_CONST_DISALLOWED, message, head.lines)


def check_base_platform(
    name: str, expected: Platform, actual: Platform, lines: Lines, report: rules.Report
) -> None:
    """A base image for another machine."""
    if (expected.os, expected.architecture) != (actual.os, actual.architecture):
        want = platforms.formatted(platforms.normalize(expected))
        have = platforms.formatted(platforms.normalize(actual))
        message = f'Base image {name} was pulled with platform "{have}", expected "{want}" for current build'
        report(rules.INVALID_BASE_IMAGE_PLATFORM, message, lines)


def check_secret(keyword: str, key: str, lines: Lines, report: rules.Report) -> None:
    """A name that sounds like a secret."""
    if _SECRET.search(key) and not _PUBLIC.search(key):
        message = f'Do not use ARG or ENV instructions for sensitive data ({keyword} "{key}")'
        report(rules.SECRETS_USED_IN_ARG_OR_ENV, message, lines)


def check_variables(
    missing: Iterable[str],
    variables: Mapping[str, str],
    arguments: Iterable[ins.Argument],
    lines: Lines,
    report: rules.Report,
) -> None:
    """Variables that nobody set or declared."""
    declared = {argument.key for argument in arguments} | NOT_VARIABLES
    for name in sorted(set(missing) - declared):
        match = nearest(name, variables)
        hint = f" (did you mean ${match}?)" if match else ""
        report(rules.UNDEFINED_VAR, f"Usage of undefined variable '${name}'{hint}", lines)
