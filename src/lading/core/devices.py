"""The port for devices: files of a fixed length whose bytes are decoded when somebody reads them.

The kernel mounts such a file as it mounts any other. What whoever serves them promises:

* **Length.** A device has its whole length from the beginning.
* **Nothing but what was verified.** A segment of a device is empty until its bytes have been decoded and compared with the
  digest that the index has of it, which was taken while the whole stream was verified. Then it is in the data file. A reader
  gets these bytes or an error (``EIO``, or what the disk says): never zeros for what is missing, never bytes of a damaged blob.
  What failed once is tried again by the next reader.
* **Ahead.** What is read in sequence is decoded ahead of its readers, and so is the rest of a device of which half has been
  asked for. Of what nobody has asked for never more is decoded than of what somebody has. A failure there is no reader's.
* **Without the daemon.** Devices are served by processes of their own, so containers go on reading while no daemon is there.
  One of them may be killed at any time: readers wait a moment and notice nothing else. If all are killed, readers
  get errors, and so does everyone who has the device open, for ever; `Devices.serves` tells, and it can be attached anew.
* **Killing readers.** A reader that waits can be killed as soon as its request is answered, or can be no more.
* **End.** A device ends when nobody has it open any more. What is in the data file stays, and belongs to the caller: attaching
  another device with the same files goes on with what is there.
* **Power cuts.** Nothing is flushed. Data files must not be used again after another boot.

All methods block; none is called on the event loop. Whoever uses a device must not serve it: its process could not end while
one of its threads waits for itself.
"""

from dataclasses import dataclass
from typing import Final, Protocol

FILLED_HEADER: Final = 32
"""Bytes at the beginning of `Device.filled`: those at the end of the index. A byte for each segment follows, 1 if it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What has to be known to serve one. Paths are absolute."""

    number: int
    """Names it, from 1 on; never that of another device as long as the data-root exists."""
    length: int
    """In bytes: what the index says, and zeros behind it."""
    blob: int
    """Descriptor of the compressed bytes; the caller closes it."""
    index: str
    """The seek index (`lading.formats.seek`)."""
    data: str
    """Where segments go; made if it is missing, sparse, and ``length`` bytes long."""
    filled: str
    """Says which segments are there; made if it is missing. If it is of another index, both files are made anew."""


class Devices(Protocol):
    """Serves devices for one snapshotter."""

    def attach(self, device: Device) -> str:
        """Serve a device, unless it is served already; its path. It is kept for whoever opens it next.

        Raises:
            DataLossError: The index is damaged, or not of this blob.
            OSError: It cannot be served on this machine, or not now.

        """
        ...

    def path(self, number: int) -> str:
        """Where a device is, or would be."""
        ...

    def serves(self, number: int) -> bool:
        """Whether a device is served. False for one that nobody has had open since, and where all processes were killed."""
        ...

    def close(self) -> None:
        """Let go. Devices that are open are served on. Idempotent."""
        ...


def is_complete(filled: bytes) -> bool:
    """Whether the content of a `Device.filled` says that all segments are there, so that the data file is the whole device."""
    return len(filled) > FILLED_HEADER and set(filled[FILLED_HEADER:]) == {1}
