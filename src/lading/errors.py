"""The closed set of errors, named by what the caller should do.

Every error that leaves a room of this package is one of these classes (or a subclass that stands beside
the code which raises it). Each edge owns one total table from class to wire code. The tree::

    LadingError
    ├── InvalidArgumentError      change the request
    ├── UnauthenticatedError      log in
    ├── PermissionDeniedError     ask for access
    ├── NotFoundError             name something that exists
    ├── AlreadyExistsError        use what is there, or choose another name
    ├── ConflictError             resolve the conflict, then repeat
    ├── FailedPreconditionError   bring about the condition, then repeat
    ├── NotModifiedError          nothing to do
    ├── ResourceExhaustedError    free something, or ask for less
    ├── UnavailableError          repeat later
    ├── CancelledError            nothing: the caller left
    ├── UnsupportedError          use another way
    ├── DataLossError             repair: data is damaged or not what it claims to be
    └── InternalError             report a bug
"""

from typing import ClassVar


class LadingError(Exception):
    """Root of all errors that Lading raises on purpose.

    Args:
        message: What happened, to what, in one sentence without a trailing period. Never holds a secret.
        hint: What the reader can do about it, or empty.
        subject: The digest, reference, path or key that the error is about, or empty.

    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "", subject: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.subject = subject

    def __str__(self) -> str:
        return f"{self.message}: {self.hint}" if self.hint else self.message


class InvalidArgumentError(LadingError):
    """The request itself is wrong; repeating it unchanged cannot succeed."""

    code = "invalid-argument"


class UnauthenticatedError(LadingError):
    """Credentials are missing or were refused."""

    code = "unauthenticated"


class PermissionDeniedError(LadingError):
    """The caller is known and may not do this."""

    code = "permission-denied"


class NotFoundError(LadingError):
    """The named thing does not exist."""

    code = "not-found"


class AlreadyExistsError(LadingError):
    """The thing to create exists. For content and snapshots this is often good news."""

    code = "already-exists"


class ConflictError(LadingError):
    """The request conflicts with the present state of the thing, e.g. an image in use."""

    code = "conflict"


class FailedPreconditionError(LadingError):
    """The system is not in the state that the request needs."""

    code = "failed-precondition"


class NotModifiedError(LadingError):
    """The thing is already as requested."""

    code = "not-modified"


class ResourceExhaustedError(LadingError):
    """A limit was reached: disk, quota, size cap, rate."""

    code = "resource-exhausted"


class UnavailableError(LadingError):
    """A passing condition: a registry that stalls, a locked ingest. Repeating may help."""

    code = "unavailable"


class CancelledError(LadingError):
    """The operation was given up on request of the caller."""

    code = "cancelled"


class UnsupportedError(LadingError):
    """Understood, and not offered here."""

    code = "unsupported"


class DataLossError(LadingError):
    """Data is damaged, truncated or is not what its digest says."""

    code = "data-loss"


class InternalError(LadingError):
    """A broken invariant: a bug in Lading."""

    code = "internal"
