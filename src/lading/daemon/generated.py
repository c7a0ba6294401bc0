"""Keep what modules compile while they are imported from start to start, as Python keeps the modules themselves.

A dataclass writes the source of six methods and compiles each when its module is imported, attrs (in aiohttp) does the same, and
a regular expression is parsed and compiled by Python code: together that was a third of the imports. Texts and patterns are still
made anew each time; only the compilers are asked once for each, so that nothing can be out of date.
"""

import __future__

import builtins
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import marshal
import os
import re
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

_DIGEST: Final = hashlib.blake2b().digest_size
_FUTURES: Final[int] = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
"""Flags of code for what its module takes from the future; a text that it compiles takes the same."""
_COMPILER: Final[Any] = importlib.import_module("re._compiler")
"""Makes programs of patterns."""
_ENGINE: Final[Any] = importlib.import_module("_sre")
"""Runs them."""
_SALT: Final = re.compile(r"(?<=return hash\(\(\n) +-?\d+(?=,\n)")
"""Attrs salts the hashes of its objects with that of a name, which is never the same; that of an earlier process does as well."""
_MISSING: Final = 30
"""What was kept is replaced if more than one in so many was missing. A few patterns, made of sets, are never the same."""


class _Kept:
    """What was compiled before, by digests of what it was made of: code, and what ``_sre.compile`` makes a pattern of."""

    def __init__(self, known: dict[bytes, Any]) -> None:
        self._known = known
        self.used: dict[bytes, Any] = {}
        self.missed = 0

    def find(self, key: str, make: Callable[[], Any]) -> Any:
        """What was kept for ``key``, else what is made now."""
        digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        found = self._known.get(digest)
        if found is None:
            found = self._known[digest] = make()
            self.missed += 1
        self.used[digest] = found
        return found


@contextlib.contextmanager
def kept(path: Path) -> Generator[None]:
    """Within, what imports compile comes from ``path`` where that has it; if that lacked much, it is there afterwards.

    It is read and written as Python does with compiled modules: trusted, and not written where Python is told to write none.
    Not to be entered by two threads at a time.
    """
    known = _Kept(_read(path))
    with _executing(known), _compiling(known), _matching(known):
        yield
    if known.missed * _MISSING > len(known.used) and not sys.dont_write_bytecode:
        _write(path, known.used)


def place(part: str) -> Path:
    """Where the code of a part of the start is kept: beside this module's own."""
    return Path(importlib.util.cache_from_source(__file__)).with_suffix(f".{part}")


@contextlib.contextmanager
def _executing(known: _Kept) -> Generator[None]:
    """`dataclasses` hands texts to the builtin ``exec``."""
    compile_: Callable[..., Any] = builtins.compile

    def execute(source: str, names: dict[str, Any], local: dict[str, Any]) -> None:
        exec(known.find(source, lambda: compile_(source, "<string>", "exec")), names, local)  # noqa: S102

    # A global of the module is found before the builtin of the same name.
    dataclasses.exec = execute  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del dataclasses.exec  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def _compiling(known: _Kept) -> Generator[None]:
    """What attrs and `typing` compile, by the builtin ``compile``."""
    original: Callable[..., Any] = builtins.compile

    def compile_(source: Any, filename: Any, mode: str, *more: Any, **named: Any) -> Any:
        if more or named or not isinstance(source, str):
            return original(source, filename, mode, *more, **named)
        futures = sys._getframe(1).f_code.co_flags & _FUTURES  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        text = _SALT.sub("", source) if filename.startswith("<attrs ") else source
        key = f"{mode} {futures} {filename}\n{text}"
        return known.find(key, lambda: original(source, filename, mode, futures, dont_inherit=True))

    builtins.compile = compile_
    try:
        yield
    finally:
        builtins.compile = original


@contextlib.contextmanager
def _matching(known: _Kept) -> Generator[None]:
    """`re` parses a pattern and makes a program of it, of which its engine, in C, makes an object."""
    original: Callable[..., Any] = _COMPILER.compile

    def compile_(pattern: Any, flags: int = 0) -> Any:
        if not isinstance(pattern, str | bytes) or flags & re.DEBUG:
            return original(pattern, flags)
        key = f"{_ENGINE.MAGIC} {int(flags)} {pattern!r}"
        program = known.find(key, lambda: _program(original, pattern, flags))
        return _ENGINE.compile(*program) if program else original(pattern, flags)

    _COMPILER.compile = compile_
    try:
        yield
    finally:
        _COMPILER.compile = original


def _program(compile_: Callable[..., Any], pattern: str | bytes, flags: int) -> tuple[Any, ...]:
    """What the compiler of patterns gives to its engine; nothing if it makes them in another way."""
    given: list[Any] = []
    ours = threading.get_ident()

    def take(*arguments: Any) -> Any:
        if threading.get_ident() != ours:  # a pattern of another thread, which wants one
            return _ENGINE.compile(*arguments)
        given.extend(arguments)
        return None

    _COMPILER._sre = SimpleNamespace(**vars(_ENGINE) | {"compile": take})  # noqa: SLF001
    try:
        compile_(pattern, flags)
    finally:
        _COMPILER._sre = _ENGINE  # noqa: SLF001
    if not given:
        return ()
    _, flags, code, *groups = given
    return (
        pattern,
        int(flags),
        [int(each) for each in code],
        *groups,
    )  # its names for numbers are not to be kept


def _read(path: Path) -> dict[bytes, Any]:
    """What was kept; nothing if there is nothing, or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    body = memoryview(data)[_DIGEST:]
    if hashlib.blake2b(body).digest() != data[:_DIGEST]:
        return {}
    return marshal.loads(body)  # noqa: S302 - as trusted as the compiled modules beside it


def _write(path: Path, known: dict[bytes, Any]) -> None:
    body = marshal.dumps(known)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # as with compiled modules: where it cannot be kept, it is made again
        part.write_bytes(hashlib.blake2b(body).digest() + body)
        part.replace(path)
