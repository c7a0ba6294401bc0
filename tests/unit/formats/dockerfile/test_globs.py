"""Shell patterns on values: the match that trying everything finds, in one pass."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.globs import Glob

PATTERNS = st.text("ab*?\n", max_size=6)
TEXTS = st.text("ab\n", max_size=8)


def regex(pattern: str, *, greedy: bool) -> re.Pattern[str]:
    """As BuildKit translates it (frontend/dockerfile/shell/lex.go)."""
    star = ".*" if greedy else ".*?"
    return re.compile("".join({"*": star, "?": "."}.get(char, re.escape(char)) for char in pattern))


@given(PATTERNS, TEXTS, st.booleans())
def test_a_match_ends_where_it_would_by_trying(pattern: str, text: str, greedy: bool) -> None:
    found = regex(pattern, greedy=greedy).match(text)
    assert Glob(pattern, greedy=greedy).end_at(text, 0) == (found.end() if found else None)


@given(PATTERNS, TEXTS)
def test_a_text_is_cut_where_it_would_by_trying(pattern: str, text: str) -> None:
    parts, kept, before = [], 0, -1
    for found in regex(pattern, greedy=True).finditer(text):
        if found.start() == found.end() == before:
            continue  # Go takes no empty match right after another one
        parts.append(text[kept : found.start()])
        kept = before = found.end()
    assert Glob(pattern, greedy=True).cut(text, everywhere=True) == [*parts, text[kept:]]
    first = [parts[0], text[len(text) - len(text[len(parts[0]) :]) :]] if parts else [text]
    assert Glob(pattern, greedy=True).cut(text, everywhere=False)[0] == first[0]


@given(PATTERNS, TEXTS, st.booleans())
def test_turned_round_it_matches_the_text_turned_round(pattern: str, text: str, greedy: bool) -> None:
    turned = Glob(pattern[::-1], greedy=greedy).turned()
    assert turned.end_at(text, 0) == Glob(pattern, greedy=greedy).end_at(text, 0)


def test_escapes() -> None:
    assert Glob(r"\*\?\\\/\}", greedy=False).end_at("*?\\/}", 0) == 5
    with pytest.raises(DockerfileError, match="invalid escape"):
        Glob("a\\n", greedy=False)
    with pytest.raises(DockerfileError, match="invalid escape"):
        Glob("a\\", greedy=False)


@pytest.mark.parametrize("pattern", ["a*" * 20 + "b", "*a" * 20 + "b", "*?" * 20 + "b", "a*b"])
def test_many_stars_take_no_longer_than_one(pattern: str) -> None:
    text = "a" * 50_000
    started = time.process_time()
    assert Glob(pattern, greedy=True).cut(text, everywhere=True) == [text]
    assert Glob(pattern, greedy=False).end_at(text, 0) is None
    assert time.process_time() - started < 5
