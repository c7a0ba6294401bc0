"""What outlives the daemon: one file for each sandbox, beside the namespace that it is about.

The directory is below the exec-root, so it ends with the boot as the namespaces do. A file is replaced whole; it need not
survive a power cut. Blocking.
"""

import contextlib
import os
import re
from pathlib import Path
from typing import Final

import msgspec

from lading.core.networks import Endpoint, Network, NetworkID, Sandbox, SandboxID
from lading.errors import InvalidArgumentError
from lading.kit import idmapping, linux

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Place(msgspec.Struct, kw_only=True):
    """An endpoint with all that is needed to take it away, also when its network was removed meanwhile.

    ``settled`` is false while it is being made or taken away: then nobody knows how much of it is there.
    """

    endpoint: Endpoint
    network: Network
    settled: bool = False
    lent: bool = False
    """Whether the network's bridge is the administrator's, and is to stay."""
    asked: int = 0
    """The priority that was asked for; the endpoint's own tells equals apart."""


class Record(msgspec.Struct, kw_only=True):
    """A sandbox."""

    id: SandboxID
    places: list[Place] = msgspec.field(default_factory=list[Place])

    def place(self, network: NetworkID) -> Place | None:
        """Its endpoint in a network."""
        return next((each for each in self.places if each.network.id == network), None)


class State:
    """The directory."""

    def __init__(self, root: Path) -> None:
        self._records = root / "sandboxes"
        self._namespaces = root / "namespaces"
        self.programs = root / "netavark"
        """For netavark's own files."""

    def prepare(self) -> None:
        """Make the directories. Blocking."""
        for place in (self._records, self._namespaces, self.programs):
            place.mkdir(parents=True, exist_ok=True, mode=0o711)

    def path(self, id: SandboxID) -> str:
        """The namespace of a sandbox."""
        return str(self._namespaces / id)

    def view(self, record: Record) -> Sandbox:
        """As the port shows it."""
        endpoints = tuple(place.endpoint for place in record.places)
        return Sandbox(id=record.id, path=self.path(record.id), endpoints=endpoints)

    def load(self) -> list[Record]:
        """All sandboxes; of one whose file is damaged or missing only the ID is known. Blocking."""
        found: dict[str, Record] = {}
        for file in self._records.glob("*.json"):
            record = Record(id=SandboxID(file.name.removesuffix(".json")))
            with contextlib.suppress(msgspec.MsgspecError):
                record = msgspec.json.decode(file.read_bytes(), type=Record)
            found[record.id] = record
        for name in os.listdir(self._namespaces):
            found.setdefault(name, Record(id=SandboxID(name)))
        return list(found.values())

    def save(self, record: Record) -> None:
        """Blocking."""
        file = self._records / f"{record.id}.json"
        temporary = file.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(file)

    def make(self, record: Record, owner: str = "", existing: str = "") -> None:
        """Write the record, then make the namespace, of the user namespace at ``owner`` if there is one; or hold that at
        ``existing``. Blocking.
        """
        self.save(record)
        linux.remove_network_namespace(self.path(record.id))
        if existing:
            linux.hold_network_namespace(self.path(record.id), existing)
        elif owner:
            idmapping.make_network_namespace(self.path(record.id), owner)
        else:
            linux.make_network_namespace(self.path(record.id))

    def alive(self, id: SandboxID) -> bool:
        """Whether the namespace is there. Blocking."""
        return linux.is_namespace(self.path(id))

    def drop(self, id: SandboxID) -> None:
        """Remove the namespace, then the record. Blocking; idempotent."""
        linux.remove_network_namespace(self.path(id))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._records / f"{id}.json")


def check_id(id: SandboxID) -> None:
    """Raise `InvalidArgumentError` unless the ID can name a file."""
    if not _ID.fullmatch(id):
        raise InvalidArgumentError(f"invalid sandbox ID {id[:64]!r}")
