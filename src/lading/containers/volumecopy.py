"""What an image has at a volume's target, copied into the new volume: owners, modes, times, attributes, links kept.

The image is hostile: the directory is resolved inside its tree, and cp(1) follows no link below it. Nobody else sees source or
destination meanwhile. Blocking.
"""

import errno
import os
import shutil
import stat
import subprocess
from typing import Final

from lading.containers.rootfs import Root
from lading.errors import FailedPreconditionError, ResourceExhaustedError

_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def copy(tree: Root, target: str, path: str) -> None:
    """Copy the directory ``target`` of a tree, itself included, onto the directory ``path``; nothing if there is none.

    To be called in a mount namespace in which the tree is visible; cp(1) inherits it.

    Raises:
        ResourceExhaustedError: The disk is full.
        FailedPreconditionError: cp(1) failed, in its words.

    """
    try:
        source = tree.open(target, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        if exc.errno in _ABSENT:
            return
        raise
    try:
        _copy(source, path)
        _match(source, path)
    finally:
        os.close(source)


def _copy(source: int, path: str) -> None:
    words = ["cp", "-a", "--reflink=auto", "--", f"/proc/self/fd/{source}/.", path]
    done = subprocess.run(
        words, capture_output=True, check=False, pass_fds=(source,), stdin=subprocess.DEVNULL
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[:500]
        kind = ResourceExhaustedError if "No space left" in reason else FailedPreconditionError
        raise kind(f"cannot copy the image's files into the volume: {reason}")


def _match(source: int, path: str) -> None:
    found = os.fstat(source)
    os.chown(path, found.st_uid, found.st_gid)
    os.chmod(path, stat.S_IMODE(found.st_mode))
    shutil.copystat(f"/proc/self/fd/{source}", path)
