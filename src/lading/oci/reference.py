"""References: how people name images. Signature fixed here; the grammar follows in its own commit."""

import msgspec

from lading.errors import InvalidArgumentError
from lading.oci.digest import Digest


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """A normalised reference: ``domain/path[:tag][@digest]``."""

    domain: str
    path: str
    tag: str = ""
    digest: Digest | None = None


def parse(text: str) -> Reference:
    """Docker's normalisation; raises `InvalidArgumentError`."""
    raise InvalidArgumentError(f"invalid reference {text!r}")
