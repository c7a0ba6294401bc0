"""Instructions as values, and what is said about those that are wrong."""

import pytest

from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.parse import parse, parse_trigger

Found = list[tuple[str, str]]


def command(text: str) -> ins.Command:
    (one,) = parse(f"FROM scratch\n{text}\n".encode()).stages[0].commands
    return one


def findings(text: str, choice: str = "experimental=all") -> Found:
    found = rules.Findings(rules.parse_choice(choice))
    parse(text.encode(), found)
    return [(one.rule.name, one.message) for one in found.all]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FORM x", "unknown instruction: FORM (did you mean FROM?)"),
        ("rum x", "unknown instruction: rum (did you mean run?)"),
        ("Rum x", "unknown instruction: Rum (did you mean run?)"),
        ("XYZZY x", "unknown instruction: XYZZY"),
        ("RUN x", "no build stage in current context"),
        ("FROM", "FROM requires either one or three arguments"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a in b", "FROM requires either one or three arguments"),
        (
            "FROM a AS 1b",
            'invalid name for build stage: "1b", name can\'t start with a number or contain symbols',
        ),
        ("FROM --platfrom=x a", "unknown flag: --platfrom (did you mean platform?)"),
        ("FROM --x=y a", "unknown flag: --x"),
        ("FROM --platform a", "missing a value on flag: --platform"),
        ("FROM --platform=a --platform=b a", "duplicate flag specified: --platform"),
        ("FROM a\nENV", "ENV requires at least one argument"),
        ("FROM a\nENV =b", "ENV names can not be blank"),
        ("FROM a\nENV --x a=b", "unknown flag: --x"),
        ("FROM a\nLABEL", "LABEL requires at least one argument"),
        ("FROM a\nARG", "ARG requires at least one argument"),
        ("FROM a\nARG =b", "ARG names can not be blank"),
        ("FROM a\nMAINTAINER", "MAINTAINER requires exactly one argument"),
        (
            "FROM a\nCOPY x",
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("FROM a\nADD x <<E\nE", "ADD cannot accept a heredoc as a destination"),
        ("FROM a\nCOPY --link= a b", "missing a value on flag: --link"),
        ("FROM a\nCOPY --link=x a b", "expecting boolean value for flag --link, not: x"),
        ("FROM a\nRUN --network=x y", 'invalid network mode "x"'),
        ("FROM a\nRUN --security=x y", 'security "x" is not valid'),
        (
            "FROM a\nRUN --mount=from=$x,target=/y z",
            "'from' doesn't support variable expansion, define alias stage instead",
        ),
        ("FROM a\nRUN --device=a,b c", "invalid field 'b' must be a key=value pair"),
        ("FROM a\nSHELL", "SHELL requires at least one argument"),
        ("FROM a\nSHELL sh -c", "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nHEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("FROM a\nHEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("FROM a\nHEALTHCHECK FOO x", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("FROM a\nHEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("FROM a\nHEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("FROM a\nHEALTHCHECK --timeout=1 CMD x", 'time: missing unit in duration "1"'),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "--retries cannot be negative (-1)"),
        ("FROM a\nHEALTHCHECK --retries=x CMD x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("FROM a\nEXPOSE", "EXPOSE requires at least one argument"),
        ("FROM a\nVOLUME", "VOLUME requires at least one argument"),
        ('FROM a\nVOLUME [""]', "VOLUME specified can not be an empty string"),
        ("FROM a\nUSER", "USER requires exactly one argument"),
        ("FROM a\nWORKDIR", "WORKDIR requires exactly one argument"),
        ("FROM a\nSTOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("FROM a\nONBUILD", "ONBUILD requires at least one argument"),
        ("FROM a\nONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM a\nONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text.encode())
    line = 2 if "\n" in text else 1
    prefix = "" if message.startswith("no build stage") else f"dockerfile parse error on line {line}: "
    assert caught.value.message == prefix + message
    assert caught.value.lines is not None
    assert caught.value.lines.start == line


def test_stages_and_the_arguments_before_them() -> None:
    file = parse(
        b"# A the first\nARG A=1 B\n# builder makes\nFROM --platform=$BUILDPLATFORM x AS Builder\nARG A\nRUN y\nFROM builder\n"
    )
    assert file.arguments[0].args == (ins.Argument("A", "1", "the first"), ins.Argument("B"))
    first, second = file.stages
    assert (first.head.base, first.head.stage, first.head.platform) == ("x", "builder", "$BUILDPLATFORM")
    assert first.head.comment == "makes"
    assert first.head.keyword == "FROM"
    assert [one.keyword for one in first.commands] == ["ARG", "RUN"]
    assert second.head.base == "builder"


def test_pairs_of_both_forms() -> None:
    env = command("ENV a=b 'c'=d")
    assert isinstance(env, ins.Env)
    assert env.pairs == (ins.Pair("a", "b"), ins.Pair("'c'", "d"))
    assert str(env.pairs[0]) == "a=b"
    old = command("LABEL a b c")
    assert isinstance(old, ins.Label)
    assert old.pairs == (ins.Pair("a", "b c", old=True),)


def test_copy_and_add() -> None:
    copy = command(
        "COPY --from=x --chown=u:g --chmod=755 --link --parents --exclude=a --exclude=b s <<E /d/\nbody\nE"
    )
    assert isinstance(copy, ins.Copy)
    assert (copy.origin, copy.chown, copy.chmod, copy.link, copy.parents) == ("x", "u:g", "755", True, True)
    assert (copy.exclude, copy.sources, copy.dest) == (("a", "b"), ("s",), "/d/")
    assert copy.files[0].content == "body\n"
    add = command("ADD --checksum=sha256:x --keep-git-dir=false --unpack https://x /d")
    assert isinstance(add, ins.Add)
    assert (add.checksum, add.keep_git_dir, add.unpack, add.link) == ("sha256:x", False, True, False)
    plain = command("ADD a b")
    assert isinstance(plain, ins.Add)
    assert (plain.keep_git_dir, plain.unpack) == (None, None)
    ghost = command('COPY ["<<E", "/d"]')
    assert isinstance(ghost, ins.Copy)
    assert ghost.files[0].content == ""


def test_a_link_may_be_dropped() -> None:
    for text in ("COPY --link a b", "ADD --link a b"):
        one = command(text)
        assert isinstance(one, ins.Copy | ins.Add)
        assert one.link
        assert not one.unlinked().link


def test_run() -> None:
    run = command(
        "RUN --mount=type=cache,target=/c --mount=type=secret,id=s --network=none --security=insecure --device=x,required y"
    )
    assert isinstance(run, ins.Run)
    assert run.mounts == ("type=cache,target=/c", "type=secret,id=s")
    assert (run.network, run.security, run.devices) == ("none", "insecure", ("x,required",))
    assert run.command == ins.CommandLine(args=("y",), shell=True)
    assert run.flags == ("mount", "network", "security", "device")


def test_commands_in_both_forms() -> None:
    for text, args, shell in (
        ("CMD a b", ("a b",), True),
        ('CMD ["a"]', ("a",), False),
        ("CMD", (), True),
        ('ENTRYPOINT ["a"]', ("a",), False),
    ):
        one = command(text)
        assert isinstance(one, ins.Cmd | ins.Entrypoint)
        assert (one.command.args, one.command.shell) == (args, shell)
    shell_command = command('SHELL ["a", "b"]')
    assert isinstance(shell_command, ins.Shell)
    assert shell_command.shell == ("a", "b")


def test_healthchecks() -> None:
    one = command(
        "HEALTHCHECK --interval=1m30s --timeout=0s --start-period=2s --start-interval=5ms --retries=3 CMD a b"
    )
    assert isinstance(one, ins.Healthcheck)
    assert one.test == ("CMD-SHELL", "a b")
    assert (one.interval, one.timeout, one.start_period, one.start_interval, one.retries) == (
        90_000_000_000,
        0,
        2_000_000_000,
        5_000_000,
        3,
    )
    none = command("HEALTHCHECK none")
    assert isinstance(none, ins.Healthcheck)
    assert none.test == ("NONE",)
    listed = command('HEALTHCHECK CMD ["a"]')
    assert isinstance(listed, ins.Healthcheck)
    assert listed.test == ("CMD", "a")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("USER a b", ins.User, "a b"),
        ("WORKDIR /a", ins.Workdir, "/a"),
        ("STOPSIGNAL 9", ins.StopSignal, "9"),
        ("MAINTAINER me", ins.Maintainer, "me"),
    ],
)
def test_instructions_with_one_argument(text: str, kind: type[ins.Single], value: str) -> None:
    one = command(text)
    assert isinstance(one, kind)
    assert one.value == value


def test_lists() -> None:
    expose = command("EXPOSE 80 443")
    assert isinstance(expose, ins.Expose)
    assert expose.ports == ("443", "80")
    volume = command('VOLUME [" /a ", "/b"]')
    assert isinstance(volume, ins.Volume)
    assert volume.volumes == ("/a", "/b")


def test_triggers() -> None:
    one = command("ONBUILD COPY <<E /x\nbody\nE")
    assert isinstance(one, ins.Onbuild)
    assert one.expression == "COPY <<E /x\nbody\nE"
    again = parse_trigger(one.expression, Lines(7, 7))
    assert isinstance(again, ins.Copy)
    assert again.lines == Lines(7, 7)
    assert again.files[0].content == "body\n"
    for text, message in (
        ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
        ("FROM x", "FROM is not a command type"),
        ("RUN <<E", "unterminated heredoc"),
        ("COPY a", "COPY requires at least two"),
    ):
        with pytest.raises(DockerfileError, match=message) as caught:
            parse_trigger(text, Lines(7, 7))
        assert caught.value.lines == Lines(7, 7)


def test_expansion() -> None:
    def upper(word: str) -> str:
        return word.upper()

    add = command("ADD --chown=a --chmod=b --checksum=c d e")
    assert isinstance(add, ins.Add)
    shown = add.expanded(upper)
    assert (shown.chown, shown.chmod, shown.checksum, shown.sources, shown.dest) == (
        "A",
        "B",
        "C",
        ("D",),
        "E",
    )
    copy = command("COPY --from=x --chown=a --chmod=b d e")
    assert isinstance(copy, ins.Copy)
    expanded = copy.expanded(upper)
    assert (expanded.origin, expanded.chown, expanded.sources, expanded.dest) == ("x", "A", ("D",), "E")
    for text, check in (
        ("ENV a=b", (ins.Pair("A", "B"),)),
        ("LABEL a=b", (ins.Pair("A", "B"),)),
    ):
        one = command(text)
        assert isinstance(one, ins.Env | ins.Label)
        assert one.expanded(upper).pairs == check
    arg = command("ARG a=b c")
    assert isinstance(arg, ins.Arg)
    assert arg.expanded(upper).args == (ins.Argument("A", "B"), ins.Argument("C"))
    volume = command("VOLUME a")
    assert isinstance(volume, ins.Volume)
    assert volume.expanded(upper).volumes == ("A",)
    user = command("USER a")
    assert isinstance(user, ins.User)
    assert user.expanded(upper) == ins.User(name="USER", code="USER a", lines=Lines(2, 2), value="A")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM a AS Foo", [("StageNameCasing", "Stage name 'Foo' should be lowercase")]),
        ("FROM a as foo", [("FromAsCasing", "'as' and 'FROM' keywords' casing do not match")]),
        ("from a AS foo", [("FromAsCasing", "'AS' and 'from' keywords' casing do not match")]),
        ("From a as foo", []),
        ("from a as foo", []),
        ("FROM a\nRUN x \\\n\n y", [("NoEmptyContinuation", "Empty continuation line")]),
        (
            "FROM a\nMAINTAINER x",
            [("MaintainerDeprecated", "Maintainer instruction is deprecated in favor of using label")],
        ),
        (
            "# other words\nFROM a AS foo",
            [
                (
                    "InvalidDefinitionDescription",
                    "Comment for FROM should follow the format: `# foo <description>`",
                )
            ],
        ),
        (
            "# words\nARG a b\nFROM a",
            [
                (
                    "InvalidDefinitionDescription",
                    "Comment for ARG should follow the format: `# <arg_key> <description>`",
                )
            ],
        ),
        ("# foo makes\nFROM a AS foo\n# words\nRUN x", []),
    ],
)
def test_checks_of_single_instructions(text: str, found: Found) -> None:
    assert findings(text) == found


def test_checks_are_chosen() -> None:
    text = "# words\nFROM a AS Foo\nMAINTAINER x"
    names = ["StageNameCasing", "InvalidDefinitionDescription", "MaintainerDeprecated"]
    assert [name for name, _ in findings(text)] == names
    assert [name for name, _ in findings(text, "")] == ["StageNameCasing", "MaintainerDeprecated"]
    assert [name for name, _ in findings(text, "skip=StageNameCasing, X")] == ["MaintainerDeprecated"]
    assert findings(text, "skip=all") == []
    chosen = "skip=all;experimental=InvalidDefinitionDescription"
    assert [name for name, _ in findings(text, chosen)] == ["InvalidDefinitionDescription"]


def test_findings_may_be_errors() -> None:
    found = rules.Findings(rules.parse_choice("error=true"))
    parse(b"FROM a AS Foo", found)
    with pytest.raises(DockerfileError, match="lint violation found for rules: StageNameCasing"):
        found.check()
    assert found.all[0].short == "StageNameCasing: Stage name 'Foo' should be lowercase (line 1)"
    rules.Findings(rules.parse_choice("error=true")).check()
    rules.Findings(rules.Choice()).check()
    assert rules.Finding(rule=rules.UNDEFINED_VAR, message="m", lines=Lines(0, 0)).short == "UndefinedVar: m"
    assert rules.UNDEFINED_VAR.url == "https://docs.docker.com/go/dockerfile/rule/undefined-var/"
    assert rules.INVALID_BASE_IMAGE_PLATFORM.url == ""


@pytest.mark.parametrize("text", ["x", "x=y", "error=maybe"])
def test_a_bad_choice_is_refused(text: str) -> None:
    with pytest.raises(DockerfileError, match="check option"):
        rules.parse_choice(text)
