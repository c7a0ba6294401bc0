"""Lookup: what a user means by a name or an ID.

Docker's order: a full ``sha256:`` ID or 64 digits; then the exact name; then a unique
prefix of at least four digits of a target's digest. An ID never shadows a name silently (hostile-input.md A9).
"""

import re
from dataclasses import dataclass
from typing import Final

from lading.core import images
from lading.errors import InvalidArgumentError, NotFoundError
from lading.oci import reference
from lading.oci.digest import Digest
from lading.oci.reference import Reference

_ID: Final = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_PREFIX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})")


class NoSuchImageError(NotFoundError):
    """No image by that name or ID; the name is told with its tag, as Docker does."""

    code = "no-such-image"

    def __init__(self, name: str) -> None:
        try:
            shown = reference.parse(name).with_default_tag().familiar
        except InvalidArgumentError:  # an ID
            shown = name
        super().__init__(f"No such image: {shown}", subject=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was found: all records of one target, and how it was named.

    ``by_name`` is the record that the name meant, ``None`` if an ID was given. ``reference`` is the name as parsed.
    """

    records: tuple[images.Image, ...]
    by_name: images.Image | None
    reference: Reference | None

    @property
    def image(self) -> images.Image:
        """The record that was meant, or any of the target's."""
        return self.by_name or self.records[0]

    @property
    def named(self) -> tuple[images.Image, ...]:
        """The records that are names, not placeholders of a dangling target."""
        return tuple(r for r in self.records if not reference.is_dangling(r.name))


async def find(store: images.Store, text: str) -> Found:
    """The image that ``text`` means.

    Raises:
        NoSuchImageError: Nothing matches.
        NotFoundError: A prefix matches several targets ("ambiguous reference").
        InvalidArgumentError: It is neither an ID nor a reference.

    """
    if full := _ID.fullmatch(text):
        records = await store.by_target("sha256:" + full[1])
        if records:
            return Found(records=tuple(records), by_name=None, reference=None)
    by_name = await _by_name(store, text)
    if by_name is not None:
        return by_name
    if prefix := _PREFIX.fullmatch(text):
        records = await store.by_target("sha256:" + prefix[1])
        if len({r.target.digest for r in records}) > 1:
            raise NotFoundError(
                f"ambiguous reference: {text}", hint="give more digits of the ID", subject=text
            )
        if records:
            return Found(records=tuple(records), by_name=None, reference=None)
    raise NoSuchImageError(text)


async def tagged(store: images.Store, text: str) -> images.Image | None:
    """The record of a name, in one look; ``None`` if ``text`` may be an ID, has a digest, or names nothing: `find` says what."""
    if _PREFIX.fullmatch(text):
        return None
    try:
        named = reference.parse(text)
        return await store.get(str(named.with_default_tag())) if named.digest is None else None
    except (InvalidArgumentError, NotFoundError):
        return None


async def _by_name(store: images.Store, text: str) -> Found | None:
    if _ID.fullmatch(text):
        return None
    try:
        ref = reference.parse(text)
    except InvalidArgumentError:
        if _PREFIX.fullmatch(text):
            return None
        raise
    if ref.digest is not None:
        return await _by_digest(store, ref, ref.digest)
    try:
        record = await store.get(str(ref.with_default_tag()))
    except NotFoundError:
        return None
    return Found(
        records=tuple(await store.by_target(record.target.digest)),
        by_name=record,
        reference=ref.with_default_tag(),
    )


async def _by_digest(store: images.Store, ref: Reference, digest: Digest) -> Found | None:
    """``repo@digest`` and ``repo:tag@digest``: the digest decides, and the repository must be one of the target's."""
    records = await store.by_target(digest)
    same = [
        r for r in records if not reference.is_dangling(r.name) and reference.parse(r.name).name == ref.name
    ]
    if not same:
        return None
    exact = [r for r in same if r.name == str(ref)]
    return Found(records=tuple(records), by_name=(exact or same)[0], reference=ref)
