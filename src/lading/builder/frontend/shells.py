"""Commands of a stage's shell, and owners of its files."""

import re
from collections.abc import Sequence
from typing import Final

from lading.builder.frontend.image import Draft
from lading.formats.llb.ops import NamedUser, Owner

DEFAULT_SHELL: Final = ("/bin/sh", "-c")
_WINDOWS_SHELL: Final = ("cmd", "/S", "/C")


def with_shell(draft: Draft, args: Sequence[str]) -> tuple[str, ...]:
    """A command's text as arguments of the shell."""
    default = _WINDOWS_SHELL if draft.platform.os == "windows" else DEFAULT_SHELL
    return (*(draft.shell or default), " ".join(args))


def owner(text: str, base: int | None) -> Owner | None:
    """``user[:group]``; names are looked up in the input ``base``. ``None`` for an empty text."""
    if not text:
        return None
    user, colon, group = text.partition(":")
    return Owner(user=_id(user, base), group=_id(group, base) if colon else None)


def _id(text: str, base: int | None) -> NamedUser | int:
    if text == "root":
        return 0
    if re.fullmatch("[+-]?[0-9]{1,18}", text) and abs(int(text)) < 1 << 31:
        return int(text) & 0xFFFFFFFF
    return NamedUser(name=text, input=base) if text else 0
