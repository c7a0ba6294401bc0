"""Names of users and groups, as BuildKit looks them up: one that is not there is root."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from lading.builder.ops.files import owners
from lading.errors import InvalidArgumentError
from lading.formats.llb import ops


@pytest.fixture
def root(tmp_path: Path) -> Generator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("short:x:1\nbad:x:no:5\nme:x:7:8::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("us:x:9:\n")
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _named(name: str) -> ops.NamedUser:
    return ops.NamedUser(name=name, input=0)


@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [
        (_named("me"), None, (7, 8)),
        (_named("me"), _named("us"), (7, 9)),
        (5, None, (5, 5)),
        (5, _named("us"), (5, 9)),
        (_named("nobody"), None, (0, 0)),
        (_named("bad"), None, (0, 0)),
        (_named("short"), 3, (0, 3)),
        (_named("me"), _named("them"), (7, 8)),
        (4, _named("them"), (4, 4)),
    ],
)
def test_an_owner_becomes_numbers(
    root: int, user: ops.NamedUser | int, group: ops.NamedUser | int | None, expected: tuple[int, int]
) -> None:
    assert owners.resolve(ops.Owner(user=user, group=group), lambda _: root) == expected


def test_in_an_empty_tree_every_name_is_root() -> None:
    assert owners.resolve(ops.Owner(user=_named("me")), lambda _: None) == (0, 0)


def test_a_name_wants_a_tree() -> None:
    with pytest.raises(InvalidArgumentError, match="invalid user index: -1"):
        owners.resolve(ops.Owner(user=ops.NamedUser(name="me")), lambda _: None)
