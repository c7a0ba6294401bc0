"""The actions of a file operation, on a tree's root descriptor."""

import contextlib
import os
import stat
from collections.abc import Callable, Generator
from typing import Final

from lading.builder.ops.files import owners, paths, unpacking
from lading.builder.ops.files.copying import Copier, Rules
from lading.errors import InvalidArgumentError, NotFoundError
from lading.formats.dockerfile.patterns import Matcher, has_wildcard, match
from lading.formats.llb import ops

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
RootOf = Callable[[int | None], int | None]
"""Opens the tree of an input that has a user's or group's name."""


def perform(
    action: ops.Action,
    root: int,
    source: int | None,
    root_of: RootOf,
    stopped: Callable[[], bool],
) -> None:
    """Do one action in the tree ``root``; ``source`` is that from which a copy is made.

    Raises:
        NotFoundError: A file is missing.
        InvalidArgumentError: Something is where it must not be.

    """
    try:
        match action:
            case ops.Copy():
                _copy(action, root, source, root_of, stopped)
            case ops.MakeFile():
                _make_file(action, root, root_of)
            case ops.MakeDirectory():
                _make_directory(action, root, root_of)
            case ops.MakeSymlink():
                _make_symlink(action, root, root_of)
            case ops.Remove():
                _remove(action, root)
    except FileNotFoundError as exc:
        raise NotFoundError(f"{exc.filename or _shown(action)}: no such file or directory") from exc
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as exc:
        raise InvalidArgumentError(f"{_aim(action)}: {(exc.strerror or '').lower()}") from exc


def _shown(action: ops.Action) -> str:
    return action.src if isinstance(action, ops.Copy) else action.path


def _aim(action: ops.Action) -> str:
    """What a place that is something else already stands against."""
    if isinstance(action, ops.Copy):
        return f"cannot copy {action.src} to {action.dest}"
    return action.path


# Copies.


def _copy(
    action: ops.Copy, root: int, source: int | None, root_of: RootOf, stopped: Callable[[], bool]
) -> None:
    if source is None:
        raise NotFoundError(f"{action.src}: no such file or directory: the source is empty")
    rules = Rules(
        owner=owners.resolve(action.owner, root_of),
        mode=action.mode,
        time=action.timestamp,
        include=Matcher(action.include) if action.include else None,
        exclude=Matcher(action.exclude) if action.exclude else None,
        replace=action.always_replace,
        stopped=stopped,
    )
    if not action.create_dest_path:
        above = "/".join(paths.parts_of(action.dest)[:-1])
        if paths.find(root, above) is None:
            raise NotFoundError(
                f"failed to stat {action.dest}: no such file or directory", subject=action.dest
            )
    found = _sources(action, source)
    if not found and not action.allow_empty_wildcard:
        raise NotFoundError(f"{action.src!r}: not found", subject=action.src)
    copier = Copier(rules)
    try:
        for path in found:
            if not (action.attempt_unpack and _unpack(action, source, path, root, rules)):
                _copy_one(action, source, path, root, copier)
    finally:
        copier.close()


def _sources(action: ops.Copy, source: int) -> list[str]:
    if not action.allow_wildcard or not has_wildcard(action.src):
        return [action.src]
    parts = paths.parts_of(action.src)
    fixed = next(number for number, part in enumerate(parts) if has_wildcard(part))
    found = [("/".join(parts[:fixed]))]
    for part in parts[fixed:]:
        found = [
            f"{above}/{name}" if above else name
            for above in found
            for name in _names(source, above)
            if match(part, name)
        ]
    return found


def _names(root: int, path: str) -> list[str]:
    try:
        fd = paths.open_directory(root, path)
    except OSError:
        return []
    try:
        return sorted(os.listdir(fd), key=os.fsencode)
    finally:
        os.close(fd)


