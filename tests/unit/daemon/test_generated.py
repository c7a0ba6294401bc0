"""Dataclasses are the same whether what they generate was compiled now or before, and a damaged file does no harm."""

import builtins
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lading.daemon import generated


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that the compiler was asked for."""
    asked: list[str] = []
    compile_: Callable[..., object] = builtins.compile

    def spy(source: str, *arguments: object) -> object:
        asked.append(source)
        return compile_(source, *arguments)

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
