"""Source policies: matching, the order of rules, conversion, and definitions with other sources."""

import pytest

from lading.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError
from lading.formats.buildkit import sourcepolicy
from lading.formats.buildkit._pb import sourcepolicy_pb2 as pb
from lading.formats.buildkit.sourcepolicy import (
    Action,
    Condition,
    Constraint,
    MatchType,
    Policy,
    Rule,
    Source,
)
from lading.formats.llb import graph, make, ops
from lading.formats.llb.metadata import Location, SourceFile, SourceRange, decode_locations
from lading.formats.llb.rewrite import with_sources
from lading.oci.digest import Digest

BUSYBOX = Source(identifier="docker-image://docker.io/library/busybox:1.34")
PREFIX = "docker-image://docker.io/library/"


def used(*rules: Rule, source: Source = BUSYBOX) -> Source:
    return sourcepolicy.evaluate([Policy(rules=rules)], source)


def deny(selector: str, kind: MatchType = MatchType.WILDCARD, **more: object) -> Rule:
    return Rule(action=Action.DENY, selector=selector, match_type=kind, **more)  # type: ignore[arg-type]


def allow(selector: str) -> Rule:
    return Rule(action=Action.ALLOW, selector=selector)


def convert(selector: str, to: str | None, kind: MatchType = MatchType.WILDCARD, **attributes: str) -> Rule:
    return Rule(
        action=Action.CONVERT, selector=selector, match_type=kind, identifier=to, attributes=attributes
    )


@pytest.mark.parametrize(
    ("rule", "denied"),
    [
        (deny(BUSYBOX.identifier), True),
        (deny(f"{PREFIX}*"), True),
        (deny("*busybox*34"), True),
        (deny("busybox"), False),
        (deny(f"{PREFIX}busybox:1?34"), False),
        (deny(f"{PREFIX}*", MatchType.EXACT), False),
        (deny(BUSYBOX.identifier, MatchType.EXACT), True),
        (deny("busy.*:1", MatchType.REGEX), True),
        (deny("^busy", MatchType.REGEX), False),
        (deny("*", constraints=[Constraint(key="a", value="")]), True),
        (deny("*", constraints=[Constraint(key="a", value="b")]), False),
        (deny("*", constraints=[Constraint(key="a", value="b", condition=Condition.NOTEQUAL)]), True),
        (deny("*", constraints=[Constraint(key="a", value="^$", condition=Condition.MATCHES)]), True),
        (deny("*", constraints=[Constraint(key="a", value="x", condition=Condition.MATCHES)]), False),
    ],
)
def test_what_a_rule_is_about(rule: Rule, denied: bool) -> None:
    if not denied:
        assert used(rule) == BUSYBOX
        return
    with pytest.raises(PermissionDeniedError) as caught:
        used(rule)
    assert caught.value.message == f'source "{BUSYBOX.identifier}" denied by policy: source denied by policy'


def test_the_last_of_a_policy_counts_and_every_policy() -> None:
    assert used(deny("*"), allow(f"{PREFIX}*")) == BUSYBOX
    with pytest.raises(PermissionDeniedError):
        used(allow("*"), deny("*busybox*"))
    with pytest.raises(PermissionDeniedError):
        sourcepolicy.evaluate([Policy(rules=[deny("*")]), Policy(rules=[allow("*")])], BUSYBOX)
    assert sourcepolicy.evaluate([], BUSYBOX) == BUSYBOX


@pytest.mark.parametrize(
    ("rule", "identifier"),
    [
        (convert(BUSYBOX.identifier, f"{PREFIX}other:1"), f"{PREFIX}other:1"),
        (convert(f"{PREFIX}busybox:*", f"{PREFIX}busybox:$1-x"), f"{PREFIX}busybox:1.34-x"),
        (
            convert(f"{PREFIX}*:*", "docker-image://here/${2}/${1}$$${3}${no}"),
            "docker-image://here/1.34/busybox$",
        ),
        (
            convert("library/(?P<n>[a-z]*)", "mine/$n", MatchType.REGEX),
            "docker-image://docker.io/mine/busybox:1.34",
        ),
        (convert(BUSYBOX.identifier, "x$1", MatchType.EXACT), "x$1"),
        (convert(BUSYBOX.identifier, ""), BUSYBOX.identifier),
        (convert("docker-image://*", "", MatchType.EXACT), BUSYBOX.identifier),
    ],
)
def test_a_source_becomes_another(rule: Rule, identifier: str) -> None:
    result = rule.converted(BUSYBOX) if rule.matches(BUSYBOX) else BUSYBOX
    assert result.identifier == identifier


