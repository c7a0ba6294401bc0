"""Subordinate IDs of a user of this machine, as long as a test needs them."""

import contextlib
import fcntl
from collections.abc import Generator
from pathlib import Path

FIRST = 700_000
"""The first ID of the range."""
OWNER = "nobody:nogroup"
"""What ``--userns-remap`` is to say."""
_FILES = ((Path("/etc/subuid"), "nobody"), (Path("/etc/subgid"), "nogroup"))


@contextlib.contextmanager
def subordinate_ids() -> Generator[str]:
    """Give 65536 of them to nobody; what ``--userns-remap`` is to say."""
    with given(*(owner for _, owner in _FILES), FIRST):
        yield OWNER


@contextlib.contextmanager
def given(user: str, group: str, first: int) -> Generator[None]:
    """Give 65536 IDs to a user and a group."""
    with contextlib.ExitStack() as stack:
        for (path, _), owner in zip(_FILES, (user, group), strict=True):
            stack.enter_context(_line(path, f"{owner}:{first}:65536"))
        yield


@contextlib.contextmanager
def _line(path: Path, line: str) -> Generator[None]:
    there = path.exists() and line in path.read_text().splitlines()
    if not there:
        with _locked(path) as lines:
            lines.append(line)
    try:
        yield
    finally:
        if not there:
            with _locked(path) as lines, contextlib.suppress(ValueError):
                lines.remove(line)


@contextlib.contextmanager
def _locked(path: Path) -> Generator[list[str]]:
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines = file.read().splitlines()
        yield lines
        file.truncate(0)
        file.write("".join(f"{line}\n" for line in lines))
