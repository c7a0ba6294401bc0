"""What the operating system's errors mean to whoever asked for a snapshot."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from lading.errors import (
    DataLossError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    LadingError,
    PermissionDeniedError,
    ResourceExhaustedError,
)

_FULL: Final = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EMLINK,
}
_MALFORMED: Final = {
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EOVERFLOW,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.EILSEQ,
}


def translate(exc: OSError, doing: str, *, hostile: bool = False) -> LadingError:
    """The error to raise for ``exc``. ``hostile``: paths came from an archive, so that bad ones are its fault."""
    message = f"{doing}: {exc.strerror or exc}"
    number = exc.errno or 0
    if number in _FULL:
        return ResourceExhaustedError(message, hint="free some space or raise the limit, then try again")
    if number == errno.EIO:
        return DataLossError(message, hint="the disk reports an error; see the kernel's log")
    if number == errno.EROFS:
        return FailedPreconditionError(message, hint="the data-root is mounted read-only")
    if number in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(message)
    if hostile and number in _MALFORMED:
        return InvalidArgumentError(message)
    return InternalError(message)


@contextmanager
def translated(doing: str) -> Generator[None]:
    """Map `OSError` of a block."""
    try:
        yield
    except OSError as exc:
        raise translate(exc, doing) from exc
