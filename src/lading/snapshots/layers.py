"""Layers in overlayfs's on-disk form, seen together: what is below a path, and what it takes to flatten them."""

import contextlib
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Final, Self

from lading.kit import linux
from lading.snapshots import trees

_INSIDE: Final = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS | linux.RESOLVE_NO_SYMLINKS


class Lowers:
    """The merged view of directories, topmost first, as overlayfs would mount them; a context manager."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._stack = contextlib.ExitStack()
        self._directories = list(directories)
        self._roots: list[int] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._roots = [stack.enter_context(trees.opened(directory)) for directory in self._directories]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def find(self, path: str) -> int | None:
        """A descriptor (``O_PATH``, to be closed by the caller) of what the view has at a link-free path."""
        for root in self._roots:
            fd, hidden = _look(root, path)
            if fd is not None or hidden:
                return fd
        return None

    def names(self, path: str) -> set[str]:
        """What the view has in a directory; nothing if it is none."""
        found: set[str] = set()
        gone: set[str] = set()
        for root in self._roots:
            fd, hidden = _look(root, path)
            if fd is None:
                if hidden:
                    break
                continue
            os.close(fd)
            try:
                directory = trees.open_below(root, path)
            except NotADirectoryError:
                break
            try:
                for name in os.listdir(directory):
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    if name not in gone:
                        (gone if trees.is_whiteout(status) else found).add(name)
                if trees.is_opaque(directory):
                    break
            finally:
                os.close(directory)
        return found - gone

    def exists(self, path: str) -> bool:
        """Whether the view has anything there."""
        fd = self.find(path)
        if fd is None:
            return False
        os.close(fd)
        return True


def _look(root: int, path: str) -> tuple[int | None, bool]:
    """What one layer has at a path, and whether it hides what is below."""
    try:
        fd = linux.openat2(root, path, os.O_PATH | os.O_NOFOLLOW, _INSIDE)
    except (FileNotFoundError, NotADirectoryError):
        return None, _hides(root, path)
    except OSError:  # ELOOP: a link stands where the path needs a directory
        return None, True
    if trees.is_whiteout(os.fstat(fd)):
        os.close(fd)
        return None, True
    return fd, False


def _hides(root: int, path: str) -> bool:
    """Whether a layer that lacks ``path`` hides it: by a whiteout, a file or an opaque directory on the way."""
    place = ""
    for part in path.split("/"):
        place = trees.join(place, part)
        try:
            fd = linux.openat2(root, place, os.O_PATH | os.O_NOFOLLOW, _INSIDE)
        except FileNotFoundError:
            return False
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode) or trees.is_opaque(f"/proc/self/fd/{fd}"):
                return True
        finally:
            os.close(fd)
    return False


def inherit(layer: str, implied: Iterable[str], lowers: Lowers) -> None:
    """Give the root, and the directories that a layer only implies, what they have below it.

    Those that are new keep what they have, as do those in a directory that hides what is below.
    """
    with trees.opened(layer) as root:
        # A directory's own times change when what is in it does; attributes of its children do not count.
        for path in ("", *implied):
            above = path.rpartition("/")[0]
            if above and _hides(root, above):
                continue
            source = lowers.find(path)
            if source is None:
                continue
            try:
                status = os.fstat(source)
                if stat.S_ISDIR(status.st_mode):
                    with trees.below(root, path) as target:
                        trees.apply(f"/proc/self/fd/{source}/.", status, trees.handle(target, "."))
            finally:
                os.close(source)


def prune(layer: str, lowers: Lowers, *, opaque_root: bool) -> int:
    """Delete the whiteouts of a layer that hide nothing; how many.

    overlayfs reads a directory that only one layer has as it is, and would list them.
    """
    pruned = 0
    opaque = "" if opaque_root else None  # the topmost opaque directory that we are in
    with trees.opened(layer) as root:
        for path, fd, entries in trees.walk(root):
            if opaque is None or not _within(path, opaque):
                opaque = path if path and trees.is_opaque(fd) else None
            before = os.fstat(fd)
            found = [entry for entry in entries if trees.is_whiteout(entry.stat(follow_symlinks=False))]
            gone = [
                entry
                for entry in found
                if opaque is not None or not lowers.exists(trees.join(path, entry.name))
            ]
            for entry in gone:
                os.unlink(entry.name, dir_fd=fd)
            if gone:
                os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
            pruned += len(gone)
    return pruned


def _within(path: str, top: str) -> bool:
    return not top or path == top or path.startswith(f"{top}/")


def flatten(layer: str, tree: str) -> None:
    """Move a layer onto the tree of its parents: whiteouts delete, opaque directories replace. The layer is used up."""
    with trees.opened(layer) as source, trees.opened(tree) as target:
        times = [("", os.fstat(source))]
        for path, from_fd, entries in trees.walk(source):
            with trees.below(target, path) as to_fd:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        _drop(to_fd, entry.name)
                        if not trees.is_whiteout(status):
                            os.rename(entry.name, entry.name, src_dir_fd=from_fd, dst_dir_fd=to_fd)
                        continue
                    times.append((trees.join(path, entry.name), status))
                    with trees.below(from_fd, entry.name) as directory:
                        _make_room(to_fd, entry.name, opaque=trees.is_opaque(directory))
        for path, status in reversed(times):
            with trees.below(source, path) as from_fd, trees.below(target, path) as to_fd:
                trees.apply(trees.handle(from_fd, "."), status, trees.handle(to_fd, "."))


def _make_room(parent: int, name: str, *, opaque: bool) -> None:
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        os.mkdir(name, 0o700, dir_fd=parent)
        return
    if opaque or not stat.S_ISDIR(status.st_mode):
        _drop(parent, name)
        os.mkdir(name, 0o700, dir_fd=parent)


def _drop(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        trees.remove(parent, name)
    except FileNotFoundError:
        return
