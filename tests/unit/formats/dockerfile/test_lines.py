"""Directives, continuations, comments, heredocs, and how each instruction's arguments are divided."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.formats.dockerfile.directives import detect_syntax, directive
from lading.formats.dockerfile.errors import DockerfileError, Lines
from lading.formats.dockerfile.lines import INSTRUCTION_LIMIT, Node, parse_heredoc, parse_lines
from lading.formats.dockerfile.parse import parse
from lading.formats.dockerfile.words import split_flags, split_words


def nodes(text: str) -> list[Node]:
    return list(parse_lines(text.encode()).nodes)


def only(text: str) -> Node:
    (node,) = nodes(text)
    return node


def test_a_line_continues_after_the_escape_character() -> None:
    node = only("RUN a \\\n  b \\ \t\n# comment\n\n c\nRUN d".rpartition("\n")[0])
    assert node.args == ("a   b  c",)
    assert node.lines == Lines(1, 5)


def test_an_empty_continuation_line_is_remarked() -> None:
    parsed = parse_lines(b"RUN a \\\n\n b\n")
    assert parsed.empty_continuations == (Lines(3, 3),)


def test_an_escaped_escape_does_not_continue() -> None:
    assert [node.args for node in nodes("RUN a \\\\\nRUN b")] == [("a \\\\",), ("b",)]


def test_a_continuation_may_end_the_file() -> None:
    assert only("RUN a \\").args == ("a",)


def test_a_lone_escape_continues_into_the_next_line() -> None:
    assert only("\\\nRUN a").args == ("a",)


def test_the_escape_directive_changes_the_escape() -> None:
    parsed = parse_lines(b"# escape=`\nRUN a `\n b \\\nRUN c")
    assert [node.args for node in parsed.nodes] == [("a  b \\",), ("c",)]
    assert parsed.escape == "`"


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("# escape=x\nRUN a", "invalid escape token 'x' does not match ` or \\", 1),
        ("# syntax=a\n# syntax=b\nRUN a", "only one syntax parser directive can be used", 2),
        ("", "file with no instructions", 0),
        ("# only\n\n", "file with no instructions", 2),
        ("RUN <<E\na\n", "unterminated heredoc", 1),
        ("FROM x\nCOPY <<'E /x\n", "", 0),
        ('RUN ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only", 1),
        ("ENV a", "ENV must have two arguments", 1),
        ("ENV a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value', 1),
        ("RUN " + "x" * 70000, "dockerfile line greater than max allowed size of 65535", 1),
    ],
)
def test_errors_point_at_lines(text: str, message: str, line: int) -> None:
    if not message:
        assert nodes(text)[1].heredocs == ()
        return
    with pytest.raises(DockerfileError) as caught:
        nodes(text)
    assert caught.value.message == message
    assert caught.value.lines is not None
    assert caught.value.lines.start == line


@pytest.mark.parametrize(
    ("text", "args", "is_json"),
    [
        ("RUN", (), False),
        ('RUN ["a", "b c"]', ("a", "b c"), True),
        ("RUN []", (), True),
        ("RUN ['a']", ("['a']",), False),
        ("RUN [" * 1, ("[",), False),
        ('CMD "a b"', ('"a b"',), False),
        ('CMD ["\\ud800"]', ("\ufffd",), True),
        ("COPY a b  c\t/d/", ("a", "b", "c", "/d/"), False),
        ('COPY ["a b", "/c"]', ("a b", "/c"), True),
        ("ENV a b c", ("a", "b c", ""), False),
        ("ENV a=b c='d e' f=g\\ h", ("a", "b", "=", "c", "'d e'", "=", "f", "g\\ h", "="), False),
        ("ENV", (), False),
        ("ARG a b=c", ("a", "b=c"), False),
        ("EXPOSE 80  443/tcp", ("80", "443/tcp"), False),
        ("EXPOSE", (), False),
        ("HEALTHCHECK", (), False),
        ("HEALTHCHECK NONE", ("NONE",), False),
        ("HEALTHCHECK --retries=3 CMD a b", ("CMD", "a b"), False),
        ('HEALTHCHECK CMD ["a"]', ("CMD", "a"), True),
        ("ONBUILD RUN a b", ("RUN", "a b"), False),
        ("ONBUILD", (), False),
        ("WORKDIR /a b", ("/a b",), False),
        ("FOO a b", (), False),
        ("VOLUME /a /b", ("/a", "/b"), False),
    ],
)
def test_arguments(text: str, args: tuple[str, ...], is_json: bool) -> None:
    node = only(text)
    assert (node.args, node.json) == (args, is_json)


def test_a_deeply_nested_array_is_no_array() -> None:
    assert only("RUN " + "[" * 60000).json is False


def test_flags_stand_before_the_arguments() -> None:
    node = only("COPY --from=a --chown='b c' --link -- --x /y")
    assert node.flags == ("--from=a", "--chown=b c", "--link")
    assert node.args == ("--x", "/y")


@pytest.mark.parametrize(
    ("text", "flags", "rest"),
    [
        ("--a=b", ["--a=b"], ""),
        ("  --a  x", ["--a"], "x"),
        ("-a", [], "-a"),
        ("--a=\\ b c", ["--a= b"], "c"),
        ('--a="b \\" c" d', ['--a=b " c'], "d"),
        ("--a\\", ["--a"], ""),
        ("-- --a", [], " --a"),
    ],
)
def test_split_flags(text: str, flags: list[str], rest: str) -> None:
    assert split_flags(text, "\\") == (flags, rest)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", ["a", "b"]),
        (" a  b ", ["a", "b"]),
        ("'a b' c", ["'a b'", "c"]),
        ('"a \\" b"', ['"a \\" b"']),
        ("'a\\' b", ["'a\\'", "b"]),
        ("a\\ b", ["a\\ b"]),
        ("a\\", ["a"]),
        ('"a\\', ['"a']),
        ("", []),
    ],
)
def test_split_words(text: str, words: list[str]) -> None:
    assert split_words(text, "\\") == words


def test_heredocs_are_collected() -> None:
    node = only("RUN <<-A <<'B' 3<<C cat\n\tx\n\tA\ny $v\nB\nz\r\nC\n")
    first, second, third = node.heredocs
    assert (first.name, first.content, first.text, first.expand) == ("A", "\tx\n", "x\n", True)
    assert (second.name, second.text, second.expand) == ("B", "y $v\n", False)
    assert (third.descriptor, third.content) == (3, "z\r\n")
    assert node.lines == Lines(1, 7)


def test_only_some_instructions_have_heredocs() -> None:
    assert only("CMD cat <<E").heredocs == ()
    assert only('RUN ["<<E"]').heredocs == ()
    assert only("ONBUILD RUN <<E\na\nE").heredocs[0].content == "a\n"
    assert only("ONBUILD COPY a b").heredocs == ()
    assert only("RUN echo '<<E").heredocs == ()


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("<<E", "E"),
        ("<<-E", "E"),
        ('<<"E F"', "E F"),
        ("<< E", "E"),
        ("<<", None),
        ("x<<E", None),
        ("<<a b", None),
        ("<<<E", None),
    ],
)
def test_a_heredoc_is_a_single_word(word: str, name: str | None) -> None:
    found = parse_heredoc(word)
    assert (found.name if found else None) == name


def test_comments_before_an_instruction_are_kept() -> None:
    first, second = nodes("# syntax=x\n# one\n#\n# two\n# three\n\nFROM a\nRUN b")
    assert first.comments == ("two", "three")
    assert second.comments == ()


def test_a_byte_order_mark_is_passed_over() -> None:
    assert only("\ufeffFROM x").args == ("x",)


def test_bytes_that_are_no_text_survive() -> None:
    node = parse_lines(b"COPY <<E /x\n\xff\xfe\nE\n").nodes[0]
    assert node.heredocs[0].text.encode("utf-8", "surrogateescape") == b"\xff\xfe\n"


@pytest.mark.parametrize(
    ("data", "value", "line"),
    [
        (b"# syntax=a/b:1 x\nFROM y", "a/b:1", 1),
        (b"#SYNTAX = a\r\n", "a", 1),
        (b"\xef\xbb\xbf# escape=`\n# syntax=a", "a", 2),
        (b"#!/bin/x\n# syntax=a", "a", 2),
        (b"// syntax=a\nx", "a", 1),
        (b'{"syntax": "a", "b": 1}', "a", 0),
        (b'{"syntax": 1}', None, 0),
        (b"{", None, 0),
        (b"[1]", None, 0),
        (b"FROM x\n# syntax=a", None, 0),
        (b"# other=x\n# syntax=a", None, 0),
        (b"# escape=`\n# escape=`\n# syntax=a", None, 0),
        (b"", None, 0),
    ],
)
def test_the_syntax_is_found(data: bytes, value: str | None, line: int) -> None:
    found = detect_syntax(data)
    assert (found.word if found else None) == value
    if found:
        assert found.lines.start == line


def test_a_directive_is_found_by_its_key() -> None:
    found = directive("check", b"# syntax=a\n# check=skip=all\n")
    assert found is not None
    assert found.value == "skip=all"
    assert directive("check", b"// check=x") is None


@given(st.text(alphabet="FROMRUNCOPY<<-E \\\n#\"'[]=:${}\tx", max_size=120))
def test_whatever_is_written_is_parsed_or_refused(text: str) -> None:
    with suppress(DockerfileError):
        assert parse(text.encode()).stages


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with suppress(DockerfileError):
        parse(data)


def test_comments_are_gathered_in_one_pass() -> None:
    started = time.process_time()
    (node,) = nodes("# x\n" * 200_000 + "RUN a")
    assert len(node.comments) == 200_000
    assert time.process_time() - started < 5


def test_comments_before_an_empty_one_are_of_nobody() -> None:
    first, second = nodes("# a\n#\n# b\nRUN a\nRUN b")
    assert (first.comments, second.comments) == (("b",), ())


def test_a_trigger_in_a_trigger_is_refused_however_deep() -> None:
    with pytest.raises(DockerfileError, match="Chaining ONBUILD"):
        parse(b"FROM scratch\n" + b"ONBUILD " * 8000 + b"RUN a\n")


def test_instructions_have_a_limit() -> None:
    with pytest.raises(DockerfileError, match=f"over {INSTRUCTION_LIMIT} instructions"):
        parse_lines(b"RUN\n" * (INSTRUCTION_LIMIT + 1))
