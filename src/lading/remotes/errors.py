"""Errors of registries: the closed classes, with what each host said (`lading.core.remotes.replies_of`)."""

from typing import Final

from lading.core.remotes import HostReply
from lading.errors import (
    DataLossError,
    InvalidArgumentError,
    LadingError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)


class _RepliedError(LadingError):
    """Keeps what the hosts said."""

    def __init__(
        self, message: str, *, hint: str = "", subject: str = "", replies: tuple[HostReply, ...] = ()
    ) -> None:
        super().__init__(message, hint=hint, subject=subject)
        self.replies = replies


class RemoteNotFoundError(_RepliedError, NotFoundError):
    """No host has it."""

    code = "remote-not-found"


class RemoteUnauthenticatedError(_RepliedError, UnauthenticatedError):
    """The registry wants credentials, or refused them."""

    code = "remote-unauthenticated"


class RemoteDeniedError(_RepliedError, PermissionDeniedError):
    """The registry knows the caller, and says no."""

    code = "remote-denied"


class RemoteUnavailableError(_RepliedError, UnavailableError):
    """No host answered usefully; repeating later may help."""

    code = "remote-unavailable"


class RemoteThrottledError(_RepliedError, ResourceExhaustedError):
    """The registry's rate limit outlasted our patience."""

    code = "remote-throttled"


class RemoteInvalidError(_RepliedError, InvalidArgumentError):
    """The registry refused the request as wrong."""

    code = "remote-invalid"


class RemoteUnsupportedError(_RepliedError, UnsupportedError):
    """The registry does not offer this."""

    code = "remote-unsupported"


class RemoteDataError(_RepliedError, DataLossError):
    """What the registry sent is not what it or the descriptor announced."""

    code = "remote-data"


class TransportError(UnavailableError):
    """A connection could not be made, was cut, or stalled. Internal: callers of a port see it folded into a
    `RemoteUnavailableError`.

    ``progress`` says whether any byte of a body arrived before it.
    """

    code = "transport"

    def __init__(self, message: str, *, progress: bool = False, timed_out: bool = False) -> None:
        super().__init__(message)
        self.progress = progress
        self.timed_out = timed_out


class UnknownHostError(TransportError):
    """A name that has no address, of a host that was never reached: the system's resolver has its own patience."""

    code = "unknown-host"


class CertificateError(TransportError):
    """The peer's certificate is not trusted, or the handshake failed for another reason. Never retried in clear."""

    code = "certificate"


class NotTLSError(TransportError):
    """The peer of a TLS handshake does not speak TLS."""

    code = "not-tls"


class ProtocolError(TransportError):
    """The peer broke HTTP, or a limit of ours on it."""

    code = "protocol"


class ForbiddenAddressError(PermissionDeniedError):
    """A redirect or token realm leads to an address that this registry has no business with (hostile-input.md R3)."""

    code = "forbidden-address"


class AbortedError(TransportError):
    """The caller left; never seen outside this room."""

    code = "aborted"


REFUSED_HERE: Final = "REFUSED_HERE"
"""Code of a reply that no host gave: it was we who refused to go where the host led."""


def failure(what: str, replies: tuple[HostReply, ...], *, subject: str = "", hint: str = "") -> LadingError:
    """The error that sums up what all hosts said: the most telling reply gives the class.

    Ranks as containerd does: an answer tells more than silence, and another answer more than "not found".
    """
    if not replies:
        return RemoteUnavailableError(f"{what}: no host is configured for this", subject=subject, hint=hint)
    telling = max(replies, key=_rank)
    said = "; ".join(_said(reply) for reply in dict.fromkeys(replies))
    message = f"{what}: {said}"
    kinds: dict[int, type[_RepliedError]] = {
        400: RemoteInvalidError,
        401: RemoteUnauthenticatedError,
        403: RemoteDeniedError,
        404: RemoteNotFoundError,
        405: RemoteUnsupportedError,
        413: RemoteInvalidError,
        429: RemoteThrottledError,
    }
    kind = kinds.get(telling.status)
    if REFUSED_HERE in telling.codes:
        kind = RemoteDeniedError
    elif kind is None:
        kind = RemoteInvalidError if 400 <= telling.status < 500 else RemoteUnavailableError
    return kind(message, subject=subject, hint=hint, replies=replies)


def _rank(reply: HostReply) -> int:
    if reply.status == 0:
        return 1 if REFUSED_HERE in reply.codes else 0
    return 2 if reply.status == 404 else 3


def _said(reply: HostReply) -> str:
    words = reply.message or " ".join(reply.codes).lower().replace("_", " ")
    if not reply.status:
        return f"{reply.host}: {words}" if words else reply.host
    return f"{reply.host} said {reply.status}" + (f" ({words})" if words else "")
