"""How a gRPC call ends: codes, messages and details (gRPC over HTTP2, "Responses"; google.rpc.Code)."""

import base64
import binascii
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

Metadata = Sequence[tuple[str, str]]
"""Keys in lower case, in order; a key may stand several times."""


class Code(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(Exception):
    """A call that ended with another code than `Code.OK`. ``details`` is a marshalled ``google.rpc.Status``, or empty."""

    def __init__(self, code: Code, message: str = "", *, details: bytes = b"") -> None:
        super().__init__(f"{code.name}: {message}" if message else code.name)
        self.code = code
        self.message = message
        self.details = details


_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"(\d{1,8})([HMSmun])")


def parse_timeout(text: str) -> float | None:
    """Seconds of a ``grpc-timeout`` header; ``None`` if it is absent or malformed."""
    found = _TIMEOUT.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found else None


def trailers(error: GrpcError | None) -> list[tuple[str, str]]:
    """The trailers of a call that ended so; ``None`` is success."""
    if error is None:
        return [("grpc-status", "0")]
    fields = [
        ("grpc-status", str(int(error.code))),
        ("grpc-message", urllib.parse.quote(error.message, safe=" !#$&'()*+,/:;=?@[]~")),
    ]
    if error.details:
        fields += [("grpc-status-details-bin", base64.b64encode(error.details).decode().rstrip("="))]
    return fields


def parse_trailers(fields: Iterable[tuple[str, str]]) -> GrpcError | None:
    """How a call ended by its trailers; ``None`` is success."""
    values = dict(fields)
    text = values.get("grpc-status", "")
    if not text.isdigit():
        return GrpcError(Code.UNKNOWN, f"no gRPC status: HTTP status {values.get(':status', 'unknown')}")
    number = int(text)
    if number == 0:
        return None
    code = Code(number) if number in Code._value2member_map_ else Code.UNKNOWN
    raw = values.get("grpc-status-details-bin", "")
    try:
        details = base64.b64decode(raw + "=" * (-len(raw) % 4))
    except (binascii.Error, ValueError):
        details = b""
    return GrpcError(code, urllib.parse.unquote(values.get("grpc-message", "")), details=details)