def test_attributes_are_added() -> None:
    page = Source(identifier="https://x/y", attributes={"a": "b"})
    rule = convert("https://*", "", **{"http.checksum": "sha256:1"})
    # An empty identifier means the selector's, in which a star is nothing that was matched.
    assert used(convert("https://x/y", "", c="d"), source=page).attributes == {"a": "b", "c": "d"}
    assert rule.converted(page).attributes["http.checksum"] == "sha256:1"


def test_what_was_converted_is_looked_at_anew() -> None:
    other = f"{PREFIX}other:1"
    with pytest.raises(PermissionDeniedError, match="other:1"):
        used(convert(BUSYBOX.identifier, other), deny(other))
    with pytest.raises(FailedPreconditionError, match="too many operations"):
        used(convert("*", "${1}x"))
    assert used(convert(BUSYBOX.identifier, other), deny(BUSYBOX.identifier)).identifier == other


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (convert("*", None), "missing destination"),
        (deny("(", MatchType.REGEX), "invalid regex"),
        (deny("a**"), "invalid wildcard"),
    ],
)
def test_a_rule_that_is_wrong(rule: Rule, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        used(rule)


def test_a_policy_on_the_wire() -> None:
    message = pb.SourcePolicy(
        version=1,
        rules=[
            pb.SourcePolicyRule(
                action=2,
                selector=pb.SourceSelector(
                    identifier="a",
                    match_type=1,
                    constraints=[pb.SourceConstraint(key="k", value="v", condition=1)],
                ),
                updates=pb.SourceUpdate(identifier="b", attrs={"c": "d"}),
            ),
            pb.SourcePolicyRule(action=1, selector=pb.SourceSelector(identifier="*")),
        ],
    )
    assert sourcepolicy.parse(message.SerializeToString()) == Policy(
        rules=(
            Rule(
                action=Action.CONVERT,
                selector="a",
                match_type=MatchType.EXACT,
                constraints=(Constraint(key="k", value="v", condition=Condition.NOTEQUAL),),
                identifier="b",
                attributes={"c": "d"},
            ),
            Rule(action=Action.DENY, selector="*"),
        )
    )
    for bad in (
        b"\xff",
        pb.SourcePolicy(version=2).SerializeToString(),
        pb.SourcePolicy(rules=[pb.SourcePolicyRule(action=7)]).SerializeToString(),
    ):
        with pytest.raises(InvalidArgumentError):
            sourcepolicy.parse(bad)


# Definitions.


def test_what_stands_on_a_changed_source_has_another_name_and_the_same_place() -> None:
    place = Location(file=SourceFile(filename="f", data=b""), ranges=(SourceRange(start=1, end=1),))
    base = make.source(ops.SourceOp(identifier="docker-image://a"), make.Style(locations=(place,)))
    other = make.source(ops.SourceOp(identifier="local://x"), make.Style())
    copied = ops.Copy(src="/", dest="/")
    edge = make.change(base, [(copied, other)], make.Style(locations=(place,)))
    before = make.definition(edge)
    after = with_sources(before, lambda name, attrs: (name.replace("//a", "//b"), {**attrs, "k": "v"}))
    vertices = graph.load(after).vertices
    names = [one.op.identifier for one in vertices.values() if isinstance(one.op, ops.SourceOp)]
    assert sorted(names) == ["docker-image://b", "local://x"]
    assert all(one.op.attrs == {"k": "v"} for one in vertices.values() if isinstance(one.op, ops.SourceOp))
    assert set(after.metadata) <= {Digest.of(raw) for raw in after.ops}
    assert len(after.metadata) == len(before.metadata)
    assert not set(graph.load(before).vertices) & set(vertices)
    assert len(decode_locations(after.source)) == 2
    assert set(decode_locations(after.source)) <= set(vertices)
    same = with_sources(before, lambda name, attrs: (name, attrs))
    assert same is before
