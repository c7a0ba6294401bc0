"""The build checks: their names, what they say, and which of them are wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from lading.formats.dockerfile import values
from lading.formats.dockerfile.errors import DockerfileError, Lines


@dataclass(frozen=True, slots=True)
class Rule:
    """A check. ``page`` is the last part of its address; ``experimental`` ones run on request only."""

    name: str
    description: str
    page: str = ""
    experimental: bool = False

    @property
    def url(self) -> str:
        """Where it is explained."""
        return f"https://docs.docker.com/go/dockerfile/rule/{self.page}/" if self.page else ""


STAGE_NAME_CASING: Final = Rule("StageNameCasing", "Stage names should be lowercase", "stage-name-casing")
FROM_AS_CASING: Final = Rule(
    "FromAsCasing", "The 'as' keyword should match the case of the 'from' keyword", "from-as-casing"
)
NO_EMPTY_CONTINUATION: Final = Rule(
    "NoEmptyContinuation",
    "Empty continuation lines will become errors in a future release",
    "no-empty-continuation",
)
CONSISTENT_INSTRUCTION_CASING: Final = Rule(
    "ConsistentInstructionCasing",
    "All commands within the Dockerfile should use the same casing (either upper or lower)",
    "consistent-instruction-casing",
)
DUPLICATE_STAGE_NAME: Final = Rule(
    "DuplicateStageName", "Stage names should be unique", "duplicate-stage-name"
)
RESERVED_STAGE_NAME: Final = Rule(
    "ReservedStageName", "Reserved words should not be used as stage names", "reserved-stage-name"
)
JSON_ARGS_RECOMMENDED: Final = Rule(
    "JSONArgsRecommended",
    "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
    "json-args-recommended",
)
MAINTAINER_DEPRECATED: Final = Rule(
    "MaintainerDeprecated",
    "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    "maintainer-deprecated",
)
UNDEFINED_ARG_IN_FROM: Final = Rule(
    "UndefinedArgInFrom", "FROM command must use declared ARGs", "undefined-arg-in-from"
)
WORKDIR_RELATIVE_PATH: Final = Rule(
    "WorkdirRelativePath",
    "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image "
    "changes",
    "workdir-relative-path",
)
UNDEFINED_VAR: Final = Rule("UndefinedVar", "Variables should be defined before their use", "undefined-var")
MULTIPLE_INSTRUCTIONS_DISALLOWED: Final = Rule(
    "MultipleInstructionsDisallowed",
    "Multiple instructions of the same type should not be used in the same stage",
    "multiple-instructions-disallowed",
)
LEGACY_KEY_VALUE_FORMAT: Final = Rule(
    "LegacyKeyValueFormat",
    "Legacy key/value format with whitespace separator should not be used",
    "legacy-key-value-format",
)
INVALID_BASE_IMAGE_PLATFORM: Final = Rule(
    "InvalidBaseImagePlatform", "Base image platform does not match expected target platform"
)
REDUNDANT_TARGET_PLATFORM: Final = Rule(
    "RedundantTargetPlatform",
    "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
    "redundant-target-platform",
)
SECRETS_USED_IN_ARG_OR_ENV: Final = Rule(
    "SecretsUsedInArgOrEnv",
    "Sensitive data should not be used in the ARG or ENV commands",
    "secrets-used-in-arg-or-env",
)
INVALID_DEFAULT_ARG_IN_FROM: Final = Rule(
    "InvalidDefaultArgInFrom",
    "Default value for global ARG results in an empty or invalid base image name",
    "invalid-default-arg-in-from",
)
FROM_PLATFORM_FLAG_CONST_DISALLOWED: Final = Rule(
    "FromPlatformFlagConstDisallowed",
    "FROM --platform flag should not use a constant value",
    "from-platform-flag-const-disallowed",
)
COPY_IGNORED_FILE: Final = Rule(
    "CopyIgnoredFile",
    "Attempting to Copy file that is excluded by .dockerignore",
    "copy-ignored-file",
    experimental=True,
)
INVALID_DEFINITION_DESCRIPTION: Final = Rule(
    "InvalidDefinitionDescription",
    "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not "
    "intended to be a description comment, add an empty line or comment between the instruction and the comment.",
    "invalid-definition-description",
    experimental=True,
)
EXPOSE_PROTO_CASING: Final = Rule(
    "ExposeProtoCasing", "Protocol in EXPOSE instruction should be lowercase", "expose-proto-casing"
)
EXPOSE_INVALID_FORMAT: Final = Rule(
    "ExposeInvalidFormat",
    "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future "
    "release",
    "expose-invalid-format",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which checks run, as ``# check=skip=A,B;error=true;experimental=all`` says. A finding is an error if ``error``."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    error: bool = False

    def wants(self, rule: Rule) -> bool:
        """Whether a check runs."""
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not self.skip_all and rule.name not in self.skip


def parse_choice(text: str) -> Choice:
    """Read a ``check`` directive. Raises `DockerfileError`."""
    found: dict[str, str] = {}
    for part in text.strip().split(";", 2) if text.strip() else []:
        key, equals, value = part.partition("=")
        if not equals:
            raise DockerfileError(f'invalid check option "{part}"')
        key = key.strip()
        if key not in ("skip", "experimental", "error"):
            raise DockerfileError(f'invalid check option "{key}"')
        found[key] = value.strip()
    error = values.truth(found.get("error", "false"))
    if error is None:
        wrong = found["error"]
        reason = f'strconv.ParseBool: parsing "{wrong}": invalid syntax'
        raise DockerfileError(f'failed to parse check option "error={wrong}": {reason}')
    return Choice(
        skip=_names(found, "skip"),
        skip_all=found.get("skip") == "all",
        experimental=_names(found, "experimental"),
        experimental_all=found.get("experimental") == "all",
        error=error,
    )


def _names(found: dict[str, str], key: str) -> frozenset[str]:
    return frozenset(
        name.strip() for name in found.get(key, "").split(",") if name.strip() not in ("", "all")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A check that found something."""

    rule: Rule
    message: str
    lines: Lines

    @property
    def short(self) -> str:
        """As it is shown on one line."""
        place = f" (line {self.lines.start})" if self.lines.start > 0 else ""
        return f"{self.rule.name}: {self.message}{place}"


