"""Source policies: which sources a build may use, and what stands in for one (BuildKit, ``sourcepolicy``).

A *rule* selects sources by their identifier, such as ``docker-image://docker.io/library/busybox:latest``, and by attributes,
and allows them, denies them, or converts them into another source or one with more attributes. Of the rules of one policy that
allow or deny a source the last one counts. A converted source is looked at anew, by all policies.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from google.protobuf.message import DecodeError

from lading.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from lading.formats.buildkit._pb import sourcepolicy_pb2 as pb

_ROUNDS: Final = 20
_EXPANSION: Final = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})", re.ASCII)


class Action(IntEnum):
    """What a rule does."""

    ALLOW = 0
    DENY = 1
    CONVERT = 2


class MatchType(IntEnum):
    """How a selector's identifier is meant; every kind also matches the very same text."""

    WILDCARD = 0
    EXACT = 1
    REGEX = 2


class Condition(IntEnum):
    """How an attribute is compared."""

    EQUAL = 0
    NOTEQUAL = 1
    MATCHES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What an attribute must be; one that is not there is empty."""

    key: str
    value: str
    condition: Condition = Condition.EQUAL

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Whether it is so."""
        found = attributes.get(self.key, "")
        match self.condition:
            case Condition.EQUAL:
                return found == self.value
            case Condition.NOTEQUAL:
                return found != self.value
            case Condition.MATCHES:
                return _compiled(self.value).search(found) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. ``identifier`` and ``attributes`` are what a source is converted to; an empty one leaves it as selected."""

    action: Action
    selector: str
    match_type: MatchType = MatchType.WILDCARD
    constraints: Sequence[Constraint] = ()
    identifier: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])

    def matches(self, source: "Source") -> bool:
        """Whether it is about this source."""
        if not all(each.holds(source.attributes) for each in self.constraints):
            return False
        if self.selector == source.identifier:
            return True
        pattern = self._pattern()
        return pattern is not None and pattern.search(source.identifier) is not None

    def converted(self, source: "Source") -> "Source":
        """What stands in for a source. Raises `InvalidArgumentError` if the rule does not say."""
        if self.identifier is None:
            raise InvalidArgumentError("error mutating source policy: missing destination for convert rule")
        wanted = self.identifier or self.selector
        pattern = self._pattern()
        if pattern is None:
            identifier = wanted
        elif self.match_type is MatchType.REGEX:
            identifier = pattern.sub(functools.partial(_expanded, wanted), source.identifier)
        else:
            found = pattern.search(source.identifier)
            identifier = source.identifier if found is None else _expanded(wanted, found)
        return Source(
            identifier=identifier or source.identifier, attributes={**source.attributes, **self.attributes}
        )

    def _pattern(self) -> re.Pattern[str] | None:
        match self.match_type:
            case MatchType.EXACT:
                return None
            case MatchType.REGEX:
                return _compiled(self.selector)
            case MatchType.WILDCARD:
                return _wildcard(self.selector)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules, in order."""

    rules: Sequence[Rule]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source as LLB has it."""

    identifier: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


def parse(data: bytes) -> Policy:
    """Read a marshalled policy. Raises `InvalidArgumentError`."""
    try:
        message = pb.SourcePolicy.FromString(data)
    except DecodeError as exc:
        raise InvalidArgumentError(f"the source policy is malformed: {exc}") from exc
    return policy_from(message)


def policy_from(message: pb.SourcePolicy) -> Policy:
    """The policy that a message holds. Raises `InvalidArgumentError`."""
    if message.version not in (0, 1):
        raise InvalidArgumentError(f"source policies of version {message.version} are not known")
    try:
        return Policy(rules=tuple(_rule(each) for each in message.rules))
    except ValueError as exc:
        raise InvalidArgumentError(f"the source policy is malformed: {exc}") from exc


def _rule(message: pb.SourcePolicyRule) -> Rule:
    selector = message.selector
    return Rule(
        action=Action(message.action),
        selector=selector.identifier,
        match_type=MatchType(selector.match_type),
        constraints=tuple(
            Constraint(key=each.key, value=each.value, condition=Condition(each.condition))
            for each in selector.constraints
        ),
        identifier=message.updates.identifier if message.HasField("updates") else None,
        attributes=dict(message.updates.attrs),
    )


def evaluate(policies: Sequence[Policy], source: Source) -> Source:
    """The source to use.

    Raises:
        PermissionDeniedError: It is denied.
        FailedPreconditionError: Rules go on converting it.
        InvalidArgumentError: A rule is malformed.

    """
    for _ in range(_ROUNDS + 1):
        for policy in policies:
            changed = _applied(policy, source)
            if changed != source:
                source = changed
                break
        else:
            return source
    raise FailedPreconditionError("too many mutations on a single source: too many operations")


def _applied(policy: Policy, source: Source) -> Source:
    denied = False
    for rule in policy.rules:
        if not rule.matches(source):
            continue
        if rule.action is not Action.CONVERT:
            denied = rule.action is Action.DENY
        elif (changed := rule.converted(source)) != source:
            return changed
    if denied:
        raise PermissionDeniedError(
            f'source "{source.identifier}" denied by policy: source denied by policy',
            subject=source.identifier,
        )
    return source


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.ASCII)
    except re.error as exc:
        raise InvalidArgumentError(f"invalid regex {text[:256]!r}: {exc}") from exc


@functools.lru_cache(maxsize=256)
def _wildcard(text: str) -> re.Pattern[str]:
    if "**" in text:
        raise InvalidArgumentError(f'failed to translate wildcard {text[:256]!r}: invalid wildcard: "**"')
    return re.compile("(.*)".join(re.escape(part) for part in text.split("*")).join(("^", r"\Z")))


def _expanded(template: str, found: re.Match[str]) -> str:
    """A template with ``$1``, ``${1}`` and ``${name}`` replaced by what was matched, as Go's regexp does it."""

    def group(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        if name is None:
            return "$"
        try:
            return found[int(name) if name.isdecimal() else name] or ""
        except IndexError:
            return ""

    return _EXPANSION.sub(group, template)
