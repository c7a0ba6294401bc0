"""Words, quotes and variables."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.shell import DEPTH_LIMIT, EXPANSION_LIMIT, Lexer

VARIABLES = {
    "v": "value",
    "empty": "",
    "PATH": "/usr/bin:/bin",
    "file": "a/b/c.tar.gz",
    "stars": "a*c*e",
    "1": "one",
    "12": "twelve",
    "é": "accent",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$v", "value"),
        ("${v}", "value"),
        ("$v.x", "value.x"),
        ("x$", "x$"),
        ("x$ y", "x$ y"),
        ("$unset-", "-"),
        ("$1a", "onea"),
        ("$12", "twelve"),
        ("$é", "accent"),
        ("$@x", "x"),
        ("$0", ""),
        ("'$v'", "$v"),
        ('"$v\'s"', "value's"),
        (r"\$v", "$v"),
        (r'"\$v \" \\ \n"', '$v " \\ \\n'),
        ("a\\", "a"),
        ('"a\\', None),
        ("'a", None),
        ("${v", None),
        ("${", None),
        ("${}", None),
        ("${{v}", None),
        ("${:v}", None),
        ("${v:-x}", "value"),
        ("${empty:-x}", "x"),
        ("${empty-x}", ""),
        ("${unset-x}", "x"),
        ("${unset:-$v}", "value"),
        ("${unset:-'a b'}", "a b"),
        ("${v:+x}", "x"),
        ("${empty:+x}", ""),
        ("${empty+x}", "x"),
        ("${unset+x}", ""),
        ("${v:?}", "value"),
        ("${v?}", "value"),
        ("${unset?gone}", None),
        ("${empty:?}", None),
        ("${v:=x}", None),
        ("${v:#x}", None),
        ("${v!x}", None),
        ("${v:-x", None),
        ("${file#*/}", "b/c.tar.gz"),
        ("${file##*/}", "c.tar.gz"),
        ("${file%.*}", "a/b/c.tar"),
        ("${file%%.*}", "a/b/c"),
        ("${file%.???}", "a/b/c.tar.gz"),
        ("${file#x}", "a/b/c.tar.gz"),
        ("${unset#x}", ""),
        (r"${stars%\*e}", "a*c"),
        (r"${stars#a\*}", "c*e"),
        ("${file/\\//-}", "a-b/c.tar.gz"),
        ("${file//\\//-}", "a-b-c.tar.gz"),
        ("${file//.t*r/}", "a/b/c.gz"),
        ("${file/./$v}", "a/b/cvaluetar.gz"),
        ("${unset/a/b}", ""),
        (r"${v/\q/x}", None),
        ("${v/x", None),
        ("${v/x/y", None),
        ("${v//[/x}", "value"),
        ("a<b<<c", "a<b<<c"),
    ],
)
def test_expansion(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(DockerfileError, match="failed to process"):
            Lexer().expand(text, VARIABLES)
    else:
        assert Lexer().expand(text, VARIABLES).text == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${unset?gone}", "unset: gone"),
        ("${unset?}", "unset: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${v:=x}", "unsupported modifier (:=) in substitution"),
        ("${v", "unsupported modifier () in substitution"),
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${v:-x", "syntax error: missing '}'"),
        ("${v/x", "syntax error: missing '/' in ${}"),
        ("'", "unexpected end of statement while looking for matching single-quote"),
        ('"', "unexpected end of statement while looking for matching double-quote"),
    ],
)
def test_errors_say_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        Lexer().expand(text, VARIABLES)
    assert caught.value.message == "failed to process " + '"' + text.replace('"', '\\"') + '": ' + message


def test_an_error_inside_a_word_is_told_as_it_is() -> None:
    with pytest.raises(DockerfileError, match="bad substitution"):
        Lexer().expand("${unset:-${}}", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  b\tc", ["a", "b", "c"]),
        ('a "b c" d', ["a", "b c", "d"]),
        ("$list x", ["1", "2", "x"]),
        ('"$list" x', ["1 2", "x"]),
        (r"a\ b c", ["a b", "c"]),
        ("", []),
        ('""', []),
        ("<< EOT x", ["<< EOT", "x"]),
        ("abc${x:-def}", ["abcdef"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert list(Lexer().expand(text, {"list": "1 2"}).words) == words


def test_what_is_raw_stays() -> None:
    raw = Lexer(raw_quotes=True, raw_escapes=True, keep_unset=True)
    for text in (
        r"""'a' "b\"c" \d""",
        "$x ${x} ${x:-y} ${x#y} ${x/y/z}",
        r'"\q"',
    ):
        assert raw.expand(text, {}).text == text
    assert Lexer(ignore_quotes=True).expand("'$v'", VARIABLES).text == "'value'"
    assert Lexer(escape="`").expand("a`$v \\$v", VARIABLES).text == "a$v \\value"


def test_names_that_were_used_are_told() -> None:
    expanded = Lexer().expand("$v $w ${x:-y}", {"v": "1"})
    assert (expanded.found, expanded.missing) == ({"v"}, {"w", "x"})


@given(st.text(alphabet="ab$ {}:-+?#%/\\'\"*<\n", max_size=40))
def test_whatever_is_written_is_expanded_or_refused(text: str) -> None:
    with suppress(DockerfileError):
        assert isinstance(Lexer().expand(text, {"a": "b"}).text, str)


def test_variables_that_double_each_other_end_at_a_limit() -> None:
    lexer, variables = Lexer(), {"v0": "x" * 10}
    with pytest.raises(DockerfileError, match=f"over {EXPANSION_LIMIT} characters"):
        for number in range(100):
            variables[f"v{number + 1}"] = lexer.expand(f"$v{number}" * 10, variables).text
    assert sum(map(len, variables.values())) < EXPANSION_LIMIT


@pytest.mark.parametrize(
    "text", ["${v//x/yyyyyyyyyy}", "${v#" + "?" * 1000 + "}", "${v//" + "?x" * 500 + "/}"]
)
def test_replacements_end_at_the_same_limit(text: str) -> None:
    lexer, variables = Lexer(), {"v": "x" * 100_000}
    with pytest.raises(DockerfileError, match=f"over {EXPANSION_LIMIT} characters"):
        for _ in range(100):
            lexer.expand(text, variables)


def test_expressions_within_each_other_have_a_limit() -> None:
    nested = "${a:-" * DEPTH_LIMIT + "x" + "}" * DEPTH_LIMIT
    with pytest.raises(DockerfileError, match="nested deeper"):
        Lexer().expand(nested, {})
    assert Lexer().expand(nested[5:-1], {}).text == "x"


def test_an_empty_match_after_another_is_none_as_in_go() -> None:
    assert Lexer().expand("${v//*/x}", {"v": "abc"}).text == "x"
    assert Lexer().expand("${v//z/-}", {"v": "azbz"}).text == "a-b-"
