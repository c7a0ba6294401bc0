"""Mounts: instructions to make a tree visible, as data. containerd's ``mount.Mount``; nothing here mounts anything."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One mount(2): ``type`` such as ``bind`` or ``overlay``, a source, options as of mount(8), a target below the root."""

    type: str
    source: str
    options: tuple[str, ...] = ()
    target: str = ""
