"""Removal: untag, delete and prune, with Docker's rules of what stands in the way.

Only image records are deleted here. Blobs and snapshots that nothing needs any more are the collector's; what they
free is told from the same rows that lists show.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from lading.core import images
from lading.errors import ConflictError
from lading.images.lookup import Found
from lading.oci import reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A container that uses an image: ``target`` and ``manifest`` are digests, ``reference`` is what its user named."""

    container: str
    target: str
    manifest: str
    running: bool
    reference: str = ""


Uses = Callable[[], Awaitable[Sequence[Use]]]
"""Asks who uses images now."""


class Change(Enum):
    """What happened to a name or a target, in the Engine API's words."""

    UNTAGGED = "Untagged"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """One line of the answer to a removal."""

    change: Change
    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which records go, which one stays as a dangling placeholder, and whether the target is gone then."""

    delete: Sequence[images.Image]
    keep_dangling: bool
    last: bool


def plan(found: Found, asked: str, uses: Sequence[Use], *, force: bool) -> Plan:
    """Decide what a removal of ``asked`` does.

    Raises:
        ConflictError: A container uses the image, or an ID has names in several repositories; Docker's words.

    """
    named = found.named
    if found.by_name is not None:
        going = with_digest_names(found.by_name, named)
    else:
        going = list(found.records)
        if len({reference.parse(r.name).name for r in named}) > 1 and not force:
            raise _conflict(_short(asked), "must be forced", "image is referenced in multiple repositories")
    gone = {r.name for r in going}
    last = all(r.name in gone for r in named)
    if not last:
        return Plan(delete=going, keep_dangling=False, last=False)
    blocking = [u for u in uses if u.target == found.image.target.digest]
    running = next((u for u in blocking if u.running), None)
    if running is not None and found.by_name is None:
        raise _conflict(
            _short(asked),
            "cannot be forced",
            f"image is being used by running container {running.container[:12]}",
        )
    if blocking and not force:
        raise _conflict(_short(asked), "must be forced", _in_use(found, running or blocking[0]))
    return Plan(
        delete=found.records if not blocking else going, keep_dangling=bool(blocking), last=not blocking
    )


def _in_use(found: Found, use: Use) -> str:
    container = use.container[:12]
    if found.by_name is not None:
        return f"container {container} is using its referenced image {found.image.target.digest.short}"
    return f"image is being used by {'running' if use.running else 'stopped'} container {container}"


def with_digest_names(record: images.Image, named: Sequence[images.Image]) -> list[images.Image]:
    """A tag takes the repository's ``name@digest`` records along if it is the repository's only tag of the target."""
    own = reference.parse(record.name)
    same = [r for r in named if reference.parse(r.name).name == own.name and r.name != record.name]
    if own.tag and not any(reference.parse(r.name).tag for r in same):
        return [record, *same]
    return [record]


def lines(removed: Iterable[images.Image], *, target: str, gone: bool) -> list[Removed]:
    """The answer for records that were removed: each name, then the target if nothing keeps it."""
    answer = [
        Removed(change=Change.UNTAGGED, subject=reference.parse(r.name).familiar)
        for r in removed
        if not reference.is_dangling(r.name)
    ]
    if gone:
        answer.append(Removed(change=Change.DELETED, subject=target))
    return answer


def _short(asked: str) -> str:
    bare = asked.removeprefix("sha256:")
    return bare[:12] if len(bare) == 64 and all(c in "0123456789abcdef" for c in bare) else asked


def _conflict(what: str, how: str, why: str) -> ConflictError:
    return ConflictError(f"conflict: unable to delete {what} ({how}) - {why}", subject=what)