Report = Callable[[Rule, str, Lines], None]
"""Takes what a check found."""


def ignore(_rule: Rule, _message: str, _lines: Lines) -> None:
    """A report that nobody reads."""


class Deferred:
    """A report that keeps what it hears, on whatever thread, until it is passed on."""

    def __init__(self) -> None:
        self._found: list[tuple[Rule, str, Lines]] = []

    def __call__(self, rule: Rule, message: str, lines: Lines) -> None:
        """A `Report`."""
        self._found.append((rule, message, lines))

    def pass_on(self, report: Report) -> None:
        """Let another one hear it."""
        for found in self._found:
            report(*found)


class Findings:
    """Collects what the wanted checks find, each finding once; ``told`` hears of it at once."""

    def __init__(self, choice: Choice, told: Callable[[Finding], None] | None = None) -> None:
        self._choice = choice
        self._told = told
        self._found: dict[Finding, None] = {}

    def __call__(self, rule: Rule, message: str, lines: Lines) -> None:
        """A `Report`."""
        finding = Finding(rule=rule, message=message, lines=lines)
        if not self._choice.wants(rule) or finding in self._found:
            return
        self._found[finding] = None
        if self._told is not None:
            self._told(finding)

    @property
    def all(self) -> Sequence[Finding]:
        """In the order in which they were made."""
        return list(self._found)

    def check(self) -> None:
        """Raises `DockerfileError` if there are findings and these are to be errors."""
        names = dict.fromkeys(finding.rule.name for finding in self._found)
        if self._choice.error and names:
            raise DockerfileError(f"lint violation found for rules: {', '.join(names)}")
