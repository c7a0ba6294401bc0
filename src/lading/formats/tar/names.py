"""Names in archives: what is refused, and where a name leads when the archive's root is all there is."""

import re
from typing import Final

from lading.formats.tar.entry import Limits, TarError, TarLimitError

_WHITEOUT: Final = b".wh."
"""Before the name that a layer deletes; see ``formats/whiteouts.py``."""
_IRREGULAR: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)").search


def rooted(name: str) -> str:
    """The name as a clean relative path: no leading slash, no ``.`` or ``..``; empty for the root.

    ``..`` is applied to the text and stops at the root, as containerd does it (hostile-input.md T1): ``a/../../x`` is
    ``x``. Symbolic links on the way are the extractor's duty.
    """
    if _IRREGULAR(name) is None:
        return name
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part and part != ".":
            parts.append(part)
    return "/".join(parts)


def check(name: bytes, limits: Limits) -> None:
    """Refuse names that no Linux tree holds or that mislead whoever prints them (hostile-input.md T19).

    Raises:
        TarError: A NUL or newline, or a path or component that is too long.
        TarLimitError: More components than allowed.

    """
    if b"\0" in name or b"\n" in name:
        raise TarError(f"name {shown(name)} in a tar archive contains NUL or newline")
    if len(name) > limits.path:
        raise TarError(f"name {shown(name)} in a tar archive is longer than {limits.path} bytes")
    if len(name) > limits.component and any(_is_too_long(part, limits) for part in name.split(b"/")):
        raise TarError(f"a component of name {shown(name)} is longer than {limits.component} bytes")
    if name.count(b"/") >= limits.depth and len([part for part in name.split(b"/") if part]) > limits.depth:
        raise TarLimitError(f"name {shown(name)} in a tar archive has more than {limits.depth} components")


def _is_too_long(component: bytes, limits: Limits) -> bool:
    """A whiteout is longer than the name that it deletes, which may be as long as names can be."""
    return len(component) > limits.component + (len(_WHITEOUT) if component.startswith(_WHITEOUT) else 0)


def check_target(target: bytes, limits: Limits) -> None:
    """Refuse a symbolic link's target that symlink(2) would."""
    if not target or b"\0" in target or len(target) > limits.linkname:
        raise TarError(f"symbolic link target {shown(target)} is empty, contains NUL or is too long")


def text(raw: bytes) -> str:
    """Decode byte-exactly."""
    return raw.decode("utf-8", "surrogateescape")


def shown(raw: bytes) -> str:
    """For messages: escaped and not too long."""
    return repr(raw[:80])[1:] + ("…" if len(raw) > 80 else "")
