"""The one table from gRPC codes to our errors, for what a client answers."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.message import DecodeError

from lading import errors
from lading.kit.grpc.status import Code, GrpcError

ERRORS: Final[Mapping[Code, type[errors.LadingError]]] = {
    Code.CANCELLED: errors.CancelledError,
    Code.UNKNOWN: errors.FailedPreconditionError,
    Code.INVALID_ARGUMENT: errors.InvalidArgumentError,
    Code.DEADLINE_EXCEEDED: errors.UnavailableError,
    Code.NOT_FOUND: errors.NotFoundError,
    Code.ALREADY_EXISTS: errors.AlreadyExistsError,
    Code.PERMISSION_DENIED: errors.PermissionDeniedError,
    Code.RESOURCE_EXHAUSTED: errors.ResourceExhaustedError,
    Code.FAILED_PRECONDITION: errors.FailedPreconditionError,
    Code.ABORTED: errors.ConflictError,
    Code.OUT_OF_RANGE: errors.InvalidArgumentError,
    Code.UNIMPLEMENTED: errors.UnsupportedError,
    Code.INTERNAL: errors.UnavailableError,
    Code.UNAVAILABLE: errors.UnavailableError,
    Code.DATA_LOSS: errors.DataLossError,
    Code.UNAUTHENTICATED: errors.UnauthenticatedError,
}


def error_of(error: GrpcError) -> errors.LadingError:
    """What a call's end means to whoever made the call."""
    kind = ERRORS[error.code]
    return kind(error.message or f"the client answered {error.code.name}")


@asynccontextmanager
async def translated() -> AsyncGenerator[None]:
    """Turn what calls raise into our errors."""
    try:
        yield
    except GrpcError as exc:
        raise error_of(exc) from exc
    except DecodeError as exc:
        raise errors.InvalidArgumentError("the client sends what is no message of this call") from exc
