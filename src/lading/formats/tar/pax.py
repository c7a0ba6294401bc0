r"""PAX extended headers: records that override the fields of the next entry.

Record: ``"<length> <keyword>=<value>\n"``, the length in decimal counting itself. Source: POSIX pax, "pax Extended
Header"; GNU tar manual, "Sparse Formats"; star(5) for ``SCHILY.xattr``; libarchive's tar(5) for ``LIBARCHIVE.xattr``.
Precedence between kinds of header follows Go's archive/tar, because containerd reads layers with it.
"""

import base64
import binascii
import re
from typing import Final
from urllib.parse import unquote_to_bytes

from lading.formats.tar.entry import Limits, TarError
from lading.formats.tar.names import shown, text

Records = dict[bytes, bytes]

_DECIMAL: Final = re.compile(rb"[0-9]{1,19}").fullmatch
_TIME: Final = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?").fullmatch
_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_SPARSE_OFFSET: Final = b"GNU.sparse.offset"
_SPARSE_LENGTH: Final = b"GNU.sparse.numbytes"
SPARSE_MAP: Final = b"GNU.sparse.map"
_TEXTS: Final = frozenset({b"path", b"linkpath", b"uname", b"gname"})
_MAX_I64: Final = 2**63 - 1


def parse(body: bytes) -> Records:
    """The records of one extended header; of equal keywords the last counts.

    The repeated ``GNU.sparse.offset``/``numbytes`` of sparse format 0.0 are joined into one ``GNU.sparse.map``.

    Raises:
        TarError: A record is malformed.

    """
    records: Records = {}
    runs: list[bytes] = []
    at, end = 0, len(body)
    while at < end:
        space = body.find(b" ", at, at + 10)
        length = body[at:space]
        # bytes.isdigit knows ASCII digits only; int() alone would take signs, underscores and spaces.
        stop = at + int(length) if space > 0 and length.isdigit() else 0
        if stop > end or stop < space + 3 or body[stop - 1] != 0x0A:
            raise TarError("malformed PAX record", hint="the archive is damaged")
        keyword, equals, value = body[space + 1 : stop - 1].partition(b"=")
        if not equals or not keyword or b"\0" in (value if keyword in _TEXTS else keyword):
            raise TarError(f"malformed PAX record for {shown(keyword)}")
        if keyword in (_SPARSE_OFFSET, _SPARSE_LENGTH):
            if (keyword == _SPARSE_LENGTH) != (len(runs) % 2 == 1) or b"," in value:
                raise TarError("sparse map in a PAX header is out of order")
            runs.append(value)
        else:
            records[keyword] = value
        at = stop
    if runs:
        records[SPARSE_MAP] = b",".join(runs)
    return records


def decimal(value: bytes, what: str) -> int:
    """A non-negative decimal number of at most 63 bits, digits only."""
    if _DECIMAL(value) is None or (found := int(value)) > _MAX_I64:
        raise TarError(f"malformed number {shown(value)} for {what} in a PAX header")
    return found


def time(value: bytes) -> int:
    """A time in nanoseconds; digits beyond the ninth of a fraction are cut off, as Go does."""
    match = _TIME(value)
    if match is None or int(match[2]) > _MAX_I64:
        raise TarError(f"malformed time {shown(value)} in a PAX header")
    nanoseconds = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -nanoseconds if match[1] else nanoseconds


def xattrs(records: Records, limits: Limits) -> dict[str, bytes]:
    """The extended attributes in the records. Of both encodings of one attribute, ``SCHILY.xattr`` counts.

    Raises:
        TarError: A name or value that setxattr(2) would refuse, or a broken encoding.

    """
    plain: dict[str, bytes] = {}
    encoded: dict[str, bytes] = {}
    for keyword, value in records.items():
        if keyword.startswith(_SCHILY):
            name = keyword[len(_SCHILY) :]
            plain[_xattr_name(name)] = _xattr_value(name, value, limits)
        elif keyword.startswith(_LIBARCHIVE):
            name = unquote_to_bytes(keyword[len(_LIBARCHIVE) :])
            encoded[_xattr_name(name)] = _xattr_value(name, _base64(value), limits)
    return encoded | plain


def _xattr_name(name: bytes) -> str:
    if not name or len(name) > 255 or b"\0" in name:
        raise TarError(f"malformed extended attribute name {shown(name)} in a PAX header")
    return text(name)


def _xattr_value(name: bytes, value: bytes, limits: Limits) -> bytes:
    if len(value) > limits.xattr:
        raise TarError(f"extended attribute {shown(name)} is longer than {limits.xattr} bytes")
    return value


def _base64(value: bytes) -> bytes:
    # libarchive leaves the padding out.
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as exc:
        raise TarError("malformed LIBARCHIVE.xattr value in a PAX header") from exc
