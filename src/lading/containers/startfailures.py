"""What a start that failed is called: the container's fault or the runtime's, in whose words, with which exit code."""

import errno
from typing import Final

from lading.containers import signals
from lading.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    LadingError,
    ResourceExhaustedError,
)

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class StartError(FailedPreconditionError):
    """The container could not be started, for a reason that lies in the container."""

    code = "start-failed"


class CommandError(InvalidArgumentError):
    """The container's command cannot be run: it is not there, or not executable."""

    code = "command-not-runnable"


def words(error: Exception) -> str:
    """What the state of a container says of it."""
    if isinstance(error, LadingError):
        return error.message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error)


def named(error: Exception, container: str) -> LadingError:
    """The error to raise."""
    said = words(error)
    message = f"failed to create task for container: {said}"
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return ResourceExhaustedError(
            message, hint="remove images with docker image rm, or free disk space", subject=container
        )
    if isinstance(error, FailedPreconditionError) or not isinstance(error, LadingError):
        kind = StartError if signals.start_exit_code(said) == signals.START_FAILED else CommandError
        return kind(message, subject=container)
    return error
