"""What registries say when they refuse (distribution-spec, "Error Codes")."""

import re
from typing import Final

import msgspec

from lading.core.remotes import HostReply
from lading.errors import LadingError
from lading.oci.document import decode
from lading.remotes.connection import Response
from lading.remotes.errors import TransportError

_SHOWN: Final = 300
_CONTROL: Final = re.compile(r"[^\x20-\x7e\u00a0-\uffff]+")
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


class _Error(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: tuple[_Error, ...] = ()
    details: str = ""
    message: str = ""


def read_reply(response: Response, host: str, limit: int) -> HostReply:
    """What a failed request's reply says, for people: control characters removed, shortened. Never raises."""
    try:
        body = response.read(limit)
        document = decode(body, _Errors, what="error", limit=limit)
    except (TransportError, LadingError):
        return HostReply(host=host, status=response.status)
    codes = tuple(error.code for error in document.errors[:8] if _CODE.fullmatch(error.code))
    words = [error.message for error in document.errors[:3]] or [document.details or document.message]
    return HostReply(host=host, status=response.status, codes=codes, message=printable(", ".join(words)))


def printable(text: str) -> str:
    """One line of at most 300 characters that can do no harm to a terminal or a log."""
    return _CONTROL.sub(" ", text)[:_SHOWN].strip()