def _unpack(action: ops.Copy, source: int, path: str, root: int, rules: Rules) -> bool:
    """Extract what is an archive; whether it was one."""
    status = paths.find(source, path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return False
    with paths.opened(source, path) as found:
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not unpacking.is_archive(fd):
            return False
        target = paths.make_directories(root, action.dest, made=_maker(rules))
        try:
            unpacking.unpack(fd, target, rules)
        finally:
            os.close(target)
        return True
    finally:
        os.close(fd)


def _way(root: int, path: str, rules: Rules) -> int:
    """The directory at a path; what is made of it has the mode of the copy if that is a number.

    Without what dockerd's umask takes: Docker's builder makes these directories, but not the copies, under it.
    """
    mode = rules.mode & 0o755 if isinstance(rules.mode, int) else 0o755
    return paths.make_directories(root, path, mode=mode, made=_maker(rules))


def _maker(rules: Rules) -> paths.Made:
    """Gives directories that are made on the way their owner and time."""

    def made(parent: int, name: str) -> None:
        if rules.owner is not None:
            os.chown(name, *rules.owner, dir_fd=parent, follow_symlinks=False)
        if rules.time is not None:
            os.utime(name, ns=(rules.time, rules.time), dir_fd=parent, follow_symlinks=False)

    return made


@contextlib.contextmanager
def _found(source: int, path: str, *, follow: bool) -> Generator[tuple[int, str, os.stat_result]]:
    """The directory that holds what is copied, its name there, and what it is; a link is followed if asked."""
    if not paths.parts_of(path):
        yield source, ".", os.fstat(source)
        return
    with paths.parent_of(source, path) as (parent, name):
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not (follow and stat.S_ISLNK(status.st_mode)):
            yield parent, name, status
            return
    with paths.opened(source, path) as fd:
        true = os.readlink(f"/proc/self/fd/{fd}")
        base = os.readlink(f"/proc/self/fd/{source}")
        inside = os.path.relpath(true, base)
    with paths.parent_of(source, inside) as (parent, name):
        yield parent, name, os.stat(name, dir_fd=parent, follow_symlinks=False)


def _true_parts(root: int, path: str) -> list[str]:
    """The path of a file with the links in it followed: a copy onto a link writes what that points to."""
    with paths.opened(root, path) as fd:
        true = os.readlink(f"/proc/self/fd/{fd}")
        return paths.parts_of(os.path.relpath(true, os.readlink(f"/proc/self/fd/{root}")))


def _copy_one(action: ops.Copy, source: int, path: str, root: int, copier: Copier) -> None:
    into_directory = action.dest.endswith(("/", "/.")) or action.dest in ("", ".")
    with _found(source, path, follow=action.follow_symlink) as (parent, name, status):
        is_directory = stat.S_ISDIR(status.st_mode)
        parts = paths.parts_of(action.dest)
        if into_directory:
            os.close(_way(root, action.dest, copier.rules))
        there = paths.find(root, action.dest)
        inside = there is not None and stat.S_ISDIR(there.st_mode)
        if (is_directory and not action.dir_copy_contents) or (not is_directory and inside):
            parts.append(os.path.basename(path.rstrip("/")) or name)
        if is_directory:
            _copy_directory(parent, name, root, "/".join(parts), copier, whole=not action.dir_copy_contents)
        else:
            if there is not None and not inside and not action.always_replace:
                parts = _true_parts(root, action.dest)
            target = _way(root, "/".join(parts[:-1]), copier.rules)
            try:
                copier.file(parent, name, status, target, parts[-1])
            finally:
                os.close(target)


def _copy_directory(parent: int, name: str, root: int, dest: str, copier: Copier, *, whole: bool) -> None:
    """Copy what is in a directory; and the directory itself if it is copied as a whole to where none is.

    Otherwise the one at the target is a directory on the way like any other, but for its time (fsutil's ``copy``).
    """
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        new = whole and paths.find(root, dest) is None
        target = _way(root, dest, copier.rules)
        try:
            copier.directory(fd, target)
            if new:
                copier.attributes(fd, os.fstat(fd), target)
            else:
                copier.times(os.fstat(fd), target)
        finally:
            os.close(target)
    finally:
        os.close(fd)


# Single things.


def _dress(fd: int, mode: int, owner: tuple[int, int] | None, time: int | None) -> None:
    if owner is not None:
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    if time is not None:
        os.utime(fd, ns=(time, time))


def _make_file(action: ops.MakeFile, root: int, root_of: RootOf) -> None:
    owner = owners.resolve(action.owner, root_of)
    with paths.parent_of(root, action.path) as (parent, name):
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise InvalidArgumentError(f"{action.path} is a directory", subject=action.path)
            os.unlink(name, dir_fd=parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            data = memoryview(action.data)
            while data:
                data = data[os.write(fd, data) :]
            _dress(fd, action.mode & 0o7777, owner, action.timestamp)
        finally:
            os.close(fd)


def _make_directory(action: ops.MakeDirectory, root: int, root_of: RootOf) -> None:
    owner = owners.resolve(action.owner, root_of)
    rules = Rules(owner=owner, time=action.timestamp)
    mode = action.mode & 0o7777
    if action.make_parents:
        os.close(paths.make_directories(root, action.path, mode=mode, made=_maker(rules)))
        return
    with paths.parent_of(root, action.path) as (parent, name):
        try:
            os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:
            status = paths.find(root, action.path)
            if status is not None and stat.S_ISDIR(status.st_mode):
                return
            raise
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            _dress(fd, mode, owner, action.timestamp)
        finally:
            os.close(fd)


def _make_symlink(action: ops.MakeSymlink, root: int, root_of: RootOf) -> None:
    owner = owners.resolve(action.owner, root_of)
    if "\0" in action.target:
        raise InvalidArgumentError(f"the link {action.path[:200]!r} leads to a name with a zero byte")
    with paths.parent_of(root, action.path) as (parent, name):
        os.symlink(action.target, name, dir_fd=parent)
        if owner is not None:
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        if action.timestamp is not None:
            times = (action.timestamp, action.timestamp)
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)


def _remove(action: ops.Remove, root: int) -> None:
    found = [action.path]
    if action.allow_wildcard and has_wildcard(action.path):
        found = _sources(ops.Copy(src=action.path, dest="", allow_wildcard=True), root)
    gone = False
    for path in found:
        if not paths.parts_of(path):
            raise InvalidArgumentError("cannot remove the root directory")
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            paths.parent_of(root, path) as (parent, name),
        ):
            paths.remove(parent, name)
            gone = True
    if not gone and not action.allow_not_found:
        raise NotFoundError(f"{action.path}: no such file or directory", subject=action.path)
