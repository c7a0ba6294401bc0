"""Classes and patterns are the same whether they were compiled now or before, and a damaged file does no harm."""

import builtins
import dataclasses
import linecache
import re
import sys
from collections.abc import Callable
from pathlib import Path

import attr
import pytest

from lading.daemon import generated


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that the compiler was asked for."""
    asked: list[str] = []
    compile_: Callable[..., object] = builtins.compile

    def spy(source: str, *arguments: object, **more: object) -> object:
        asked.append(source)
        return compile_(source, *arguments, **more)

    monkeypatch.setattr(builtins, "compile", spy)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return asked


def point(bound: int) -> type:
    class Point:
        x: int
        y: int = bound

    Point.__annotations__ = {"x": int, "y": int}
    return dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(Point)


def works(kind: type, bound: int) -> None:
    one = kind(x=1)
    assert one == kind(x=1, y=bound) != kind(x=2)
    assert hash(one) == hash(kind(x=1))
    assert repr(one).endswith(f"Point(x=1, y={bound})")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.x = 2


def test_what_was_generated_before_is_not_compiled_again(tmp_path: Path, compiled: list[str]) -> None:
    path = tmp_path / "kept"
    with generated.kept(path):
        works(point(2), 2)
    assert compiled
    compiled.clear()
    with generated.kept(path):
        works(point(3), 3)  # the same text: the default is a name in it
    assert not compiled
    assert not hasattr(dataclasses, "exec")


PATTERNS = [
    (r"(?P<year>\d{4})-(?P<month>\d\d)", 0, "of 2026-11", ("2026", "11")),
    (rb"(a|b)+?(c)\Z", 0, b"abac", (b"a", b"c")),
    (r"^ (straße|\w) # a comment", re.IGNORECASE | re.MULTILINE | re.VERBOSE, "\nSTRASSE", ("S",)),
    ("[^\ud800\xa0-\uffff]+()", 0, "plain", ("",)),
]


@pytest.mark.parametrize(("pattern", "flags", "text", "groups"), PATTERNS)
def test_a_pattern_that_was_compiled_before_is_not_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern, flags, text, groups
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "kept"
    plain = re.compile(pattern, flags)
    re.purge()
    with generated.kept(path):
        found = [re.compile(pattern, flags)]
    re.purge()
    with generated.kept(path), monkeypatch.context() as without:
        without.setattr("re._parser.parse", None)
        found.append(re.compile(pattern, flags))
    for each in found:
        assert each is not plain
        assert each == plain
        assert (each.flags, each.groups, each.groupindex) == (plain.flags, plain.groups, plain.groupindex)
        match = each.search(text)
        assert match is not None
        assert match.groups() == groups


def test_a_wrong_pattern_is_refused_in_the_same_words(tmp_path: Path) -> None:
    with generated.kept(tmp_path / "kept"), pytest.raises(re.error, match="missing \\)"):
        re.compile("(never")
    assert re.compile("(once)").match("once")


def test_a_compiler_of_patterns_that_works_in_another_way_is_left_to_do_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = re.compile("a+")
    monkeypatch.setattr("re._compiler.compile", lambda _, __: made)
    with generated.kept(tmp_path / "kept"):
        assert re.compile("never seen before b+") is made


FUTURE = """
from __future__ import annotations
def made():
    names = {}
    exec(compile("def one(x: undefined): pass", "<made>", "exec"), names)
    return names["one"].__annotations__
"""


def test_a_text_is_compiled_as_its_module_would(tmp_path: Path, compiled: list[str]) -> None:
    names: dict[str, Callable[[], object]] = {}
    exec(FUTURE, names)
    for _ in range(2):
        with generated.kept(tmp_path / "kept"):
            assert names["made"]() == {"x": "undefined"}
            with pytest.raises(NameError):
                exec(compile("def one(x: undefined): pass", "<made>", "exec"), {})
    assert len(compiled) == 2


def test_classes_of_attrs_are_the_same_under_another_hash_of_their_names(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kept"
    for number in range(2):
        monkeypatch.setattr(attr._make, "hash", lambda _, number=number: number - 10**17, raising=False)
        compiled.clear()
        linecache.clearcache()  # as in another process: names of texts are counted there
        with generated.kept(path):
            one, other = (attr.make_class(name, ["x"], frozen=True) for name in ("One", "Other"))
        assert len({one(1), one(1), one(2), other(1)}) == 3
        assert one(1) != other(1)
    assert not compiled


def test_a_text_that_is_another_one_each_time_does_not_make_the_file_grow(
    tmp_path: Path, compiled: list[str]
) -> None:
    path = tmp_path / "kept"

    def start(number: int) -> bytes:
        with generated.kept(path):
            for each in [*range(40), 1000 + number]:
                compile(f"x = {each}", "<made>", "exec")
        return path.read_bytes()

    first = start(0)
    assert start(1) == start(2) == first
    assert len(compiled) == 41 + 1 + 1
    with generated.kept(path):
        for each in range(100, 110):
            compile(f"x = {each}", "<made>", "exec")
    assert len(path.read_bytes()) < len(first)


@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"no digest of this" * 40])
def test_a_damaged_file_is_replaced(tmp_path: Path, compiled: list[str], data: bytes) -> None:
    path = tmp_path / "kept"
    path.write_bytes(data)
    with generated.kept(path):
        works(point(2), 2)
    assert compiled
    compiled.clear()
    with generated.kept(path):
        works(point(2), 2)
    assert not compiled


def test_nothing_is_written_where_python_keeps_no_compiled_modules(
    tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    with generated.kept(tmp_path / "kept"):
        works(point(2), 2)
    assert compiled
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_not_there_is_no_error(tmp_path: Path, compiled: list[str]) -> None:
    with generated.kept(tmp_path / "absent" / "kept"):
        works(point(2), 2)
    assert compiled
