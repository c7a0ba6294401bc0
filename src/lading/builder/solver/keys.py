"""Cache keys: names for what an operation makes, by what it is and what it was given.

A *key* is the name of an edge's result. One without inputs is the digest of the operation's own digest and the output's number;
that of an edge with inputs is a random word, found through its *links*: from a key of each input, by what is done with it. Both
forms are BuildKit's (``solver/cachekey.go``), so that a cache can be shared with it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from lading.oci.digest import Digest

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

CONTENT_OUTPUT = -1
"""The output's number in the key of something known by its content."""


def output_key(digest: Digest, output: int) -> Digest:
    """The name of output number ``output`` of an operation; for one without inputs it is its key."""
    return Digest(
        f"sha256:{hashlib.sha256(f'{digest}@{output}'.encode(), usedforsecurity=False).hexdigest()}"
    )


@dataclass(frozen=True, slots=True)
class Link:
    """A key of an input, and which part of the input is used."""

    key: str
    selector: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a cache knows of an edge: its keys, and a record that holds its result."""

    keys: frozenset[str] = frozenset()
    record: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a key is reached: by what was done, from which keys of each input."""

    output: Digest
    inputs: tuple[tuple[Link, ...], ...]
    key: str


class Cache(Protocol[R_co]):
    """Remembers results by their keys. Two kinds: the local one, and those imported for a build, which are never written."""

    async def find(self, output: Digest, inputs: Sequence[Sequence[Link]]) -> Found:
        """The keys to which a link leads from every input by ``output`` (see `output_key`); without inputs itself."""
        ...

    async def load(self, record: str) -> R_co | None:
        """The result; ``None`` if it is not there any more."""
        ...


class ForeignCache(Cache[R_co], Protocol[R_co]):
    """A cache that somebody else made."""

    async def ways(self, record: str) -> Sequence[Way]:
        """All that leads to a record, the way to its own key last. Its keys mean nothing elsewhere, and are nobody else's."""
        ...


class Recorder(Cache[R], Protocol[R]):
    """The local cache."""

    async def save(
        self,
        output: Digest,
        inputs: Sequence[Sequence[Link]],
        result: R,
        *,
        keys: frozenset[str],
        vertex: Digest,
        name: str,
    ) -> Found:
        """Record a result under ``keys``, or a fresh one if there are none, with the links that lead there.

        Replaces older records of the same keys. What needs no record, because it is as quickly made again, gets none.
        """
        ...

    async def connect(self, output: Digest, inputs: Sequence[Sequence[Link]], keys: frozenset[str]) -> None:
        """Add links to keys, so that they are found sooner the next time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of an edge: those that hold everywhere, and those of each cache."""

    everywhere: frozenset[str] = frozenset()
    by_cache: Mapping[object, frozenset[str]] = field(default_factory=dict[object, frozenset[str]])

    def of(self, cache: object) -> frozenset[str]:
        """The keys in one cache."""
        return self.everywhere | self.by_cache.get(cache, frozenset())


NO_KEYS = Keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is known of an input, and how it is used."""

    keys: Keys
    selector: str = ""
    content: Digest | None = None

    def links(self, cache: object) -> list[Link]:
        """What leads from it in a cache."""
        found = [Link(key, self.selector) for key in sorted(self.keys.of(cache))]
        if self.content is not None:
            found.insert(0, Link(output_key(self.content, CONTENT_OUTPUT)))
        return found
