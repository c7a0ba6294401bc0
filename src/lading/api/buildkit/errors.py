"""The one table from error classes to gRPC codes, and BuildKit's typed details.

A detail is an ``Any`` whose value is JSON (BuildKit's errdefs): ``Source`` makes the client print the lines at fault, ``Vertex``
the output of the step that failed.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage

from lading import errors
from lading.builder.errors import ClientError, FrontendCapError, SourceError, SubrequestError, VertexError
from lading.formats.buildkit._pb.common_pb2 import RpcStatus
from lading.formats.llb.metadata import SourceFile, SourceRange
from lading.kit.grpc.status import Code, GrpcError
from lading.kit.text import printable

CODES: Final[Mapping[type[errors.LadingError], Code]] = {
    errors.LadingError: Code.UNKNOWN,
    errors.InvalidArgumentError: Code.INVALID_ARGUMENT,
    errors.UnauthenticatedError: Code.UNAUTHENTICATED,
    errors.PermissionDeniedError: Code.PERMISSION_DENIED,
    errors.NotFoundError: Code.NOT_FOUND,
    errors.AlreadyExistsError: Code.ALREADY_EXISTS,
    errors.ConflictError: Code.ABORTED,
    errors.FailedPreconditionError: Code.FAILED_PRECONDITION,
    errors.NotModifiedError: Code.FAILED_PRECONDITION,
    errors.ResourceExhaustedError: Code.RESOURCE_EXHAUSTED,
    errors.UnavailableError: Code.UNAVAILABLE,
    errors.CancelledError: Code.CANCELLED,
    errors.UnsupportedError: Code.UNIMPLEMENTED,
    errors.DataLossError: Code.DATA_LOSS,
    errors.InternalError: Code.INTERNAL,
    VertexError: Code.UNKNOWN,  # a failed step is nobody's mistake in the call
    SourceError: Code.UNKNOWN,
}
"""Total over `lading.errors`; subclasses that live beside other code take the code of their nearest ancestor."""

_TELLING: Final = (ClientError, FrontendCapError, SubrequestError, errors.CancelledError)
"""Errors of builds whose code says something to clients."""
_EXCERPT_FROM: Final = 64 * 1024
"""A source of more bytes goes into an error as the lines around the fault alone: errors are headers, which have limits."""
_EXCERPT_LINES: Final = 10
_EXCERPT_WIDTH: Final = 1000
_PREFIX: Final = "github.com/moby/buildkit/"


def code_of(error: BaseException) -> Code:
    """The gRPC code of an error; INTERNAL for whatever is not ours."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.INTERNAL)


def grpc_error(error: BaseException) -> GrpcError:
    """What a client is told of a call that failed."""
    return _as_error(error, status_of(error))


def build_error(error: BaseException) -> GrpcError:
    """What a client is told of a build that failed, or of a part of it."""
    return _as_error(error, build_status(error))


def _as_error(error: BaseException, status: RpcStatus) -> GrpcError:
    if isinstance(error, GrpcError):
        return error
    code = Code(status.code) if status.code in Code._value2member_map_ else Code.UNKNOWN
    return GrpcError(code, status.message, details=status.SerializeToString() if status.details else b"")


def build_status(error: BaseException) -> RpcStatus:
    """As `status_of`, for a build: UNKNOWN, as BuildKit has it, which clients do not print; but for what they act on."""
    status = status_of(error)
    if isinstance(error, errors.LadingError) and not isinstance(error, _TELLING):
        status.code = Code.UNKNOWN
    return status


def status_of(error: BaseException) -> RpcStatus:
    """An error as ``google.rpc.Status`` with BuildKit's details."""
    if isinstance(error, ClientError):
        return RpcStatus.FromString(error.status)
    if isinstance(error, errors.LadingError):
        text = printable(str(error))
    elif isinstance(error, Exception):
        text = f"internal error: {type(error).__name__}: the daemon's log has the details"
    else:
        return RpcStatus(code=Code.CANCELLED, message="context canceled")
    return RpcStatus(code=code_of(error), message=text, details=_details(error))


def _details(error: BaseException) -> list[AnyMessage]:
    details: list[AnyMessage] = []
    if isinstance(error, (SourceError, VertexError)) and error.source is not None:
        details.append(
            _detail("errdefs.Source", source_document(_excerpt(error.source, error.ranges), error.ranges))
        )
    if isinstance(error, VertexError):
        details.append(_detail("errdefs.Vertex", {"digest": str(error.vertex)}))
    if isinstance(error, FrontendCapError):
        details.append(_detail("errdefs.FrontendCap", {"name": error.name}))
    if isinstance(error, SubrequestError):
        details.append(_detail("errdefs.Subrequest", {"name": error.name}))
    return details


def _excerpt(source: SourceFile, ranges: Sequence[SourceRange]) -> SourceFile:
    """The source, or, of a long one, its lines around the ranges; the others are empty, so that lines keep their numbers."""
    if len(source.data) <= _EXCERPT_FROM or not ranges:
        return replace(source, data=source.data[:_EXCERPT_FROM])
    first = min(each.start for each in ranges) - _EXCERPT_LINES
    last = min(max(each.end for each in ranges), first + 5 * _EXCERPT_LINES) + _EXCERPT_LINES
    lines = source.data.split(b"\n")[: max(last, 0)]
    shown = [line[:_EXCERPT_WIDTH] if number >= first else b"" for number, line in enumerate(lines, start=1)]
    return replace(source, data=b"\n".join(shown))


def source_document(source: SourceFile, ranges: Sequence[SourceRange]) -> dict[str, object]:
    """A place in a source as BuildKit's JSON."""
    return {
        "info": {
            "filename": source.filename,
            "data": base64.b64encode(source.data).decode(),
            "language": source.language,
        },
        "ranges": [{"start": {"line": each.start}, "end": {"line": each.end}} for each in ranges],
    }


def _detail(name: str, value: object) -> AnyMessage:
    return AnyMessage(type_url=f"{_PREFIX}{name}+json", value=msgspec.json.encode(value))
