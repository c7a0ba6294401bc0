"""Patterns for files."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.patterns import (
    PATTERN_LIMIT,
    Automaton,
    Matcher,
    Pattern,
    clean,
    has_wildcard,
    match,
    read_ignore,
)


def test_an_ignore_file_is_read() -> None:
    data = b"\xef\xbb\xbf# comment\n\n  a/  \r\n/b//c/../d\n!e\n! /f\n #g\n!\n/\n"
    assert read_ignore(data) == ["a", "b/d", "!e", "!f", "#g", "!", "/"]


@pytest.mark.parametrize(
    ("path", "cleaned"), [("", "."), ("a//b/./c/..", "a/b"), ("//a", "/a"), ("../a", "../a"), ("/..", "/")]
)
def test_clean(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


@pytest.mark.parametrize(
    ("patterns", "path", "matched"),
    [
        (["a"], "a", True),
        (["a"], "a/b/c", True),
        (["a"], "ab", False),
        (["a", "!a/b"], "a/b", False),
        (["a", "!a/b"], "a/b/c", False),
        (["a", "!a/b", "a/b/c"], "a/b/c", True),
        (["!a"], "a", False),
        (["*"], "a/b", True),
        (["*.go"], "a.go", True),
        (["*.go"], "a/b.go", False),
        (["**/*.go"], "a/b.go", True),
        (["**/*.go"], "b.go", True),
        (["**/foo"], "foo", True),
        (["**/foo"], "a/foo", True),
        (["**/foo"], "afoo", False),
        (["**foo"], "afoo", True),
        (["a/**"], "a", False),
        (["a/**"], "a/b", True),
        (["a/**/b"], "a/b", True),
        (["a/**/b"], "a/x/y/b", True),
        (["a/**b"], "a/b", True),
        (["**"], "x", True),
        (["a?c"], "abc", True),
        (["a?c"], "a/c", False),
        (["[a-c]x"], "bx", True),
        (["[^a-c]x"], "bx", False),
        (["[^a-c]x"], "dx", True),
        (["[\\]]x"], "]x", True),
        (["[b-a]"], "a", False),
        (["[^b-a]"], "a", True),
        (["a\\*b"], "a*b", True),
        (["a\\*b"], "axb", False),
        (["a.b"], "axb", False),
        (["  a  ", ""], "a", True),
        (["a+(b)|c^"], "a+(b)|c^", True),
    ],
)
def test_ignore_patterns(patterns: list[str], path: str, matched: bool) -> None:
    assert Matcher(patterns).matches(path) is matched


@pytest.mark.parametrize("pattern", ["!", "[", "[a", "[a-", "[]", "a[-]", "[\\"])
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(DockerfileError, match="pattern"):
        Matcher([pattern])


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [("*.txt", "a.txt", True), ("a/*", "a/b/c", False), ("**", "a/b", False), ("a/?", "a/b", True)],
)
def test_wildcards_of_copy(pattern: str, path: str, matched: bool) -> None:
    assert match(pattern, path) is matched


def test_a_walk_goes_where_something_may_be_taken_back() -> None:
    matcher = Matcher(["a", "!a/b/c"])
    assert matcher.inverts
    assert matcher.may_hold("a")
    assert matcher.may_hold("a/b")
    assert not matcher.may_hold("x")
    assert Matcher(["a", "!**/c"]).may_hold("a")
    assert not Matcher(["a"]).may_hold("a")


@pytest.mark.parametrize(
    ("pattern", "directory", "may"),
    [
        ("a/b/c", "a", True),
        ("a/b/c", "a/b", True),
        ("a/b/c", "a/b/c", False),
        ("a/b", "x", False),
        ("a", "a/b", False),
        ("*/b", "x", True),
        ("**/b", "x/y/z", True),
        ("a/**", "a/b/c", True),
    ],
)
def test_a_walk_goes_where_something_may_be_wanted(pattern: str, directory: str, may: bool) -> None:
    assert Matcher([pattern]).may_reach(directory) is may


def test_has_wildcard() -> None:
    assert all(has_wildcard(text) for text in ("a*", "\\\\[", "?"))
    assert not has_wildcard("a\\*")


PIECES = ("a", "b", "/", "*", "?", "**", "**/", "[^a]", "[a-b]", "[^b-a]")


def regex(pattern: str) -> re.Pattern[str]:
    """A pattern of these pieces as moby's patternmatcher translates it."""
    if pattern.startswith("**") and not pattern.startswith("**/") and not re.search(r"[*?\[]", pattern[2:]):
        return re.compile(".*" + re.escape(pattern[2:]))
    out = re.sub(r"\*\*/?", lambda found: "\0" if found.end() == len(pattern) else "\1", pattern)
    out = out.replace("*", "[^/]*").replace("?", "[^/]").replace("[^b-a]", ".")
    return re.compile(out.replace("\0", ".*").replace("\1", "(?:.*/)?"))


@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), st.text("ab/", max_size=8))
@example("***/", "")
def test_a_pattern_fits_what_it_would_by_trying_everything(pattern: str, path: str) -> None:
    assert Pattern(pattern).matches(path) == (regex(pattern).fullmatch(path) is not None)


@given(
    st.lists(st.sampled_from(("a", "b", "/", "[^/]*", "[^/]", "(?:.*/)?", ".*"))), st.text("ab/", max_size=8)
)
def test_states_fit_what_a_regular_expression_does(tokens: list[str], path: str) -> None:
    assert Automaton(tokens).matches(path) == (re.fullmatch("".join(tokens), path) is not None)


@pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "**/a/" * 20 + "b", "*[^x]" * 20 + "b", "**a" * 20])
def test_many_wildcards_take_no_longer_than_one(pattern: str) -> None:
    started = time.process_time()
    for path in ("a" * 250, "a/" * 1000 + "a"):
        assert not Pattern(pattern).matches(path) or pattern.startswith("**a")
    assert time.process_time() - started < 5


def test_a_pattern_of_any_length_is_refused() -> None:
    with pytest.raises(DockerfileError, match="over"):
        Pattern("a" * (PATTERN_LIMIT + 1)).matches("a")
