"""Who a process runs as: ``user[:group]`` resolved against the container's own passwd and group files.

Rules of Docker, with the traps closed (hostile-input.md D17): a number is an ID and never falls back to a name; IDs fit in 31
bits; the files are read inside the root, must be regular and at most 10 MiB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lading.containers.rootfs import Root
from lading.errors import InvalidArgumentError

FILE_LIMIT: Final = 10 * 1024 * 1024
ID_LIMIT: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Numeric identity of a process. ``groups`` are the additional ones, which include ``gid``."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve(root: Root, user: str, group_add: Sequence[str] = ()) -> User:
    """Resolve what ``USER`` or ``--user`` says, and ``--group-add``.

    Raises:
        InvalidArgumentError: A name is unknown, a number is out of range, or a file is no regular file.

    """
    accounts, groups = _accounts(root), _groups(root)
    name, colon, group = user.partition(":")
    account = _find_account(name or "0", accounts, user)
    additional: list[int] = []
    if colon and group:
        gid = _find_group(group, groups)
    else:
        gid = account.gid
        additional = [g.gid for g in groups if account.name and account.name in g.members]
    additional += [_find_group(entry, groups) for entry in group_add]
    ordered = list(dict.fromkeys([gid, *additional]))
    return User(uid=account.uid, gid=gid, groups=tuple(ordered), home=account.home or "/")


def _find_account(name: str, accounts: Sequence[_Account], shown: str) -> _Account:
    if _is_number(name):
        uid = _number(name)
        return next((a for a in accounts if a.uid == uid), _Account("", uid, 0, "/"))
    for account in accounts:
        if account.name == name:
            return account
    raise InvalidArgumentError(
        f"unable to find user {name}: no matching entries in passwd file", subject=shown
    )


def _find_group(name: str, groups: Sequence[_Group]) -> int:
    if _is_number(name):
        return _number(name)
    for group in groups:
        if group.name == name:
            return group.gid
    raise InvalidArgumentError(
        f"unable to find group {name}: no matching entries in group file", subject=name
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.lstrip("+-").isdigit()


def _number(text: str) -> int:
    if len(text) > 10 or not 0 <= (number := int(text)) <= ID_LIMIT:
        raise InvalidArgumentError(f"uids and gids must be in range 0-{ID_LIMIT}, not {text}", subject=text)
    return number


def _lines(root: Root, path: str) -> list[list[str]]:
    try:
        data = root.read(path, limit=FILE_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise InvalidArgumentError(f"cannot read {path} in the image: {exc.strerror}", subject=path) from exc
    text = data.decode("utf-8", "replace")
    return [line.strip().split(":") for line in text.split("\n") if line.strip() and line[0] != "#"]


def _id(text: str) -> int | None:
    return (
        int(text) if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= ID_LIMIT else None
    )


def _accounts(root: Root) -> list[_Account]:
    return [
        _Account(fields[0], uid, gid, fields[5])
        for fields in _lines(root, "/etc/passwd")
        if len(fields) >= 6 and (uid := _id(fields[2])) is not None and (gid := _id(fields[3])) is not None
    ]


def _groups(root: Root) -> list[_Group]:
    return [
        _Group(fields[0], gid, tuple(member for member in fields[3].split(",") if member))
        for fields in _lines(root, "/etc/group")
        if len(fields) >= 4 and (gid := _id(fields[2])) is not None
    ]
