"""Keep the code that `dataclasses` generates from start to start, as Python keeps that of modules.

A dataclass writes the source of six methods and compiles each when its module is imported: for our 200 classes that was a
fifth of a start. The text is still written anew each time; only the compiler is asked once for each text, so that nothing can
be out of date.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import marshal
import os
import sys
from collections.abc import Generator
from pathlib import Path
from types import CodeType
from typing import Any, Final

_DIGEST: Final = hashlib.blake2b().digest_size


@contextlib.contextmanager
def kept(path: Path) -> Generator[None]:
    """Within, what `dataclasses` executes comes from ``path`` where that has it; what it lacked is there afterwards.

    It is read and written as Python does with compiled modules: trusted, and not written where Python is told to write none.
    """
    known = _read(path)
    count = len(known)

    def execute(source: str, names: dict[str, Any], local: dict[str, Any]) -> None:
        key = hashlib.blake2b(source.encode(), digest_size=16).digest()
        code = known.get(key)
        if code is None:
            code = known[key] = compile(source, "<string>", "exec")
        exec(code, names, local)  # noqa: S102 - what the builtin does that it stands in for

    # A global of the module is found before the builtin of the same name.
    dataclasses.exec = execute  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        del dataclasses.exec  # pyright: ignore[reportAttributeAccessIssue]
        if len(known) > count and not sys.dont_write_bytecode:
            _write(path, known)


def place(part: str) -> Path:
    """Where the code of a part of the start is kept: beside this module's own."""
    return Path(importlib.util.cache_from_source(__file__)).with_suffix(f".{part}")


def _read(path: Path) -> dict[bytes, CodeType]:
    """What was kept; nothing if there is nothing, or it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    body = memoryview(data)[_DIGEST:]
    if hashlib.blake2b(body).digest() != data[:_DIGEST]:
        return {}
    return marshal.loads(body)  # noqa: S302 - as trusted as the compiled modules beside it


def _write(path: Path, known: dict[bytes, CodeType]) -> None:
    body = marshal.dumps(known)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # as with compiled modules: where it cannot be kept, it is made again
        part.write_bytes(hashlib.blake2b(body).digest() + body)
        part.replace(path)
