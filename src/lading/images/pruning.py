"""Pruning: which names go when nobody uses them, decided name by name as Docker does, and what that frees.

A name goes if it is dangling, or with ``dangling=false`` if no container was created by that name. The last name of an image
whose container was created by its ID stays.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from lading.core import images
from lading.core.facts import Summary
from lading.errors import InvalidArgumentError
from lading.images.listing import check_filters, kept_since, matches_labels, parse_flag, parse_until
from lading.images.removal import Removed, Use
from lading.oci import reference
from lading.oci.digest import Digest

FILTERS = frozenset({"dangling", "until", "label", "label!"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What a prune removed, and the bytes that nothing needs any more."""

    removed: Sequence[Removed]
    reclaimed: int


def accepts(filters: Mapping[str, Sequence[str]]) -> Callable[[images.Image, Summary], bool]:
    """Whether a record of an image passes ``until`` and the labels. Raises `InvalidArgumentError` for an unknown filter."""
    check_filters(filters, FILTERS)
    until = parse_until(filters)

    def accept(record: images.Image, summary: Summary) -> bool:
        young = until is not None and kept_since(record, summary.created) >= until
        return not young and matches_labels(summary.labels, filters)

    return accept


def dangling_only(filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether images that have a name are out of question."""
    return parse_flag(filters, "dangling") is not False


def choose(
    records: Sequence[images.Image],
    uses: Sequence[Use],
    *,
    accept: Callable[[images.Image], bool],
    dangling: bool,
) -> list[images.Image]:
    """The records that go, in order of name."""
    candidates = {
        each.name: each
        for each in records
        if (not dangling or reference.is_dangling(each.name)) and accept(each)
    }
    by_id: set[str] = set()
    for use in uses:
        _spare(candidates, use, by_id)
    left = Counter(each.target.digest for each in records)
    for name in sorted(candidates):
        digest = candidates[name].target.digest
        if left[digest] > 1:
            left[digest] -= 1
        elif digest in by_id:
            del candidates[name]
    return [candidates[name] for name in sorted(candidates)]


def _spare(candidates: dict[str, images.Image], use: Use, by_id: set[str]) -> None:
    """Take out what a container was created by; an image that it was created from by ID joins ``by_id``."""
    candidates.pop(reference.dangling_name(Digest(use.target)), None)
    asked = use.reference
    if use.target.startswith("sha256:" + asked.removeprefix("sha256:")) or asked.endswith(f"@{use.target}"):
        by_id.add(use.target)
    try:
        ref = reference.parse(asked)
    except InvalidArgumentError:
        return
    candidates.pop(str(ref.with_default_tag()), None)
    if ref.digest is not None and ref.tag:
        candidates.pop(str(ref.with_tag(ref.tag)), None)


def gone(records: Collection[images.Image], going: Collection[images.Image]) -> list[Digest]:
    """The targets that have no name left when ``going`` are gone."""
    names = {each.name for each in going}
    staying = {each.target.digest for each in records if each.name not in names}
    return list(dict.fromkeys(each.target.digest for each in going if each.target.digest not in staying))
