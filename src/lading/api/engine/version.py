"""API versions: which are spoken, and Docker's words for the others."""

import re
from typing import Final

from lading.errors import InvalidArgumentError

ApiVersion = tuple[int, int]
MAX: Final[ApiVersion] = (1, 55)
MIN: Final[ApiVersion] = (1, 40)
_PATTERN: Final = re.compile(r"v(\d{1,4})\.(\d{1,4})", re.ASCII)


def text(version: ApiVersion) -> str:
    """``1.55``."""
    return f"{version[0]}.{version[1]}"


def of_segment(segment: str) -> ApiVersion | None:
    """The version that a path's first segment asks for; ``None`` if it is not a version.

    Raises:
        InvalidArgumentError: The version is not spoken here; the words are Docker's, which clients know.

    """
    match = _PATTERN.fullmatch(segment)
    if match is None:
        return None
    version = (int(match[1]), int(match[2]))
    if version > MAX:
        raise InvalidArgumentError(
            f"client version {text(version)} is too new. Maximum supported API version is {text(MAX)}"
        )
    if version < MIN:
        raise InvalidArgumentError(
            f"client version {text(version)} is too old. Minimum supported API version is {text(MIN)}, "
            "please upgrade your client to a newer version"
        )
    return version
