"""Patterns for files."""

import pytest

from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.patterns import Matcher, clean, has_wildcard, match, read_ignore


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
