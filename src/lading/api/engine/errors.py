"""The one table from error classes to HTTP, and the one shape of an error's body."""

from collections.abc import Mapping
from typing import Final

from lading import errors

STATUS: Final[Mapping[type[errors.LadingError], int]] = {
    errors.LadingError: 500,
    errors.InvalidArgumentError: 400,
    errors.UnauthenticatedError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.AlreadyExistsError: 409,
    errors.ConflictError: 409,
    errors.FailedPreconditionError: 409,
    errors.NotModifiedError: 304,
    errors.ResourceExhaustedError: 507,
    errors.UnavailableError: 503,
    errors.CancelledError: 499,
    errors.UnsupportedError: 501,
    errors.DataLossError: 500,
    errors.InternalError: 500,
}
"""Total over `lading.errors`; subclasses that live beside other code take the status of their nearest ancestor."""


def status_of(error: BaseException) -> int:
    """The HTTP status of an error; 500 for whatever is not ours."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def text_of(error: BaseException) -> str:
    """The words for the client. An error that is not ours is a bug, and says where to look."""
    if isinstance(error, errors.LadingError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"internal error: {error.strerror}{where}: the daemon's log has the details"
    return f"internal error: {type(error).__name__}: the daemon's log has the details"
