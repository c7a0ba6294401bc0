"""Listing: rows of ``docker image ls``, their filters and their sizes."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from lading.core import images
from lading.core.facts import ListedManifest, ManifestSummary
from lading.core.labels import PARENT
from lading.errors import InvalidArgumentError
from lading.images.removal import Use
from lading.kit import times
from lading.kit.text import truth
from lading.oci import mediatypes, reference
from lading.oci.descriptor import Descriptor

_NAMES: Final = 32_768
"""Parsed names that are remembered: a list shows the same ones again and again."""
FILTERS: Final = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})


class ManifestRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One manifest of an image as a list shows it; sizes in bytes; ``containers`` are IDs of those created from it.

    A struct, because a list may have very many and a dataclass takes five times as long to make.
    """

    facts: ListedManifest
    available: bool
    content: int
    unpacked: int
    containers: Sequence[str] = ()


class ImageRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One image (all records of one target); sizes in bytes, -1 where not computed."""

    target: Descriptor
    tags: Sequence[str]
    digests: Sequence[str]
    created: int
    """When it was made, by its config: nanoseconds since the epoch; 0 if it does not say."""
    size: int
    shared: int
    labels: Mapping[str, str]
    containers: int
    manifests: Sequence[ManifestRow] = ()
    parent: str = ""
    """ID of the image that it was committed from here; empty for others."""


def by_target(records: Iterable[images.Image]) -> dict[str, list[images.Image]]:
    """Records by the digest of their target, in their order."""
    found: dict[str, list[images.Image]] = {}
    for record in records:
        found.setdefault(record.target.digest, []).append(record)
    return found


def containers_of(uses: Iterable[Use]) -> dict[str, list[str]]:
    """IDs of the containers that were created from each manifest."""
    found: dict[str, list[str]] = {}
    for use in uses:
        found.setdefault(use.manifest, []).append(use.container)
    return found


def parent(records: Iterable[images.Image]) -> str:
    """The target that records say theirs was committed from; empty if none does."""
    return next((found for record in records if (found := record.labels.get(PARENT))), "")


def names(records: Iterable[images.Image]) -> tuple[list[str], list[str]]:
    """The familiar tags and repository digests of a target's records, as Docker lists them.

    A target without any name has neither: the client then shows ``<none>``.
    """
    tags: list[str] = []
    digests: list[str] = []
    for record in records:
        tag, digest = _shown(record.name, record.target.digest)
        if tag:
            tags.append(tag)
        if digest and digest not in digests:
            digests.append(digest)
    if len(tags) > 1:
        tags.sort()
    return tags, digests


@functools.lru_cache(maxsize=_NAMES)
def _shown(name: str, digest: str) -> tuple[str, str]:
    """How users write a record's tag, and its repository with the digest; empty where it has none."""
    if reference.is_dangling(name):
        return "", ""
    ref = reference.parse(name)
    return ref.with_tag(ref.tag).familiar if ref.tag else "", f"{ref.familiar_name}@{digest}"


def manifest_row(summary: ManifestSummary, used: Mapping[str, Sequence[str]]) -> ManifestRow:
    """A manifest with what is here of it; ``used`` maps manifest digests to container IDs."""
    _, manifest, available, content, unpacked = summary
    return ManifestRow(
        facts=manifest,
        available=available,
        content=content,
        unpacked=unpacked,
        containers=used.get(manifest.descriptor.digest, ()),
    )


def check_filters(filters: Mapping[str, Sequence[str]], known: frozenset[str] = FILTERS) -> None:
    """Refuse a filter that nobody here knows, naming it."""
    for key in filters:
        if key not in known:
            raise InvalidArgumentError(
                f"invalid filter '{key}'", hint=f"known filters: {', '.join(sorted(known))}", subject=key
            )


def matches_labels(labels: Mapping[str, str], filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether every ``label`` filter holds and no ``label!`` filter does; each is ``key`` or ``key=value``."""
    return all(_has_label(labels, f) for f in filters.get("label", ())) and not any(
        _has_label(labels, f) for f in filters.get("label!", ())
    )


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def matches_reference(record: images.Image, patterns: Sequence[str]) -> bool:
    """Whether a record's name fits any of the patterns (Go's path.Match on the familiar name, tag optional)."""
    if not patterns:
        return True
    if reference.is_dangling(record.name):
        return False
    ref = reference.parse(record.name)
    spellings = (ref.familiar, ref.familiar_name, str(ref), ref.name)
    return any(_path_match(p, s) for p in patterns for s in spellings)


def _path_match(pattern: str, text: str) -> bool:
    """``*`` does not cross a slash, ``[^`` begins what must not be; linear in the number of components."""
    wanted, parts = pattern.replace("[^", "[!").split("/"), text.split("/")
    return len(wanted) == len(parts) and all(fnmatchcase(p, w) for w, p in zip(wanted, parts, strict=True))


def kept_since(record: images.Image, created: int) -> int:
    """The moment that ``until`` goes by: when the record was made, in the classic store when the image was (``created``)."""
    return created if mediatypes.is_config(record.target.media_type) else times.of_datetime(record.created_at)


def parse_until(filters: Mapping[str, Sequence[str]]) -> int | None:
    """The earliest of the ``until`` filters, nanoseconds since the epoch; ``None`` if there is none."""
    return min(
        (times.parse_moment(text, times.now_nano()) for text in filters.get("until", ())), default=None
    )


def parse_flag(filters: Mapping[str, Sequence[str]], key: str) -> bool | None:
    """A boolean filter, or ``None`` if it is not given. Raises `InvalidArgumentError` for a contradiction."""
    values = filters.get(key, ())
    try:
        return truth(values)
    except ValueError as exc:
        # As Go prints a list.
        raise InvalidArgumentError(
            f"invalid filter '{key}=[{' '.join(values)[:80]}]'", hint="use true or false", subject=key
        ) from exc
