"""Digests: content addresses, and the two kinds that must never be mixed up with a blob's.

Grammar and algorithms: OCI image-spec, descriptor.md, "Digests". Only registered algorithms are accepted;
matching is by ``fullmatch`` because ``$`` would let a trailing newline through.
"""

import hashlib
import re
from typing import Final, Protocol, Self

from typing_extensions import Buffer

from lading.errors import InvalidArgumentError

ALGORITHMS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
"""Algorithm name to number of lower-case hexadecimal digits."""

_PATTERN: Final = re.compile("|".join(f"{name}:[0-9a-f]{{{width}}}" for name, width in ALGORITHMS.items()))


class Hasher(Protocol):
    """The part of a :mod:`hashlib` object that is used here."""

    def update(self, data: Buffer, /) -> None:
        """Add bytes; releases the interpreter lock above 2 KiB."""
        ...

    def hexdigest(self) -> str:
        """The digest of all bytes so far, in lower-case hexadecimal digits."""
        ...

    def copy(self) -> "Hasher":
        """An independent hasher with the same state."""
        ...


class Digest(str):
    """A validated ``algorithm:hex`` content address. It is a ``str`` and compares as one.

    Raises:
        InvalidArgumentError: The text is not a digest of a registered algorithm.

    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _PATTERN.fullmatch(text):
            shown = text if len(text) <= 160 else text[:160] + "…"
            raise InvalidArgumentError(
                f"invalid digest {shown!r}",
                hint="a digest is sha256:, sha384: or sha512: and lower-case hex digits",
            )
        return super().__new__(cls, text)

    @property
    def algorithm(self) -> str:
        """The part before the colon."""
        return self.partition(":")[0]

    @property
    def hex(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The first 12 hexadecimal digits, as Docker shows them."""
        return self.hex[:12]

    def hasher(self) -> Hasher:
        """A fresh hasher of this digest's algorithm."""
        return new_hasher(self.algorithm)

    def matches(self, data: Buffer) -> bool:
        """Whether ``data`` has this digest."""
        hasher = self.hasher()
        hasher.update(data)
        return hasher.hexdigest() == self.hex

    @classmethod
    def of(cls, data: Buffer, algorithm: str = "sha256") -> Self:
        """The digest of ``data``."""
        hasher = new_hasher(algorithm)
        hasher.update(data)
        return cls.from_hasher(hasher, algorithm)

    @classmethod
    def from_hasher(cls, hasher: Hasher, algorithm: str = "sha256") -> Self:
        """The digest of what ``hasher`` has seen so far."""
        return cls(f"{algorithm}:{hasher.hexdigest()}")


class DiffID(Digest):
    """Digest of a layer's uncompressed tar stream (OCI image-spec, config.md, "Layer DiffID")."""

    __slots__ = ()


class ChainID(Digest):
    """Digest that names a stack of layers (OCI image-spec, config.md, "Layer ChainID")."""

    __slots__ = ()


def new_hasher(algorithm: str = "sha256") -> Hasher:
    """A fresh hasher, or `InvalidArgumentError` for an algorithm outside `ALGORITHMS`."""
    if algorithm not in ALGORITHMS:
        raise InvalidArgumentError(
            f"unsupported digest algorithm {algorithm!r}", hint=f"use one of {', '.join(ALGORITHMS)}"
        )
    return hashlib.new(algorithm, usedforsecurity=False)


def chain_ids(diff_ids: "list[DiffID] | tuple[DiffID, ...]") -> list[ChainID]:
    """The chain ID of every prefix of a stack of layers, bottom first; same length as ``diff_ids``."""
    chain: list[ChainID] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain


def chain_id(below: ChainID | None, diff_id: DiffID) -> ChainID:
    """The chain ID of a layer on top of a stack, or on nothing."""
    return ChainID(diff_id if below is None else Digest.of(f"{below} {diff_id}".encode()))
