"""Progress: counters that workers set and edges read. No callback runs in a hot loop."""

from dataclasses import dataclass, field
from enum import Enum


class Phase(Enum):
    """Where one item of a transfer stands."""

    WAITING = "waiting"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    EXTRACTING = "extracting"
    COMPLETE = "complete"
    EXISTS = "exists"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    MOUNTED = "mounted"
    RETRYING = "retrying"


@dataclass(slots=True)
class Item:
    """One blob of a transfer. Plain attributes, set on any thread; a reader polls."""

    id: str
    total: int = 0
    current: int = 0
    phase: Phase = Phase.WAITING
    detail: str = ""


@dataclass(slots=True)
class Progress:
    """All items of one operation, in the order in which they were added, and messages for the reader."""

    items: dict[str, Item] = field(default_factory=dict[str, Item])
    messages: list[str] = field(default_factory=list[str])

    def item(self, id: str, total: int = 0) -> Item:
        """The item of this ID, made on first use."""
        found = self.items.get(id)
        if found is None:
            found = self.items[id] = Item(id=id, total=total)
        return found
