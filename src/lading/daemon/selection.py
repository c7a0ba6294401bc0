"""Which of the two image stores a data-root uses, by dockerd's rules (moby 29, ``daemon.NewDaemon``) and the user's own choice.

In this order: ``features.containerd-snapshotter`` decides, if it is set. Then what ``lading store use`` chose for this data-root.
Then what is there: a data-root with classic images or containers stays classic. Then the storage driver: one of Docker's classic
drivers means the classic store, any other name a snapshotter. With nothing said, the containerd store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from lading.errors import FailedPreconditionError

CLASSIC_DRIVERS: Final = ("overlay2", "btrfs", "zfs", "fuse-overlayfs", "vfs")
"""Docker's classic storage drivers for Linux; overlay2 is the one that Lading has."""
SETTING: Final = "image-store"
"""Where the database remembers what ``lading store use`` chose."""


class StoreKind(Enum):
    """One of the two image stores."""

    CONTAINERD = "containerd"
    CLASSIC = "classic"

    @property
    def other(self) -> "StoreKind":
        """The other one."""
        return StoreKind.CLASSIC if self is StoreKind.CONTAINERD else StoreKind.CONTAINERD


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was said, and what is there.

    ``flag`` is the feature, ``None`` if it is unset; ``prior`` the classic driver that has data here, or empty.
    """

    flag: bool | None = None
    driver: str = ""
    chosen: StoreKind | None = None
    prior: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The store, the snapshotter to use (empty: the best one), and why, in words for the log."""

    kind: StoreKind
    driver: str
    reason: str
    explicit: bool
    """The configuration decides, so that nothing else can."""


def select(asked: Asked) -> Selection:
    """Decide.

    Raises:
        FailedPreconditionError: What was said cannot be had, in dockerd's words.

    """
    if asked.flag is not None:
        kind = StoreKind.CONTAINERD if asked.flag else StoreKind.CLASSIC
        return _selection(kind, asked, "features.containerd-snapshotter", explicit=True)
    if asked.chosen is not None:
        return _selection(asked.chosen, asked, "lading store use", explicit=False)
    if asked.prior:
        if asked.prior != "overlay2":
            raise FailedPreconditionError(
                f'the data-root holds images of Docker\'s storage driver "{asked.prior}", which Lading does not have',
                hint="set features.containerd-snapshotter to true to begin with the containerd store beside them",
            )
        return Selection(
            kind=StoreKind.CLASSIC,
            driver="overlay2",
            reason="the data-root has classic images",
            explicit=False,
        )
    if asked.driver in CLASSIC_DRIVERS:
        return _selection(StoreKind.CLASSIC, asked, f"storage driver {asked.driver}", explicit=False)
    return _selection(StoreKind.CONTAINERD, asked, "the default", explicit=False)


def _selection(kind: StoreKind, asked: Asked, reason: str, *, explicit: bool) -> Selection:
    driver = asked.driver
    if kind is StoreKind.CLASSIC:
        if driver not in ("", "overlay2"):
            if explicit or driver in CLASSIC_DRIVERS:
                raise FailedPreconditionError(
                    f"error initializing graphdriver: driver not supported: {driver}", hint="use overlay2"
                )
            driver = ""  # a snapshotter of the other store
        return Selection(kind=kind, driver=driver or "overlay2", reason=reason, explicit=explicit)
    if driver in CLASSIC_DRIVERS:
        if explicit:
            raise FailedPreconditionError(
                f'configured driver "{driver}" not available: unavailable',
                hint="leave storage-driver out, or name a snapshotter",
            )
        driver = ""
    return Selection(kind=kind, driver=driver, reason=reason, explicit=explicit)


def messages(selection: Selection, flag: bool | None) -> list[str]:
    """What dockerd writes to its log."""
    if selection.kind is StoreKind.CLASSIC:
        return []
    said = ["Starting daemon with containerd snapshotter integration enabled"]
    if flag:
        said.append('"containerd-snapshotter" is now the default and no longer needed to be set')
    return said


def parse_kind(text: str) -> StoreKind | None:
    """A store by its name."""
    return next((kind for kind in StoreKind if kind.value == text), None)


def hidden_words(kind: StoreKind, hidden: Mapping[str, int]) -> str:
    """What to tell about the store that is not in use, or nothing if it is empty."""
    parts = [
        f"{count} {noun}{'' if count == 1 else 's'}"
        for noun, count in (("image", hidden["images"]), ("container", hidden["containers"]))
        if count
    ]
    if not parts:
        return ""
    are, them = ("is", "it") if sum(hidden.values()) == 1 else ("are", "them")
    return (
        f"{' and '.join(parts)} of the {kind.value} image store {are} hidden "
        f"(lading store use {kind.value} brings {them} back)"
    )
